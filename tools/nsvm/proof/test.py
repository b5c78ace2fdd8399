# SPDX-License-Identifier: GPL-2.0
"""test [short] [ALL=1] - all tests of the series and of the lab

short  what this runs for each other base: the patches apply, both kernels build, the PAT tests
ALL=1  adds whole kernels of bases that have no packaged one (without ALL=1, the changed files of
       KVM are compiled and not run); on other bases npt=0, mainline's own test, and the quirk of
       an opt-in; mainline's model without its series; on Bochs the stock kernel, nrips=0, and
       kernels that are broken on purpose

Each item is one line: "ok", "not ok" or "SKIP", its name, and what was seen.
patches/<base>/cases has the expected results of the PAT tests: see expected.py.  Parts that are
programs of their own are started, and their KTAP is read.  JOBS= parts run at a time.

Results: build/<base>/results/{test,short}.ktap, logs/test-*.log; "tested", for send.  The last line
is always "N passed, N failed, N skipped".
Exit status: 0 if nothing failed, else 1.
"""
import datetime
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable

from kernel import kernels, selftests, whole
from kernel.kernels import Kernel
from lib import base as bases
from lib import jobs, ktap, versions
from lib.base import Base, git, put, read
from lib.ktap import Item, Report
from lib.say import Fatal, elapsed, say
from lib.settings import place, rel, settings
from machine import bochs, boot, qemu
from machine.boot import Boot
from proof import expected, vmruns
from source import apply, debian, export, package, tree

Items = list[Item]
Chain = list[tuple[str, Callable[[], Items]]]	# titles, and what gives their items, in this order
MUTANTS = '8'		# of the sample
FUZZ = '60'		# seconds


def is_all() -> bool:
    return settings.given.get('ALL') == '1'


def item(good: bool | str, name: str, detail: str = '') -> Item:
    return Item({True: 'ok', False: 'not ok'}.get(good, good), name, detail)


def judged(name: str, result: tuple[bool, str]) -> Item:
    return item(result[0], name, result[1])


def attempt(name: str, fn: Callable[[], object]) -> Item:
    """ok if it returns nothing, or what it returns says what is wrong"""
    try:
        wrong = fn()
    except Fatal as e:
        wrong = str(e)
    return item(not wrong, name, str(wrong or ''))


def arguments(name: str) -> list[str]:
    """Settings, and what is locked already, by this program or the one above, for one below"""
    above = [path for path in settings.LOCKED.split(':') if path]
    return [*settings.arguments(), *['ALL=1'] * (is_all() and name == 'test'), f'LOCKED={":".join([*above, *map(str, bases.locked)])}']


def program(base: Base, name: str, *args: str, result: Path | None = None, skip: str = '') -> Items:
    """A program of the lab and what it found; skip: an item's name, if status 3 is no failure"""
    log = base.logs / f'test-{"-".join([name, *args]).replace("/", "_").replace("=", "_")}.log'
    found = result or base.results / f'{name}.ktap'
    found.unlink(missing_ok=True)
    rc = jobs.call([place.lab / 'nsvm', name, *args, *arguments(name)], log)
    if rc == 3 and skip:
        return [item('skip', skip, jobs.last_line(read(log)))]
    items = ktap.read(found) if found.exists() else []
    if rc and not any(i.verdict == 'not ok' for i in items):
        items.append(item(False, name, f'{jobs.last_line(read(log))} (log: {rel(log)})'))
    return items


# ---- files ----

def scripts() -> list[str]:
    found = [f for d in ('tools/nsvm', '.ci') for f in (place.top / d).rglob('*') if f.is_file() and '__pycache__' not in f.parts]
    return [str(f.relative_to(place.top)) for f in found if re.match(r'#!/bin/(busybox )?sh|# shellcheck shell', f.read_text(errors='replace'))]


def shellcheck() -> str:
    log = place.build / 'shellcheck.log'
    return '' if jobs.call(['shellcheck', '-x', *scripts()], log, cwd=place.top) == 0 else read(log).strip().split('\n')[0]


