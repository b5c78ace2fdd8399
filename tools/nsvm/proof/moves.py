# SPDX-License-Identifier: GPL-2.0
"""An L1 with an L2 moves from one L0 to another: with which PAT does L2 go on?"""
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lib.pat import LINUX, NAMES, RESET
from proof.watch import Phase, Watch

PATS = [pat for pat in NAMES if pat != LINUX]		# what L2 writes
CARRIED = PATS[-1]		# of the L2 that is moved
XEN = '0000050100070406'		# xen/arch/x86/include/asm/processor.h, XEN_MSR_PAT
OLD = 'pc-i440fx-7.2'		# a machine type that each QEMU has
REFUSAL = 'KVM on this host does not give'		# the sentence of patches/qemu-*
# Kernel -> the PATs of its guests: L1 and L2 share one, each has one, or each has one if the VMM
# asks
KINDS = {'stock': 'shared', 'series': 'separate', 'opt-in': 'asked', 'mainline': 'asked'}


@dataclass(frozen=True)
class Vmm:
    """A QEMU, and how it is started; asks: for a PAT of L2's own, and carries it"""
    name: str
    root: Path
    machine: str = OLD
    cpu: str = 'host'
    asks: bool = False

    def settings(self, directory: str) -> str:
        """For machine/stack; directory: the one of the room where it is"""
        return f'dir=/room/{directory} machine={self.machine} cpu={self.cpu}\n'


INSTALLED = Vmm('installed', Path('/'))


class Host(NamedTuple):
    """L0: a kernel of KINDS, and a QEMU on it"""
    kernel: str
    vmm: Vmm

    @property
    def kind(self) -> str:
        """How L2 gets a PAT there: shared, separate, or asked, by this QEMU"""
        kind = KINDS[self.kernel]
        return 'shared' if kind == 'asked' and not self.vmm.asks else kind

    @property
    def has_own(self) -> bool:
        """Has L2 a PAT of its own there?"""
        return self.kind != 'shared'


class Expected(NamedTuple):
    """What an L2 and its L1 have after a move"""
    is_active: bool		# is L2, when L1 is saved?
    first: str		# with this, L2 runs until L1 does
    after: str		# and then with this
    reads: str		# this, L2 reads
    l1: str		# with this, L1 runs
    vmcb12: str		# its g_pat at first
    end: str		# and in the end


@dataclass(frozen=True)
class Move:
    """Of an L1 from one host to another.

    What becomes of L2's PAT, if L2 is active; if it is not, "asked" is as "separate".  hPAT and
    vmcb12.g_pat are those of the source.

    in the stream?  L2's on the target  L2 runs with, first  and after L1   vmcb12.g_pat gets
    no              shared              hPAT                 hPAT
    no              separate            hPAT                 vmcb12.g_pat
    no              asked               hPAT                 hPAT           hPAT
    yes             shared              (the target refuses)
    yes             separate, asked     L2's                 vmcb12.g_pat
    """
    source: Host
    target: Host
    is_xen: bool = False	# L1 leaves IA32_PAT to L2; KVM writes what L2 has to vmcb12.g_pat

    def expect(self, is_active: bool = True) -> Expected | None:
        """What the table says of an L2 whose PAT is CARRIED; None if the target refuses it."""
        hpat, vmcb12 = LINUX, CARRIED
        if self.is_xen:
            hpat, vmcb12 = (XEN, CARRIED) if self.source.has_own else (CARRIED, RESET)
        first, after, end = hpat, hpat, vmcb12
        is_sent = self.source.has_own and self.source.vmm.asks
        if is_sent and is_active and not self.target.has_own:
            return None
        if is_sent and self.target.has_own:
            first = CARRIED
        if is_active and not is_sent and self.target.kind == 'asked':
            end = hpat
        elif self.target.has_own:
            after = vmcb12
        return Expected(is_active, first, after, after if self.is_xen else CARRIED, hpat, vmcb12,
                        end)


class Arrival(NamedTuple):
    """An L1 that was restored"""
    who: str		# by which QEMU it was saved, and "guest" or "host"
    flags: str		# of nested state
    g_pat: str		# of vmcb12
    end: str		# and in the end
    phase: Phase
    reads: list[tuple[int, str, str]]	# of L2, as it says: number, RDMSR, is its memory right?


def parse_reads(log_text: str) -> list[tuple[int, str, str]]:
    lines = re.findall(r'^# stack: L2 (\d+) reads (\S+), memory is (\w+)$', log_text, re.M)
    return [(int(n), pat, memory) for n, pat, memory in lines]


