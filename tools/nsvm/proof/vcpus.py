# SPDX-License-Identifier: GPL-2.0
"""What a log of VMRUNs says of an L2 with several CPUs: with which PAT each of them ran

A vCPU of L2 is the vmcb12 that L1 tries to run (line A), wherever L1 runs it: the VMRUNs of L0 that
follow on the same vCPU of L1 and are not of its own VMCB are those of that vCPU.
"""
from collections import Counter
from dataclasses import dataclass, field

from lib import ktap
from lib.pat import LINUX, NAMES


@dataclass
class Vcpu:
    """Of L2"""
    wrote: list[str] = field(default_factory=list)
    # g_pat of VMRUNs, before the first write and after each
    since: list[Counter[str]] = field(default_factory=lambda: [Counter()])
    on: Counter[str] = field(default_factory=Counter)		# VMRUNs on each vCPU of L1
    moves: int = 0		# from one to another
    last: str = ''
    access: tuple[int, str] | None = None		# RIP of a WRMSR, and the value

    def run(self, l1: str, g_pat: str, rip: int) -> None:
        if self.access:
            at, value = self.access
            self.access = None
            if rip == at + 2:		# WRMSR has two bytes
                self.wrote.append(value)
                self.since.append(Counter())
        self.since[-1][g_pat] += 1
        self.on[l1] += 1
        self.moves += self.last not in ('', l1)
        self.last = l1

    def writes(self) -> list[tuple[str, int, int]]:
        """Of each: value, VMRUNs since, how many of these had it"""
        return [(value, ran.total(), ran[value]) for value, ran in zip(self.wrote, self.since[1:])]


class Watch:
    """Lines go in by feed() as they come"""

    def __init__(self) -> None:
        self.l1: dict[str, list[str]] = {}	# vmcb01 -> each PAT that this vCPU of L1 ran with
        self.l2: dict[str, Vcpu] = {}		# vmcb12
        self.runs: dict[str, Vcpu] = {}		# vmcb01 -> vCPU of L2 that it runs
        self.here: dict[str, str] = {}		# CPU -> vmcb01

    def feed(self, line: str) -> None:
        match line.split():
            case ['V', _, cpu, vmcb, g_pat, _, _, _, _, rip, _, vmcb01, _, _]:
                self.here[cpu] = vmcb01
                if vmcb == vmcb01:
                    pats = self.l1.setdefault(vmcb01, [])
                    if pats[-1:] != [g_pat]:
                        pats.append(g_pat)
                elif vmcb01 in self.runs:
                    self.runs[vmcb01].run(vmcb01, g_pat, int(rip, 16))
            case ['A', _, cpu, vmcb01, _, vmcb12] if vmcb01 == self.here.get(cpu):
                self.runs[vmcb01] = self.l2.setdefault(vmcb12, Vcpu())
            case ['M', _, cpu, vmcb, 'w', rip, value]:
                vmcb01 = self.here.get(cpu, vmcb)
                if vmcb != vmcb01 and vmcb01 in self.runs:
                    self.runs[vmcb01].access = int(rip, 16), value

    def writers(self) -> list[Vcpu]:
        """A BIOS has none"""
        return [v for v in self.l2.values() if v.wrote]


# ---- verdicts ----

HEAD = f'{"kernel":<10}  {"L2":<6}  {"wrote":<27}  {"VMRUNs":>7}  {"with it":>7}  on vCPUs of L1'


def rows(k: str, watch: Watch) -> list[str]:
    out = []
    for n, v in enumerate(watch.writers()):
        where = f'{" and ".join(map(str, v.on.values()))} in all, moved {v.moves} times'
        out += [f'{k:<10}  vCPU {n}  {value} {NAMES.get(value, ""):<10}  {ran:>7}  {had:>7}  '
                f'{where}' for value, ran, had in v.writes()]
    return out


def judge(report: ktap.Report, k: str, own: bool, watch: Watch, pats: list[str]) -> None:
    """own: each vCPU of L2 runs with what it wrote itself, else never; pats: written in turns"""
    writers = watch.writers()
    faults = [f'{len(writers)} vCPUs of L2 wrote'] if len(writers) != 2 else []
    for n, v in enumerate(writers):
        if v.wrote != pats[n::2]:
            faults.append(f'vCPU {n} wrote {" ".join(v.wrote)}')
        faults += [f'vCPU {n}, {value}: {had} of {ran} VMRUNs had it'
                   for value, ran, had in v.writes() if not ran or had != (ran if own else 0)]
    whose = 'its own PAT' if own else 'the PAT of L1'
    report.item(not faults, f'{k}: each vCPU of L2 runs with {whose}', faults[0] if faults else '')
    report.item(bool(writers) and all(v.moves for v in writers),
                f'{k}: L2 moves between the vCPUs of L1',
                ' and '.join(f'{v.moves} times' for v in writers))
    linux = [seen for seen in watch.l1.values() if LINUX in seen]
    kept = len(linux) == 2 and all(seen[-1] == LINUX and seen.count(LINUX) == 1 for seen in linux)
    report.item(kept, f'{k}: each vCPU of L1 keeps its PAT', ', '.join(map(' '.join, linux)))