def whitespace() -> str:
    files = git(place.top, 'ls-files', '--cached', '--others', '--exclude-standard').splitlines()
    bad = [f'{name}:{n}' for name in files if not name.endswith('.patch') and (place.top / name).is_file()
           for n, line in enumerate((place.top / name).read_text(errors='replace').split('\n'), 1)
           if line != line.rstrip() or ' \t' in line]
    return ' '.join(bad[:5])


def checkpatch(base: Base, *args: str | Path) -> str:
    """Not counted: Signed-off-by is missing, a human adds it; commit ids in Fixes: cannot be looked
    up, the tree has no history; a new file may be in no pattern of MAINTAINERS; user space has no BIT()"""
    said = jobs.output(['scripts/checkpatch.pl', '--strict', '--terse', '--no-summary', '--quiet', '--color=never',
                        '--ignore', 'MISSING_SIGN_OFF,UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES,BIT_MACRO', *args], check=False, cwd=base.src)
    return said.strip().split('\n')[0]


def tap(file: Path) -> Items:
    """A test of the lab's own"""
    log = place.build / f'test-{file.name}.log'
    if file.suffix == '.py':
        rc = jobs.call(['/usr/bin/python3', '-B', '-m', 'unittest', '-q', file.stem], log, cwd=place.lab / 't')
        return [item(rc == 0, file.name, '' if rc == 0 else f'{jobs.first_error(log)} (log: {rel(log)})')]
    rc = jobs.call([file, *settings.arguments()], log)
    items = ktap.parse(read(log), file.name)
    return items if rc == 0 or any(i.verdict == 'not ok' for i in items) else [*items, item(False, file.name, jobs.last_line(read(log)))]


def check_files() -> Items:
    return [attempt('shellcheck of tools/nsvm and .ci/run', shellcheck), attempt('no trailing blanks, no blanks before tabs', whitespace),
            *(i for f in sorted((place.lab / 't').glob('test_*.py')) for i in tap(f))]


def style(base: Base) -> Items:
    ours = [*sorted(place.overlay.glob('*.[ch]')), *sorted(place.lab.rglob('*.[ch]'))] if base.is_default() else []
    return [attempt(f'checkpatch --strict {f.name.removesuffix(".patch")}', lambda f=f, how=how: checkpatch(base, *how, f))
            for how, files in (((), [base.dir / p for p in base.series()]), (('-f',), ours)) for f in files]


# ---- patches, tree and overlay agree ----

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
    if base.own_test():
        apply.need_strict(base, package.release(base.src), applied)


def series_items(base: Base) -> Items:
    """On another release than the series was made on, patches may need -C1, or be upstream already"""
    name, made = 'the patches apply with plain git am', []
    items = [attempt(name, lambda: made.append(apply.apply_in(base, base.src, apply.patches(base))))]
    if not made:
        return items
    applied = made[0]
    items = [attempt(name, lambda: apply.need_strict(base, package.release(base.src), applied))]
    if items[0].verdict == 'not ok':
        return items
    if applied.loose or applied.left_out:
        stale = [f'{where}: -C1' for where in applied.loose] + [f'{patch} is upstream' for patch in applied.left_out]
        items = [item('skip', name, f'{package.release(base.src)}: {", ".join(stale)}')]
    same = base.git('rev-parse', f'{applied.commit}^{{tree}}') == base.git('rev-parse', 'HEAD^{tree}')
    items.append(item(same, 'the tree is what the patches make of the base'))
    if base.keys('fixes'):
        items.append(attempt('its fixes and then the patches apply with git am', lambda: after_fixes(base)))
    if items[0].verdict != 'skip':
        items.append(attempt('make patches changes nothing', lambda: same_export(base)))
    return items


# ---- boots ----

def booted(base: Base, kernel: Kernel, label: str, tests: list[str], name: str, items: Items, **how) -> Boot | None:
    try:
        return boot.run(kernel, label, tests, base=base, **how)
    except Fatal as e:
        items.append(item(False, name, str(e)))
        return None


