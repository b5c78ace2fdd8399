# SPDX-License-Identifier: GPL-2.0
"""Toys for tests: lines of a log of VMRUNs, what they say, and the verdicts on it"""
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Callable

from lib import ktap
from lib.pat import LINUX
from proof.stack import Lab
from proof.watch import Watch


def run(vmcb: str, g_pat: str, rip: str = '10', value: str = '0', vmcb01: str = 'a',
        cpu: int = 0) -> str:
    """A VMRUN, of L1 if vmcb is vmcb01"""
    return f'V 1 {cpu} {vmcb} {g_pat} 0 1 0 1 {rip} {value} {vmcb01} {LINUX} 0'


def write(pat: str, vmcb: str = 'b') -> str:
    """WRMSR at 20"""
    return f'M 1 0 {vmcb} w 20 {pat}'


def watch(*lines: str) -> Watch:
    w = Watch()
    for line in lines:
        w.feed(line)
    return w


def verdicts(judge: Callable[[Lab], None]) -> list[str]:
    """Those that this reports, in their order"""
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(io.StringIO()):
        report = ktap.Report(Path(d) / 'x')
        judge(Lab(None, {}, report))
    return [item.verdict for item in report.items]
