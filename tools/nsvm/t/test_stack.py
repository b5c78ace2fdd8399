# SPDX-License-Identifier: GPL-2.0
"""proof/stack.py and proof/watch.py: what of a log decides"""
import re
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.pat import LINUX, RESET
from proof import stack
from proof.moves import CARRIED, INSTALLED, OLD, PATS, Host, Vmm
from proof.watch import page
from vmrunlog import run, verdicts, watch, write

SERIES = [run('a', LINUX), run('b', RESET), write(CARRIED), run('a', LINUX),
          run('b', CARRIED, '22'), 'M 1 0 b r 30 0', run('a', LINUX),
          run('b', CARRIED, '32', CARRIED)]


class Pats(unittest.TestCase):
    def test_phases(self) -> None:
        stock = [line.replace(f'b {CARRIED} 0', f'b {LINUX} 0').replace(
            f'b {RESET} 0', f'b {LINUX} 0') for line in SERIES]
        refused = [run('a', LINUX), write(CARRIED), run('b', RESET, '20'), write(CARRIED, 'a'),
                   run('a', LINUX, '22'), run('b', RESET, '22'), 'V 1 0']
        for lines, phases in (
                (SERIES, [(RESET, 1, 1, {}), (CARRIED, 2, 2, {CARRIED: 1})]),
                (stock, [(RESET, 1, 0, {}), (CARRIED, 2, 0, {CARRIED: 1})]),
                (refused, [(RESET, 2, 2, {})])):
            self.assertEqual([(p.believes, p.l2.total(), p.right, dict(p.reads))
                              for p in watch(*lines).phases], phases)

    def test_page(self) -> None:
        self.assertEqual([page(p) for p in (LINUX, CARRIED, RESET, '0007040600070206', '')],
                         ['WC', 'WB', 'WT', '?', '?'])

    def judged(self, k: str, ran: str, end: str = '# stack: L2 is done', writes: int = 4,
               l1: str = LINUX) -> list[str]:
        """L2 runs with that, or with '' with what it wrote; l1: with what L1 runs in the end"""
        lines = [run('a', RESET), run('a', LINUX), run('b', ran or RESET)]
        for pat in PATS[:writes]:
            lines += [write(pat), run('a', LINUX), run('b', ran or pat, '22')]
        seen = stack.Seen(watch(*lines, run('a', l1)), None, end)
        return verdicts(lambda lab: stack.judge_pats(lab, 'x', Host(k, INSTALLED), seen))

    def test_judge(self) -> None:
        """L2 runs with the right PATs, L1 keeps its own, L2 works"""
        for must, result in (
                ('ok ok ok', self.judged('stock', LINUX)),
                ('not ok ok ok', self.judged('stock', '')),
                ('ok ok ok', self.judged('series', '')),
                ('not ok ok ok', self.judged('series', LINUX)),
                ('not ok ok ok', self.judged('series', CARRIED)),
                ('not ok ok ok', self.judged('series', '', writes=3)),
                ('ok not ok ok', self.judged('series', '', l1=CARRIED)),
                ('ok ok not ok', self.judged('series', '', 'L2 is done, memory is wrong')),
                ('ok ok not ok', self.judged('series', '', ''))):
            self.assertEqual(' '.join(result), must)

    def test_older(self) -> None:
        asks = Vmm('patched', Path('/q'), 'pc', asks=True)
        older = Vmm('older', Path('/q'), OLD)
        self.assertEqual(stack.add_older([INSTALLED, asks]), [INSTALLED, older, asks])
        self.assertEqual(stack.add_older([INSTALLED]), [INSTALLED])


def on(cpu: int, vmcb12: str, g_pat: str, rip: str = '10') -> list[str]:
    """The vCPU of L1 on that CPU runs the vCPU of L2"""
    vmcb01 = f'a{cpu}'
    return [run(vmcb01, LINUX, '1', '0', vmcb01, cpu), f'A 1 {cpu} {vmcb01} 9 {vmcb12}',
            run(f'b{cpu}', g_pat, rip, '0', vmcb01, cpu)]


# Both vCPUs of L2 write in turns, and run on both CPUs; the two before last are of the second one
FIRST, SECOND = PATS[::2], PATS[1::2]
VCPUS = [*on(0, 'x', RESET), write(FIRST[0], 'b0'), *on(0, 'x', FIRST[0], '22'),
         *on(0, 'y', RESET), write(SECOND[0], 'b0'), *on(0, 'y', SECOND[0], '22'),
         *on(1, 'y', SECOND[0]), *on(0, 'x', FIRST[0]), write(FIRST[1], 'b0'),
         *on(0, 'x', FIRST[1], '22'), *on(0, 'y', SECOND[0]), write(SECOND[1], 'b0'),
         *on(0, 'y', SECOND[1], '22'), *on(1, 'x', FIRST[1])]


class Vcpus(unittest.TestCase):
    def judged(self, k: str, lines: list[str]) -> str:
        return ' '.join(verdicts(lambda lab: stack.judge_vcpus(lab, Host(k, INSTALLED),
                                                               watch(*lines))))

    def test_judge(self) -> None:
        """Each runs with its own PAT or with L1's, is moved, and L1 keeps its own"""
        stock = [re.sub(r'^(V \S+ \S+ b\d) \S+', rf'\1 {LINUX}', line) for line in VCPUS]
        swapped = [*VCPUS[:-1], VCPUS[-1].replace(FIRST[1], SECOND[1])]
        refused = [write(SECOND[1], 'b0'), *on(0, 'x', RESET, '20')]
        for must, k, lines in (
                ('ok ok ok', 'series', VCPUS), ('not ok ok ok', 'stock', VCPUS),
                ('ok ok ok', 'stock', stock), ('not ok ok ok', 'series', stock),
                ('not ok ok ok', 'series', swapped), ('not ok not ok not ok', 'series', VCPUS[:3]),
                ('ok ok ok', 'series', [*VCPUS[:3], *refused, *VCPUS[3:]]),
                ('ok not ok ok', 'series', VCPUS[:-3]),
                ('ok ok not ok', 'series', [*VCPUS, run('a1', RESET, '1', '0', 'a1', 1)])):
            self.assertEqual(self.judged(k, lines), must)


if __name__ == '__main__':
    unittest.main()