def watched(name: str, b: Boot | None, base: Base, n: int | None = None) -> Items:
    """VMCBs at each VMRUN; n: what only that can see after patch n, if it is not the whole series"""
    if not b:
        return []
    if not b.vmruns:
        return [item('skip', name, 'no QEMU that can load the plugin, or not emulated')]
    with open(b.vmruns) as f:
        check = vmruns.check(f, b.log.stem)
    if n is not None:
        return [judged(name, expected.compare_view(base, check, n))] if expected.view_faults(base, n) else []
    return [item(check.ok, name, check.figures if check.ok else check.text().split('\n')[0])]


def as_expected(name: str, b: Boot | None, base: Base, n: int) -> Items:
    return [judged(name, expected.compare(base, ktap.cases(b.text()), n))] if b else []


def verdicts(b: Boot, test: str) -> list[str]:
    return [f'{c.case} {c.verdict}'.strip() for c in ktap.cases(b.text()) if c.test == test]


def neighbours(base: Base, two: list[Kernel], boots: list[Boot], npt: int, tests: list[str]) -> Items:
    """The neighbour says the same of both kernels"""
    items = []
    for t in tests:
        was, now = (verdicts(b, t) for b in boots)
        again = ''
        if t == 'state_test' and (was != ['ok'] or now != ['ok']):
            # The emulator loses AVX state about once in 200 runs: once more
            again = ', PASSED AT THE SECOND TRY'
            was, now = (verdicts(boot.run(k, f'again-{k.label}-npt{npt}', [t], base=base, npt=npt), t) for k in two)
        same = was == now and bool(now)
        short = f'the same {len(now)} verdicts' if len(now) > 1 else now[0] if now else ''
        items.append(item(same, f'neighbour {t}, npt={npt}', f'{short} on both{again}' if same else
                          f'base: {", ".join(was) or "no result"}; series: {", ".join(now) or "no result"}'))
    return items


def two_kernels(base: Base, two: list[Kernel], npt: int, tests: list[str]) -> Items:
    """Base and series with all PAT tests"""
    items: Items = []
    n, stock, pats = len(base.series()), base.unpatched(), selftests.pat_tests(base)
    was, now = jobs.together(*(lambda k=k, label=label: booted(base, k, f'{label}-npt{npt}', [*pats, *tests], f'{label} boots, npt={npt}', items, npt=npt)
                               for k, label in zip(two, ('base', 'series'))))
    if npt:
        items += as_expected('PAT tests on the base', was, base, stock) + watched('what only the view sees on the base', was, base, stock)
        items += as_expected('PAT tests on the series', now, base, n) + watched('VMRUNs on the series', now, base)
    else:
        items += [judged(f'PAT tests on the {label}, npt=0', expected.without_npt(base, ktap.cases(b.text()), n_of))
                  for label, b, n_of in (('base', was, stock), ('series', now, n)) if b]
        items += watched('VMRUNs on the series, npt=0', now, base)
    return items + (neighbours(base, two, [was, now], npt, tests) if was and now else [])


def objects(base: Base) -> Items:
    """In place of a whole kernel: what the series changes compiles"""
    compiled = whole.compile_objects(base)
    return [item(True, 'what the series changes of KVM compiles (W=1, KVM_WERROR)', ' '.join(Path(o).name for o in compiled)),
            item('skip', 'PAT tests', 'they take a whole kernel, as Debian packages none of this base: make test ALL=1')]


def smp(base: Base, series: Kernel) -> Items:
    items: Items = []
    b = booted(base, series, 'series-smp2', selftests.pat_tests(base), 'two CPUs', items, smp=2)
    return [*items, *as_expected('PAT tests on the series, two CPUs', b, base, len(base.series())),
            *watched('VMRUNs on the series, two CPUs', b, base)]


def on_bochs(base: Base, two: list[Kernel]) -> Items:
    """PAT tests on the other machine"""
    n, stock, pats = len(base.series()), base.unpatched(), selftests.pat_tests(base)
    parts = [('the base', pats, stock), ('the series', ['load:series.ko:nested=1', *pats], n),
             ('the series with nrips=0', ['load:series.ko:nested=1:nrips=0', *pats], n)]
    if not is_all():
        parts = [('the base', [], stock), parts[1]]
    try:
        tests = [test for _, tests, _ in parts for test in tests]
        b, _ = bochs.run(two[0], 'bochs', tests, base=base, others={'series': two[1]})
    except Fatal as e:
        return [item('skip' if e.status == debian.NOT_HERE else False, 'PAT tests on Bochs', str(e))]
    found = [ktap.cases(section) for section in bochs.sections(b.text())]
    refused = bochs.refused(base.results / 'bochs.bochs')
    return [*(judged(f'PAT tests on {what}, on Bochs', expected.compare(base, cases, patches))
              for (what, tests, patches), cases in zip(parts, found) if tests),
            item(not refused, "Bochs' CPU refuses no VMRUN", refused[0][1] if refused else '')]


