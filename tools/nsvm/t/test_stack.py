# SPDX-License-Identifier: GPL-2.0
"""proof/stack.py and proof/watch.py: what of a log decides"""
import contextlib
import io
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import ktap
from proof import stack
from proof.watch import Watch, page, svg

LINUX, MINE, RESET = stack.LINUX, stack.CARRIED, stack.RESET
PLAIN = stack.Vmm('installed', Path('/'))
ASKS = stack.Vmm('patched', Path('/q'), 'pc', asks=True)


def v(vmcb: str, g_pat: str, rip: str = '10', value: str = '0') -> str:
    return f'V 1 0 {vmcb} {g_pat} 0 1 0 1 {rip} {value} a {LINUX} 0'


def watch(*lines: str, believes: str = RESET) -> Watch:
    w = Watch(believes)
    for line in lines:
        w.feed(line)
    return w


WRITE = f'M 1 0 b w 20 {MINE}'
ON_SERIES = [v('a', LINUX), v('b', RESET), WRITE, v('a', LINUX), v('b', MINE, '22'),
             'M 1 0 b r 30 0', v('a', LINUX), v('b', MINE, '32', MINE)]
RESTORED = f'T # stack: restored installed-guest flags 0101 g_pat {MINE}'
SAID = '\n'.join([RESTORED[2:], '',
                  *(f'# stack: L2 {n} reads {MINE}, memory is right' for n in (4, 5, 6)),
                  f'# stack: end flags 0100 g_pat {MINE}', ''])


def wrong(kernel: str, *lines: str, log_text: str = SAID, by: str = '', vmm: stack.Vmm = PLAIN,
          to: stack.Vmm | None = None) -> str:
    """Of a move by a VMM to that kernel, from it or from another one"""
    them = stack.parse_moves(watch(RESTORED, *lines, believes=MINE), log_text, '')
    return stack.find_fault(them[0], stack.Move(by or kernel, vmm, kernel, to or vmm))


class Phases(unittest.TestCase):
    def test_write_begins_a_phase(self) -> None:
        w = watch(*ON_SERIES)
        self.assertEqual([(p.believes, p.l2.total(), p.right, dict(p.reads)) for p in w.phases],
                         [(RESET, 1, 1, {}), (MINE, 2, 2, {MINE: 1})])
        self.assertTrue(stack.has_kept(w))

    def test_stock(self) -> None:
        w = watch(*(line.replace(f'b {MINE} 0', f'b {LINUX} 0').replace(
            f'b {RESET} 0', f'b {LINUX} 0') for line in ON_SERIES))
        self.assertEqual([(p.l2.total(), p.right, dict(p.reads)) for p in w.phases],
                         [(1, 0, {}), (2, 0, {MINE: 1})])

    def test_refused_write_and_l1s_own(self) -> None:
        w = watch(v('a', LINUX), WRITE, v('b', RESET, '20'), f'M 1 0 a w 20 {MINE}',
                  v('a', LINUX, '22'), v('b', RESET, '22'), 'V 1 0')
        self.assertEqual([p.believes for p in w.phases], [RESET])

    def test_l1_loses_its_pat(self) -> None:
        self.assertFalse(stack.has_kept(watch(v('a', LINUX), v('a', MINE), v('a', LINUX))))
        self.assertFalse(stack.has_kept(watch(v('a', RESET))))

    def test_page(self) -> None:
        self.assertEqual([page(p) for p in (LINUX, MINE, RESET, '0001050600070406')],
                         ['WC', 'WB', 'WT', 'WT'])
        self.assertEqual((page(''), page('0007040600070206')), ('?', '?'))

    def judged(self, own: bool, l2: str, log_text: str = '# stack: L2 is done',
               writes: int = 4) -> list[str]:
        """Verdicts if L2, whatever it wrote, or (with '') with that, runs with l2"""
        lines = [v('a', LINUX), v('b', l2 or RESET)]
        for pat in [*stack.PATS][:writes]:
            lines += [f'M 1 0 b w 20 {pat}', v('a', LINUX), v('b', l2 or pat, '22')]
        with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(io.StringIO()):
            report = ktap.Report(Path(d) / 'x')
            stack.judge_pats(report, 'a kernel', own, watch(*lines), log_text)
        return [i.verdict for i in report.items]

    def test_judge(self) -> None:
        good, bad = ['ok', 'ok', 'ok'], ['not ok', 'ok', 'ok']
        self.assertEqual([self.judged(*how) for how in ((False, LINUX), (False, ''), (True, ''),
                                                        (True, LINUX), (True, MINE))],
                         [good, bad, good, bad, bad])
        self.assertEqual(self.judged(True, '', '# stack: L2 is done, memory is wrong'),
                         ['ok', 'ok', 'not ok'])
        self.assertEqual(self.judged(True, '', ''), ['ok', 'ok', 'not ok'])
        self.assertEqual(self.judged(True, '', writes=3), bad)

    def test_svg(self) -> None:
        w = watch('T # stack: L1 is up', *ON_SERIES, 'T # stack: L2 is done')
        texts = [e.text for e in ET.fromstring(svg({'a < b': w}, stack.NAMES)).iter(
            '{http://www.w3.org/2000/svg}text')]
        self.assertLessEqual({'a < b', f'{MINE} VirtualBox', f'{LINUX} Linux', 'end'}, set(texts))


