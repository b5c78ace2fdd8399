# SPDX-License-Identifier: GPL-2.0
"""types - the memory types that the CPU uses for accesses of L1 and L2

Runs svm_nested_pat_types on Bochs, whose CPU obeys g_pat, on the stock kernel and on the series, in
one boot.  Bochs' debugger prints the type of each access.  The expected type follows from the
guest's PAT and the MTRR type of the page (APM volume 2, "Combining Memory Types").  With nested
paging, Bochs uses the guest's page tables and the MTRRs, and leaves out hPAT and the PAT bits of
nested page tables.

The same program runs on QEMU: the plugin must see the same g_pat at each VMRUN as Bochs' CPU.

Results: types.ktap; types.txt, the table; types.svg, the picture; types.trace, the lines of the
trace that it is made from.
Exit status: 0 if all is as expected, 3 without Bochs.
"""
import re
from dataclasses import dataclass, field
from typing import Iterator

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, put, read
from lib.kind import is_default
from lib.pat import combined, fields
from lib.say import Fatal, say
from lib.settings import place, rel
from lib.svg import Picture
from machine import bochs, boot, qemu
from machine.bochs import Trace
from source import tree

PROGRAM = 'svm_nested_pat_types'
PAGES = {0x10: 'WB', 0x11: 'UC'}	# bits 47:40 of an address -> MTRR type, see the program
COLOURS = {'WB': '#2f8f9d', 'WT': '#4a8f6f', 'WP': '#a8801a', 'WC': '#c8602a', 'UC': '#b3362b',
           'UC-': '#b3362b'}
ACCESS = re.compile(r'\[CPU0 (WR|RD)\]: LIN 0x([0-9a-f]+) PHY \S+ \(len=8, (\S+)\)')
G_PAT = re.compile(
    r'\[CPU0 RD\]: PHY 0x[0-9a-f]+668 \(len=8, \S+\): 0x([0-9a-f]{8}) 0x([0-9a-f]{8})')
PICTURE = place.top / 'Documentation/virt/kvm/x86/nested-svm-pat-types.svg'
LEFT_OUT = """\
  Bochs combines the types of the guest's page tables with the MTRRs.  It leaves out the PAT bits of
  nested page tables, and hPAT, which hardware takes into account as well.

"""


@dataclass
class Part:
    """What the program did between two marks, and what the CPU did meanwhile"""
    case: str
    kind: str		# vmrun, wrmsr, L1, L2
    pat: str		# of vmcb12, written, that the guest must have
    seen: str		# what RDMSR returned
    tick: int
    # MTRR type -> of each field of the PAT
    types: dict[str, list[str]] = field(default_factory=dict)
    g_pat: str = ''		# of the last VMRUN
    lines: list[str] = field(default_factory=list)


def types_of(lines: list[str]) -> dict[str, list[str]]:
    """MTRR type of the page -> memory type through each field; both, if read and write differ"""
    types: dict[tuple[str, int], list[str]] = {}
    for line in lines:
        m = ACCESS.match(line)
        if m and int(m[2], 16) >> 40 in PAGES:
            types.setdefault((PAGES[int(m[2], 16) >> 40], int(m[2], 16) >> 12 & 0xfffffff),
                             []).append(m[3])
    return {mtrr: ['/'.join(dict.fromkeys(types.get((mtrr, i), ['none']))) for i in range(8)]
            for mtrr in PAGES.values()}


def parts(log: str, traces: list[Trace]) -> list[Part]:
    """Of one kernel: what the program said of each trace, in that order"""
    marks = re.findall(r'^# trace (\S+) (vmrun|wrmsr|L1|L2) (\S+) ?(\S*)$', log, re.M)
    if len(marks) != len(traces):
        raise Fatal(f'{PROGRAM} speaks of {len(marks)} traces, and there are {len(traces)}')
    parts = []
    for (case, kind, pat, seen), t in zip(marks, traces):
        g_pat = [m[1] + m[2] for line in t.lines if (m := G_PAT.match(line))]
        parts.append(Part(case, kind, pat, seen, t.tick, types_of(t.lines)
                          if kind in ('L1', 'L2') else {}, g_pat[-1] if g_pat else '', t.lines))
    return parts


