# SPDX-License-Identifier: GPL-2.0
"""fresh [SUITE] - make run in a newly installed Debian

SUITE is trixie (Debian 13) by default.  mmdebstrap installs it in build/fresh, from the archive
that the machine itself uses.  The files of this repository are copied into it, with uncommitted
edits.  Needs root: it is a chroot, and its mounts are private.

Results: build/<base>/results/fresh.ktap, logs/fresh.log.
Exit status: 0 if make run passes there, 1 if not, 3 if such a Debian cannot be had here.
"""
import os
import re
import shutil
from pathlib import Path

from lib import jobs, ktap
from lib.base import Base, git, put, read
from lib.say import Fatal, Ticker
from lib.settings import place, rel
from source import debian
from source.debian import NOT_HERE

TIME_LIMIT = 900		# seconds
INCLUDED = 'make,python3,ca-certificates'		# make setup installs the rest
HOME = 'root/nsvm'
IN_CHROOT = '''mount --bind /dev "$1/dev" && mount -t proc proc "$1/proc" &&
exec chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
	make -C "/$2" run BASE="$3"'''


def sources(suite: str) -> list[str]:
    """Lines of sources.list: of the release and of its security archive"""
    entries = []
    for name in (suite, f'{suite}-security'):
        with debian.Archive(name, []) as apt:
            apt.configure()
            entries += re.sub(r' \[.*?\]', '', read(apt.dir / 'sources.list')).splitlines()
    return entries


def install(suite: str, root: Path, log: Path) -> None:
    """A minimal Debian in root, whose apt reaches what the machine's reaches"""
    lines = sources(suite)
    put(root.parent / 'sources.list', '\n'.join(lines) + '\n')
    jobs.step('FRESH', log, f'Debian {suite} installed in {rel(root)}',
              ['mmdebstrap', '--variant=minbase', '--mode=root', f'--include={INCLUDED}', suite,
               root, root.parent / 'sources.list'], f'mmdebstrap cannot install {suite}', NOT_HERE)
    # How the machine's own apt reaches it
    ways = re.findall(r'^Acquire::(?:Check-|.*proxy).*$', jobs.output(['apt-config', 'dump']),
                      re.M | re.I)
    put(root / 'etc/apt/apt.conf.d/90machine', ''.join(f'{line}\n' for line in ways))
    shutil.copy('/etc/resolv.conf', root / 'etc/resolv.conf')


def copy_repository(to: Path) -> None:
    """All files that are tracked, or would be"""
    for name in git(place.top, 'ls-files', '--cached', '--others',
                    '--exclude-standard').splitlines():
        if (place.top / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place.top / name, to / name)


def run_in(root: Path, log: Path, base: str) -> int | None:
    """Status of make run there"""
    with Ticker('FRESH', f'make run in {rel(root)}'):
        return jobs.call(['unshare', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-c',
                          IN_CHROOT, 'sh', root, HOME, base], log, TIME_LIMIT)


def main(args: list[str]) -> int:
    suite = args[0] if args else 'trixie'
    base = Base()
    if os.getuid():
        raise Fatal('a chroot needs root', NOT_HERE)
    report = ktap.Report(base.results / 'fresh.ktap')
    root, log = place.build / 'fresh' / suite, base.logs / 'fresh.log'
    shutil.rmtree(root.parent, ignore_errors=True)
    root.parent.mkdir(parents=True)
    try:
        install(suite, root, log)
        copy_repository(root / HOME)
        status = run_in(root, log, base.name)
        text = read(log)
        kernel = re.search(r'^  TREE +(?:QEMU|Linux) (.*)$', text, re.M)
        cases = re.search(r'^  on the series: (.*)$', text, re.M)
        result = cases[1] if cases else jobs.last_line(text)
        detail = f'Linux {kernel[1] if kernel else "none"}; {result}'
        report.item(status == 0, f'make run in a fresh Debian {suite}',
                    detail if status == 0 else f'{detail} (log: {rel(log)})')
    finally:
        shutil.rmtree(root.parent, ignore_errors=True)
    return ktap.finish(report)