class Migrations(unittest.TestCase):
    first, later = v('b', LINUX), [v('a', LINUX), v('b', MINE)]

    def test_series(self) -> None:
        for first in [self.first], []:		# none: an interrupt was pending
            self.assertEqual(wrong('series', *first, *self.later), '')

    def test_asks(self) -> None:
        """Who asks for L2's PAT carries it, to each kernel that has it"""
        kernels = 'series', 'opt-in', 'mainline'
        lines = [v('b', MINE), *self.later]
        for by, to in ((by, to) for by in kernels for to in kernels):
            self.assertEqual(wrong(to, *lines, by=by, vmm=ASKS), '')
            self.assertIn('1 VMRUNs before L1 ran 0 had',
                          wrong(to, self.first, *self.later, by=by, vmm=ASKS))
        self.assertIn('1 VMRUNs before L1 ran 0 had', wrong('series', *lines))

    def test_shared(self) -> None:
        """Where L2 has no PAT of its own, or the VMM does not ask"""
        for kernel in 'stock', 'opt-in', 'mainline':
            self.assertEqual(wrong(kernel, self.first, v('a', LINUX), v('b', LINUX)), '')
            self.assertIn('after L1 ran 0 had', wrong(kernel, self.first, *self.later))

    def test_from_shared(self) -> None:
        """To a kernel that is asked for it: L2 goes on with L1's, never with UC"""
        log_text = SAID.replace(f'0100 g_pat {MINE}', f'0100 g_pat {LINUX}')
        for kernel in 'opt-in', 'mainline':
            for l2, verdict in ((LINUX, ''), (MINE, '0 had'), ('0000000000000000', '0 had')):
                lines = self.first, v('a', LINUX), v('b', l2)
                self.assertIn(verdict, wrong(kernel, *lines, log_text=log_text, by='stock',
                                             vmm=ASKS))
        self.assertEqual(wrong('series', self.first, *self.later, by='stock', vmm=ASKS), '')

    def test_refused(self) -> None:
        plain = stack.Vmm('off', Path('/q'), 'pc')
        self.assertEqual([stack.Move(a, v, b, w).refused for a, v, b, w in (
            ('series', ASKS, 'stock', ASKS), ('mainline', ASKS, 'mainline', plain),
            ('mainline', ASKS, 'series', plain), ('mainline', plain, 'stock', ASKS),
            ('stock', ASKS, 'stock', ASKS), ('series', PLAIN, 'stock', PLAIN))],
                         [True, True, False, False, False, False])

    def test_older(self) -> None:
        self.assertEqual([(v.name, v.machine, v.asks) for v in stack.add_older([PLAIN, ASKS])], [
            ('installed', stack.OLD, False), ('older', stack.OLD, False), ('patched', 'pc', True)])
        self.assertEqual(stack.add_older([PLAIN]), [PLAIN])

    def test_wrong(self) -> None:
        for says, lines, log_text in (
                ('before L1 ran 0 had', [v('b', MINE), *self.later], SAID),
                ('of 2 VMRUNs', [self.first, *self.later, v('b', LINUX)], SAID),
                ('did not run', [self.first], SAID),
                ('has flags', [self.first, *self.later], SAID.replace('0101', '0100')),
                ('has flags', [self.first, *self.later], SAID.replace('0101', 'none')),
                ('vmcb12.g_pat is', [self.first, *self.later],
                 SAID.replace(f'0100 g_pat {MINE}', f'0100 g_pat {LINUX}')),
                ('vmcb12.g_pat is', [self.first, *self.later],
                 SAID.replace(f'0101 g_pat {MINE}', f'0101 g_pat {LINUX}')),
                ('counts 4 6 6', [self.first, *self.later], SAID.replace('L2 5', 'L2 6')),
                ('counts 4 5', [self.first, *self.later], SAID.replace('# stack: L2 6', '')),
                ('reads 5: ', [self.first, *self.later],
                 SAID.replace(f'5 reads {MINE}', f'5 reads {LINUX}')),
                ('reads 6: ', [self.first, *self.later],
                 SAID.replace('is right\n# stack: end', 'is wrong\n# stack: end'))):
            self.assertIn(says, wrong('series', *lines, log_text=log_text))


if __name__ == '__main__':
    unittest.main()
