# SPDX-License-Identifier: GPL-2.0
"""A second machine: Bochs, whose CPU obeys g_pat and knows the memory type of each access

Debian 13's own binary, with what it needs, unpacked in build/roots/bochs.  It boots from
a CD the image, initramfs and init that boot.py has for QEMU; the job is in the initramfs,
kvm-amd.ko of several kernels may be in it (see load).  It has nRIP save, which QEMU has not,
and no clean bits, decode assists or vGIF.

An initramfs ends with a reboot, which here is a triple fault: Bochs panics, by which it
ends, with status 1.
"""
import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable

from kernel.kernels import Kernel
from lib import jobs
from lib.base import Base, put, read
from lib.say import Fatal
from lib.settings import place, rel, settings
from machine import boot
from machine.boot import Boot
from source import debian
from source.debian import NOT_HERE

SUITE = 'trixie'	# bookworm's is too old, sid's panics in the guest's clock code
PACKAGES = ['bochs', 'bochs-term', 'bochsbios', 'vgabios', 'xorriso', 'isolinux', 'syslinux-common',
            'base-files', 'dash']
APPEND = ('console=ttyS0,115200 panic=-1 reboot=t nokaslr no5lvl mitigations=off loglevel=7 '
          'tsc=reliable')
SLOWER = 3		# than QEMU, for time limits
CPU, MEMORY = 'ryzen', 512
CONFIG = '''\
config_interface: textconfig
display_library: rfb, options="timeout=0"
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
megs: {memory}
cpu: model={cpu}, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
clock: sync=none
ata0-master: type=cdrom, path={tmp}/cd.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={console}
com2: enabled=1, mode=file, dev={log}
log: {log_of_bochs}
panic: action=fatal
magic_break: enabled={magic}
speaker: enabled=0
'''
TRIPLE_FAULT = 'exception with no resolution'


@dataclass
class Trace:
    """From one XCHG BX, BX to the next one, of those that begin a part"""
    tick: int = 0
    lines: list[str] = field(default_factory=list)


def ensure() -> Path:
    """build/roots/bochs; Fatal 3 if it cannot be had"""
    root = debian.root(SUITE, 'bochs', PACKAGES)
    if not shutil.which('bwrap'):
        raise Fatal('no bwrap for Bochs (make setup)', NOT_HERE)
    return root


def make_cd(root: Path, kernel: Kernel, tmp: Path, job: bytes) -> None:
    files = tmp / 'cd'
    files.mkdir()
    for f in ('ISOLINUX/isolinux.bin', 'syslinux/modules/bios/ldlinux.c32'):
        shutil.copy(root / 'usr/lib' / f, files)
    shutil.copy(kernel.compressed, files / 'vmlinuz')
    boot.make_initrd(kernel, files / 'initrd', job)
    put(files / 'isolinux.cfg',
        f'default l\nlabel l\n kernel vmlinuz\n initrd initrd\n append {APPEND}\n')
    jobs.output([*debian.inside(root), 'xorriso', '-as', 'mkisofs', '-quiet', '-o', tmp / 'cd.iso',
                 '-b', 'isolinux.bin', '-c', 'boot.cat', '-no-emul-boot', '-boot-load-size', '4',
                 '-boot-info-table', files])


def parts(lines: Iterable[str]) -> list[Trace]:
    """Return what was traced, of what the debugger printed"""
    traces: list[Trace] = []
    inside = False
    for line in lines:
        if inside and (line.startswith('[CPU') and ('LIN 0x00001' in line or '; VMCS' in line)):
            traces[-1].lines.append(line.rstrip())
        elif 'Magic breakpoint' in line:
            inside = not inside
            if inside:
                traces.append(Trace())
        elif line.startswith('Next at t=') and traces and not traces[-1].tick:
            traces[-1].tick = int(line[10:])
    return traces


def run(kernel: Kernel, label: str, tests: list[str], *, base: Base,
        others: dict[str, Kernel] | None = None, trace: bool = False) -> tuple[Boot, list[Trace]]:
    """Boot it and run tests, as boot.run() does; base.results/label.bochs is what Bochs printed.

    Args:
        others: name -> kernel of the same image, for "load:NAME.ko:PARAMETER..." among the tests.
        trace: run under Bochs' debugger.

    Returns:
        The boot, and what the CPU read and wrote between an XCHG BX, BX and the next one.
    """
    root = ensure()
    kernel.need()
    limit = SLOWER * settings.number('TIMEOUT')
    base.results.mkdir(parents=True, exist_ok=True)
    result = Boot(base.results / f'{label}.log', base.results / f'{label}.console', None)
    bochs_log = base.results / f'{label}.bochs'
    for f in (result.log, result.console, bochs_log):
        f.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=base.b, prefix=f'{label}-', suffix='.tmp') as scratch:
        tmp = Path(scratch)
        files = [place.lab / 'machine/load']
        for name, other in (others or {}).items():
            files.append(tmp / f'{name}.ko')
            files[-1].symlink_to(other.kvm_amd)
        make_cd(root, kernel, tmp, boot.make_job(kernel, base.b / 'selftests', tests, files,
                                                 limit=SLOWER * settings.number('TEST_TIMEOUT')))
        put(tmp / 'bochsrc', CONFIG.format(
            tmp=tmp, cpu=CPU, memory=MEMORY, console=result.console, log=result.log,
            log_of_bochs=bochs_log, magic=int(trace)))
        put(tmp / 'rc', 'c\n' + 'trace-mem on\nc\ntrace-mem off\nc\n' * 10000)
        debugger = ['-debugger', '-rc', tmp / 'rc'] if trace else []
        p = jobs.start([*debian.inside(root), 'bochs', '-q', *debugger, '-f', tmp / 'bochsrc'],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       errors='replace')
        timer = threading.Timer(limit, jobs.kill, [p])
        timer.start()
        traced = parts(p.stdout)
        status = jobs.finish(p)
        in_time = timer.is_alive()
        timer.cancel()
    boot.check(result, label, judge_end(status, bochs_log, label) if in_time else None, limit,
               bochs_log)
    return result, traced


def judge_end(status: int, bochs_log: Path, label: str) -> int:
    """Return 0 if Bochs ended as it does after a reboot, or was killed: then boot.check() says
    whether all was done; Fatal if it did not"""
    panics = re.findall(r'^[0-9]*p\[(.*)', boot.text_of(bochs_log), re.M)
    if status == 1 and panics and TRIPLE_FAULT in panics[-1]:
        return 0
    if status < 0:
        return status
    reason = f': [{panics[-1].strip()}' if panics else f' with status {status}'
    raise Fatal(f'{label}: Bochs ended{reason} (log: {rel(bochs_log)})')


def sections(log: str) -> list[str]:
    """Return what tests printed, before the first load and after each; Fatal if a load failed"""
    parts = re.split(r'^# nsvm: begin load\n', log, flags=re.M)
    for section in parts[1:]:
        if not section.startswith('ok 1 '):
            raise Fatal(f'a module was not loaded: {section.partition(chr(10))[0]}')
    return parts


def refused(bochs_log: Path) -> list[tuple[int, str]]:
    """Return the VMRUNs that the CPU refused: (tick, reason)"""
    return [(int(tick), reason.strip())
            for tick, reason in re.findall(r'^([0-9]+)e\[CPU0 *\] (VMRUN: .*)', read(bochs_log),
                                           re.M)]
