# SPDX-License-Identifier: GPL-2.0
"""setup [WHAT]... - install the Debian packages that the lab needs

WHAT is run (what make run needs, the default) or one of PACKAGES, in addition.  If nothing is
missing, apt is not called.  Missing packages are named, and installed as root or with sudo.  If
neither is possible, the command to type is printed.  Without dpkg, programs are looked for instead,
and a missing one is named with its Debian package.  Output of apt: build/setup.log.

The environment variable NSVM_AS_ROOT is a command to use instead of sudo.
"""
import os
import shutil
import sys

from lib import jobs
from lib.say import Fatal, say
from lib.settings import place, settings
from source.debian import NOT_HERE

# The one list; the names are the same on Debian 12 and 13.  Where it is not the
# package's name: the program that shows that it is there ("-": none, not looked for)
PACKAGES = {
    'run': 'git gcc libc6-dev:- make flex bison bc libelf-dev:- xz-utils:xz busybox-static:busybox '
    'zstd bubblewrap:bwrap python3 python3-kconfiglib:- qemu-system-x86:qemu-system-x86_64',
    'test': 'shellcheck perl pahole dropbear-bin:dropbear', 'bench': 'pahole',
    'stack': 'e2fsprogs:-', 'check': 'g++ clang lld:ld.lld llvm:llvm-ar sparse coccinelle:spatch '
    'pahole rsync perl python3-ply:- python3-git:- '
    'python3-sphinx:sphinx-build libssl-dev:- shellcheck cpio',
    'list': 'git-email:- libmailtools-perl:- libio-socket-ssl-perl:- libauthen-sasl-perl:- perl b4',
    'vmm': 'ninja-build:ninja pkg-config libglib2.0-dev:- python3-venv:-',
    'deb': 'debhelper:dh dh-dkms:dh_dkms lintian dpkg-dev:dpkg-buildpackage mmdebstrap',
    'remote': 'openssh-client:ssh', 'lava': 'lava-common:- python3-yaml:-', 'fresh': 'mmdebstrap'}


def packages(groups: list[str]) -> dict[str, str]:
    """package -> program"""
    wanted = {}
    for w in groups:
        if w not in PACKAGES:
            raise Fatal(f'usage: setup [{"|".join(PACKAGES)}]...')
        for item in PACKAGES[w].split():
            name, _, program = item.partition(':')
            wanted[name] = program or name
    return wanted


def chosen(wanted: dict[str, str]) -> dict[str, str]:
    """With what the settings name; Kconfig can be read when kconfiglib is there"""
    try:
        qemu, cc = settings.QEMU, settings.CC
    except Fatal:
        return wanted
    more = {}
    if cc == 'clang':
        more = {'clang': 'clang', 'lld': 'ld.lld', 'llvm': 'llvm-ar'}
    elif cc != 'gcc' and '/' not in cc:
        more = {cc: cc}
    return {name: program for name, program in {**wanted, **more}.items()
            if name != 'qemu-system-x86' or qemu == 'qemu-system-x86_64'}


def as_root() -> list[str] | None:
    """How to run something as root, or None; sudo may ask only if somebody is there"""
    if os.environ.get('NSVM_AS_ROOT'):
        return os.environ['NSVM_AS_ROOT'].split()
    if os.getuid() == 0:
        return []
    if shutil.which('sudo') and (sys.stdin.isatty() or jobs.call(['sudo', '-n', 'true']) == 0):
        return ['sudo'] if sys.stdin.isatty() else ['sudo', '-n']
    return None


def apt_get(root: list[str], text: str, fail: str, *args: str) -> None:
    jobs.step('SETUP', place.build / 'setup.log', text,
              [*root, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', '-y', '-o',
               'DPkg::Lock::Timeout=120', '-o', 'Acquire::Retries=2', *args], fail, NOT_HERE,
              stdin=None if root == ['sudo'] else jobs.subprocess.DEVNULL)


def update_lists() -> None:
    root = as_root()
    if root is None:
        raise Fatal("apt's package lists are missing or old; as root: apt-get update", NOT_HERE)
    apt_get(root, 'package lists fetched', 'cannot fetch package lists', 'update')


def installed(names: list[str]) -> set[str]:
    out = jobs.output(['dpkg-query', '-W', '-f', '${db:Status-Status} ${Package}\n', *names],
                      check=False)
    return {line.split()[1] for line in out.splitlines() if line.startswith('installed ')}


def ensure(wanted: dict[str, str]) -> None:
    if not shutil.which('dpkg-query'):
        missing = [f'{program} (Debian: {name})' for name, program in wanted.items()
                   if program != '-' and not shutil.which(program)]
        if missing:
            raise Fatal(f'not found, and this is no Debian system: {", ".join(missing)}')
        return
    have = installed(list(wanted))
    missing = sorted(set(wanted) - have)
    if not missing:
        return
    say('SETUP', f'missing: {" ".join(missing)}')
    root = as_root()
    if root is None:
        raise Fatal('no rights to install; as root: apt-get install --no-install-recommends '
                    f'{" ".join(missing)}')
    install = ('installed', 'cannot install packages', 'install', '--no-install-recommends',
               *missing)
    try:
        apt_get(root, *install)
    except Fatal:
        update_lists()		# missing, or too old for the mirror
        apt_get(root, *install)


def main(args: list[str]) -> int:
    wanted = packages(args or ['run'])
    place.build.mkdir(parents=True, exist_ok=True)
    ensure(chosen(wanted))
    ensure(chosen(wanted))	# kconfiglib may have come with the first ones
    return 0
