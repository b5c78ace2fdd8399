# SPDX-License-Identifier: GPL-2.0
"""proof/xen.py: which log of VMRUNs is right"""
import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import ktap
from proof import stack, xen
from proof.stack import CARRIED, RESET
from proof.watch import Watch
from proof.xen import FIRST, SECOND, XEN

RESTORES = 'T # stack: L1 restores first'


def run(vmcb: str, g_pat: str, rip: str = '10', value: str = '0') -> str:
    """A VMRUN of vmcb01 (a) or vmcb02 (b)"""
    return f'V 1 0 {vmcb} {g_pat} 0 1 0 1 {rip} {value} a 0 0'


def guest(vmcb12: str, g_pat: str) -> list[str]:
    """Xen runs one of its guests"""
    return [f'A 1 0 a 5 {vmcb12}', run('b', g_pat)]


def write(pat: str) -> list[str]:
    """By the one that runs"""
    return [f'M 1 0 b w 20 {pat}', run('b', pat, '22')]


def of_two(k: str, lost: str = '') -> list[str]:
    """Two guests as they must be; lost: what the first one has instead after the second wrote"""
    if k == 'series':
        return [run('a', RESET), run('a', XEN), *guest('1', RESET), *write(FIRST), run('a', XEN),
                *guest('2', RESET), *write(SECOND), run('a', XEN), *guest('1', lost or FIRST),
                RESTORES, *guest('2', SECOND), *guest('1', FIRST)]
    return [run('a', RESET), run('a', XEN), *guest('1', XEN), *write(FIRST), run('a', FIRST),
            *guest('2', FIRST), *write(SECOND), run('a', SECOND), *guest('1', lost or SECOND),
            RESTORES, *guest('2', SECOND), *guest('1', SECOND)]


def watch(lines: list[str], believes: str = RESET) -> Watch:
    w = Watch(believes)
    for line in lines:
        w.feed(line)
    return w


def verdicts(k: str, lines: list[str], wrote: list[list[str]]) -> list[bool]:
    """Of Xen, of each guest"""
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(io.StringIO()):
        report = ktap.Report(Path(d) / 'x')
        xen.judge(report, 'Xen', k, watch(lines), wrote)
    return [i.verdict == 'ok' for i in report.items]


class Guests(unittest.TestCase):
    def test_two(self) -> None:
        wrote = [[FIRST], [SECOND]]
        for k, other in ('stock', 'series'), ('series', 'stock'):
            self.assertEqual(verdicts(k, of_two(k), wrote), [True, True, True])
            self.assertEqual(verdicts(k, of_two(other), wrote), [False, False, False])

    def test_first_one_loses_its_pat(self) -> None:
        """vmcb02 is one for both: only vmcb12 tells whose it is"""
        self.assertEqual(verdicts('series', of_two('series', SECOND), [[FIRST], [SECOND]]),
                         [True, False, True])
        self.assertEqual(verdicts('stock', of_two('stock', FIRST), [[FIRST], [SECOND]]),
                         [True, False, True])

    def test_xen_loses_its_pat(self) -> None:
        self.assertEqual(verdicts('series', [*of_two('series'), run('a', FIRST)],
                                  [[FIRST], [SECOND]]), [False, True, True])

    def test_guests_that_are_not_there_or_too_many(self) -> None:
        begin = [run('a', RESET), run('a', XEN), *guest('1', RESET), *write(FIRST)]
        self.assertEqual(verdicts('series', begin, [[FIRST], [SECOND]]), [True, True, False])
        self.assertEqual(verdicts('series', [*begin, *guest('2', RESET)], [[FIRST]]),
                         [True, True, False])
        self.assertEqual(verdicts('series', [], [[FIRST]]), [False, False])

    def test_write_of_one_while_the_other_runs(self) -> None:
        """A #VMEXIT of one guest and the same RIP in the other"""
        w = watch([run('a', XEN), *guest('1', RESET), f'M 1 0 b w 20 {FIRST}', 'A 1 0 a 5 2',
                   run('b', RESET, '22'), 'A 1 0 a 5 1', run('b', FIRST, '22')])
        self.assertEqual([(p.name, p.guest) for p in w.phases], [('start', ''), (FIRST, '1')])

    def test_restored(self) -> None:
        self.assertEqual([xen.restored(watch(of_two(k))) for k in ('stock', 'series')],
                         [[SECOND], [FIRST]])
        before = of_two('series')[:of_two('series').index(RESTORES)]
        self.assertEqual(xen.restored(watch(before)), [])
        self.assertEqual(xen.restored(watch([*before, RESTORES, *guest('2', SECOND)])), [])
        self.assertEqual(xen.restored(watch([*before, RESTORES, *guest('3', FIRST)])), [FIRST])

    def test_rows(self) -> None:
        self.assertEqual([line.split('  ')[-1]
                          for line in xen.rows('Xen', 'stock', watch(of_two('stock')))],
                         ['reset > Xen > FreeBSD > Windows', 'Xen > FreeBSD > Windows',
                          'FreeBSD > Windows', 'Windows'])


SAID = '\n'.join([f'# stack: restored installed-guest flags 0101 g_pat {RESET}', '',
                  *(f'# stack: L2 {n} reads PAT, memory is right' for n in (4, 5, 6)),
                  f'# stack: end flags 0101 g_pat {RESET}', ''])


class Moved(unittest.TestCase):
    def wrong(self, own: bool, first: str, l1: str, l2: str, reads: str,
              log_text: str = SAID) -> str:
        w = watch([f'T {log_text.splitlines()[0]}', run('b', first), run('a', l1), run('b', l2)],
                  CARRIED)
        moves = stack.parse_moves(w, log_text.replace('PAT', reads), 'stock -> x')
        return xen.find_fault(moves[0], own)

    def test_right(self) -> None:
        self.assertEqual(self.wrong(True, CARRIED, CARRIED, RESET, RESET), '')
        self.assertEqual(self.wrong(False, CARRIED, CARRIED, CARRIED, CARRIED), '')

    def test_wrong(self) -> None:
        for says, own, *pats in (
                ('L2 runs with', True, CARRIED, CARRIED, CARRIED, CARRIED),
                ('L2 runs with', False, CARRIED, CARRIED, RESET, RESET),
                ('before L1 ran', True, RESET, CARRIED, RESET, RESET),
                ('before L1 ran', True, CARRIED, XEN, RESET, RESET),
                ('reads 5', True, CARRIED, CARRIED, RESET, CARRIED),
                ('not active', True, CARRIED, CARRIED, RESET, RESET,
                 SAID.replace('0101 g', '0100 g')),
                ('not active', True, CARRIED, CARRIED, RESET, RESET,
                 SAID.replace('flags 0101', 'flags none', 1)),
                ('in the end', True, CARRIED, CARRIED, RESET, RESET,
                 SAID.replace(f'end flags 0101 g_pat {RESET}', f'end flags 0101 g_pat {CARRIED}')),
                ('says nothing', False, CARRIED, CARRIED, CARRIED, CARRIED,
                 SAID.replace('# stack: L2', ''))):
            self.assertIn(says, self.wrong(own, *pats))


if __name__ == '__main__':
    unittest.main()