def parse_arrivals(watch: Watch, log_text: str) -> list[Arrival | str]:
    """The L1s of a log in their order; in place of one that was refused, the reason."""
    phases = iter([p for p in watch.phases if p.name not in ('start', *PATS)])
    arrivals: list[Arrival | str] = []
    for part in re.split(r'^# stack: (?=restored |refused )', log_text, flags=re.M)[1:]:
        line = part.split('\n')[0]
        if line.startswith('refused'):
            arrivals.append(line.partition(': ')[2])
            continue
        _, who, _, flags, _, g_pat = line.split()[:6]
        end = re.search(r'^# stack: end flags \S+ g_pat (\S+)', part, re.M)
        # What L2 said comes when that QEMU has ended
        arrivals.append(Arrival(who, flags, g_pat, end[1] if end else '',
                                next(phases, Phase(who)),
                                parse_reads(part.rpartition('L2 goes on')[2])))
    return arrivals


def find_fault(a: Arrival, must: Expected, is_last: bool = True) -> str:
    """What of an arrival is not as it must be, '' if all is.

    Args:
        is_last: of those on one machine, so that it says what L2 read.
    """
    p, numbers = a.phase, [n for n, _, _ in a.reads]
    if (a.flags != 'none' and bool(int(a.flags, 16) & 1)) != must.is_active:
        return f'nested state has flags {a.flags}'
    if must.is_active and a.g_pat != must.vmcb12 or (is_last or a.end) and a.end != must.end:
        return f'vmcb12.g_pat is {a.g_pat}, and {a.end} in the end'
    if not p.l2:
        return 'L2 did not run'
    if p.first[must.first] != p.first.total():
        return (f'of {p.first.total()} VMRUNs before L1 ran {p.first[must.first]} had '
                f'{must.first}')
    if p.l2[must.after] != p.l2.total():
        return f'of {p.l2.total()} VMRUNs after L1 ran {p.l2[must.after]} had {must.after}'
    if {*p.l1} != {must.l1}:
        return f'L1 ran with {" ".join(p.l1)}'
    if is_last and (len(numbers) < 3
                    or numbers != list(range(numbers[0], numbers[0] + len(numbers)))):
        return f'L2 counts {" ".join(map(str, numbers)) or "nothing"}'
    for n, pat, memory in a.reads:
        is_early = n == numbers[0] and pat == CARRIED		# before it was saved
        if memory != 'right' or pat != must.reads and not is_early:
            return f'L2 reads {n}: {pat}, {memory}'
    return ''


def find_restore_fault(arrival: Arrival | str | None, move: Move, who: str) -> str:
    """The same of one that was saved; None if it neither arrived nor was refused."""
    reason, must = arrival if isinstance(arrival, str) else '', move.expect(who.endswith('guest'))
    if not must:
        return '' if REFUSAL in reason else f'is not refused: {reason}'
    if not isinstance(arrival, Arrival):
        return f'is not restored: {reason}'
    return find_fault(arrival, must) if arrival.who == who else f'{arrival.who} is in its place'


def find_socket_fault(arrivals: list[Arrival], move: Move, log_text: str, count: int) -> str:
    """The same of migrations over a socket, as many as count, all on the target but the first."""
    for i, a in enumerate(arrivals, 1):
        if fault := find_fault(a, move.expect(a.who.endswith('guest')), i == len(arrivals)):
            return f'number {i}: {fault}'
        move = replace(move, source=move.target)
    if len(arrivals) != count:
        return f'{len(arrivals)} of {count} migrations'
    numbers = [n for n, _, _ in parse_reads(log_text)]
    counted = [*map(int, re.findall(r' counted (\d+)$', log_text, re.M)), len(numbers)]
    if numbers != list(range(1, len(numbers) + 1)) or counted != sorted(set(counted)):
        return 'L2 lost count'
    return ''


# ---- for people ----

ROW = '{:<32}  {:<15}  {:>5}  {:>12}  {:>14}  {:<16}  {:<16}  {:>3}'.format
HEAD = ['', 'flags: of nested state, restored; bit 0: L2 is active.  VMRUNs of L2 until L1 ran, '
        'and after that; and with L2\'s PAT',
        ROW('from -> to', 'from, while in', 'flags', 'until L1', 'after', 'vmcb12.g_pat',
            'in the end', 'L2 counts')]


def format_arrival(title: str, who: str, a: Arrival | str | None) -> str:
    if not isinstance(a, Arrival):
        return f'{title:<32}  {who:<15}  {"" if a is None else "refused"}'
    p = a.phase
    return ROW(title, a.who, a.flags, f'{p.first.total():>6}, {p.first[CARRIED]:>4}',
               f'{p.l2.total():>6}, {p.l2[CARRIED]:>6}', a.g_pat, a.end, len(a.reads))
