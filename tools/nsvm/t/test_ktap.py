# SPDX-License-Identifier: GPL-2.0
"""Tests of lib/ktap.py: the corners of the format, read the same for tests on a machine and for
programs"""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import ktap


def judged(text: str, status: str = '0') -> tuple[str, str]:
    """The verdict on a test that printed that, and why"""
    whole = ktap.judge('t', text.splitlines(), status, 1)[-1]
    return whole.verdict, whole.reason


class Corners(unittest.TestCase):
    def check(self, text: str, verdict: str, reason: str = '') -> None:
        """Both readers say so"""
        self.assertEqual(judged(text)[0], verdict, text)
        verdicts = [item.verdict for item in ktap.parse(text, 't')]
        self.assertEqual('not ok' if 'not ok' in verdicts else 'ok' if 'ok' in verdicts else 'skip',
                         verdict, text)
        self.assertIn(reason,
                      ' '.join(item.detail for item in ktap.parse(text, 't')) + judged(text)[1])

    def test_a_test_that_skips_itself_is_a_skip(self) -> None:
        self.check('1..0 # SKIP no such CPU\n', 'skip', 'no such CPU')
        self.check('1..0 # skip no such CPU\n', 'skip', 'no such CPU')
        self.assertEqual([(i.verdict, i.name) for i in ktap.parse('1..0 # SKIP x\n', 'page.t')],
                         [('skip', 'page.t')])

    def test_a_directive_in_any_case(self) -> None:
        for word in ('SKIP', 'skip', 'Skipped:'):
            self.check(f'1..1\nok 1 a # {word} why\n', 'skip', 'why')

    def test_what_is_known_to_fail_is_a_skip(self) -> None:
        self.check('1..1\nnot ok 1 a # TODO later\n', 'skip', 'TODO later')
        self.check('1..1\nok 1 a # XFAIL later\n', 'skip', 'XFAIL later')
        self.assertEqual(ktap.parse('1..1\nnot ok 1 a # TODO later\n')[0].name, 'a')

    def test_other_directives_are_failures(self) -> None:
        self.check('1..1\nok 1 a # TIMEOUT 45 seconds\n', 'not ok', 'TIMEOUT 45 seconds')

    def test_a_failure_stays_one(self) -> None:
        self.check('1..1\nnot ok 1 a # SKIP why\n', 'not ok')

    def test_bail_out(self) -> None:
        self.check('1..1\nok 1 a\nBail out! no memory\n', 'not ok', 'no memory')

    def test_a_number_counts_once(self) -> None:
        self.check('1..3\nok 1 a\nok 2 b\nok 2 b\n', 'not ok', 'a second result 2')

    def test_the_plan(self) -> None:
        self.check('1..2\nok 1 a\n', 'not ok')
        self.check('1..1\nok 1 a\nok 2 b\n', 'not ok', '2 results of 1')
        self.check('1..1\nok 1 a\n1..1\n', 'not ok', 'a second plan')
        self.check('1..1\nok 1 a\n', 'ok')
        self.check('ok 1 a\nok 2 b\n1..2\n', 'ok')
        self.assertEqual(ktap.parse('ok 1 a\n', 't')[-1].detail, '1 results, and no plan')

    def test_subtests_are_their_parents_business(self) -> None:
        self.check('1..1\n    1..2\n    ok 1 x\n    not ok 2 y\nok 1 a\n', 'ok')

    def test_a_hash_in_a_name(self) -> None:
        self.assertEqual(ktap.parse('1..1\nok 1 a \\# SKIP b\n'), [ktap.Item('ok', 'a # SKIP b')])
        text = ktap.write([ktap.Item('ok', 'a # b'), ktap.Item('skip', 'c', 'why'),
                           ktap.Item('not ok', 'd', 'x')])
        self.assertEqual([(i.verdict, i.name, i.detail) for i in ktap.parse(text)],
                         [('ok', 'a # b', ''), ('skip', 'c', 'why'), ('not ok', 'd', 'x')])


class Status(unittest.TestCase):
    def test_of_a_failed_assertion(self) -> None:
        failure = '==== Test Assertion Failure ====\n  x86/a.c:7: false\n  pid=1\n'
        self.assertEqual(judged(failure, '254'),
                         ('not ok', 'x86/a.c:7: false, exit status 254, a failed assertion'))

    def test_of_a_signal(self) -> None:
        self.assertEqual(judged('x\n', '139'), ('not ok', 'killed by signal 11'))
        self.assertEqual(judged('x\n', '137'), ('not ok', 'time limit, or killed'))
        self.assertEqual(judged('x\n', 'died'), ('not ok', 'the machine went down'))

    def test_of_a_skip(self) -> None:
        self.assertEqual(judged('1..0 # SKIP - no SVM, skipping test\n', '4')[0], 'skip')
        self.assertEqual(judged('', '4'), ('not ok', 'printed nothing, exit status 4'))

    def test_of_a_test_without_results(self) -> None:
        self.assertEqual(judged('done\n'), ('ok', ''))
        self.assertEqual(judged('1..1\nok 1 a\n', '1'), ('not ok', 'exit status 1'))
