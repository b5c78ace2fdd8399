# SPDX-License-Identifier: GPL-2.0
"""The checker of VMRUN logs: what hardware would have got wrong

A log is what the plugin vmrun.c writes, see there; a line "B" between two of them if
one log was made of two boots.  The checks, at each VMRUN of L0:

agree    What RDMSR of IA32_PAT returns to a guest is the g_pat that its VMCB had at
         the VMRUN before and has at the next one.  What WRMSR wrote is the g_pat at
         the next one; a WRMSR that faults leaves it alone.  The tests look at what
         RDMSR returns: this is what makes it the PAT that hardware uses.
clean    If g_pat, NP_ENABLE or nCR3 is not what this CPU last saw in this VMCB, the
         clean bit for it, VMCB_NPT, is clear.
cr3      Without NP_ENABLE, CR3 is of L0's making, and L0 alone changes it: if it is
         not what this CPU last saw in this VMCB, VMCB_CR is clear.
valid    Each g_pat with NP_ENABLE is a valid PAT: a CPU refuses any other.
repair   What L0 does about a nested page fault is seen by the CPU: no guest has the same
         one STUCK times in a row, see vmrun.c.  If so, L0 repairs other tables than those
         at the nCR3 that it has put into the VMCB.  (That an nCR3 changes, or does not,
         says nothing: L0 may keep the tables of L1 while L2 has others, or share them.)
npt=0    A VMCB without NP_ENABLE has no g_pat: all have the same value.

And a figure that is no verdict: how many VMRUNs had VMCB_NPT dirty although nothing of
it changed since the last VMRUN of that VMCB on that CPU.  Those with all bits dirty (the
first one, another CPU, restored state) are not counted.
"""
import functools
import re
from collections import Counter
from pathlib import Path
from typing import Iterable, NamedTuple

VMCB_NPT, VMCB_CR = 1 << 4, 1 << 5		# of the clean bits
KEPT = 100000	# errors; after them only the first one of a case: a live log may have no end
WHY = {'limit': 'the log has reached its limit',
       'unreadable': 'the plugin found no VMCB where it should be (nokaslr no5lvl?)'}


@functools.lru_cache(1000)
def is_valid(pat: str) -> bool:
    return re.fullmatch('(0[014567]){8}', pat) is not None


class Error(NamedTuple):
    case: str		# "TEST CASE"
    vmrun: int
    text: str


class Access(NamedTuple):
    """#VMEXIT for RDMSR or WRMSR of IA32_PAT, and the VMRUN before it"""
    vmcb: str
    kind: str		# r or w
    rip: str
    value: str		# of EDX:EAX
    g_pat: str
    vmrun: str


class Vmrun(NamedTuple):
    """A line V of the log, see machine/vmrun.c"""
    n: str
    cpu: str
    vmcb: str
    g_pat: str
    clean: str
    np_enable: str
    ncr3: str
    asid: str
    rip: str
    value: str
    vcpu: str
    hpat: str
    cr3: str