def mainlines_own(base: Base, two: list[Kernel]) -> Items:
    """Mainline's test, which knows nothing of ours; where it cannot disable the quirk, it skips itself"""
    quirk = base.is_opt_in()
    name, before = ("mainline's own test", 'skip') if quirk else ("mainline's own test, without its quirk", 'not ok')
    try:
        tests_dir = selftests.mainline_test(quirk)
    except Fatal as e:
        return [item('skip' if e.status == debian.NOT_HERE else False, name, str(e))]
    items: Items = []
    for kernel, label, want in zip(two, ('base', 'series'), (before, 'ok')):
        b = booted(base, kernel, f'mainline-{label}', [selftests.MAINLINE_TEST], f'{name}, on the {label}', items, tests_dir=tests_dir)
        if b:
            whole = ktap.cases(b.text())[-1]
            said = f'{whole.verdict}, {b.text().count("Testing: ")} parts{": " + whole.reason if whole.reason else ""}'
            items.append(item(whole.verdict == want, f'{name}, on the {label}', said))
    return items


def found_fault(b: Boot) -> set[str]:
    """The cases in which the view finds one"""
    with open(b.vmruns) as f:
        return {e.case.partition(' ')[2] for e in vmruns.check(f, b.log.stem).errors}


def with_quirk(base: Base, series: Kernel) -> Items:
    """With the quirk enabled, KVM is the kernel without any of it, the series before included: all that tests which do
    not know the quirk, and thus do not disable it, can see of the two is the same, but for upstream's fixes in it"""
    items: Items = []
    pats, tests_dir = selftests.pat_tests(base), selftests.build(base, unaware=True)
    stock = kernels.tree_kernel(base, base.root(), 'stock', 'kernel-stock')
    for npt in (1, 0) if is_all() else (1,):
        was, now = jobs.together(*(lambda k=k, label=label: booted(
            base, k, f'{label}-npt{npt}', pats, f'{label} boots, npt={npt}', items, npt=npt, tests_dir=tests_dir)
            for k, label in ((stock, 'stock'), (series, 'quirk'))))
        if not was or not now:
            continue
        items.append(judged(f'quirk enabled: verdicts of the stock kernel, npt={npt}', expected.same_verdicts(
            *(ktap.cases(boot.text()) for boot in (was, now)), expected.repaired(base.before[-1]))))
        if now.vmruns:
            more = found_fault(now) - found_fault(was)
            items.append(item(not more, f'quirk enabled: the view finds what it finds on the stock kernel, npt={npt}',
                              ' '.join(sorted(more))))
    return items


def checker(base: Base) -> Items:
    log = base.results / 'series-npt1.vmrun'
    if not log.exists():
        return [item('skip', 'checker of VMRUNs', 'no log of VMRUNs')]
    with open(log) as f:
        return [item(verdict, f'checker: {name}', detail) for verdict, name, detail in vmruns.selftest(f)]


def step(base: Base, n: int) -> Items:
    """After one patch"""
    items: Items = []
    name = f'patch {n} builds, boots, and the PAT tests'
    try:
        kernel = kernels.step_kernel(base, n)
    except Fatal as e:
        return [item(False, f'patch {n} builds', str(e))]
    b = booted(base, kernel, f'step-{n}', selftests.pat_tests(base), name, items)
    return [*items, *as_expected(name, b, base, n), *watched(f'what only the view sees after patch {n}', b, base, n)]


# ---- what of it is at a time ----

def own_test(base: Base, two: list[Kernel]) -> Chain:
    """Of bases that get gPAT from their series"""
    return [] if base.own_tests() else [("Mainline's own test", lambda: mainlines_own(base, two))]