def fault(p: Part) -> str:
    """What is not as it must be of the accesses of L1 or L2"""
    if not p.types:
        return ''
    for mtrr, types in p.types.items():
        for i, (pat, used_type) in enumerate(zip(fields(p.pat), types)):
            if used_type != combined(pat, mtrr):
                return (f'field {i} is {pat}, its page is {used_type}, and not '
                        f'{combined(pat, mtrr)} (MTRR type {mtrr})')
    return '' if p.seen == p.pat else f'RDMSR returned {p.seen}, the PAT should be {p.pat}'


# ---- machines ----

def run_on_bochs(base: Base, stock: Kernel, series: Kernel) -> list[list[Part]]:
    """What the program does on the stock kernel, then on the series, in one boot."""
    result, traces = bochs.run(stock, 'types', [PROGRAM, 'load:series.ko:nested=1', PROGRAM],
                               base=base, others={'series': series}, trace=True)
    parts_of_both = []
    for section in bochs.sections(result.text()):
        if any(c.verdict != 'ok' for c in ktap.cases(section) if c.test == PROGRAM):
            raise Fatal(f'{PROGRAM} fails on Bochs (log: {rel(result.log)})')
        count = len(re.findall('^# trace ', section, re.M))
        parts_of_both.append(parts(section, traces[:count]))
        traces = traces[count:]
    return parts_of_both


def run_on_qemu(base: Base, kernel: Kernel, label: str) -> list[str]:
    """g_pat at the last VMRUN of each part that has one"""
    done = boot.run(kernel, f'types-{label}', [PROGRAM], base=base)
    g_pats, g_pat = [], ''
    for line in open(done.vmruns) if done.vmruns else ():
        f = line.split()
        if f[:1] == ['V']:
            g_pat = f[4]
        elif f[:3] == ['T', '#', 'trace'] and f[4] in ('vmrun', 'wrmsr'):
            g_pats.append(g_pat)
    return g_pats


# ---- for people ----

def rows(base: list[Part], series: list[Part]) -> Iterator[tuple[Part, Part]]:
    return ((b, s) for b, s in zip(base, series) if s.types)


def table(base: list[Part], series: list[Part], mtrr: str = 'WB', cases: str = '') -> str:
    """One line for each guest in each case, the fields of the PAT from 0 to 7"""
    def line(*cells: str) -> str:
        return '  {:<30} {:<3} {:<24} {:<26} {:<26}'.format(*cells).rstrip()

    def types(p: Part) -> str:
        must = [combined(f, mtrr) for f in fields(p.pat)]
        return ' '.join(t if t == m else f'{t}!' for t, m in zip(p.types[mtrr], must))
    out = [line('case', '', 'PAT, fields 0 to 7', 'stock', 'series'), '  ' + '-' * 110]
    out += [line(s.case, s.kind, ' '.join(fields(s.pat)), types(b), types(s))
            for b, s in rows(base, series) if s.case.startswith(cases)]
    return '\n'.join([f'  Memory types that the CPU used, MTRR type {mtrr}; "!": not what the PAT '
                      'says', '', *out]) + '\n'


def svg(base: list[Part], series: list[Part]) -> str:
    """With nested NPT: L2 with the PAT that L1 gave it, and L1 after L2 wrote its own"""
    wide, tall, left, top = 48, 21, 250, 70
    shown = [(b, s) for b, s in rows(base, series)
             if (s.case[:13], s.kind) in (('npt_on.loaded', 'L2'), ('npt_on.writte', 'L1'))]
    case_tall = 3 * tall + 12
    picture = Picture('Memory types of L1 and L2', left + 8 * wide + 20,
                      top + len(shown) * case_tall + 20)
    picture.heading('Memory types of L1 and L2 with nested NPT', 'What the CPU used for accesses '
                    'through each field of the PAT; framed: not what the PAT says')
    for i in range(8):
        picture.text(left + i * wide + 20, 64, i, 'fill="#222"')
    for y, (b, s) in zip(range(top, picture.height, case_tall), shown):
        must = [combined(f, 'WB') for f in fields(s.pat)]
        picture.text(16, y + 14, s.case.removeprefix('npt_on.'), 'fill="#222"')
        for down, label, types in ((0, f"{s.kind}'s PAT", fields(s.pat)),
                                   (tall, 'stock', b.types['WB']),
                                   (2 * tall, 'series', s.types['WB'])):
            picture.text(left - 75, y + down + 14, label, 'fill="#222"')
            for i, t in enumerate(types):
                frame = 'stroke="#000" stroke-width="3"' if down and t != must[i] else ''
                picture.cell(left + i * wide + 2, y + down + 1, wide - 4, tall - 3, t,
                             COLOURS.get(t, '#888'), frame)
    return str(picture)


