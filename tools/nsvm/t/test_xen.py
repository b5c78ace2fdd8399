# SPDX-License-Identifier: GPL-2.0
"""proof/xen.py: which log of VMRUNs is right"""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.pat import RESET
from proof import stack, xen
from proof.moves import XEN
from proof.xen import FIRST, SECOND
from vmrunlog import run, verdicts, watch, write

RESTORES = 'T # stack: L1 restores first'
BEGIN = [run('a', RESET), run('a', XEN)]


def guest(vmcb12: str, *pats: str) -> list[str]:
    """Xen runs one of its guests, which has the first PAT and then writes the others"""
    lines = [f'A 1 0 a 5 {vmcb12}', run('b', pats[0])]
    for pat in pats[1:]:
        lines += [write(pat), run('b', pat, '22')]
    return lines


def of_two(k: str, lost: str = '') -> list[str]:
    """Two guests as they must be; lost: what the first one has instead after the second wrote"""
    if k == 'series':
        return [*BEGIN, *guest('1', RESET, FIRST), run('a', XEN), *guest('2', RESET, SECOND),
                run('a', XEN), *guest('1', lost or FIRST),
                RESTORES, *guest('2', SECOND), *guest('1', FIRST)]
    return [*BEGIN, *guest('1', XEN, FIRST), run('a', FIRST), *guest('2', FIRST, SECOND),
            run('a', SECOND), *guest('1', lost or SECOND),
            RESTORES, *guest('2', SECOND), *guest('1', SECOND)]


class Guests(unittest.TestCase):
    def test_judge(self) -> None:
        """Of Xen, of each guest; vmcb02 is one for both: only vmcb12 tells whose it is"""
        one = [*BEGIN, *guest('1', RESET, FIRST), run('a', XEN)]
        both, first = [[FIRST], [SECOND]], [[FIRST]]
        for must, k, wrote, lines in (
                ('ok ok ok', 'stock', both, of_two('stock')),
                ('not ok not ok not ok', 'stock', both, of_two('series')),
                ('ok ok ok', 'series', both, of_two('series')),
                ('not ok not ok not ok', 'series', both, of_two('stock')),
                ('ok not ok ok', 'series', both, of_two('series', SECOND)),
                ('ok not ok ok', 'stock', both, of_two('stock', FIRST)),
                ('not ok ok ok', 'series', both, [*of_two('series'), run('a', FIRST)]),
                ('ok ok not ok', 'series', both, one),
                ('ok ok not ok', 'series', first, [*one, *guest('2', RESET)]),
                ('not ok not ok', 'series', first, [])):
            result = verdicts(lambda lab: xen.judge(lab.report, 'Xen', k, watch(*lines), wrote))
            self.assertEqual(' '.join(result), must)

    def test_write_of_one_while_the_other_runs(self) -> None:
        """A #VMEXIT of one guest and the same RIP in the other"""
        w = watch(run('a', XEN), *guest('1', RESET), write(FIRST), 'A 1 0 a 5 2',
                  run('b', RESET, '22'), 'A 1 0 a 5 1', run('b', FIRST, '22'))
        self.assertEqual([(p.name, p.guest) for p in w.phases], [('start', ''), (FIRST, '1')])

    def test_restored(self) -> None:
        before = of_two('series')[:of_two('series').index(RESTORES)]
        for pats, lines in (([SECOND], of_two('stock')), ([FIRST], of_two('series')), ([], before),
                            ([], [*before, RESTORES, *guest('2', SECOND)]),
                            ([FIRST], [*before, RESTORES, *guest('3', FIRST)])):
            self.assertEqual(xen.find_restored(watch(*lines)), pats)

    def test_end(self) -> None:
        """All was restored, or this xl cannot save"""
        saved, cannot = 'Xen would save of x\n' * 2, "xl: guest didn't acknowledge suspend"
        lines = of_two('series')
        before = lines[:lines.index(RESTORES)]
        for has_ended, seen, log_text in ((True, lines, saved), (False, lines, ''),
                                          (False, before, saved), (True, before, saved + cannot)):
            self.assertEqual(xen.has_ended(stack.Seen(watch(*seen), None, log_text)), has_ended)


if __name__ == '__main__':
    unittest.main()