def shared(base: Base, series: Kernel) -> Chain:
    """Of bases whose series has the quirk; what is a port of another one's has no more than that"""
    if not base.is_opt_in() or not (is_all() or base.before[-1].is_default()):
        return []
    more = [('Checkpoints between kernels, with and without the quirk', lambda: program(base, 'migrate', 'run')),
            ('Each short sequence of operations, with and without the quirk', lambda: program(base, 'model', 'test'))]
    return [('The quirk enabled', lambda: with_quirk(base, series)), *(more if base.before[-1].is_default() and is_all() else [])]


def groups(base: Base, two: list[Kernel], tests: list[str]) -> list[Chain]:
    """A chain is for what uses the same files or directories, or what was kept before: another base's build/,
    build/<base>/check, build/roots; all else is in any order.  What takes long is early"""
    same = 'does what the model does'
    models = [(f'Another KVM {same}: {what}', lambda what=what, more=more: program(
        base, 'model', what, *more, result=base.results / f'model-{what}.ktap', skip=f'{what} {same}'))
        for what, more in (('mainline', []), ('mainline-series', ['RANDOM=8'])) if more or is_all()]
    own_tests = {f.name: (f'The lab\'s own tests: {f.name}', lambda f=f: tap(f))
                 for f in sorted((place.lab / 't').glob('*.t'))}
    checks = [('Series', lambda: series_items(base)),
              ('make check: the mails, user-space ABI, the selftest', lambda: program(base, 'check', 'fast'))]
    first = [('Emulated machine, npt=1', lambda: two_kernels(base, two, 1, tests)),
             ('The checker itself: a log that is right, spoilt', lambda: checker(base)), *own_test(base, two), *shared(base, two[1])]
    steps = ('Each patch builds (W=1, KVM_WERROR) and boots in its turn',
             lambda: [i for n in base.applied() for i in step(base, n)])
    short = [('Emulated machine, npt=0', lambda: two_kernels(base, two, 0, tests)),
             ('Two CPUs', lambda: smp(base, two[1])),
             ('Style (checkpatch; Signed-off-by is the sender\'s)', lambda: style(base))]
    if base.own_tests():
        # The rest is about another ABI, or about the lab
        return [first, [steps], checks, *([part] for part in (*short, own_tests['mail.t']))]
    ports = [name for name in bases.names() if base.is_default() and not base.linux and name != base.name]
    ports.sort(key=lambda port: not Base(port).key('source'))		# with that it is a whole kernel
    alone = [port for port in ports if Base(port).key('source') or not Base(port).key('suite') and not Base(port).fix_tests()]
    others = {port: (port, lambda port=port: other(port)) for port in ports}
    return [first, *([others[port]] for port in alone),
            [('Checkpoints between kernels', lambda: program(base, 'migrate', 'run')), *models,
             *(part for port, part in others.items() if port not in alone)],
            [*checks, own_tests.pop('checks.t')], [steps],
            [('Bochs, a CPU that obeys g_pat', lambda: on_bochs(base, two)),
             ('Memory types, on Bochs', lambda: program(base, 'types', *['mutants'] * is_all(), skip='memory types'))],
            *([part] for part in (
                ('Kernels broken on purpose', lambda: program(base, 'mutants', 'sample', MUTANTS)),
                ('Each short sequence of operations, against the model', lambda: program(base, 'model', 'test')),
                ('A minute of hostile input, a race (make fuzz has a debug kernel for it)',
                 lambda: program(base, 'fuzz', 'run', FUZZ, '1', 'plain')),
                ('QEMU: the patches, if its source is here', lambda: program(base, 'vmms', 'patches')),
                ('Real hypervisors', lambda: program(base, 'stack', 'short', skip='real hypervisors')),
                ('Xen', lambda: program(base, 'xen', 'short', skip='Xen')),
                ('Jobs for LAVA', lambda: program(base, 'lava', skip='jobs for LAVA')),
                ('A fresh Debian 13', lambda: program(base, 'fresh', skip='make run in a fresh Debian 13')),
                ('Which release takes which series', lambda: program(
                    base, 'bases', 'newest', result=place.build / 'bases/bases.ktap', skip='which release takes which series')),
                ('The Debian package', lambda: program(base, 'deb', 'check', skip='the Debian package')),
                *own_tests.values(), ('Benchmark', lambda: program(base, 'bench', 'repeat', 'vmrun')), *short,
                ('Files, and unit tests of the lab', check_files)))]


