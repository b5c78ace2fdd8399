# SPDX-License-Identifier: GPL-2.0
"""What results were made with: a dict, in build/<base>/results/versions.txt a line each"""
import hashlib
import platform
import re
import shutil
from pathlib import Path
from typing import Iterable

from lib import jobs
from lib.base import Base, put, read
from lib.settings import settings

PROGRAMS = {'make': '--version', 'git': '--version', 'ld': '--version', 'busybox': '--help'}


def first_line(program: str | Path, option: str) -> str:
    """What a program says of itself, '' if it is not there"""
    return jobs.output([program, option],
                       check=False).partition('\n')[0] if shutil.which(program) else ''


def write(base: Base, qemu: str | Path = '', files: Iterable[Path] = ()) -> dict[str, str]:
    """qemu: the one that is used; files: kernels and modules, below build/<base>"""
    source = read(base.src / '.git/nsvm-source').replace('sha256 ', 'source-sha256 ')
    found = dict(line.split(' ', 1) for line in source.splitlines())
    found['base'] = base.commit()
    found['series'] = base.head() + ('' if base.is_clean() else ', with edits')
    found['compiler'] = first_line(settings.CC, '--version')
    found['qemu'] = first_line(qemu or settings.QEMU, '--version')
    found['python'] = platform.python_version()
    found |= {program: first_line(program, option) for program, option in PROGRAMS.items()}
    for file in [*files, *(base.dir / p for p in base.series())]:
        name = file.relative_to(base.b) if file.is_relative_to(base.b) else file.name
        found[str(name)] = hashlib.sha256(file.read_bytes()).hexdigest()
    put(base.results / 'versions.txt', ''.join(f'{key} {value}\n' for key, value in found.items()))
    return found


def short(found: dict[str, str]) -> str:
    """For one line"""
    qemu = re.search(r'version (\S+)', found['qemu'])
    compiler = f'{Path(settings.CC).name} {found["compiler"].rpartition(" ")[2]}'
    return f'{found["source"]}, {compiler}, QEMU {qemu[1] if qemu else "none"}'
