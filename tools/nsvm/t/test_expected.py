# SPDX-License-Identifier: GPL-2.0
"""Tests of proof/expected.py: what may fail without NPT, in whichever test"""
import os
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import kind
from lib.ktap import Case
from proof import expected

CASES = {('a_test', 'x'): '2-5', ('a_test', 'y'): '0-5', ('b_test', 'x'): '0-5',
         ('view', 'y'): '1-5'}


@mock.patch.object(expected, 'load', return_value=CASES)
class WithoutNpt(unittest.TestCase):
    def judge(self, n: int, *verdicts: str) -> tuple[bool, str]:
        names = [key for key in CASES if key[0] != 'view'] + [('neighbour', 'x')]
        return expected.without_npt(None, [Case(*name, v, 'why', 0)
                                           for name, v in zip(names, verdicts)], n)

    def test_passes_and_skips(self, _) -> None:
        self.assertEqual(self.judge(5, 'ok', 'skip', 'ok'), (True, '2 ran and passed, 1 skipped'))

    def test_a_test_of_any_name_must_not_fail(self, _) -> None:
        self.assertEqual(self.judge(5, 'ok', 'ok', 'not ok'), (False, 'b_test x fails: why'))

    def test_but_may_where_it_must_with_npt(self, _) -> None:
        self.assertEqual(self.judge(1, 'not ok', 'skip', 'ok'),
                         (True, '1 ran and passed, 1 skipped, 1 fail as with npt=1'))
        self.assertFalse(self.judge(2, 'not ok', 'skip', 'ok')[0])
        self.assertFalse(self.judge(1, 'ok', 'not ok', 'ok')[0])

    def test_nothing_ran(self, _) -> None:
        self.assertFalse(self.judge(5, 'skip', 'skip', 'skip', 'ok')[0])

    def test_cases_of_another_length_of_the_series(self, _) -> None:
        self.assertEqual(expected.find_stale(None, 5), '')
        self.assertEqual(expected.find_stale(None, 6), 'a_test x 2-5: not after patch 6')


class Same(unittest.TestCase):
    def test_verdicts(self) -> None:
        fixed = {('a_test', 'y')}
        for was, now, may_pass, want in (
                ('ok,not ok', 'ok,not ok', set(), (True, 'the same 2: 1 ok, 1 not ok, 0 skip')),
                ('ok,not ok', 'ok,ok', set(), (False, 'a_test y: not ok, ok (1 of 2)')),
                ('ok,ok', 'ok', set(), (False, 'a_test y: ok, none (1 of 2)')),
                ('', '', set(), (False, 'nothing ran')),
                ('ok,not ok', 'ok,ok', fixed, (True, 'the same 1: 2 ok, 0 not ok, 0 skip; '
                                               'a_test y: an upstream fix')),
                ('ok,ok', 'ok,not ok', fixed, (False, 'a_test y: ok, not ok (1 of 2)'))):
            both = ([Case('a_test', name, verdict)
                     for name, verdict in zip('xy', verdicts.split(',')) if verdict]
                    for verdicts in (was, now))
            self.assertEqual(expected.same_verdicts(*both, may_pass), want)

    @mock.patch.object(expected, 'load', return_value=CASES | {('a_test', 'z'): '1-5'})
    def test_which_patches_are_fixes(self, _) -> None:
        base = mock.Mock(**{'keys.return_value': ['0001-fix.patch name file'],
                            'series.return_value': ['0001-fix.patch', '0002-x.patch']})
        self.assertEqual(expected.repaired(base), {('a_test', 'z'), ('view', 'y')})
        base.keys.return_value = []
        self.assertEqual(expected.repaired(base), set())


class Names(unittest.TestCase):
    @mock.patch('lib.kind.lines',
                return_value=['a_test x 0', 'b_test x 0', 'view y 0', 'a_test y 0'])
    def test_a_kernel_with_tests_of_its_own_names_them(self, _) -> None:
        base = mock.Mock(dir=Path(), **{'key.return_value': 'own', 'keys.return_value': []})
        self.assertEqual(kind.own_tests(base), ['a_test', 'b_test'])
