# SPDX-License-Identifier: GPL-2.0
"""test [short] [ALL=1] - all tests of the series and of the lab

short  what this runs for each other base: the patches apply, both kernels build, the PAT tests
ALL=1  adds whole kernels of bases that have no packaged one (without ALL=1, the changed files of
       KVM are compiled and not run); on other bases npt=0, mainline's own test, and the quirk of
       an opt-in; mainline's model without its series; on Bochs the stock kernel and nrips=0

Each item is one line: "ok", "not ok" or "SKIP", its name, and what was seen.
patches/<base>/cases has the expected results of the PAT tests: see expected.py.  Parts that are
programs of their own are started, and their KTAP is read.  JOBS= parts run at a time.

Results: build/<base>/results/{test,short}.ktap, logs/test-*.log; "tested", for send.  The last line
is always "N passed, N failed, N skipped".
Exit status: 0 if nothing failed, else 1.
"""
import contextlib
import datetime
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import base as bases
from lib import jobs, ktap, versions
from lib.base import Base, git, put, read
from lib.kind import fix_tests, has_gpat, is_default, is_opt_in, own_tests
from lib.ktap import Item, Report
from lib.say import Fatal, elapsed, say
from lib.settings import place, rel, settings
from machine import qemu
from proof import expected, parts, tested
from proof.parts import Items, is_all, item
from source import apply, export, package, tree
from source.debian import NOT_HERE

NPT_1, OTHERS, CHECKS, BOCHS = 'results of npt=1', "other bases' src", 'check', 'build/roots'
LAB_TESTS = 'The lab\'s own tests'


class Part(NamedTuple):
    """What is reported under one title.

    runs: a program of the lab with its arguments, or a function.
    shares: what parts have in common that have the same word here: they use the same files, or
        what one before has left.  They run one after the other, as they are in the table.
    may_skip: if the program ends with status 3, something cannot be had here: a skip.
    result: where the program's KTAP is, from results/, if it is not <program>.ktap.
    when: is it wanted?
    """
    title: str
    runs: str | Callable[[], Items]
    shares: str = ''
    may_skip: bool = False
    result: str | Path = ''
    when: bool = True


def attempt(name: str, fn: Callable[[], str | None]) -> Item:
    """ok if the function returns nothing; else what it returns or raises is the reason."""
    try:
        reason = fn() or ''
    except Fatal as e:
        reason = str(e)
    return item(name, not reason, reason)


# ---- files, patches ----

def shellcheck() -> str:
    """The first thing that shellcheck has against a script of the lab."""
    files = [f for where in (place.lab, place.top / '.ci') for f in sorted(where.rglob('*'))
             if f.is_file()]
    scripts = [f for f in files
               if re.match(rb'#!/bin/(busybox )?sh|# shellcheck shell', f.read_bytes())]
    log = place.build / 'shellcheck.log'
    rc = jobs.call(['shellcheck', '-x', *scripts], log, cwd=place.top)
    return read(log).strip().split('\n')[0] if rc else ''


def blanks() -> str:
    """The first places in the repository, but in patches, that have blanks where none should be."""
    lines = git(place.top, 'grep', '-nI', '--untracked', '-e', '[[:blank:]]$', '-e', ' \t', '--',
                ':!*.patch', check=False)
    return ' '.join(re.findall(r'^.*?:\d+(?=:)', lines, re.M)[:5])


def check_files() -> Items:
    return [attempt('shellcheck of tools/nsvm and .ci/run', shellcheck),
            attempt('no trailing blanks, no blanks before tabs', blanks),
            *(i for f in sorted((place.lab / 't').glob('test_*.py')) for i in tap(f))]


def check_style(base: Base) -> Items:
    """checkpatch of our C files; what it says of patches is an item of make check.

    Not counted: new files that no pattern of MAINTAINERS has; BIT(), which user space has not.
    """
    argv = ['scripts/checkpatch.pl', '--strict', '--terse', '--no-summary', '--quiet',
            '--color=never', '--ignore', 'FILE_PATH_CHANGES,BIT_MACRO', '-f']
    files = [*sorted(place.overlay.glob('*.[ch]')), *sorted(place.lab.rglob('*.[ch]'))]
    return [attempt(f'checkpatch --strict {f.name}', lambda f=f: jobs.output(
        [*argv, f], check=False, cwd=base.src).strip().split('\n')[0]) for f in files]


