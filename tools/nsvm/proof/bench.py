# SPDX-License-Identifier: GPL-2.0
"""bench run [kernel|time]... - measure what the series costs; without a name: both
bench repeat [ROW] - for make test: does a second run of the benchmark give the same figures?  Only
rows whose name begins with ROW

kernel  Instructions for each operation of svm_nested_pat_bench.c: on the stock kernel, after each
        patch, and on the series; on the ports with and without their series; on the base that
        already has gPAT, with its quirk enabled and disabled.  The same boots count how often
        VMCB_NPT was dirty, and how often without need.  Bytes of code and of struct vcpu_svm.
        KERNELS='stock series 3': only these.
time    Seconds that a developer waits: make run in a clone of the last commit, with downloads at
        hand; after an edit of nested.c; with nothing changed.  The size of build/.  Nothing else
        should run on the machine.

The emulated machine's clock counts instructions of L0, L1 and L2, from just before the operation to
just after it.  Compared figures have the same program, QEMU and command line, and repeat to the
instruction.  A distribution's kernel lays out its memory at random, which costs an instruction or
two, and more in the ioctls for nested state in L2, because these allocate memory.  Therefore each
kernel is booted with each of LAYOUTS.  The least figure counts; "~" marks it if they differ.  No
figure is judged.

Results: bench.ktap; bench.tsv: kernel, row, median, spread, separated by tabs; bench.txt: the
tables; bench-<kernel>-<layout>.log: the boots; bench-time.txt.
Exit status: 0 measured, or all figures repeat; else 1.
"""
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap, versions
from lib.base import Base, git, names, put, read
from lib.ktap import Report
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import place, rel, settings
from machine import boot, qemu
from proof import vmruns
from source import tree
from source.debian import NOT_HERE

PROGRAM = 'svm_nested_pat_bench'
RUNS = 3		# make run
LAYOUTS = (1, 2, 3)
SAMPLES = 40		# of each operation; under emulation they are all alike
Row = tuple[int, int, int]		# minimum, median, how many samples are the median


@dataclass
class Subject:
    """What is booted"""
    label: str
    group: str		# those that are in one table
    kernel: Kernel
    tests_dir: Path
    arguments: str = ''		# of the program
    runs: list[dict[str, Row]] = field(default_factory=list)		# as they were done
    # in the first layout
    seen: vmruns.Check = field(default_factory=lambda: vmruns.Check(PROGRAM))
    # of all layouts, the least first
    medians: dict[str, list[int]] = field(default_factory=dict)


# ---- kernels ----

def own(base: Base, wanted: list[str]) -> list[Subject]:
    """A patch that leaves the kernel's sources alone makes no kernel of its own"""
    where = selftests.build(base, [PROGRAM])
    steps = {str(n): partial(kernels.step_kernel, n=n) for n in base.applied()}
    make = {'stock': kernels.stock_kernel, **steps, 'series': kernels.series_kernel}
    subjects = [Subject(label, base.name, make[label](base), where) for label in make if not wanted
                or label in wanted]
    return [s for before, s in zip([None, *subjects], subjects) if not before
            or not s.label.isdigit() or s.kernel.id != before.kernel.id]


def others(base: Base, other: Base, wanted: list[str]) -> list[Subject]:
    """Of another base: two kernels, or one that is measured twice"""
    name, quirk = other.name, other.own_test()
    first, second = (f'{name}-quirk-on', f'{name}-quirk-off') if quirk else (f'{name}-stock', name)
    if not (quirk or other.series()) or wanted and not {first, second} & set(wanted):
        return []
    try:
        if not quirk:
            where = selftests.build(tree.make(other), [PROGRAM])
            return [Subject(first, name, kernels.stock_kernel(other), where),
                    Subject(second, name, kernels.series_kernel(other), where)]
        kernel, where = kernels.stock_kernel(tree.make_base(other)), selftests.build(base, [PROGRAM])
        off = f':-q:{other.need_key("quirk")}'
        return [Subject(first, name, kernel, where), Subject(second, name, kernel, where, off)]
    except Fatal as e:
        if e.status != NOT_HERE:
            raise
        say('BENCH', f'without {name}: {e}')
        return []


