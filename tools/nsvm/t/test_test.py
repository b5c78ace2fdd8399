# SPDX-License-Identifier: GPL-2.0
"""make test: what it gives to the programs that it starts, and in which order parts run"""
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib import base
from lib.settings import settings
from proof import test
from proof.test import Part


class Test(unittest.TestCase):
    def test_what_is_locked_stays_locked_for_those_below(self) -> None:
        for given, want in ({'LOCKED': '/a:/b'}, 'LOCKED=/a:/b:/c'), ({}, 'LOCKED=/c'):
            with mock.patch.dict(settings.given, given, clear=True), mock.patch.dict(
                    base.locked, {Path('/c'): 3}, clear=True):
                self.assertIn(want, test.arguments())

    def test_parts_that_share_are_in_one_chain(self) -> None:
        table = [Part('a', 'x', 'src'), Part('b', 'x'), Part('c', 'x', 'src'), Part('d', 'x'),
                 Part('e', 'x', when=False)]
        self.assertEqual([[part.title for part in chain] for chain in test.chains(table)],
                         [['a', 'c'], ['b'], ['d']])
