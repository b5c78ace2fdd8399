# SPDX-License-Identifier: GPL-2.0
"""Which release: versions in their order, what a patch stands for, what was applied"""
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.say import Fatal
from source import apply, bases, release


class Versions(unittest.TestCase):
    def test_order(self) -> None:
        """As dpkg has it: 118 is newer than 95, a backport older than what it is of"""
        versions = {'6.12.95-1~bpo12+1', '6.12.118-1', '6.12.117-1', '6.12.117-1~deb12u1'}
        self.assertEqual(release.newest_first(versions),
                         ['6.12.118-1', '6.12.117-1', '6.12.117-1~deb12u1', '6.12.95-1~bpo12+1'])

    def test_upstream_part(self) -> None:
        self.assertEqual(release.upstream_part('6.12.117-1~deb12u1'), '6.12.117')
        self.assertEqual(release.upstream_part('6.12.117'), '6.12.117')

    def test_bases_for(self) -> None:
        """Those of the same line; without one, all ports"""
        of = [mock.Mock(**{'key.return_value': kernel}) for kernel in ('6.12.117', '6.18.15',
                                                                       '7.3.4')]
        own = mock.patch('source.bases.own_tests', side_effect=lambda base: base is of[2])
        self.enterContext(own)
        self.assertEqual(bases.bases_for('6.18.44', of), of[1:2])
        self.assertEqual(bases.bases_for('6.6.150', of), of[:2])
        self.assertEqual(bases.bases_for('7.3.5', of), of[2:])


class Upstream(unittest.TestCase):
    def test_word_of_a_file(self) -> None:
        """BASE names patch, word and file; git grep finds the word, and no part of a longer one"""
        with tempfile.TemporaryDirectory() as d:
            Path(d, 'BASE').write_text('upstream: 0001-a.patch mark svm.c\n')
            with mock.patch('source.apply.git_ok', return_value=True) as grep:
                self.assertTrue(apply.is_upstream(Path('/repo'), 'HEAD', Path(d, '0001-a.patch')))
                self.assertEqual(grep.call_args.args,
                                 (Path('/repo'), 'grep', '-qw', 'mark', 'HEAD', '--', 'svm.c'))
                self.assertFalse(apply.is_upstream(Path('/repo'), 'HEAD', Path(d, '0002-b.patch')))

    def test_need_strict(self) -> None:
        """On the release that the series was made on, and only there"""
        base = mock.Mock(linux='', **{'key.return_value': '6.12.117'})
        loose = apply.Applied('x', ['0002-b.patch at f.c:12'])
        with self.assertRaisesRegex(Fatal, r'^0002-b\.patch does not apply: f\.c:12 '):
            apply.need_strict(base, '6.12.117', loose)
        apply.need_strict(base, '6.12.118', loose)
        apply.need_strict(base, '6.12.117', apply.Applied('x'))

    def test_text(self) -> None:
        self.assertEqual(str(apply.Applied('x')), 'strictly')
        self.assertEqual(str(apply.Applied('x', ['b at f:1'], ['a'])),
                         'with -C1: b at f:1; a is upstream there')