def subjects(base: Base) -> list[Subject]:
    """In the order of the tables"""
    wanted = settings.given.get('KERNELS', '').split()
    every = own(base, wanted)
    if base.is_default() and not base.linux:
        rest = sorted((b for b in map(Base, names()) if b.name != base.name and not b.before
                       and not b.fix_tests()), key=Base.own_test)
        every += [s for other in rest for s in others(base, other, wanted)]
    if not every:
        raise Fatal(f'KERNELS={" ".join(wanted)}: there is no such kernel')
    return every


# ---- boots and figures ----

def parse(log: str) -> dict[str, Row]:
    """row -> figures"""
    figures = re.findall(r'^# ([a-z][a-z0-9_.]*) min (\d+) median (\d+), (\d+) of ', log, re.M)
    return {row: (int(least), int(median), int(n)) for row, least, median, n in figures}


def measure(base: Base, s: Subject, layout: int, name: str = '', rows: str = '') -> None:
    """One boot; in the first layout VMRUNs are watched.  A kernel's random numbers come from its
    command line, too; mitigations are on as users have them, though other boots do without"""
    limit, view = settings.number('TIMEOUT'), layout == 1
    b = boot.run(s.kernel, name or f'bench-{s.label}-{layout}',
                 [f'{PROGRAM}:-n:{SAMPLES}{s.arguments}{rows}'], base=base, icount=True,
                 append=f'mitigations=auto nsvm.layout={layout}', timeout=limit, test_timeout=limit,
                 tests_dir=s.tests_dir, view=view, live=s.seen.feed if view else None)
    reasons = [c.reason for c in ktap.cases(b.text()) if c.verdict == 'not ok']
    figures = parse(b.text())
    if reasons or not figures:
        raise Fatal(f'{s.label}: the benchmark failed: {reasons[0] if reasons else "no figures"} '
                    f'(log: {rel(b.log)})')
    s.runs.append(figures)


def collect(runs: list[dict[str, Row]]) -> dict[str, list[int]]:
    return {row: sorted(run[row][1] for run in runs) for row in runs[0]}


def measure_all(base: Base, subjects: list[Subject]) -> None:
    for old in base.results.glob('bench-*-*.*'):
        old.unlink()
    todo = [(s, layout) for s in subjects for layout in LAYOUTS]
    with Ticker('BENCH',
                lambda: f'{sum(len(s.runs) for s in subjects)} of {len(todo)} boots') as ticker:
        list(jobs.each(lambda job: measure(base, *job), todo))
    say('BENCH', f'{len(todo)} boots, {len(LAYOUTS)} of each kernel ({elapsed(ticker.start)})')
    for s in subjects:
        s.medians = collect(s.runs)


def repeat(base: Base, rows: str) -> int:
    report = Report(base.results / 'bench.ktap')
    s = Subject('repeat', base.name, kernels.series_kernel(base), selftests.build(base, [PROGRAM]))
    list(jobs.each(lambda n: measure(base, s, 2, f'bench-repeat-{n}',
                                     f':-r:{rows}' if rows else ''), (1, 2)))
    one, two = s.runs
    differ = [f'{row}: {one[row][1]}, {two[row][1]}' for row in one if one[row] != two[row]]
    report.item(not differ, 'counts of instructions repeat', '; '.join(differ)
                or f'{len(one)} operations, two runs')
    return 0 if report.close() else 1


# ---- tables ----

def table(subjects: list[Subject]) -> list[str]:
    """Medians of the first, what each has more than the one before, and the last than the first"""
    last = len(subjects) - 1

    def cell(i: int, row: str) -> str:
        medians, before = subjects[i].medians[row], subjects[0 if i == last else i - 1].medians[row]
        more = medians[0] - before[0]
        return (str(medians[0])
                if i == 0 else f'{more:+d}' if more else '.') + '~' * (medians[0] != medians[-1])

    width = [max(len(s.label), 7 if i == 0 else 9 if i == last else 5)
             for i, s in enumerate(subjects)]
    lines = [('instructions', [s.label for s in subjects])]
    lines += [(row, [cell(i, row) for i in range(len(subjects))]) for row in subjects[0].medians]
    return [f'    {name:<36} ' + ' '.join(f'{c:>{w}}' for c, w in zip(cells, width))
            for name, cells in lines]


