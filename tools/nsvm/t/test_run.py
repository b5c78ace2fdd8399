# SPDX-License-Identifier: GPL-2.0
"""Tests of proof/run.py: tests that run on two machines are all there, and in one log again"""
import os
import sys
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import ktap
from lib.ktap import Case
from machine import boot
from proof import run


def log(test: str, case: str) -> str:
    return (f'# nsvm: kernel x\n# nsvm: begin {test}\n1..1\nok 1 {case}\n'
            f'# nsvm: end {test} rc=0 ms=10\n# nsvm: done\n')


class TwoMachines(unittest.TestCase):
    def test_each_takes_about_as_long(self) -> None:
        past = [Case(name, '', 'ok', '', ms)
                for name, ms in (('long', 90), ('short', 40), ('other', 40))]
        self.assertEqual(run.halves(past, ['short', 'long', 'other']),
                         [['long'], ['short', 'other']])

    def test_what_is_not_known_is_in_one(self) -> None:
        self.assertEqual(sorted(t for group in run.halves([], ['a', 'b']) for t in group),
                         ['a', 'b'])
        self.assertEqual(run.halves([], ['a']), [['a']])

    def test_together_again(self) -> None:
        cases = ktap.cases(run.merge([log('t', 'a') + log('v', 'd'), log('u', 'c')],
                                     ['u', 't', 'v']))
        self.assertEqual([(c.test, c.case, c.verdict, c.ms) for c in cases],
                         [('u', 'c', 'ok', 10), ('u', '', 'ok', 10), ('t', 'a', 'ok', 10),
                          ('t', '', 'ok', 10), ('v', 'd', 'ok', 10), ('v', '', 'ok', 10)])


class Kept(unittest.TestCase):
    def test_what_results_of_a_boot_depend_on(self) -> None:
        qemu = SimpleNamespace(binary='qemu', version='10', plugin='so')
        with mock.patch.object(boot, 'digest', lambda *parts: parts), mock.patch.object(
                boot.qemu, 'find', lambda: qemu):
            parts = boot.result_id(SimpleNamespace(id='kernel'), [Path(__file__)], 'more')
        files = {part.name for part in parts if isinstance(part, Path)}
        self.assertLess({'qemu.py', 'load', 'init', 'vmrun.c', 'boot.py', 'ktap.py', 'vmruns.py',
                         'test_run.py'}, files)
        self.assertLess({'kernel', 'qemu', '10', 'so', 'more'},
                        {part for part in parts if isinstance(part, str)})
