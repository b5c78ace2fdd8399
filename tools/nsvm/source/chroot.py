# SPDX-License-Identifier: GPL-2.0
"""A Debian of its own in a directory, for what has to be installed to be seen

mmdebstrap makes it, from where the machine's own apt fetches.  Programs run there as root; their
mounts are private, and end with them.
"""
import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Iterator, Sequence

from lib import jobs
from lib.base import put
from lib.say import Fatal
from lib.settings import rel
from source import debian
from source.debian import NOT_HERE

IN_CHROOT = '''mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && exec chroot "$@"'''

FILES = '/usr/share/mmdebstrap/hooks/file-mirror-automount'		# among the packages


def argv(root: Path, *command: str) -> list:
    """What runs a command in that Debian"""
    return ['unshare', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', IN_CHROOT, 'sh',
            root, 'env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root',
            'LC_ALL=C.UTF-8', 'DEBIAN_FRONTEND=noninteractive', *command]


def install(root: Path, suite: str, packages: Sequence[str | Path], log: Path) -> None:
    """A minimal Debian in root, whose apt reaches what the machine's reaches"""
    release = suite.split('-')[0]
    with debian.Archive(release, [f'{release}-security', suite]) as apt:
        apt.configure()
        lines = [re.sub(r' \[.*?\]', '', line) for line in apt.sources()]
    options = [f'--include={package}' for package in packages]
    if suite.endswith('-backports'):
        options.append(f'--aptopt=APT::Default-Release "{suite}"')
    jobs.step('DEBIAN', log, f'Debian {suite} installed in {rel(root)}',
              ['unshare', '--mount', 'mmdebstrap', '--variant=minbase', '--mode=root',
               '--skip=cleanup/apt/lists', f'--hook-dir={FILES}', *options, release, root, *lines],
              f'mmdebstrap cannot install {suite}', NOT_HERE)
    # How the machine's own apt reaches it
    ways = re.findall(r'^Acquire::(?:Check-|.*proxy).*$', jobs.output(['apt-config', 'dump']),
                      re.M | re.I)
    put(root / 'etc/apt/apt.conf.d/90machine', ''.join(f'{line}\n' for line in ways))
    shutil.copy('/etc/resolv.conf', root / 'etc/resolv.conf')


@contextlib.contextmanager
def installed(root: Path, suite: str, packages: Sequence[str | Path],
              log: Path) -> Iterator[None]:
    """A new Debian in root, which is removed at the end.

    Args:
        suite: of its packages; "" is the machine's own.
        packages: names and files of packages that it has, beside the necessary ones.

    Raises:
        Fatal: status 3 if it cannot be had here.
    """
    if os.getuid():
        raise Fatal('a chroot needs root', NOT_HERE)
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        install(root, suite or debian.codename(), packages, log)
        yield
    finally:
        shutil.rmtree(root, ignore_errors=True)