def economy(subjects: list[Subject]) -> list[str]:
    """VMRUNs of L0 in the first boot of each kernel; of 1000"""
    if not all(s.seen.vmruns for s in subjects):
        return ['    VMRUNs were not watched: no QEMU for it']
    out = ['    VMCB_NPT dirty in 1000 VMRUNs        all rows: needed  needless    vmrun.npt_on: '
           'needed  needless']
    for s in subjects:
        cases, cells = s.seen.economy, []
        for part in (list(cases.values()), [cases[f'{PROGRAM} vmrun.npt_on']]):
            n, dirty, wasted = (sum(getattr(e, field) for e in part)
                                for field in ('vmruns', 'dirty', 'wasted'))
            cells += [(dirty - wasted) * 1000 / n, wasted * 1000 / n]
        out.append(f'    {s.label:<36} ' +
                   ' '.join(f'{c:>{w}.1f}' for c, w in zip(cells, (16, 9, 23, 9))))
    return out


def size_of_vcpu(*where: str | Path) -> int:
    """From debug information; 0 without"""
    layout = jobs.output(['pahole', '-C', 'vcpu_svm', *where],
                         check=False) if shutil.which('pahole') else ''
    return int((re.search(r'/\* size: (\d+)', layout) or [0, 0])[1])


def sizes(base: Base, was: Kernel, now: Kernel) -> list[str]:
    ko = [kernel.kvm_amd for kernel in (was, now)]
    text = [sum(map(int, re.findall(r'^\.text\S* +(\d+)', jobs.output(['size', '-A', m]), re.M)))
            for m in ko]
    # The distribution's module has BTF; of ours, what was not stripped has DWARF
    struct = [size_of_vcpu('--btf_base', was.image, ko[0]),
              size_of_vcpu(base.b / 'module/arch/x86/kvm/kvm-amd.ko')]
    return [f'    {"bytes":<36} {"stock":>9} {"series":>9}',
            *(f'    {name:<36} {a:>9} {b:>9} {b - a:>+7}' for name, (a, b) in
              (('kvm-amd.ko: .text', text), ('sizeof(struct vcpu_svm)', struct)) if a and b)]


def part_kernel(base: Base, report: Report) -> None:
    measured = subjects(base)
    measure_all(base, measured)
    kernel = {s.label: s.kernel for s in measured}
    groups = [[s for s in measured if s.group == group]
              for group in dict.fromkeys(s.group for s in measured)]
    release = re.search(r'Linux version \S+',
                        read(base.results / f'bench-{measured[0].label}-1.log'))
    made_with = versions.write(base, qemu.find().binary,
                               [measured[0].kernel.image, *measured[0].kernel.modules])
    out = [f'    On {time.strftime("%Y-%m-%d")}, {release[0]}; {versions.short(made_with)}', '']
    for group in groups:
        out += [*table(group), '']
    out += economy(measured)
    if 'stock' in kernel and 'series' in kernel:
        out += ['', *sizes(base, kernel['stock'], kernel['series'])]
    put(base.results / 'bench.txt', '\n'.join(out) + '\n')
    put(base.results / 'bench.tsv',
        ''.join(f'{s.label}\t{row}\t{medians[0]}\t{medians[-1] - medians[0]}\n' for s in measured
                for row, medians in s.medians.items()))
    print('', *out, '', '  A column is what that kernel has more than the one left of it, the last '
          'one what it has', '  more than the first one. Results: '
          f'{rel(base.results)}/bench.{{tsv,txt}}', '', sep='\n', flush=True)
    for s in measured:
        spreads = [medians[-1] - medians[0] for medians in s.medians.values()]
        report.item('ok', f'{s.label} measured', f'{spreads.count(0)} of {len(spreads)} operations '
                    f'the same in each layout, all within {max(spreads)}')


# ---- seconds ----