class Check:
    """Lines go in by feed(); what is known of them is in here at any time"""

    def __init__(self, label: str) -> None:
        self.label = label
        self.errors: list[Error] = []
        self.bad: Counter[str] = Counter()		# number of errors of each case
        self.vmruns = self.without_npt = 0
        self.needless = 0		# VMRUNs with VMCB_NPT dirty for nothing
        # Accesses of IA32_PAT by guests: seen; compared, successful and failed
        self.accesses = self.done = self.refused = 0
        self.over = False	# a boot's log has no proper end, those after it are not looked at
        self.no_pat = ''		# g_pat of the first VMRUN without NP_ENABLE
        self.tests = ['']		# as they began
        self.case = ''
        self.boot()

    def boot(self) -> None:
        """Of the boot before nothing means anything any more"""
        self.end = ''
        self.access: dict[str, Access] = {}		# VMCB of the vCPU -> not compared yet
        self.npt: dict[tuple[str, str], tuple[str, str, str]] = {}  # CPU, VMCB -> what that CPU saw
        self.cr3: dict[tuple[str, str], str] = {}
        self.cpu: dict[str, tuple[str, str, str]] = {}	# CPU -> VMCB of the vCPU, g_pat, VMRUN

    def feed(self, line: str) -> None:
        """The next line; one that was cut off in the middle is not looked at"""
        if self.over:
            return
        match line.split():
            case ['V', *f] if len(f) == 13:
                self.vmrun(Vmrun(*f))
            case ['M', _, cpu, vmcb, kind, rip, value]:
                self.accesses += 1
                vcpu, g_pat, n = self.cpu.get(cpu, ('', '', ''))
                self.access[vcpu] = Access(vmcb, kind, rip, value, g_pat, n)
            case ['P', n, _, vmcb, ncr3, rip, gpa]:
                self.error(n, f'the page fault for {gpa} at RIP {rip} is not repaired at nCR3 '
                           f'{ncr3} of VMCB {vmcb}')
            case ['T', '#', 'nsvm:', 'begin', test, *_]:
                self.tests.append(test)
                self.case = test
            case ['T', '#', 'RUN', case, *_]:
                self.case = f'{self.tests[-1]} {case}'
            case ['E', _, end]:
                self.end = end
            case ['B'] if self.end == 'end':
                self.boot()
            case ['B']:
                self.over = True

    def error(self, n: str, text: str) -> None:
        if len(self.errors) < KEPT or self.case not in self.bad:
            self.errors.append(Error(self.case, int(n), text))
        self.bad[self.case] += 1

    def vmrun(self, v: Vmrun) -> None:
        has_npt, bits = v.np_enable != '0', int(v.clean, 16)
        self.vmruns += 1
        if v.vcpu in self.access:
            access = self.access.pop(v.vcpu)
            if has_npt and access.vmcb == v.vmcb:  # else g_pat means nothing, or L1 intercepts it
                self.agree(v.n, v.g_pat, v.rip, v.value, access)

        now = (v.g_pat, v.np_enable, v.ncr3)
        last = self.npt.get((v.cpu, v.vmcb), ('', '', ''))
        if now != last:
            if bits & VMCB_NPT:
                fields = zip(('g_pat', 'NP_ENABLE', 'nCR3'), last, now)
                changed = ''.join(f' {field} was {old}, is {new}' for field, old, new in fields
                                  if old != new)
                self.error(v.n, f'VMCB_NPT is clean, but{changed} in VMCB {v.vmcb}')
            self.npt[v.cpu, v.vmcb] = now
        elif not bits & VMCB_NPT and v.clean != '0':
            self.needless += 1

        if has_npt:
            if not is_valid(v.g_pat):
                self.error(v.n, f'g_pat is {v.g_pat}, which is no valid PAT, in VMCB {v.vmcb}')
        else:
            was = self.cr3.get((v.cpu, v.vmcb), v.cr3)
            if v.cr3 != was and bits & VMCB_CR:
                self.error(v.n, f'VMCB_CR is clean, but CR3 was {was}, is {v.cr3} in VMCB {v.vmcb}')
            self.cr3[v.cpu, v.vmcb] = v.cr3
            if not self.without_npt:
                self.no_pat = v.g_pat
            self.without_npt += 1
            if v.g_pat != self.no_pat and last[0] != v.g_pat:
                self.error(v.n, f'NPT is off, but g_pat became {v.g_pat} in VMCB {v.vmcb}')

        self.cpu[v.cpu] = (v.vcpu, v.g_pat, v.n)

    def agree(self, n: str, g_pat: str, rip: str, value: str, access: Access) -> None:
        if int(rip, 16) != int(access.rip, 16) + 2:		# RDMSR and WRMSR have two bytes
            self.refused += 1
            if g_pat != access.g_pat:
                self.error(n, f'g_pat is {g_pat}, was {access.g_pat} before an access of IA32_PAT '
                           'that failed')
            return
        self.done += 1
        if access.kind == 'w':
            if g_pat != access.value:
                self.error(n, f'g_pat is {g_pat}, but WRMSR wrote {access.value}')
            return
        if value != access.g_pat:
            self.error(
                n, f'RDMSR returned {value}, but g_pat was {access.g_pat} at VMRUN {access.vmrun}')
        if value != g_pat:
            self.error(n, f'RDMSR returned {value}, but g_pat is {g_pat}')

    @property
    def why(self) -> str:
        """What makes that no errors mean nothing"""
        if self.end != 'end':
            return WHY.get(self.end, 'the log has no end')
        if not self.vmruns:
            return 'no VMRUN was seen'
        pat_tests = any('_pat_' in test for test in self.tests)
        if pat_tests and self.without_npt < self.vmruns and not self.done:
            return 'no access of IA32_PAT was compared'
        return ''

    @property
    def ok(self) -> bool:
        return not self.errors and not self.why

    def faulty_cases(self) -> set[str]:
        return {e.case.partition(' ')[2] for e in self.errors}

    @property
    def figures(self) -> str:
        text = f'{self.vmruns} VMRUNs'
        if self.vmruns and self.without_npt == self.vmruns:
            text += ' without NPT'
        else:
            text += (f', {self.accesses} accesses of IA32_PAT seen and '
                     f'{self.done + self.refused} compared')
        text += f', VMCB_NPT dirty for nothing in {self.needless}'
        if self.errors:
            text += f'; {self.bad.total()} errors in {len(self.bad)} cases'
        return text

    def text(self, all: bool = False) -> str:
        """A line each: errors, or one for each of ten cases; why; figures"""
        first: dict[str, Error] = {}
        for e in self.errors:
            first.setdefault(e.case, e)
        lines = [f'{e.case}: VMRUN {e.vmrun}: {e.text}'
                 for e in (self.errors if all else list(first.values())[:10])]
        return '\n'.join(f'{self.label}: {line}'
                         for line in [*lines, self.why, self.figures] if line)


