# SPDX-License-Identifier: GPL-2.0
"""Which series are tried on a release, and when they must apply strictly"""
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.say import Fatal
from source import apply, bases


class Test(unittest.TestCase):
    def test_bases_for(self) -> None:
        """Those of the same line; without one, all ports"""
        of = [mock.Mock(**{'key.return_value': kernel})
              for kernel in ('6.12.117', '6.18.15', '7.3.4')]
        with mock.patch('source.bases.own_tests', side_effect=lambda base: base is of[2]):
            self.assertEqual(bases.bases_for('6.18.44', of), of[1:2])
            self.assertEqual(bases.bases_for('6.6.150', of), of[:2])
            self.assertEqual(bases.bases_for('7.3.5', of), of[2:])

    def test_need_strict(self) -> None:
        """On the release that the series was made on, and only there"""
        base = mock.Mock(linux='', **{'key.return_value': '6.12.117'})
        loose = apply.Applied('x', ['0002-b.patch at f.c:12'])
        with self.assertRaisesRegex(Fatal, r'^0002-b\.patch does not apply: f\.c:12 '):
            apply.need_strict(base, '6.12.117', loose)
        apply.need_strict(base, '6.12.118', loose)
        apply.need_strict(base, '6.12.117', apply.Applied('x'))
