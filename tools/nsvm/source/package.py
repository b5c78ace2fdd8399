# SPDX-License-Identifier: GPL-2.0
"""A packaged source becomes a git tree with tag base"""
import re
import time
from pathlib import Path

from lib import jobs
from lib.base import Base, digest, git, new_directory, put, read, root_of
from lib.say import Fatal, elapsed, say
from lib.settings import place, rel
from source import debian

# Patterns for tar, "*" across directories, and for git's sparse checkout.  Each is in
# every kernel; top-level Makefiles make it a kernel tree for get_maintainer.pl.  The
# selftests of 7.3 have links to headers of drivers.
PART = ['COPYING', 'CREDITS', 'Kbuild', 'Kconfig', 'LICENSES', 'MAINTAINERS', 'Makefile', 'README',
        'Documentation/virt', 'arch/x86', 'drivers/Makefile', 'drivers/dma/*.h',
        'drivers/net/ethernet/intel/*.h', 'fs/Makefile', 'include', 'init/Makefile', 'ipc/Makefile',
        'kernel/Makefile', 'lib/Makefile', 'scripts', 'tools/arch/x86', 'tools/build',
        'tools/include', 'tools/lib', 'tools/scripts', 'tools/testing/selftests/*.*',
        'tools/testing/selftests/Makefile', 'tools/testing/selftests/[ckrv]*', 'usr', 'virt']
QEMU = ['[!r]*', 'r[!o]*']	# without roms/, two thirds of it


def part_of(base: Base) -> list[str]:
    """Patterns of what a series, KVM's modules, selftests and user-space headers need"""
    return QEMU if base.is_vmm() else PART


def release(src: Path) -> str:
    """Such as 6.12.117"""
    return read(src / 'VERSION').strip() or kernel_version(read(src / 'Makefile'))


def kernel_version(makefile: str) -> str:
    numbers = [re.search(rf'^{part} *= *(\S+)', makefile, re.M)
               for part in ('VERSION', 'PATCHLEVEL', 'SUBLEVEL')]
    if not all(numbers):
        raise Fatal('no kernel: its Makefile has no VERSION, PATCHLEVEL and SUBLEVEL')
    return '.'.join(number[1] for number in numbers)


def tar_of(archive: Path) -> tuple[str, str]:
    """A command that prints the compressed tar of an archive; its top directory"""
    if archive.suffix == '.deb':
        top = archive.name.split('_')[0]
        return f"dpkg-deb --fsys-tarfile '{archive}' | tar -xOf - './usr/src/{top}.tar.xz'", top
    return f"cat '{archive}'", re.sub(r'_(.*?)(\+ds)?\.orig.*', r'-\1', archive.name)


def unpack(archive: Path, to: Path, part: list[str]) -> None:
    """All that is in it, or a part, without its top directory"""
    command, top = tar_of(archive)
    to.mkdir(exist_ok=True)
    patterns = ' '.join(f"'{top}/{p}'" for p in part)
    script = (f"{command} | tar -x -I 'xz -d -T0' -C '{to}' --strip-components=1 --anchored "
              f"--wildcards {patterns}")
    jobs.step('TREE', place.build / 'unpack.log',
              f'{archive.name} unpacked{", what a series needs" if part else ""}',
              ['bash', '-o', 'pipefail', '-c', script], f'cannot unpack {archive.name}')
    if not (to / 'Makefile').exists():
        raise Fatal(f'{archive.name} holds no source')


def commit_all(where: Path, message: str) -> None:
    """Every file is a big file: they go to one pack, instead of one file each"""
    when = '@1577836800 +0000'
    git(where, 'init', '-q', '-b', 'series')
    git(where, '-c', 'core.bigFileThreshold=1', '-c', 'core.compression=1', 'add', '-A', '-f')
    git(where, 'commit', '-q', '-m', message,
        env={'GIT_AUTHOR_DATE': when, 'GIT_COMMITTER_DATE': when})
    git(where, 'tag', 'base')


def clone_sibling(source: str, part: list[str], to: Path) -> bool:
    """Take the source from another base's src, if one has the same part of the same archive."""
    for mark in place.build.glob('*/src/.git/nsvm-source'):
        if read(mark) == source and read(mark.with_name('nsvm-part')) == digest(*part):
            begin, sibling = time.monotonic(), mark.parents[1]
            git(sibling, 'clone', '-q', '--no-checkout', str(sibling), str(to))
            git(to, 'remote', 'remove', 'origin')
            git(to, 'checkout', '-q', '-B', 'series', root_of(sibling))
            git(to, 'tag', '-f', 'base')
            say('TREE', f'the source is that of {rel(sibling)}, cloned ({elapsed(begin)})')
            return True
    return False


def make_tree(base: Base, archive: Path, to: Path, part: list[str], suite: str = '') -> None:
    """The directory to becomes a git tree of that archive, whole or not at all.

    Args:
        archive: a linux-source package or a tarball, in build/dl.
        part: patterns of what is taken of it; none: all.
        suite: where it is from, "" is the machine's own archive.
    """
    version = debian.version_of(archive) if archive.suffix == '.deb' else base.key('version')
    sha256 = read(archive.with_name(f'{archive.name}.sha256')).strip()
    source = (f'source {base.key("package") or base.key("file")} {version}\n'
              f'suite {suite or "own"}\nsha256 {sha256} {archive.name}\n')
    with new_directory(to) as tmp:
        if not clone_sibling(source, part, tmp):
            unpack(archive, tmp, part)
            begin = time.monotonic()
            package = base.key('package') or base.key('source')
            commit_all(tmp, f"{base.project()} {release(tmp)}, Debian's {package}")
            say('TREE', f'git tree made, tag base ({elapsed(begin)})')
        put(tmp / '.git/nsvm-source', source)
        put(tmp / '.git/nsvm-base', git(tmp, 'rev-parse', 'HEAD') + '\n')
