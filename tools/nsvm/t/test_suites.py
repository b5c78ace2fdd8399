# SPDX-License-Identifier: GPL-2.0
"""proof/suites.py and proof/vcpus.py: what tests of others say; what each vCPU of L2 ran with"""
import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import ktap
from lib.pat import LINUX, RESET
from lib.say import Fatal
from proof import suites, vcpus

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


def v(vmcb: str, g_pat: str, rip: str, vmcb01: str, cpu: int = 0) -> str:
    return f'V 1 {cpu} {vmcb} {g_pat} 0 1 0 1 {rip} 0 {vmcb01} {LINUX} 0'


A, B = '0001050600070406', '0007010600070106'
# vCPU x of L2 runs on vCPU a of L1, writes A, and goes on on vCPU b, where vCPU y wrote B
LOG = [v('a', LINUX, '1', 'a'), 'A 1 0 a 9 x', v('a2', RESET, '10', 'a'), f'M 1 0 a2 w 20 {A}',
       v('a', LINUX, '1', 'a'), 'A 1 0 a 9 x', v('a2', A, '22', 'a'), v('b', LINUX, '1', 'b', 1),
       'A 1 1 b 9 y', v('b2', RESET, '10', 'b', 1), f'M 1 1 b2 w 30 {B}',
       v('b', LINUX, '1', 'b', 1), 'A 1 1 b 9 y', v('b2', B, '32', 'b', 1), 'A 1 1 b 9 x',
       v('b2', A, '40', 'b', 1), 'A 1 0 a 9 y', v('a2', B, '50', 'a')]


class Vcpus(unittest.TestCase):
    def judged(self, own: bool, *log: str) -> list[str]:
        w = vcpus.Watch()
        for line in log:
            w.feed(line)
        with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(io.StringIO()):
            report = ktap.Report(Path(d) / 'x')
            vcpus.judge(report, 'k', own, w, [A, B])
        self.rows = vcpus.rows('k', w)
        return [i.verdict for i in report.items]

    def test_series(self) -> None:
        self.assertEqual(self.judged(True, *LOG), ['ok', 'ok', 'ok'])
        self.assertRegex(self.rows[1],
                         r'vCPU 1  0007010600070106 Windows +2 +2  2 and 1 in all, moved 1 ')

    def test_stock(self) -> None:
        stock = [line.replace(f'2 {A} 0', f'2 {LINUX} 0').replace(f'2 {B} 0', f'2 {LINUX} 0')
                 for line in LOG]
        self.assertEqual(self.judged(False, *stock), ['ok', 'ok', 'ok'])
        self.assertEqual(self.judged(True, *stock), ['not ok', 'ok', 'ok'])
        self.assertEqual(self.judged(False, *LOG), ['not ok', 'ok', 'ok'])

    def test_one_runs_with_the_others(self) -> None:
        log = [*LOG[:-1], LOG[-1].replace(B, A)]
        self.assertEqual(self.judged(True, *log), ['not ok', 'ok', 'ok'])

    def test_l1_loses_its_pat(self) -> None:
        self.assertEqual(self.judged(True, *LOG, v('b', A, '1', 'b')), ['ok', 'ok', 'not ok'])

    def test_it_does_not_move(self) -> None:
        self.assertEqual(self.judged(True, *LOG[:-4]), ['ok', 'not ok', 'ok'])

    def test_write_that_was_refused(self) -> None:
        refused = [f'M 1 0 a2 w 20 {A}', v('a2', RESET, '20', 'a')]
        self.assertEqual(self.judged(True, *LOG[:3], *refused, *LOG[3:]), ['ok', 'ok', 'ok'])


if __name__ == '__main__':
    unittest.main()
