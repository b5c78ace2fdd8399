# SPDX-License-Identifier: GPL-2.0
"""run - boot the stock kernel and the series, run the PAT tests on both, compare

The results of the stock kernel are used again if nothing that they depend on has changed.  The
series always runs.  With two CPUs, the tests of each kernel run on two machines at a time.
Without a series and without edits in src, only the stock kernel runs the tests of its own tree;
one of them must pass.

MACHINE=bochs runs the tests on Bochs, one machine for each kernel, and once more with
kvm_amd.nrips=0, because Bochs' CPU saves the next RIP and QEMU's does not.

Results, in build/<base>/results: {stock,series}.log, .console, .vmrun; run.ktap, results.json,
junit.xml, view.txt, versions.txt; stock.id: what the results of the stock kernel depend on.  Those
of Bochs begin with "bochs-".
Exit status: 0 if on the series no case is "not ok" and its VMRUNs are right, and both kernels
behaved.
"""
import re
import time
from dataclasses import replace
from pathlib import Path

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap, versions
from lib.base import Base, put, read
from lib.ktap import Case
from lib.say import Fatal, begun, elapsed, say
from lib.settings import place, rel, settings
from machine import bochs, boot, qemu
from proof import report, vmruns
from source import tree


def halves(past: list[Case], tests: list[str]) -> list[list[str]]:
    """The tests in two groups that take about as long, by what they took the last time."""
    ms = {c.test: c.ms for c in past}
    groups: list[list[str]] = [[], []]
    for t in sorted(tests, key=lambda t: -ms.get(t, 0)):
        min(groups, key=lambda group: sum(ms.get(t, 0) + 1 for t in group)).append(t)
    return [group for group in groups if group]


def merge(logs: list[str], tests: list[str]) -> str:
    """One log of those of several machines, the tests in that order."""
    parts = {m[1]: m[0] for log in logs for m in re.finditer(
        r'^# nsvm: begin (\S+)\n.*?^# nsvm: end [^\n]*\n', log, re.M | re.S)}
    first_line = logs[0].partition('\n')[0]
    return ''.join([f'{first_line}\n', *(parts[t] for t in tests), '# nsvm: done\n'])


def join(to: Path, logs: list[Path]) -> None:
    """One log of VMRUNs of several, whose numbers go on."""
    past = last = 0
    with open(to, 'w') as f:
        for i, log in enumerate(logs):
            f.write('B\n' if i else '')
            for line in open(log):
                if line[0] in 'VMAPCE' and line[1] == ' ':
                    kind, n, rest = line.split(' ', 2)
                    last = int(n) + past
                    line = f'{kind} {last} {rest}'
                f.write(line)
            past = last


def boot_on_qemu(base: Base, kernel: Kernel, label: str, tests: list[str]) -> None:
    """Run the tests, on two machines at a time if there is room; leaves results/<label>.*"""
    begin, results = time.monotonic(), base.results
    past = ktap.cases(read(results / f'{label}.log') or read(results / 'stock.log'))
    groups = halves(past, tests) if jobs.workers() > 1 else [tests]
    for f in results.glob(f'{label}.*'):
        f.unlink()
    boots = jobs.together(*(lambda i=i, group=group: boot.run(kernel, f'{label}.{i}', group,
                                                              base=base)
                            for i, group in enumerate(groups, 1)))
    put(results / f'{label}.log', merge([b.text() for b in boots], tests))
    put(results / f'{label}.console', ''.join(b.console.read_text(errors='replace')
                                              for b in boots))
    if boots[0].vmruns:
        join(results / f'{label}.vmrun', [b.vmruns for b in boots])
    for f in results.glob(f'{label}.[12].*'):
        f.unlink()
    say('BOOT', f'{label}, npt=1, {len(tests)} tests ({elapsed(begin)})')


def boot_on_bochs(base: Base, kernel: Kernel, label: str, tests: list[str]) -> None:
    """Run the tests, then once more without nRIP save."""
    begin = time.monotonic()
    bochs.run(kernel, label, [*tests, 'load:own.ko:nested=1:nrips=0', *tests], base=base,
              others={'own': kernel})
    say('BOOT', f'{label}, {len(tests)} tests, again with nrips=0 ({elapsed(begin)})')


def cases(log: str) -> list[Case]:
    """On Bochs of two runs, those of the second one with another name"""
    first, *more = bochs.sections(log)
    return ktap.cases(first) + [replace(c, test=f'{c.test}, nrips=0') for section in more
                                for c in ktap.cases(section)]