def check(lines: Iterable[str], label: str) -> Check:
    """The whole of a log, or of a FIFO that one comes through"""
    result = Check(label)
    feed = result.feed
    for line in lines:
        feed(line)
    return result


def check_file(log: Path | None, label: str) -> Check | None:
    """The same of a file, if there is one."""
    if not log or not log.exists():
        return None
    with open(log) as f:
        return check(f, label)


def verdict(check: Check | None) -> tuple[bool | str, str]:
    """Verdict of an item, and its figures or its first error; a skip if nothing was watched."""
    if not check:
        return 'skip', 'no QEMU that can load the plugin, or not emulated'
    return check.ok, check.figures if check.ok else check.text().split('\n')[0]


# ---- The checker itself ----

# NUMBER CPU VMCB G_PAT CLEAN NP_ENABLE ... HPAT CR3
V = r'^V (\S+) (\S+) (\S+) (\S+) (\S+) (\S+) (.*) (\S+) (\S+)$'
ALL_CLEAN = r'^(V \S+ \S+ \S+ \S+) \S\S+', r'\1 80000df7'	# but at the first VMRUN of a VMCB
# How a log that is right is spoilt, and what must be said of it then
SPOILT = [
    ('clean bit not cleared for a new g_pat', *ALL_CLEAN, 'VMCB_NPT is clean, but g_pat'),
    ('clean bit not cleared for a new nCR3', *ALL_CLEAN, 'VMCB_NPT is clean, but nCR3'),
    ('clean bit not cleared for a new CR3', V, r'V \1 \2 \3 0 \5 0 \7 \8 \1',
     'VMCB_CR is clean, but CR3'),
    ('L2 with hPAT in place of gPAT', V, r'V \1 \2 \3 \8 0 \6 \7 \8 \9', 'RDMSR returned'),
    ('write of L2 lost', r'^(M .* w .*) \S+$', r'\1 0606060606060606', 'but WRMSR wrote'),
    ('g_pat that is no valid PAT', V, r'V \1 \2 \3 0007040600070402 0 \6 \7 \8 \9', 'no valid PAT'),
    ('g_pat written without NPT', V, r'V \1 \2 \3 \4 0 0 \7 \8 \9', 'NPT is off'),
    ('page fault that is not repaired', r'^E ', r'P 1 0 1000 2000 3000 4000\nE ',
     'is not repaired at nCR3'), ('log cut off', r'^E .*', '', 'no end'),
    ('log at its limit', r'^(E .*) end', r'\1 limit', 'limit'),
    ('no access of IA32_PAT', r'^M .*', '', 'no access'), ('no VMRUN', r'^[VM] .*', '', 'no VMRUN')]


def selftest(lines: Iterable[str]) -> list[tuple[str, str, str]]:
    """(verdict, name, detail) of what the checker says of a right log after each SPOILT"""
    log = '\n'.join(map(str.rstrip, lines))
    results = []
    for name, pattern, spoilt, must_say in SPOILT:
        printed = check(re.sub(pattern, spoilt, log, flags=re.M).split('\n'),
                        '').text(all=True).split('\n')
        matches = [line for line in printed if must_say in line]
        detail = re.sub(r'^: (.*: (?=VMRUN))?', '', (matches or printed)[0])
        results.append(('ok', name, detail) if matches else ('not ok', name, f'says: {detail}'))
    return results