def other(name: str) -> Items:
    """The short part, of another base"""
    base = Base(name)
    if not base.series():
        return [item('skip', name, 'no series yet')]
    log = base.logs / 'test-short.log'
    result = base.results / 'short.ktap'
    result.unlink(missing_ok=True)
    given = [a for a in arguments('test') if not a.startswith(('BASE=', 'LINUX='))]
    jobs.call([place.lab / 'nsvm', 'test', 'short', f'BASE={name}', *given], log)
    return [Item(i.verdict, f'{name}: {i.name}', i.detail) for i in ktap.read(result)]


def run_groups(report: Report, chains: list[Chain]) -> None:
    """From one queue; a part has two machines at a time"""
    printing = threading.Lock()

    def run(chain: Chain) -> None:
        for title, fn in chain:
            begin = time.monotonic()
            try:
                items = fn()
            except Fatal as e:
                items = [item(False, title, str(e))]
            with printing:
                report.group(f'{title} ({elapsed(begin)})')
                report.add(items)
    list(jobs.each(run, chains, jobs.workers(2)))


def record_tested(base: Base, report: Report, content: str, made_with: dict[str, str]) -> None:
    """What make send asks for: that this series, and no other, passed everything"""
    file = base.results / 'tested'
    file.unlink(missing_ok=True)
    if not report.count('not ok') and content == base.content_id():
        put(file, f'content {content}\ndate {datetime.date.today()}\n'
                  f'summary Tested with make test{" ALL=1" * is_all()}: {report.summary()} ({versions.short(made_with)}).\n')


def main(args: list[str]) -> int:
    if args not in ([], ['short']):
        raise Fatal('usage: test [short]')
    short = bool(args)
    base = Base().lock()
    report = Report(base.results / f'{"short" if short else "test"}.ktap')
    sys.stdout.reconfigure(line_buffering=True)
    try:
        jobs.together(lambda: tree.make_base(base), qemu.ensure)
        tree.make_series(base)
        content = base.content_id()
        if not base.own_tests():
            # Now, as parts of what follows move mainline's src
            for quirk in ({base.is_opt_in()} if is_all() else set()) if short else {False, True}:
                attempt('', lambda quirk=quirk: not selftests.mainline_test(quirk))
        if short and base.key('source') and not is_all():
            run_groups(report, [[('Series', lambda: series_items(base)), ('Objects', lambda: objects(base))]])
            return ktap.finish(report)
        tests = [] if short else selftests.NEIGHBOURS
        programs = [] if short else [f.stem for f in selftests.overlay_files(base, '*.c')]
        two = [kernels.base_kernel(base), kernels.series_kernel(base)]
        out = selftests.build(base, [*tests, *programs])
        tests = [t for t in tests if (out / t).exists()]
        made_with = versions.write(base, qemu.find().binary, [two[0].image, *two[1].modules])
        say('VERSIONS', versions.short(made_with))
        if short:
            run_groups(report, [[('Series', lambda: series_items(base)), *(
                (f'npt={npt}', lambda npt=npt: two_kernels(base, two, npt, [])) for npt in ((1, 0) if is_all() else (1,))),
                *(own_test(base, two) if is_all() else []),
                *shared(base, two[1])]])
        else:
            run_groups(report, groups(base, two, tests))
            if base.is_default() and not base.linux:
                run_groups(report, [[('Ports', lambda: program(base, 'ports'))]])	# looks at all of them
            record_tested(base, report, content, made_with)
    except Fatal as e:
        # What the rest cannot do without
        report.item('skip' if short and e.status == 3 else False, 'source, kernels and tests', str(e))
    for i in report.items:
        if i.detail.endswith('SECOND TRY'):
            say('AGAIN', f'{i.name}: {i.detail}')
    return ktap.finish(report)
