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
    values = dict(line.split(' ', 1) for line in source.splitlines())
    values['base'] = base.commit()
    values['series'] = base.head() + ('' if base.is_clean() else ', with edits')
    values['compiler'] = first_line(settings.CC, '--version')
    values['qemu'] = first_line(qemu or settings.QEMU, '--version')
    values['python'] = platform.python_version()
    values |= {program: first_line(program, option) for program, option in PROGRAMS.items()}
    for file in [*files, *(base.dir / p for p in base.series())]:
        name = file.relative_to(base.b) if file.is_relative_to(base.b) else file.name
        values[str(name)] = hashlib.sha256(file.read_bytes()).hexdigest()
    put(base.results / 'versions.txt', ''.join(f'{key} {value}\n' for key, value in values.items()))
    return values


def short(values: dict[str, str]) -> str:
    """For one line"""
    qemu = re.search(r'version (\S+)', values['qemu'])
    compiler = f'{Path(settings.CC).name} {values["compiler"].rpartition(" ")[2]}'
    return f'{values["source"]}, {compiler}, QEMU {qemu[1] if qemu else "none"}'