def same_export(base: Base) -> str:
    with tempfile.TemporaryDirectory(dir=base.b, suffix='.tmp') as d:
        export.make(base, Path(d))
        for f in Path(d).iterdir():
            if read(f) != read(base.dir / f.name):
                return f'{f.name} differs'
    return ''


def after_fixes(base: Base) -> None:
    """The order in which the cover letters say that all of them apply"""
    applied = apply.apply_in(base, base.src, apply.patches(*map(Base, base.keys('fixes')), base))
    if has_gpat(base):
        apply.need_strict(base, package.release(base.src), applied)


def series_items(base: Base) -> Items:
    """Patches, tree and overlay agree.

    Another release than the series was made on may need -C1, or have patches from upstream.
    """
    name, kernel = 'the patches apply with plain git am', package.release(base.src)
    try:
        applied = apply.apply_in(base, base.src, apply.patches(base))
        apply.need_strict(base, kernel, applied)
    except Fatal as e:
        return [item(name, False, str(e))]
    stale = [f'{where}: -C1' for where in applied.loose]
    stale += [f'{patch} is upstream' for patch in applied.left_out]
    items = [item(name, 'skip', f'{kernel}: {", ".join(stale)}') if stale else item(name, True)]
    made, there = (base.git('rev-parse', f'{c}^{{tree}}') for c in (applied.commit, 'HEAD'))
    items.append(item('the tree is what the patches make of the base', made == there))
    items.append(attempt('the file cases is about as many patches',
                         lambda: expected.find_stale(base, len(base.series()))))
    if base.keys('fixes'):
        items.append(attempt('its fixes and then the patches apply with git am',
                             lambda: after_fixes(base)))
    if not stale:
        items.append(attempt('make patches changes nothing', lambda: same_export(base)))
    return items


# ---- programs ----

def arguments() -> list[str]:
    """Settings for a program below, and what is locked already, by this one or those above."""
    above = [path for path in settings.LOCKED.split(':') if path]
    return [*settings.arguments(), f'LOCKED={":".join([*above, *map(str, bases.locked)])}']


def with_status(items: Items, rc: int | None, name: str, log: Path) -> Items:
    """These items of a program, and one more if it failed and none of them says why."""
    if rc == 0 or any(i.verdict == 'not ok' for i in items):
        return items
    return [*items, item(name, False, f'{jobs.last_line(read(log))} (log: {rel(log)})')]


def program(base: Base, part: Part) -> Items:
    """Start a program of the lab, and read its KTAP."""
    words = part.runs.split()
    log = base.logs / f'test-{re.sub("[ =]", "-", part.runs)}.log'
    result = base.results / (part.result or f'{words[0]}.ktap')
    result.unlink(missing_ok=True)
    rc = jobs.call([place.lab / 'nsvm', *words, *arguments()], log)
    if rc == NOT_HERE and part.may_skip:
        return [item(part.title, 'skip', jobs.last_line(read(log)))]
    return with_status(ktap.read(result) if result.exists() else [], rc, words[0], log)


def tap(file: Path) -> Items:
    """A test of the lab's own."""
    log = place.build / f'test-{file.name}.log'
    if file.suffix == '.py':
        rc = jobs.call(['/usr/bin/python3', '-B', '-m', 'unittest', '-q', file.stem], log,
                       cwd=place.lab / 't')
        return [item(file.name, rc == 0, f'{jobs.first_error(log)} (log: {rel(log)})'
                     if rc else '')]
    rc = jobs.call([file, *settings.arguments()], log)
    return with_status(ktap.parse(read(log), file.name), rc, file.name, log)


