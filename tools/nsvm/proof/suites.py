# SPDX-License-Identifier: GPL-2.0
"""Tests of others, which the user has built: kvm-unit-tests (*.flat) and LTP's kvm_svm*

A flat file runs as often, and with such options of QEMU, as unittests.cfg beside it says; without
it, once.
"""
import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from lib.base import read
from lib.say import Fatal

# Tests with a million VMRUNs each: two that only measure, and one for each page of memory.  And one
# with which the program ends: QEMU's CPU does not intercept INT3.
LEFT_OUT = '-latency_* -svm_vmrun_errata_test -svm_exception_test'
PROGRAMS = ('svm*.flat', 'kvm_svm[0-9]*')		# of a directory
VERDICT = re.compile(r'^(PASS|FAIL|SKIP|XFAIL): .*|^\S+: (TPASS|TFAIL|TBROK|TCONF): .*', re.M)
SHORT = {'TPASS': 'PASS', 'TFAIL': 'FAIL', 'TBROK': 'FAIL', 'TCONF': 'SKIP', 'XFAIL': 'FAIL'}


@dataclass(frozen=True)
class Run:
    """Of one program; options: of QEMU, of a flat file"""
    name: str
    program: Path
    options: list[str] = field(default_factory=list)


def configured(flat: Path) -> list[Run]:
    """What unittests.cfg says; it says that in other words since 2025"""
    runs = []
    config = read(flat.with_name('unittests.cfg'))
    for name, section in re.findall(r'^\[(.*)\]\n((?:(?!\[).*\n?)*)', config, re.M):
        says = dict(re.findall(r'^(\w+) *= *(.*)', section, re.M))
        if says.get('file') == flat.name and 'nodefault' not in says.get('groups', ''):
            options = shlex.split(says.get('qemu_params', says.get('extra_params', '')))
            if '-append' not in options:
                options += ['-append', *shlex.split(says.get('test_args', '""'))]
            options[options.index('-append') + 1] += f' {LEFT_OUT}'
            runs.append(Run(name, flat, ['-smp', says.get('smp', '1'), *options]))
    return runs or [Run(flat.stem, flat, ['-m', '4g', '-append', LEFT_OUT])]


def runs_of(path: Path) -> list[Run]:
    """Of a file, or of those in a directory that are for SVM; Fatal if there are none"""
    files = [path]
    if path.is_dir():
        files = sorted(f for p in PROGRAMS for f in path.glob(p) if f.suffix in ('', '.flat'))
    if not files or not all(f.suffix == '.flat' or f.read_bytes()[:4] == b'\x7fELF' for f in files):
        raise Fatal(f'{path} is no {" or ".join(PROGRAMS)}, and no directory of these')
    return [r for f in files for r in (configured(f) if f.suffix == '.flat' else [Run(f.stem, f)])]


def verdicts(log: str) -> list[str]:
    """A line each; some tests choose bits at random, LTP names process and line"""
    lines = [m[0] for m in VERDICT.finditer(log)]
    return [re.sub(r'0x[0-9a-f]+', '0x...', line) for line in lines]


def sections(log: str) -> dict[str, str]:
    """Name of a run -> what it printed, without colours"""
    plain = re.sub(r'\x1b\[[0-9;]*m', '', log)
    parts = re.split(r'^# stack: suite (\S+)\n', plain, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def summary(log: str) -> str:
    """As "12 PASS, 1 FAIL", and if it did not come to its end, that"""
    kinds = (m[1] or m[2] for m in VERDICT.finditer(log))
    count = Counter(SHORT.get(kind, kind) for kind in kinds)
    text = ', '.join(f'{count[kind]} {kind}' for kind in ('PASS', 'FAIL', 'SKIP') if count[kind])
    text = text or 'no result'
    return text if re.search(r'^(SUMMARY: |Summary:)', log, re.M) else f'{text}, no end'


def difference(*logs: str) -> str:
    """The first one, or that one of them did not come to its end"""
    for lines in zip_longest(*(verdicts(log) for log in logs), fillvalue='nothing'):
        if len({*lines}) > 1:
            return ', and '.join(lines)
    return next((text for log in logs if (text := summary(log)).endswith('no end')), '')
