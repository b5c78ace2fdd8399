# SPDX-License-Identifier: GPL-2.0
"""fresh [SUITE] - make run in a newly installed Debian

SUITE is trixie (Debian 13) by default.  mmdebstrap installs it in build/fresh, from the archive
that the machine itself uses.  The files of this repository are copied into it, with uncommitted
edits.  Needs root: it is a chroot, and its mounts are private.

Results: build/<base>/results/fresh.ktap, logs/fresh.log.
Exit status: 0 if make run passes there, 1 if not, 3 if such a Debian cannot be had here.
"""
import re
import shutil
from pathlib import Path

from lib import jobs, ktap
from lib.base import Base, git, read
from lib.say import Ticker
from lib.settings import place, rel
from source import chroot

TIME_LIMIT = 900		# seconds
INCLUDED = ['make', 'python3', 'ca-certificates']		# make setup installs the rest
HOME = 'root/nsvm'


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
        return jobs.call(chroot.argv(root, 'make', '-C', f'/{HOME}', 'run', f'BASE={base}'), log,
                         TIME_LIMIT)


def main(args: list[str]) -> int:
    suite = args[0] if args else 'trixie'
    base = Base()
    report, log = ktap.Report(base.results / 'fresh.ktap'), base.logs / 'fresh.log'
    root = place.build / 'fresh'
    with chroot.installed(root, suite, INCLUDED, log):
        copy_repository(root / HOME)
        status = run_in(root, log, base.name)
    text = read(log)
    kernel = re.search(r'^  TREE +(?:QEMU|Linux) (.*)$', text, re.M)
    cases = re.search(r'^  on the series: (.*)$', text, re.M)
    result = cases[1] if cases else jobs.last_line(text)
    detail = f'Linux {kernel[1] if kernel else "none"}; {result}'
    report.item(status == 0, f'make run in a fresh Debian {suite}',
                detail if status == 0 else f'{detail} (log: {rel(log)})')
    return ktap.finish(report)