def verdict(base: Base, clone: Path, log: Path) -> tuple[float, list[str]]:
    """make run there: seconds; its steps, each with the second when it was done"""
    begin, steps, last = time.monotonic(), [], ''
    p = jobs.start(['make', 'run', f'BASE={base.name}'], cwd=clone, stdout=jobs.subprocess.PIPE,
                   stderr=jobs.subprocess.STDOUT, text=True)
    with open(log, 'a', buffering=1) as f:
        for line in p.stdout:
            f.write(line)
            last = line.strip() or last
            if re.match('  [A-Z]+ ', line) and ' ... ' not in line:
                steps.append(f'{time.monotonic() - begin:12.1f}  {line.strip()}')
    if jobs.finish(p):
        raise Fatal(f'make run fails in a clone of this: {last} (log: {rel(log)})')
    return time.monotonic() - begin, steps


def part_time(base: Base, report: Report) -> None:
    if base.linux:
        raise Fatal('this is measured on a packaged source, not on LINUX=')
    clone, log = place.build / 'bench/clone', base.logs / 'bench-time.log'
    model = re.search(r'^model name\s*: (.*)', read(Path('/proc/cpuinfo')), re.M)
    cpu = model[1] if model else 'of some kind'
    commit, size = git(place.top, 'rev-parse', '--short', 'HEAD'), ''
    out = [f'    On {time.strftime("%Y-%m-%d")}, {len(os.sched_getaffinity(0))} CPUs, {cpu}; '
           f'commit {commit}']
    try:
        shutil.rmtree(clone, ignore_errors=True)
        put(log, '')
        git(place.build, 'clone', '-q', str(place.top), str(clone))
        (clone / 'build/dl').mkdir(parents=True)
        version = tree.kernel_version(read(base.src / 'Makefile'))
        for f in place.downloads.glob(f'*{version}*'):
            (clone / 'build/dl' / f.name).hardlink_to(f)
        # if it is there
        jobs.output(['cp', '-a', place.build / 'qemu', clone / 'build'], check=False)
        for name, runs in ('a fresh clone', 1), ('an edit of nested.c', RUNS), ('nothing changed',
                                                                                RUNS):
            done = []
            for n in range(runs):
                if 'edit' in name:
                    with open(clone / f'build/{base.name}/src/arch/x86/kvm/svm/nested.c', 'a') as f:
                        f.write(
                            f'static int __maybe_unused nsvm_bench_{n}(void) {{ return {n}; }}\n')
                done.append(verdict(base, clone, log))
            seconds, steps = sorted(done)[runs // 2]
            detail = f'{seconds:.1f} s, median of {runs}'
            out += ['', f'    {name} to verdict: {detail}', *steps]
            report.item('ok', f'{name} to verdict', detail)
            size = size or jobs.output(['du', '-smc', 'dl', 'qemu', base.name], False,
                                       cwd=clone / 'build')
    finally:
        shutil.rmtree(clone, ignore_errors=True)
    out += ['', '    MB in build/ after the first one',
            *('{:>12}  {}'.format(*d.split()) for d in size.splitlines())]
    put(base.results / 'bench-time.txt', '\n'.join(out) + '\n')
    print('', *out, '', f'  Results: {rel(base.results)}/bench-time.txt', sep='\n', flush=True)


def main(args: list[str]) -> int:
    parts = {'kernel': part_kernel, 'time': part_time}
    if args[:1] not in (['run'], ['repeat']):
        args = ['run', *args]
    if not (args[:1] == ['run'] and set(args[1:]) <= set(parts)
            or args[:1] == ['repeat'] and len(args) <= 2):
        raise Fatal('usage: bench run [kernel|time]... | bench repeat [ROW]')
    base = Base().lock()
    if base.own_tests():
        raise Fatal(f'the benchmark is for the ABI of this series, not for that of {base.name}')
    tree.make(base)
    qemu.ensure()
    if args[0] == 'repeat':
        return repeat(base, ''.join(args[1:]))
    report = Report(base.results / 'bench.ktap')
    for part in args[1:] or parts:
        parts[part](base, report)
    return ktap.finish(report)