def run_stock_alone(base: Base, kernel: Kernel) -> int:
    """Without a series, run tests of the kernel's own tree; one of them must pass."""
    tests_dir = selftests.build(base, selftests.NEIGHBOURS)
    boot_on_qemu(base, kernel, 'stock', read(tests_dir / '.stamp').split()[1:])
    results = ktap.cases(read(base.results / 'stock.log'))
    put(base.results / 'run.ktap', ktap.nested({'stock': results}))
    for c in results:
        if not c.case:
            print(f'  {c.test:<32}  {c.verdict}{": " + c.reason if c.reason else ""}')
    if not any(c.verdict == 'ok' for c in results):
        raise Fatal(f'no test passes (log: {rel(base.results)}/stock.log)')
    print(f'\n  There is no series in {rel(base.dir)}, and thus no verdict. {elapsed(begun)} in '
          f'all; results: {rel(base.results)}/run.ktap')
    return 0


def prepare(base: Base) -> Kernel:
    """Make the source and the tests, and return the stock kernel"""
    jobs.together(lambda: tree.make(base), qemu.ensure)
    return jobs.together(lambda: kernels.stock_kernel(base), lambda: selftests.build(base))[0]


def view_of(base: Base, label: str) -> vmruns.Check | None:
    return vmruns.check_file(base.results / f'{label}.vmrun', label)


def judge_view(base: Base, prefix: str, checks: dict[str, vmruns.Check | None]) -> tuple[bool, str]:
    """What VMRUNs say of the series: is it good, and the lines that were printed.

    On the stock kernel no error counts here: what a series repairs may be seen nowhere else."""
    check = checks['series']
    if check:
        lines = ''.join(f'{c.text()}\n' for c in checks.values() if c)
        put(base.results / f'{prefix}view.txt', lines)
        print('\n' + ''.join(f'  {line}\n' for line in lines.splitlines()), end='')
        return check.ok, lines
    if prefix:
        refused = bochs.refused(base.results / f'{prefix}series.bochs')
        lines = f'VMRUNs that the CPU refused: {refused[0][1] if refused else "none"}'
        print(f'\n  {lines}')
        return not refused, lines
    if settings.VIEW == 'y':
        print('\n  VMRUNs were not watched: no QEMU for it, or no emulation')
    return True, ''


def boot_both(base: Base, prefix: str, stock: Kernel, tests: list[str]) -> Kernel:
    """Run the tests on both kernels, unless the stock one's results are known; the series"""
    run_tests = boot_on_bochs if prefix else boot_on_qemu
    made_of = boot.result_id(stock, [base.b / 'selftests' / t for t in tests])
    log, stamp = (base.results / f'{prefix}stock.{kind}' for kind in ('log', 'id'))

    def run_stock() -> None:
        if read(stamp) == made_of and log.exists():
            at = time.strftime('%H:%M:%S', time.localtime(log.stat().st_mtime))
            say('BOOT', f'stock: results of {at}, nothing that they depend on has changed')
            return
        stamp.unlink(missing_ok=True)
        run_tests(base, stock, f'{prefix}stock', tests)
        put(stamp, made_of)

    def run_series() -> Kernel:
        series = kernels.series_kernel(base)
        if prefix:		# one machine a kernel: beside the stock one
            run_tests(base, series, f'{prefix}series', tests)
        return series

    series = jobs.together(run_stock, run_series)[1]
    if not prefix:
        run_tests(base, series, 'series', tests)
    return series


def main(args: list[str]) -> int:
    if args or settings.MACHINE not in ('qemu', 'bochs'):
        raise Fatal('usage: run, MACHINE=qemu or bochs')
    base = Base().lock()
    prefix = 'bochs-' if settings.MACHINE == 'bochs' else ''
    for name in report.FILES:
        (base.results / f'{prefix}{name}').unlink(missing_ok=True)
    stock = prepare(base)
    if base.worktree() == base.git('rev-parse', 'base^{tree}'):
        return run_stock_alone(base, stock)
    tests = selftests.wanted(base)
    if not tests:
        raise Fatal(f'no tests to run: no svm_nested_pat test in {rel(place.overlay)}')
    series = boot_both(base, prefix, stock, tests)
    made_with = versions.write(base, qemu.find().binary, [stock.image, *series.modules])
    say('VERSIONS', f'{versions.short(made_with)}; all: {rel(base.results)}/versions.txt')
    results = {label: cases(read(base.results / f'{prefix}{label}.log'))
               for label in ('stock', 'series')}
    ktap_file = base.results / f'{prefix}run.ktap'
    put(ktap_file, ktap.nested(results))
    text, good = ktap.table(ktap.rows(results['stock'], results['series']))
    print(text)
    checks = {label: view_of(base, f'{prefix}{label}') for label in results}
    view_good, lines = judge_view(base, prefix, checks)
    good = good and view_good
    report.write(base, prefix, good, results, checks, lines, made_with)
    print(f'  The series {"does what it should" if good else "fails"}. {elapsed(begun)} in all; '
          f'results: {rel(ktap_file)}, {", ".join(report.FILES)}')
    return 0 if good else 1