def judge(report: ktap.Report, base: Base, stock: list[Part], series: list[Part]) -> None:
    for case in dict.fromkeys(p.case for p in series):
        faults = [f'{p.kind}: {why}' for p in series if p.case == case and (why := fault(p))]
        report.item(not faults, f'{case}: L1 and L2 have the types that their PAT says',
                    faults[0] if faults else '')
    refused = [why for tick, why in bochs.refused(base.results / 'types.bochs')
               if tick >= series[0].tick]
    report.item(not refused, 'the CPU refuses no VMRUN of the series', ''.join(refused[:1]))
    differ = sum(fault(p) != '' for p in stock)
    report.item(differ > 0, 'on the stock kernel types are wrong',
                f'in {differ} of {sum(p.types != {} for p in stock)}')


def compare(report: ktap.Report, label: str, on_bochs: list[Part], on_qemu: list[str]) -> None:
    """The plugin of QEMU and Bochs' CPU must see the same."""
    name = f'QEMU and Bochs see the same g_pat on the {label}'
    if not on_qemu:
        report.item('skip', name, 'VMRUNs are not watched on QEMU')
        return
    parts = [p for p in on_bochs if p.kind in ('vmrun', 'wrmsr')]
    differ = [f'{p.case} {p.kind}: {p.g_pat} on Bochs, {g_pat} on QEMU'
              for p, g_pat in zip(parts, on_qemu) if p.g_pat != g_pat]
    if len(parts) != len(on_qemu):
        differ = [f'{len(parts)} VMRUNs on Bochs, {len(on_qemu)} on QEMU']
    report.item(not differ, name, differ[0] if differ else f'at {len(parts)} VMRUNs')


def keep(base: Base, stock: list[Part], series: list[Part]) -> bool:
    """Table, picture and trace, in results/.

    Returns:
        Whether the picture is the one of the documentation.
    """
    picture = svg(stock, series)
    put(base.results / 'types.txt',
        LEFT_OUT + table(stock, series) + '\n' + table(stock, series, 'UC'))
    put(base.results / 'types.svg', picture)
    put(base.results / 'types.trace', ''.join(
        f'{line}\n' for label, parts in (('stock', stock), ('series', series)) for p in parts
        for line in (f'# {label} {p.case} {p.kind}', *p.lines)))
    return picture == read(PICTURE)


def main(args: list[str]) -> int:
    if args:
        raise Fatal('usage: types')
    base = tree.make(Base().lock())
    jobs.together(bochs.ensure, qemu.ensure)
    selftests.build(base, [PROGRAM])
    kernel_of = {'stock': kernels.stock_kernel(base), 'series': kernels.series_kernel(base)}
    report = ktap.Report(base.results / 'types.ktap')
    say('TYPES', 'both kernels on Bochs, under its debugger, which takes a minute')
    (stock, series), *on_qemu = jobs.together(
        lambda: run_on_bochs(base, kernel_of['stock'], kernel_of['series']),
        *(lambda label=label: run_on_qemu(base, kernel_of[label], label) for label in kernel_of))
    same = keep(base, stock, series)
    print('\n' + LEFT_OUT + table(stock, series, cases='npt_on.') +
          f'\n  the other cases, and MTRR type UC: {rel(base.results)}/types.txt\n')
    judge(report, base, stock, series)
    if is_default(base):
        report.item(same, f'{rel(PICTURE)} is the picture of this',
                    '' if same else f'cp {rel(base.results)}/types.svg {rel(PICTURE)}')
    for label, on_bochs, g_pats in zip(kernel_of, (stock, series), on_qemu):
        compare(report, label, on_bochs, g_pats)
    return ktap.finish(report)
