# SPDX-License-Identifier: GPL-2.0
"""bench - what the series costs: instructions for each operation of svm_nested_pat_bench.c, on the
stock kernel, after each patch, and on the series.  KERNELS='stock series 3': only these
bench repeat [ROW] - for make test: does a second run of the benchmark give the same figures?  Only
rows whose name begins with ROW

The emulated machine's clock counts instructions of L0, L1 and L2, from just before the operation to
just after it.  Compared figures have the same program, QEMU and command line, and repeat to the
instruction.  A distribution's kernel lays out its memory at random, which costs an instruction or
two, and more in the ioctls for nested state in L2, because these allocate memory.  Therefore each
kernel is booted with each of LAYOUTS.  The least figure counts; "~" marks it if they differ.  No
figure is judged.

Results: bench.ktap; bench.txt: the table; bench-<kernel>-<layout>.log: the boots.
Exit status: 0 measured, or all figures repeat; else 1.
"""
import re
import time
from dataclasses import dataclass, field

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap, versions
from lib.base import Base, put
from lib.kind import own_tests
from lib.ktap import Report
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import rel, settings
from machine import boot, qemu
from source import tree

PROGRAM = 'svm_nested_pat_bench'
LAYOUTS = (1, 2, 3)
SAMPLES = 40		# of each operation; under emulation they are all alike
Row = tuple[int, int, int]		# minimum, median, how many samples are the median


@dataclass
class Subject:
    """A kernel that is measured."""
    label: str
    kernel: Kernel
    runs: list[dict[str, Row]] = field(default_factory=list)		# one for each layout

    def medians(self, row: str) -> list[int]:
        """The medians of all layouts, the least first."""
        return sorted(run[row][1] for run in self.runs)


def subjects(base: Base) -> list[Subject]:
    """The kernels to measure.  A patch that leaves KVM's sources alone makes no kernel of its own.

    Raises:
        Fatal: KERNELS= names none of them.
    """
    wanted = settings.given.get('KERNELS', '').split()
    make = {'stock': lambda: kernels.stock_kernel(base)}
    make |= {str(n): lambda n=n: kernels.step_kernel(base, n) for n in base.applied()}
    make['series'] = lambda: kernels.series_kernel(base)
    measured: list[Subject] = []
    for label in make:
        if wanted and label not in wanted:
            continue
        kernel = make[label]()
        if not measured or not label.isdigit() or kernel.id != measured[-1].kernel.id:
            measured.append(Subject(label, kernel))
    if not measured:
        raise Fatal(f'KERNELS={" ".join(wanted)}: there is no such kernel')
    return measured


def parse(log: str) -> dict[str, Row]:
    """The figures of each row that the program printed."""
    figures = re.findall(r'^# ([a-z][a-z0-9_.]*) min (\d+) median (\d+), (\d+) of ', log, re.M)
    return {row: (int(least), int(median), int(n)) for row, least, median, n in figures}


def measure(base: Base, subject: Subject, layout: int, label: str = '', rows: str = '') -> None:
    """Boot it once, and add what the program says to its runs.

    A kernel's random numbers come from its command line, too.  Mitigations are on, as users have
    them, though other boots do without.

    Raises:
        Fatal: the program failed.
    """
    limit = settings.number('TIMEOUT')
    test = f'{PROGRAM}:-n:{SAMPLES}' + (f':-r:{rows}' if rows else '')
    done = boot.run(subject.kernel, label or f'bench-{subject.label}-{layout}', [test], base=base,
                    icount=True, append=f'mitigations=auto nsvm.layout={layout}', timeout=limit,
                    test_timeout=limit, view=False)
    reasons = [c.reason for c in ktap.cases(done.text()) if c.verdict == 'not ok']
    figures = parse(done.text())
    if reasons or not figures:
        raise Fatal(f'{subject.label}: the benchmark failed: '
                    f'{reasons[0] if reasons else "no figures"} (log: {rel(done.log)})')
    subject.runs.append(figures)


def table(measured: list[Subject]) -> list[str]:
    """Medians of the first, what each has more than the one before, and the last than the first"""
    last = len(measured) - 1

    def cell(i: int, row: str) -> str:
        medians = measured[i].medians(row)
        more = medians[0] - measured[0 if i == last else i - 1].medians(row)[0]
        mark = '~' if medians[0] != medians[-1] else ''
        if i == 0:
            return f'{medians[0]}{mark}'
        return f'{more:+d}{mark}' if more else f'.{mark}'

    width = [max(len(s.label), 9 if i in (0, last) else 5) for i, s in enumerate(measured)]
    lines = [('instructions', [s.label for s in measured])]
    lines += [(row, [cell(i, row) for i in range(len(measured))]) for row in measured[0].runs[0]]
    return [f'    {name:<36} ' + ' '.join(f'{c:>{w}}' for c, w in zip(cells, width))
            for name, cells in lines]


def measure_all(base: Base) -> int:
    """Measure each kernel, print and keep the table."""
    report = Report(base.results / 'bench.ktap')
    measured = subjects(base)
    for old in base.results.glob('bench-*-*.*'):
        old.unlink()
    boots = [(s, layout) for layout in LAYOUTS for s in measured]
    with Ticker('BENCH',
                lambda: f'{sum(len(s.runs) for s in measured)} of {len(boots)} boots') as ticker:
        list(jobs.each(lambda b: measure(base, *b), boots))
    say('BENCH', f'{len(boots)} boots, {len(LAYOUTS)} of each kernel ({elapsed(ticker.start)})')
    first = measured[0].kernel
    made_with = versions.write(base, qemu.find().binary, [first.image, *first.modules])
    lines = [f'    On {time.strftime("%Y-%m-%d")}; {versions.short(made_with)}', '',
             *table(measured)]
    put(base.results / 'bench.txt', '\n'.join(lines) + '\n')
    print('', *lines, '', '  A column is what that kernel has more than the one left of it, the '
          'last one what it has', f'  more than the first one: {rel(base.results)}/bench.txt', '',
          sep='\n', flush=True)
    for s in measured:
        medians = [s.medians(row) for row in s.runs[0]]
        spreads = [m[-1] - m[0] for m in medians]
        report.item('ok', f'{s.label} measured', f'{spreads.count(0)} of {len(spreads)} operations '
                    f'the same in each layout, all within {max(spreads)}')
    return ktap.finish(report)


def repeat(base: Base, rows: str) -> int:
    report = Report(base.results / 'bench.ktap')
    s = Subject('repeat', kernels.series_kernel(base))
    list(jobs.each(lambda n: measure(base, s, 2, f'bench-repeat-{n}', rows), (1, 2)))
    one, two = s.runs
    differ = [f'{row}: {one[row][1]}, {two[row][1]}' for row in one if one[row] != two[row]]
    report.item(not differ, 'counts of instructions repeat', '; '.join(differ)
                or f'{len(one)} operations, two runs')
    return 0 if report.close() else 1


def main(args: list[str]) -> int:
    if args and (args[0] != 'repeat' or len(args) > 2):
        raise Fatal('usage: bench | bench repeat [ROW]')
    base = Base().lock()
    if own_tests(base):
        raise Fatal(f'the benchmark is for the ABI of this series, not for that of {base.name}')
    tree.make(base)
    qemu.ensure()
    selftests.build(base, [PROGRAM])
    return repeat(base, ''.join(args[1:])) if args else measure_all(base)
