#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""What happens when packages, sources, the disk, the series or LINUX= are not as they should be

Each ends in one clear line and leaves nothing half-made, and the next run goes on.
"""
import fcntl
import os
import re
import shutil
import signal
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import toy
import toyapt
from toy import PLACES, b, git, is_, letter, nsvm, patches, run, top, tree
from toyapt import DEB, TAR, archive, base, bins, case, downloads, failure, nested, work
from lib import jobs, settings
from lib.base import Base
from review import check
from source import setup
from source import tree as source_tree

build, released = top / 'build', r'Linux 9\.9\.9 .*, the release the series was made on'
toyapt.make()

# ---- packages ----

toy.script(bins / 'dpkg-query',
           'shift 3\nfor p; do [ $p = busybox-static ] || echo "installed $p"; done')
toy.script(bins / 'sudo', 'exit 1')
case(3, 'a package is missing, no network', 'cannot fetch package lists: E: .*Could not connect',
     'setup', apt='none')
settings.from_arguments(PLACES)
os.environ['NSVM_AS_ROOT'] = ''
with mock.patch('os.getuid', return_value=1000), redirect_stdout(StringIO()):
    message = failure(lambda: setup.main(['run']))
is_(message, 'no rights to install; as root: apt-get install --no-install-recommends '
    'busybox-static', 'nor rights')
(bins / 'dpkg-query').unlink()
os.environ['NSVM_AS_ROOT'] = 'env'

# ---- a source package ----


def without_src() -> None:
    shutil.rmtree(b)


case(1, 'an unknown base', 'BASE= is one of: toy', 'tree', 'base', 'BASE=nonsense')
case(3, 'apt does not know it, no network', 'Could not connect', apt='none')
case(3, 'apt knows it, but it is gone', '404', apt='missing')
case(1, 'a damaged download', 'not what apt promised', apt='truncated')
is_((downloads / DEB).exists(), False, 'is not kept')
case(0, 'the next run fetches it', released)
without_src()
with open(downloads / DEB, 'a') as f:
    f.write('x')
case(0, 'damaged on disk: fetched again', 'is damaged')
without_src()
base('package: linux-source-9.9', 'suite: nosuch', 'version: 9.9.8-1')
case(0, 'no network, but an archive of another version', released, apt='off')
base()
without_src()

# ---- which release is used ----

strict = r'Linux 9\.9\.9 \(9\.9\.9-1\), the release'
refused = rf'0002-patch-2\.patch does not apply: {nested}:[0-9]+'
loose = rf'0002-patch-2\.patch at {nested}:[0-9]+'
base('package: linux-source-9.9', 'suite: own', 'suite: older', 'version: 9.9.9-1')
toyapt.source('9.9.10', 'twenty')
case(0, 'the newest release conflicts: an older one is used',
     strict + rf'.*9\.9\.10-1 is not used: {refused}')
without_src()
toyapt.source('9.9.11', 'eighteen', 18)
case(0, 'the newest takes -C1: a strict one of the same suite is used',
     strict + rf'.*9\.9\.11-1 is not used: takes {loose} only with git am -C1')
without_src()
second, right = patches / '0002-patch-2.patch', (patches / '0002-patch-2.patch').read_text()
second.write_text(right.replace('\n-20\n', '\n-twenty-five\n'))
case(1, 'not even the release that the series was made on takes a patch: that one is broken',
     rf'{refused} \(on 9\.9\.9, the release .*toy was made on\)')
second.write_text(right)
(archive / DEB).rename(top / DEB)
case(0, 'no strict one in the own suites: the newest that takes -C1',
     rf'Linux 9\.9\.11 .*{loose} does not apply strictly: git am -C1.*2 patches', 'tree', 'series')
without_src()
(archive / DEB.replace('9.9.9-', '9.9.11-')).unlink()
(archive / 'older').mkdir()
shutil.copy(top / DEB, archive / 'older')
case(0, 'no release of the own suites takes the patches: one of another suite',
     rf'Linux 9\.9\.9 \(9\.9\.9-1 of older\).*9\.9\.10-1 is not used: {refused}')
is_('suite older\n' in (tree / '.git/nsvm-source').read_text(), True,
    'image and headers are to be taken from there')
without_src()
shutil.rmtree(archive / 'older')
case(0, 'no suite has one, but it was fetched once', rf'Linux 9\.9\.11 .*{loose}', 'tree', 'series')
without_src()
for f in downloads.glob('linux-source*'):
    f.unlink()
case(3, 'there is none', rf'tree: linux-source-9\.9 9\.9\.10-1: {refused} \(for toy; LINUX= takes',
     'tree', 'series')
is_(tree.exists(), False, 'and no tree')
(archive / 'trixie').mkdir()
(archive / DEB.replace('9.9.9-', '9.9.10-')).rename(archive / 'trixie' /
                                                    DEB.replace('9.9.9-', '9.9.10-'))
(top / DEB).rename(archive / DEB)
tree_of_work = f'{work}@made~2'
case(
    0, 'bases: what each release takes',
    rf'toy on 9\.9\.10-1 \(trixie\): not: {refused}.*toy on 9\.9\.9-1 \([^)]*sid\): strictly.*'
    rf'toy on 9\.9\.9 \({tree_of_work}\): strictly', 'bases', tree_of_work)
case(3, 'bases: no network', 'no release of any base can be had', 'bases', apt='off')
shutil.rmtree(archive / 'trixie')
git(work, 'reset', '-q', '--hard', 'made')

# ---- a file of a source package ----

base('source: linux', 'suite: toy-suite', 'version: 9.9.9-1', f'file: {TAR}')
(archive / 'toy-suite').mkdir()
case(3, 'tarball: not in the index', f'toy-suite has no {TAR} 9.9.9-1 .for toy; LINUX= ')
shutil.rmtree(archive / 'toy-suite')
case(3, 'tarball: in the index, but gone', f'cannot fetch {TAR}: .*404', apt='missing')
# not ignored, as it is in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
case(130, 'SIGINT', '', apt='INT')
is_(Path(f'/proc/{(archive / "pid").read_text().strip()}').exists(), False,
    'ends what was started')
case(0, 'the next run goes on', released)
is_((tree / nested).exists(), True, 'its top directory is left out')
without_src()
case(0, 'tarball: no network, but the file', released, apt='off')
base()

# ---- disk full ----

shutil.rmtree(build)
build.mkdir()
# In a namespace of its own: nothing of this machine is mounted over
toy.prefix[:] = ['unshare', '-rm', 'sh', '-c', f'mount -t tmpfs -o size=1300k tmpfs {build} && '
                 f'{{ "$@"; status=$?; find {build} -name src -o -name "*.tmp"; exit $status; }}',
                 'sh']
if run(*toy.prefix, 'true').returncode:
    toy.count += 1
    print(f'ok {toy.count} the disk is full # SKIP no namespaces for users here')
else:
    is_('/src' in case(1, 'the disk is full', 'No space left'), False, 'there is no half tree')
toy.prefix.clear()

# ---- series ----

series, applied = ('tree', 'series'), '2 patches .* applied'
case(0, 'base', released)
was = git(tree, 'rev-parse', 'HEAD')
second.write_text(right.replace('\n-20\n', '\n-twenty\n'))
case(1, 'a patch does not apply',
     rf'{refused} \(this is 9\.9\.9; without .*src, a release', *series)
is_((git(tree, 'rev-parse', 'HEAD'), git(tree, 'status', '--porcelain')), (was, ''),
    'the tree is as before')
second.write_text(right)
case(0, 'the corrected one does', applied, *series)
(tree / nested).write_text('mine\n')
second.write_text(right.replace('patch 2', 'patch two'))
case(0, 'edits in src are left alone',
     'edits of its own: left as it is, and .* is not what was applied', *series)
is_((tree / nested).read_text(), 'mine\n', 'really')
git(tree, 'checkout', '-q', '-f')
case(0, 'a changed patch is applied again', applied, *series)
is_('patch two\n' in (tree / nested).read_text(), True, 'as it is now')
second.write_text(right)
with open(b / '.lock', 'a') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    case(1, 'two at once', 'another run is at work', *series)

# ---- after another series ----

later, later_patches = ('tree', 'series', 'BASE=later'), top / 'patches/later'
later_src = build / 'later/src'
toyapt.commit('patch 3', '^30$', 'patch 3')
git(work, 'format-patch', '-q', '--no-numbered', '-o', str(later_patches), 'HEAD~1')
git(work, 'reset', '-q', '--hard', 'HEAD~1')
(later_patches / 'series').write_text('0001-patch-3.patch\n')
(later_patches / 'BASE').write_text('after: toy\n')


def numbers(where: Path, commit: str) -> str:
    """Of the patches that are in it"""
    return ''.join(re.findall('^patch (.*)\n', git(where, 'show', f'{commit}:{nested}'), re.M))


case(0, 'after: toy', 'tag base is after .*1 patches .* applied', *later)
root = (later_src / '.git/nsvm-root').read_text().strip()
is_([numbers(later_src, c) for c in (root, 'base', 'HEAD')], ['', '12', '123'],
    'the package, tag base, the series')
is_(root, git(tree, 'rev-parse', 'base'), 'the same commit, wherever it is')
(later_patches / letter.name).write_text(
    'From: x <x@x>\nSubject: [PATCH 0/9] x\n\nx (0):\nbase-tree: x\nchange-id: 2026-x-1\n')
is_(nsvm('mbox', 'BASE=later').returncode, 0, 'mbox of it')
ids = [jobs.output(['git', 'patch-id', '--stable'], input=(patches / p).read_text()).split()[0]
       for p in (patches / 'series').read_text().split()]
is_(re.findall('^(?:base-commit|prerequisite-patch-id): (.*)', (
    build / 'later/series.mbox').read_text(), re.M), [root, *ids], 'names what it needs')
settings.from_arguments(PLACES)
with redirect_stdout(StringIO()):
    whole = source_tree.set_whole(Base('later'), 'series')
is_(numbers(whole, git(whole, 'write-tree')), '123', 'the complete source has all of it')
for where in (whole, check.part(Base('later'))):
    commits = check.apply(Base('later'), where).commits
    is_([numbers(where, c) for c in commits], ['12', '123'],
        f'make check is about the last one: {where.name}')
second.write_text(right.replace('patch 2', 'patch two'))
case(0, 'the series before has changed', 'tag base is after .*1 patches .* applied', *later)
is_(numbers(later_src, 'HEAD'), '1two3', 'that is in it')
second.write_text(right)
git(later_src, 'commit', '-q', '--allow-empty', '-m', 'mine')
case(0, 'and again, but there is work on top',
     'commits or edits of its own: left on what .*toy was', *later)
is_(numbers(later_src, 'HEAD'), '1two3', 'that is left alone')
mine = (f'LINUX={work}', 'LINUX_REF=HEAD~2')
case(0, 'LINUX= and both series', 'tag base is after', *later, *mine)
case(0, 'LINUX= again: nothing to do', 'has the 1 patches', *later, *mine)
is_(numbers(build / 'later-own/src', 'HEAD'), '123', 'are in that tree')

# ---- LINUX= ----

state = ('sh', '-c', 'git for-each-ref; git rev-parse HEAD; ls -A . .git')
case(1, 'LINUX= is no git tree', 'is no git tree', *series, 'LINUX=/')
case(1, 'LINUX_REF= is no commit', 'has no commit x', *series, f'LINUX={work}', 'LINUX_REF=x')
was = run(*state, where=work).stdout
case(0, 'LINUX= takes the series', applied, *series, *mine)
is_(run(*state, where=work).stdout, was, 'and that tree is left alone')
mine = (f'LINUX={work}', 'LINUX_REF=HEAD~1')
case(1, 'LINUX_REF= has moved, and has a part of the series',
     r'0001-patch-1\.patch does not apply.*has that change already', *series, *mine)
base(*toyapt.PACKAGED, f'upstream: 0001-patch-1.patch patch {nested}')
case(0, 'unless it is known as upstream: then that patch is left out',
     r'0001-patch-1\.patch is left out.* 1 patches', *series, *mine)
case(1, 'make patches does not lose it', 'lacks 0001-patch-1.patch', 'export', *mine)
print(f'1..{toy.count}')
