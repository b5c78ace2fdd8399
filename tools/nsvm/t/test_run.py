# SPDX-License-Identifier: GPL-2.0
"""Tests of proof/run.py: what is divided between two machines is all there, and put together again"""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import ktap
from lib.ktap import Case
from proof import run


def log(test: str, *cases: str, rc: int = 0, plan: int = 0) -> str:
    results = [f'{"not " if c.startswith("bad") else ""}ok {n} {c}' for n, c in enumerate(cases, 1)]
    return '\n'.join(['# nsvm: kernel x', f'# nsvm: begin {test}', f'1..{plan or len(cases)}', *results,
                      f'# nsvm: end {test} rc={rc} ms=10', '# nsvm: done\n'])


class Divided(unittest.TestCase):
    past = [Case('long', f'{f}.{n}', 'ok', '', 60) for f in 'abc' for n in range(2)] + [Case('short', 'x.y', 'ok', '', 10)]

    def test_a_long_test_is_in_both(self) -> None:
        first, second = run.halves(self.past, ['long', 'short'])
        self.assertEqual(sorted([*first, *second]), ['long:-F:a:-F:c', 'long:-f:a:-f:c', 'short'])

    def test_what_is_not_known_is_in_one(self) -> None:
        groups = run.halves([], ['long', 'short'])
        self.assertEqual(sorted(t for g in groups for t in g), ['long', 'short'])

    def test_one_short_test_is_one_group(self) -> None:
        self.assertEqual(run.halves(self.past, ['short']), [['short']])

    def test_together_again(self) -> None:
        text = run.merge([log('t', 'a.1', 'a.2'), log('t', 'b.1') + log('u', 'c')], ['u', 't'])
        self.assertEqual([(c.test, c.case, c.verdict, c.ms) for c in ktap.cases(text)],
                         [('u', 'c', 'ok', 10), ('u', '', 'ok', 10), ('t', 'a.1', 'ok', 20), ('t', 'a.2', 'ok', 20),
                          ('t', 'b.1', 'ok', 20), ('t', '', 'ok', 20)])

    def test_what_one_did_not_do_is_missed(self) -> None:
        found = ktap.cases(run.merge([log('t', 'a.1', plan=2), log('t', 'b.1')], ['t']))
        self.assertIn('no result', found[-2].reason)

    def test_the_worse_status_counts(self) -> None:
        found = ktap.cases(run.merge([log('t', 'a.1', rc=1), log('t', 'b.1')], ['t']))
        self.assertEqual((found[-1].verdict, found[-1].reason), ('not ok', 'exit status 1'))
