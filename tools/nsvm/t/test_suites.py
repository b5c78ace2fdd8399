# SPDX-License-Identifier: GPL-2.0
"""proof/suites.py: what tests of others say"""
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.say import Fatal
from proof import suites

CONFIG = '''\
[svm]
file = svm.flat
smp = 2
test_args = "-pause_filter_test -other"
qemu_params = -cpu max,+svm -m 4g
groups = svm

[svm_pause_filter]
file = svm.flat
extra_params = -cpu max,+svm -append pause_filter_test

[other]
file = other.flat

[by_hand]
file = svm.flat
groups = nodefault
'''
UNIT = '# stack: suite svm\nPASS: a 0x12\nFAIL: b\nSUMMARY: 2 tests, 1 unexpected failures\n'
LTP = ('# stack: suite kvm_svm01\nkvm_svm01.c:116: \x1b[1;32mTPASS: \x1b[0mworks\n'
       'kvm_svm01.c:9: TCONF: no\nSummary:\npassed   1\n')


class Suites(unittest.TestCase):
    def setUp(self) -> None:
        self.dir = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in 'svm.flat', 'kvm_svm01.c':
            (self.dir / name).touch()
        (self.dir / 'kvm_svm01').write_bytes(b'\x7fELF')
        (self.dir / 'unittests.cfg').write_text(CONFIG)

    def test_unittests_cfg(self) -> None:
        first, second = suites.configured(self.dir / 'svm.flat')
        self.assertEqual((first.name, second.name), ('svm', 'svm_pause_filter'))
        self.assertEqual(first.options[:6], '-smp 2 -cpu max,+svm -m 4g'.split())
        self.assertEqual(first.options[6:],
                         ['-append', f'-pause_filter_test -other {suites.LEFT_OUT}'])
        self.assertEqual(second.options[4:], ['-append', f'pause_filter_test {suites.LEFT_OUT}'])
        (self.dir / 'unittests.cfg').unlink()
        self.assertEqual([r.name for r in suites.configured(self.dir / 'svm.flat')], ['svm'])

    def test_directory(self) -> None:
        names = [r.name for r in suites.runs_of(self.dir)]
        self.assertEqual(names, ['kvm_svm01', 'svm', 'svm_pause_filter'])
        for directory in self.dir / 'unittests.cfg', self.dir.parent / 'none':
            with self.assertRaises((Fatal, FileNotFoundError)):
                suites.runs_of(directory)

    def test_what_they_say(self) -> None:
        sections = suites.sections(UNIT + LTP)
        self.assertEqual([*map(suites.summary, sections.values())],
                         ['1 PASS, 1 FAIL', '1 PASS, 1 SKIP'])
        cut_off = sections['svm'].replace('SUMMARY', '')
        self.assertEqual(suites.summary(cut_off), '1 PASS, 1 FAIL, no end')

    def test_difference(self) -> None:
        self.assertEqual(suites.difference(UNIT, UNIT.replace('0x12', '0x34')), '')
        for other, differ in ('PASS: b\n', 'FAIL: b, and PASS: b'), ('', 'FAIL: b, and nothing'):
            self.assertEqual(suites.difference(UNIT, UNIT.replace('FAIL: b\n', other)), differ)
        self.assertIn('no end', suites.difference(*[UNIT.replace('SUMMARY', '')] * 2))
        self.assertEqual(suites.difference('', ''), 'no result, no end')


if __name__ == '__main__':
    unittest.main()
