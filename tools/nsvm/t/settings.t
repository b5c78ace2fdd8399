#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""Settings come from Kconfig and the command line; other distributions; no program names a base"""
import os
import re
import shutil
from unittest import mock

import toy
import toyapt
from toy import is_, lab, run, top
from toyapt import bins, case, failure, work
from lib import base, jobs
from lib.settings import Settings, place

SEEN = 'BASE LINUX CC CPU VIEW SMP TESTS ACCEL QEMU TIMEOUT BUILD PATCHES OVERLAY V LOCKED'.split()
OF_TARGETS = ('CASE CHECK ALL VMM HOST KVM NAME PART SEED SEQ STEPS TIME TREES DEPTH RANDOM '
              'KERNELS SIGNOFF PREFIX REALLY FORCE').split()
OF_TOOLS = 'CC LLVM ARCH O KCFLAGS LDFLAGS MAKEFLAGS GIT_DIR GIT_INDEX_FILE PYTHONPATH'.split()

# ---- the environment has no say ----


def all_settings() -> list[str]:
    s = Settings()
    return [*(f'{k}={v}' for k, v in s.load().items()), *(f'{k}={getattr(s, k)}' for k in SEEN)]


def recipes() -> list[str]:
    """What make would do for each target"""
    targets = re.findall(r'^([a-z]+)[a-z ]*:.*## ', (place.top / 'Makefile').read_text(), re.M)
    return run('make', '-n', '-C', place.top, *targets).stdout.splitlines()


def children() -> list[str]:
    return jobs.output(['/usr/bin/env']).splitlines()


for name, fn, stray in (('settings', all_settings, SEEN + [f'NSVM_{s}' for s in SEEN] +
                         ['srctree']), ('what make does', recipes, SEEN + OF_TARGETS),
                        ('what programs get', children, OF_TOOLS)):
    with mock.patch.dict(os.environ):
        for key in (*stray, 'MAKELEVEL'):
            os.environ.pop(key, None)
        was = fn()
        os.environ.update(dict.fromkeys(stray, '7'))
        is_((len(was) > 1, set(fn()) ^ set(was)), (True, set()),
            f'{name}: no stray variable counts')

s = Settings()
s.set(BUILD=str(top / 'build'), SMP='3')
(top / 'build').mkdir()
(top / 'build/.config').write_text('NSVM_SMP=2\nNSVM_MEMORY=2048\n')
is_((s.SMP, s.MEMORY), ('3', '2048'), 'the command line wins over build/.config, that over Kconfig')
s.set(SMP='x')
is_(failure(lambda: s.number('SMP')), 'SMP=x is no number', 'SMP=x')
case(0, '--help names the programs', r'\n  run  ', '--help')
case(1, 'no such program', r'no program rnu: did you mean run\? nsvm help names them', 'rnu')
case(1, 'no such setting', r'^run: TIMOUT= is no setting of run: did you mean TIMEOUT=\?', 'run',
     'TIMOUT=5')
case(0, 'help names settings', r'view \[CASE\|list\].*Settings.*CASE= +a test case', 'view',
     '--help')
r = run('make', '-n', '-C', place.top, 'view', "CASE=it's a=b", 'SMP=2')
is_(r"""'CASE=it'\''s a=b' 'SMP=2'""" in r.stdout, True, 'make passes on what it is given',
    r.stdout + r.stderr)

# ---- a machine without dpkg and apt, with LINUX= ----

toyapt.make()
shutil.rmtree(bins)
bins.mkdir()
for name in 'git make gcc flex bison bc xz busybox zstd bwrap python3 sh env sed as ld'.split():
    (bins / name).symlink_to(shutil.which(name) or '/bin/true')
toy.script(bins / 'qemu-system-x86_64', 'echo QEMU emulator version 8.0.0; [ "$1" = --version ]')
os.environ['PATH'] = str(bins)
case(0, 'no dpkg, but all programs', '^$', 'setup', 'run')
case(0, 'LINUX= goes on', '2 patches .* applied', 'tree', 'series', f'LINUX={work}',
     'LINUX_REF=HEAD~2')
case(0, 'without a QEMU for the plugin',
     'VMRUNs are not watched: .*, and there is no other: there is no apt', 'qemu')
for name in ('bc', 'xz'):
    (bins / name).unlink()
case(1, 'missing programs are named with their package',
     ': bc .Debian: bc., xz .Debian: xz-utils.$', 'setup')

# ---- adding a base touches nothing else ----

programs = [f for f in lab.rglob('*') if f.is_file() and f.suffix != '.rst'
            and f.relative_to(lab).parts[0] != 't']
programs += [place.top / 'Makefile', place.top / '.ci/run']
named = [f.name for f in programs for name in [*base.names(), *base.names(vmm=True)]
         if name in f.read_text(errors='replace')]
is_((len(base.names()) > 1, len(programs) > 50, named), (True, True, []), 'no program names a base')
print(f'1..{toy.count}')