def run_short(base: Base) -> Items:
    """The short part, of another base."""
    name = base.name
    if not base.series():
        return [item(name, 'skip', 'no series yet')]
    result = base.results / 'short.ktap'
    result.unlink(missing_ok=True)
    given = [a for a in arguments() if not a.startswith(('BASE=', 'LINUX='))]
    jobs.call([place.lab / 'nsvm', 'test', 'short', f'BASE={name}', *['ALL=1'] * is_all(), *given],
              base.logs / 'test-short.log')
    return [Item(i.verdict, f'{name}: {i.name}', i.detail) for i in ktap.read(result)]


# ---- the table ----

def other_kernels(base: Base) -> list[Part]:
    """What uses the src of another base, and the other bases.  It takes long, and so is early."""
    same = 'Another KVM does what the model does'
    table = [
        Part('Checkpoints between kernels', 'migrate run', OTHERS),
        Part(f'{same}: mainline', 'model mainline', OTHERS, True, 'model-mainline.ktap', is_all()),
        Part(f'{same}: mainline-series', 'model mainline-series RANDOM=8', OTHERS, True,
             'model-mainline-series.ktap')]
    if is_default(base) and not base.linux:
        for other in map(Base, bases.names()):
            alone = other.key('source') or not other.key('suite') and not fix_tests(other)
            table.append(Part(other.name, lambda other=other: run_short(other),
                              '' if alone else OTHERS, when=other.name != base.name))
    return table


def programs(base: Base, stock: Kernel, series: Kernel) -> list[Part]:
    """The other programs of the lab, and its own tests."""
    tests = sorted((place.lab / 't').glob('*.t'))
    return [
        Part('Bochs, a CPU that obeys g_pat', lambda: parts.on_bochs(base, stock, series), BOCHS),
        Part('Memory types, on Bochs', 'types', BOCHS, True),
        Part('Kernels broken on purpose', 'mutants sample 8'),
        Part('Each short sequence of operations, against the model', 'model test'),
        Part('A minute of hostile input, a race (make fuzz has a debug kernel for it)',
             'fuzz run 60 1 plain'),
        Part('QEMU: the patches, if its source is here', 'vmms patches'),
        Part('Real hypervisors', 'stack short', may_skip=True),
        Part('Xen', 'xen short', may_skip=True),
        Part('Jobs for LAVA', 'lava', may_skip=True),
        Part('A fresh Debian 13', 'fresh', may_skip=True),
        Part('Which release takes which series', 'bases newest', may_skip=True,
             result=place.build / 'bases/bases.ktap'),
        Part('The Debian package', 'deb check', may_skip=True),
        *(Part(f'{LAB_TESTS}: {f.name}', lambda f=f: tap(f), CHECKS if f.name == 'checks.t' else '')
          for f in tests),
        Part('Benchmark', 'bench repeat vmrun'),
        Part('Files, and unit tests of the lab', check_files)]


def table_of(base: Base, stock: Kernel, series: Kernel, neighbours: list[str],
             is_short: bool) -> list[Part]:
    """All parts; neighbours: KVM's own tests that run beside the PAT tests."""
    in_full = is_all() or not is_short
    quirk_in_full = is_all() and is_opt_in(base) and is_default(base.before[-1])
    npt_0 = Part('Emulated machine, npt=0',
                 lambda: parts.two_kernels(base, stock, series, 0, neighbours), when=in_full)
    table = [
        Part('Emulated machine, npt=1',
             lambda: parts.two_kernels(base, stock, series, 1, neighbours), NPT_1),
        Part('The checker itself: a log that is right, spoilt', lambda: parts.checker(base), NPT_1,
             when=not is_short),
        Part("Mainline's own test", lambda: parts.mainlines_test(base, stock, series), NPT_1,
             when=in_full and not own_tests(base)),
        Part('The quirk enabled', lambda: parts.with_quirk(base, series), NPT_1,
             when=is_opt_in(base) and (is_all() or is_default(base.before[-1])))]
    series_part = Part('Series', lambda: series_items(base), CHECKS)
    if is_short:
        return [series_part, *table, npt_0,
                Part('Checkpoints between kernels', 'migrate run', when=quirk_in_full),
                Part('Each short sequence of operations', 'model test', when=quirk_in_full)]
    if not own_tests(base):
        table += other_kernels(base)
    table += [
        series_part,
        Part('make check: the mails, user-space ABI, the selftest', 'check fast', CHECKS),
        Part('Each patch builds (W=1, KVM_WERROR) and boots in its turn',
             lambda: parts.each_patch(base))]
    if own_tests(base):		# the rest is about another ABI, or about the lab
        table.append(Part(f'{LAB_TESTS}: mail.t', lambda: tap(place.lab / 't/mail.t')))
    else:
        table += programs(base, stock, series)
    return [*table, npt_0, Part('Two CPUs', lambda: parts.two_cpus(base, series)),
            Part('Style (checkpatch)', lambda: check_style(base), when=is_default(base))]


