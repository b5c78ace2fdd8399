#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""What happens when QEMU, Bochs, a module, the kernel or a test does not do what it should

On the kernel with the series that is in build/<base>, with stand-ins for QEMU and tests.
"""
import atexit
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Callable
from unittest import mock

import toy
from toy import is_, script
from kernel.kernels import Kernel, flavour
from lib import jobs, ktap
from lib.base import Base, put
from lib.say import Fatal
from lib.settings import from_arguments, settings
from machine import bochs, boot

STAND_INS = {
    'good': 'echo "ok 1 it works"',
    'quiet': '',
    'sleeps': 'echo begin; sleep 1000',
    'panics': 'echo c >/proc/sysrq-trigger; sleep 1000',
    'warns': 'echo "WARNING: CPU: 0 PID: 1 at arch/x86/kvm/toy.c:1" >/dev/kmsg; echo "ok 1 x"',
    'reboots': 'reboot -f; sleep 1000',
    'qemu-killed': '[ "$1" != --version ] || exec echo QEMU emulator version 8.0.0; kill -KILL $$',
}

from_arguments(sys.argv[1:])
base = Base()
kernel = Kernel(base.b / f'kernel{flavour(False)}', 'series')
if not kernel.id:
    print('1..0 # SKIP no kernel: make kernel')
    sys.exit(0)
tmp = Path(tempfile.mkdtemp(prefix='failures-', suffix='.tmp', dir=base.b))
atexit.register(shutil.rmtree, tmp)
base.results = tmp / 'results'
for name, text in STAND_INS.items():
    script(tmp / name, text)


def broken(module: str, pattern: bytes, text: bytes) -> Kernel:
    """The kernel, but for that module"""
    k = Kernel(shutil.copytree(kernel.dir, tmp / f'broken-{module}', symlinks=True), 'broken')
    file = k.dir / f'modules/{module}.ko'
    data = re.sub(pattern, text, file.read_bytes())
    file.unlink()
    file.write_bytes(data)
    return k


def error_of(function: Callable, *args, **options) -> str:
    try:
        return f'no failure: {function(*args, **options)}'
    except Fatal as e:
        return str(e)


def boot_error(label: str, k: Kernel, *tests: str, **options) -> str:
    return error_of(boot.run, k, label, list(tests), base=base, tests_dir=tmp, **options)


def fails(name: str, pattern: str, text: str) -> None:
    is_(re.fullmatch(pattern, text) is not None, True, name, text)


settings.set(ACCEL='tcg')
for name, pattern, setting, value in (
        ('QEMU is missing', 'no QEMU: /none is not installed .*', 'QEMU', '/none'),
        ('QEMU is something else', '/bin/true --version names no version: .*', 'QEMU', '/bin/true'),
        ('QEMU is killed', r'.*QEMU was killed by signal 9 \(console: .*', 'QEMU',
         f'{tmp}/qemu-killed'),
        ('QEMU refuses', r'.*QEMU failed: .*none.* \(exit status 1\)', 'CPU', 'none'),
        ('ACCEL=kvm without nested kvm_amd', 'ACCEL=kvm: this host has no .*', 'ACCEL', 'kvm')):
    with mock.patch.dict(settings.given,
                         {setting: value}), mock.patch('machine.boot.read', return_value='N'):
        fails(name, pattern, boot_error('qemu', kernel, 'good'))
fails('no such test', 'no test other in .*', boot_error('none', kernel, 'other'))

BOOTS = {	# message, kernel and tests, limits
    'the machine hangs': ('.*no end after 5 s, stopped; last: .*', (kernel, 'sleeps'),
                          {'timeout': 5}),
    'the kernel panics': ('.*kernel: .*(sysrq triggered crash|Kernel panic).*',
                          (kernel, 'panics'), {}),
    'the kernel warns': ('.*kernel: WARNING: CPU: 0 PID: 1 at arch/x86/kvm/toy.c:1',
                         (kernel, 'warns'), {}),
    'the machine goes down': ('.*went down in the middle of the tests; last: .*',
                              (kernel, 'reboots'), {}),
    'a module is none': ('.*a module does not load: kvm: .+',
                         (broken('kvm', b'(?s).+', b'x'), 'good'), {}),
    'a module of another kernel': (
        ".*not load: kvm-amd: .*; kvm_amd: version magic '.* XMP .*' should be '.* SMP .*",
        (broken('kvm-amd', rb'(vermagic=\S+ )SMP', rb'\1XMP'), 'good'), {}),
    'a test hangs': ('no failure: .*', (kernel, 'quiet', 'sleeps', 'good'), {'test_timeout': 2}),
}
errors = dict(jobs.each(
    lambda n: boot_error(n.replace(' ', '-'), *BOOTS[n][1], **BOOTS[n][2]), BOOTS))
for name, (pattern, _, _) in BOOTS.items():
    fails(name, pattern + ('' if name == 'a test hangs' else r' \(console: .*\.console\)'),
          errors[name])

# Of Bochs, whose panic at the end is none
triple_fault = '1p[CPU0  ] >>PANIC<< 3rd exception with no resolution\n'
for log_text, status, pattern in (
        (triple_fault, 1, 'no failure: 0'), ('', -9, 'no failure: -9'),
        ('p[CPU0] >>PANIC<< clock\n', 1, r'x: Bochs ended: \[CPU0\] >>PANIC<< clock \(log: .*'),
        ('', 3, r'x: Bochs ended with status 3 \(log: .*')):
    put(tmp / 'bochs', log_text)
    fails(f'Bochs ends: {pattern}', pattern, error_of(bochs.judge_end, status, tmp / 'bochs', 'x'))

console = (base.results / 'the-kernel-panics.console').read_text(errors='replace')
is_(' __handle_sysrq+0x' in console, True, 'the console of a panic names functions')
cases = ktap.cases((base.results / 'a-test-hangs.log').read_text())
is_([(c.test, c.case, c.verdict, c.reason) for c in cases],
    [('quiet', '', 'not ok', 'printed nothing, exit status 0'),
     ('sleeps', '', 'not ok', 'time limit, or killed'), ('good', 'it_works', 'ok', ''),
     ('good', '', 'ok', '')], 'one that hangs or prints nothing fails, others run')
is_(ktap.table(ktap.rows(cases, cases))[1], False, 'and the table fails')
print(f'1..{toy.count}')
