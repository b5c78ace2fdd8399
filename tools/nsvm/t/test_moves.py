# SPDX-License-Identifier: GPL-2.0
"""proof/moves.py: what becomes of L2's PAT, and which log shows it"""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.pat import LINUX, RESET
from proof.moves import (CARRIED, INSTALLED, XEN, Arrival, Expected, Host, Move, Vmm, find_fault,
                         find_restore_fault, find_socket_fault, parse_arrivals)
from vmrunlog import run, watch

ASKS = Vmm('patched', Path('/q'), 'pc', asks=True)
# Source and target, is L1 Xen, is L2 active: with what L2 runs at first and then, vmcb12.g_pat
MOVES = '''
stock            stock            kvm  guest  LINUX    LINUX    CARRIED
stock            series           kvm  guest  LINUX    CARRIED  CARRIED
stock/asks       mainline         kvm  guest  LINUX    LINUX    CARRIED
stock/asks       mainline/asks    kvm  guest  LINUX    LINUX    LINUX
stock/asks       opt-in/asks      kvm  host   LINUX    CARRIED  CARRIED
series           series           kvm  guest  LINUX    CARRIED  CARRIED
series/asks      series/asks      kvm  guest  CARRIED  CARRIED  CARRIED
series/asks      mainline/asks    kvm  guest  CARRIED  CARRIED  CARRIED
mainline/asks    series           kvm  guest  CARRIED  CARRIED  CARRIED
series/asks      stock/asks       kvm  guest
mainline/asks    mainline         kvm  guest
stock            stock            xen  guest  CARRIED  CARRIED  RESET
stock            series           xen  guest  CARRIED  RESET    RESET
stock            opt-in           xen  guest  CARRIED  CARRIED  RESET
stock/asks       mainline/asks    xen  guest  CARRIED  CARRIED  CARRIED
series/asks      opt-in/asks      xen  guest  CARRIED  CARRIED  CARRIED
opt-in/asks      mainline/asks    xen  host   CARRIED  CARRIED  CARRIED
opt-in/asks      stock/asks       xen  guest
'''
PATS = {'LINUX': LINUX, 'CARRIED': CARRIED, 'RESET': RESET}
# What stack says when L2 was active; L2 reads its PAT, and L1 is Linux
LOG = '\n'.join([f'# stack: restored installed-guest flags 0101 g_pat {CARRIED}', '',
                 *(f'# stack: L2 {n} reads {CARRIED}, memory is right' for n in (4, 5, 6)),
                 f'# stack: end flags 0100 g_pat {CARRIED}', ''])
SERIES = Move(Host('series', INSTALLED), Host('series', INSTALLED)).expect()
EARLY, LATER = run('b', LINUX), [run('a', LINUX), run('b', CARRIED)]


def host(text: str) -> Host:
    kernel, _, asks = text.partition('/')
    return Host(kernel, ASKS if asks else INSTALLED)


def arrive(lines: list[str], log_text: str = LOG) -> Arrival:
    arrivals = parse_arrivals(watch(f'T {log_text.splitlines()[0]}', *lines), log_text)
    assert isinstance(arrivals[0], Arrival)
    return arrivals[0]


class Test(unittest.TestCase):
    def test_moves(self) -> None:
        for line in MOVES.strip().splitlines():
            source, target, l1, state, *names = line.split()
            with self.subTest(line):
                move = Move(host(source), host(target), l1 == 'xen')
                must = move.expect(state == 'guest')
                self.assertEqual(must and [must.first, must.after, must.end],
                                 [PATS[name] for name in names] or None)

    def test_right(self) -> None:
        for lines in [EARLY, *LATER], LATER:		# none early: an interrupt was pending
            self.assertEqual(find_fault(arrive(lines), SERIES), '')
        not_last = LOG.partition('# stack: L2')[0]
        self.assertEqual(find_fault(arrive(LATER, not_last), SERIES, is_last=False), '')
        must = Expected(True, CARRIED, RESET, RESET, CARRIED, CARRIED, CARRIED)
        lines = [run('b', CARRIED), run('a', CARRIED), run('b', RESET)]
        # The first one may have been read before it was saved
        for early in CARRIED, RESET:
            log_text = LOG.replace('reads ' + CARRIED, f'reads {RESET}').replace(
                f'4 reads {RESET}', f'4 reads {early}')
            self.assertEqual(find_fault(arrive(lines, log_text), must), '')

    def test_faults(self) -> None:
        for fault, lines, old, new in (
                ('before L1 ran 0 had', [run('b', CARRIED), *LATER], '', ''),
                ('of 2 VMRUNs after L1', [EARLY, *LATER, run('b', LINUX)], '', ''),
                ('did not run', [EARLY], '', ''),
                ('L1 ran with', [*LATER, run('a', XEN)], '', ''),
                ('has flags', LATER, '0101', '0100'),
                ('has flags', LATER, '0101', 'none'),
                ('vmcb12.g_pat is', LATER, f'0100 g_pat {CARRIED}', f'0100 g_pat {LINUX}'),
                ('vmcb12.g_pat is', LATER, f'0101 g_pat {CARRIED}', f'0101 g_pat {LINUX}'),
                ('counts 4 6 6', LATER, 'L2 5', 'L2 6'),
                ('counts 4 5', LATER, '# stack: L2 6', ''),
                ('reads 5: ', LATER, f'5 reads {CARRIED}', f'5 reads {LINUX}'),
                ('reads 6: ', LATER, 'is right\n# stack: end', 'is wrong\n# stack: end')):
            self.assertIn(old, LOG)
            self.assertIn(fault, find_fault(arrive(lines, LOG.replace(old, new)), SERIES))

    def test_refusals(self) -> None:
        reason = 'KVM on this host does not give L2 a PAT'
        log_text = f'# stack: refused patched-guest: {reason}\n{LOG}'
        refusal, arrival = parse_arrivals(watch(f'T {LOG.splitlines()[0]}', *LATER), log_text)
        self.assertEqual(refusal, reason)
        to_stock = Move(host('series/asks'), host('stock/asks'))
        here = Move(host('series'), host('series'))
        for fault, other, move, who in (
                ('', refusal, to_stock, 'patched-guest'), ('', arrival, here, 'installed-guest'),
                ('is not refused', 'no room', to_stock, 'patched-guest'),
                ('is not refused', arrival, to_stock, 'patched-guest'),
                ('is not refused', None, to_stock, 'patched-guest'),
                ('is not restored', refusal, here, 'installed-guest'),
                ('is not restored', None, here, 'installed-guest'),
                ('in its place', arrival, here, 'installed-host')):
            result = find_restore_fault(other, move, who)
            self.assertIn(fault, result)
            self.assertEqual(bool(fault), bool(result))

    def test_socket(self) -> None:
        log_text = LOG.replace('0101 g_pat ' + CARRIED, f'0101 g_pat {CARRIED} counted 2')
        log_text = log_text.replace('L2 4', 'L2 1').replace('L2 5', 'L2 2').replace('L2 6', 'L2 3')
        move, arrivals = Move(host('series'), host('series')), [arrive(LATER, log_text)]
        self.assertEqual(find_socket_fault(arrivals, move, log_text, 1), '')
        for fault, text, count in (('1 of 2', log_text, 2), ('lost', LOG, 1),
                                   ('lost', log_text.replace('counted 2', 'counted 3'), 1)):
            self.assertIn(fault, find_socket_fault(arrivals, move, text, count))
        bad = [arrive([EARLY], log_text), *arrivals]
        self.assertIn('number 1: L2 did not run', find_socket_fault(bad, move, log_text, 2))


if __name__ == '__main__':
    unittest.main()