def chains(table: list[Part]) -> list[list[Part]]:
    """The parts that are wanted, in lists of those that run one after the other."""
    shared: dict[str, list[Part]] = {}
    for part in table:
        if part.when:
            shared.setdefault(part.shares or part.title, []).append(part)
    return list(shared.values())


def run_parts(report: Report, base: Base, table: list[Part], at_once: int) -> None:
    """Run the chains of a table from one queue, and report each part when it has ended."""
    printing = threading.Lock()

    def run(chain: list[Part]) -> None:
        for part in chain:
            begin = time.monotonic()
            try:
                items = program(base, part) if isinstance(part.runs, str) else part.runs()
            except Fatal as e:
                items = [item(part.title, False, str(e))]
            with printing:
                report.group(f'{part.title} ({elapsed(begin)})')
                report.add(items)
    list(jobs.each(run, chains(table), at_once))


# ---- all of it ----

def record_tested(base: Base, report: Report, content: str, made_with: dict[str, str]) -> None:
    """What make send asks for: that this series, and no other, passed everything"""
    file = base.results / 'tested'
    file.unlink(missing_ok=True)
    if not report.count('not ok') and content == tested.content_id(base):
        put(file, f'content {content}\ndate {datetime.date.today()}\n' 'summary Tested with make '
            f'test{" ALL=1" * is_all()}: {report.summary()} ({versions.short(made_with)}).\n')


def run_all(base: Base, report: Report, is_short: bool) -> None:
    """Make what all parts need, and run them.

    Raises:
        Fatal: source, kernels or tests cannot be had.
    """
    jobs.together(lambda: tree.make_base(base), qemu.ensure)
    tree.make_series(base)
    content = tested.content_id(base)
    if not own_tests(base) and (is_all() or not is_short):
        for quirk in (False, True):		# now, as parts of what follows move mainline's src
            with contextlib.suppress(Fatal):
                selftests.mainline_test(quirk)
    if is_short and base.key('source') and not is_all():
        run_parts(report, base, [Part('Series', lambda: series_items(base)),
                                 Part('Objects', lambda: parts.compile_objects(base))], 1)
        return
    stock, series = kernels.stock_kernel(base), kernels.series_kernel(base)
    neighbours = [] if is_short else selftests.NEIGHBOURS
    programs_in_c = [] if is_short else [f.stem for f in selftests.overlay_files(base, '*.c')]
    out = selftests.build(base, [*neighbours, *programs_in_c])
    made_with = versions.write(base, qemu.find().binary, [stock.image, *series.modules])
    say('VERSIONS', versions.short(made_with))
    table = table_of(base, stock, series, [t for t in neighbours if (out / t).exists()], is_short)
    run_parts(report, base, table, 1 if is_short else jobs.workers(2))
    if is_short:
        return
    if is_default(base) and not base.linux:
        run_parts(report, base, [Part('Ports', 'ports')], 1)		# looks at all of them
    record_tested(base, report, content, made_with)


def main(args: list[str]) -> int:
    if args not in ([], ['short']):
        raise Fatal('usage: test [short]')
    is_short = bool(args)
    base = Base().lock()
    report = Report(base.results / f'{"short" if is_short else "test"}.ktap')
    sys.stdout.reconfigure(line_buffering=True)
    try:
        run_all(base, report, is_short)
    except Fatal as e:
        # What the rest cannot do without
        report.item('skip' if is_short and e.status == NOT_HERE else False,
                    'source, kernels and tests', str(e))
    return ktap.finish(report)
