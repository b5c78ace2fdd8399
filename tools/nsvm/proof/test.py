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


def not_here(name: str, error: Fatal) -> Item:
    """A skip if something cannot be had here, else a failure"""
    return item('skip' if error.status == debian.NOT_HERE else False, name, str(error))


def attempt(name: str, fn: Callable[[], object]) -> Item:
    """ok if it returns nothing; else what it returns or raises is the reason"""
    try:
        reason = fn()
    except Fatal as e:
        reason = str(e)
    return item(not reason, name, str(reason or ''))


def arguments(name: str) -> list[str]:
    """Settings, and what is locked already, by this program or the one above, for one below"""
    above = [path for path in settings.LOCKED.split(':') if path]
    return [*settings.arguments(), *['ALL=1'] * (is_all() and name == 'test'),
            f'LOCKED={":".join([*above, *map(str, bases.locked)])}']


def program(base: Base, name: str, *args: str, result: Path | None = None, skip: str = '') -> Items:
    """A program of the lab and what it found; skip: an item's name, if status 3 is no failure"""
    log = base.logs / f'test-{"-".join([name, *args]).replace("/", "_").replace("=", "_")}.log'
    ktap_file = result or base.results / f'{name}.ktap'
    ktap_file.unlink(missing_ok=True)
    rc = jobs.call([place.lab / 'nsvm', name, *args, *arguments(name)], log)
    if rc == 3 and skip:
        return [item('skip', skip, jobs.last_line(read(log)))]
    items = ktap.read(ktap_file) if ktap_file.exists() else []
    if rc and not any(i.verdict == 'not ok' for i in items):
        items.append(item(False, name, f'{jobs.last_line(read(log))} (log: {rel(log)})'))
    return items


# ---- files ----

def texts() -> dict[str, str]:
    """What is in the files of the repository, but in patches"""
    names = git(place.top, 'ls-files', '--cached', '--others', '--exclude-standard').splitlines()
    return {name: (place.top / name).read_text(errors='replace') for name in names
            if not name.endswith('.patch') and (place.top / name).is_file()}


def shellcheck(files: dict[str, str]) -> str:
    scripts = [name for name, text in files.items() if name.startswith(('tools/nsvm/', '.ci/'))
               and re.match(r'#!/bin/(busybox )?sh|# shellcheck shell', text)]
    log = place.build / 'shellcheck.log'
    rc = jobs.call(['shellcheck', '-x', *scripts], log, cwd=place.top)
    return read(log).strip().split('\n')[0] if rc else ''


def whitespace(files: dict[str, str]) -> str:
    places = [f'{name}:{n}' for name, text in files.items()
              for n, line in enumerate(text.split('\n'), 1)
              if line != line.rstrip() or ' \t' in line]
    return ' '.join(places[:5])


def checkpatch(base: Base, *args: str | Path) -> str:
    """Not counted: a missing Signed-off-by, which a human adds; commit ids, as the tree has no
    history; new files that no pattern of MAINTAINERS has; BIT(), which user space has not"""
    ignored = 'MISSING_SIGN_OFF,UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES,BIT_MACRO'
    argv = ['scripts/checkpatch.pl', '--strict', '--terse', '--no-summary', '--quiet',
            '--color=never', '--ignore', ignored, *args]
    return jobs.output(argv, check=False, cwd=base.src).strip().split('\n')[0]


def tap(file: Path) -> Items:
    """A test of the lab's own"""
    log = place.build / f'test-{file.name}.log'
    if file.suffix == '.py':
        rc = jobs.call(['/usr/bin/python3', '-B', '-m', 'unittest', '-q', file.stem], log,
                       cwd=place.lab / 't')
        reason = f'{jobs.first_error(log)} (log: {rel(log)})' if rc else ''
        return [item(not reason, file.name, reason)]
    rc = jobs.call([file, *settings.arguments()], log)
    items = ktap.parse(read(log), file.name)
    if rc != 0 and not any(i.verdict == 'not ok' for i in items):
        items.append(item(False, file.name, jobs.last_line(read(log))))
    return items


def check_files() -> Items:
    files = texts()
    return [attempt('shellcheck of tools/nsvm and .ci/run', lambda: shellcheck(files)),
            attempt('no trailing blanks, no blanks before tabs', lambda: whitespace(files)),
            *(i for f in sorted((place.lab / 't').glob('test_*.py')) for i in tap(f))]


def style(base: Base) -> Items:
    files = [(f, []) for f in apply.patches(base)]
    if base.is_default():
        files += [(f, ['-f']) for f in (*sorted(place.overlay.glob('*.[ch]')),
                                        *sorted(place.lab.rglob('*.[ch]')))]
    return [attempt(f'checkpatch --strict {f.name.removesuffix(".patch")}',
                    lambda f=f, options=options: checkpatch(base, *options, f))
            for f, options in files]


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
    """Another release than the series was made on may need -C1, or have patches from upstream"""
    name, kernel = 'the patches apply with plain git am', package.release(base.src)
    try:
        applied = apply.apply_in(base, base.src, apply.patches(base))
        apply.need_strict(base, kernel, applied)
    except Fatal as e:
        return [item(False, name, str(e))]
    stale = [f'{where}: -C1' for where in applied.loose]
    stale += [f'{patch} is upstream' for patch in applied.left_out]
    items = [item('skip', name, f'{kernel}: {", ".join(stale)}') if stale else item(True, name)]
    made, there = (base.git('rev-parse', f'{c}^{{tree}}') for c in (applied.commit, 'HEAD'))
    items.append(item(made == there, 'the tree is what the patches make of the base'))
    if base.keys('fixes'):
        items.append(attempt('its fixes and then the patches apply with git am',
                             lambda: after_fixes(base)))
    if not stale:
        items.append(attempt('make patches changes nothing', lambda: same_export(base)))
    return items


# ---- boots ----

def boot_both(base: Base, two: dict[str, Kernel], tests: list[str], npt: int,
              **options) -> list[Boot]:
    """Both at a time; two: label -> kernel"""
    return jobs.together(*(
        lambda k=k, label=label: boot.run(k, f'{label}-npt{npt}', tests, base=base, npt=npt,
                                          **options) for label, k in two.items()))


def watched(name: str, b: Boot, base: Base, n: int | None = None) -> Items:
    """VMCBs at each VMRUN; n: what only that can see after patch n, if not of the whole series"""
    if not b.vmruns:
        return [item('skip', name, 'no QEMU that can load the plugin, or not emulated')]
    with open(b.vmruns) as f:
        check = vmruns.check(f, b.log.stem)
    if n is None:
        return [item(check.ok, name, check.figures if check.ok else check.text().split('\n')[0])]
    if not expected.view_faults(base, n):
        return []
    return [judged(name, expected.compare_view(base, check, n))]


def as_expected(name: str, log_text: str, base: Base, n: int) -> Item:
    return judged(name, expected.compare(base, ktap.cases(log_text), n))


def verdicts(b: Boot, test: str) -> list[str]:
    return [f'{c.case} {c.verdict}'.strip() for c in ktap.cases(b.text()) if c.test == test]


def neighbours(base: Base, two: list[Kernel], boots: list[Boot], npt: int,
               tests: list[str]) -> Items:
    """The neighbour says the same of both kernels"""
    items = []
    for t in tests:
        was, now = (verdicts(b, t) for b in boots)
        again = ''
        if t == 'state_test' and (was != ['ok'] or now != ['ok']):
            # The emulator loses AVX state about once in 200 runs: once more
            again = ', PASSED AT THE SECOND TRY'
            was, now = (verdicts(boot.run(k, f'again-{k.label}-npt{npt}', [t], base=base, npt=npt),
                                 t) for k in two)
        short = f'the same {len(now)} verdicts' if len(now) > 1 else ''.join(now)
        if was == now and now:
            items.append(item(True, f'neighbour {t}, npt={npt}', f'{short} on both{again}'))
        else:
            items.append(item(False, f'neighbour {t}, npt={npt}',
                              f'stock: {", ".join(was) or "no result"}; '
                              f'series: {", ".join(now) or "no result"}'))
    return items


def two_kernels(base: Base, two: list[Kernel], npt: int, tests: list[str]) -> Items:
    """The stock kernel and the series with all PAT tests"""
    labels = {'stock': base.unpatched(), 'series': len(base.series())}
    boots = boot_both(base, dict(zip(labels, two)), [*selftests.pat_tests(base), *tests], npt)
    items: Items = []
    for (label, n), b in zip(labels.items(), boots):
        kernel = 'the stock kernel' if label == 'stock' else 'the series'
        if npt:
            items.append(as_expected(f'PAT tests on {kernel}', b.text(), base, n))
        else:
            items.append(judged(f'PAT tests on {kernel}, npt=0',
                                expected.without_npt(base, ktap.cases(b.text()), n)))
        if label == 'stock' and npt:
            items += watched('what only the view sees on the stock kernel', b, base, n)
    items += watched('VMRUNs on the series' + ', npt=0' * (not npt), boots[1], base)
    return items + neighbours(base, two, boots, npt, tests)


def objects(base: Base) -> Items:
    """In place of a whole kernel: what the series changes compiles"""
    compiled = whole.compile_objects(base)
    return [item(True, 'what the series changes of KVM compiles (W=1, KVM_WERROR)',
                 ' '.join(Path(o).name for o in compiled)),
            item('skip', 'PAT tests',
                 'they take a whole kernel, as Debian packages none of this base: make test ALL=1')]


def smp(base: Base, series: Kernel) -> Items:
    b = boot.run(series, 'series-smp2', selftests.pat_tests(base), base=base, smp=2)
    return [as_expected('PAT tests on the series, two CPUs', b.text(), base, len(base.series())),
            *watched('VMRUNs on the series, two CPUs', b, base)]


def on_bochs(base: Base, two: list[Kernel]) -> Items:
    """PAT tests on the other machine"""
    n, stock, pats = len(base.series()), base.unpatched(), selftests.pat_tests(base)
    parts = [('the stock kernel', pats, stock), ('the series', ['load:series.ko:nested=1', *pats], n),
             ('the series with nrips=0', ['load:series.ko:nested=1:nrips=0', *pats], n)]
    if not is_all():
        parts = [('the stock kernel', [], stock), parts[1]]
    try:
        tests = [test for _, tests, _ in parts for test in tests]
        b, _ = bochs.run(two[0], 'bochs', tests, base=base, others={'series': two[1]})
    except Fatal as e:
        return [not_here('PAT tests on Bochs', e)]
    items = []
    for (title, tests, patches), section in zip(parts, bochs.sections(b.text())):
        if tests:
            items.append(as_expected(f'PAT tests on {title}, on Bochs', section, base, patches))
    refused = bochs.refused(base.results / 'bochs.bochs')
    return [*items, item(not refused, "Bochs' CPU refuses no VMRUN",
                         refused[0][1] if refused else '')]


def mainlines_own(base: Base, two: list[Kernel]) -> Items:
    """Mainline's test, which knows nothing of ours and skips itself without the quirk"""
    quirk = base.is_opt_in()
    name = f'mainline\'s own test{"" if quirk else ", without its quirk"}'
    try:
        tests_dir = selftests.mainline_test(quirk)
    except Fatal as e:
        return [not_here(name, e)]
    items: Items = []
    for kernel, label, want in zip(two, ('stock', 'series'), ('skip' if quirk else 'not ok', 'ok')):
        log_text = boot.run(kernel, f'mainline-{label}', [selftests.MAINLINE_TEST], base=base,
                            tests_dir=tests_dir).text()
        whole = ktap.cases(log_text)[-1]
        detail = f'{whole.verdict}, {log_text.count("Testing: ")} parts'
        items.append(item(whole.verdict == want, f'{name}, on {label}',
                          f'{detail}: {whole.reason}' if whole.reason else detail))
    return items


def faulty_cases(b: Boot) -> set[str]:
    """The cases in which the view finds a fault"""
    with open(b.vmruns) as f:
        return {e.case.partition(' ')[2] for e in vmruns.check(f, b.log.stem).errors}


def with_quirk(base: Base, series: Kernel) -> Items:
    """With the quirk enabled, tests that do not know it, and thus do not disable it, see the kernel
    without any of the series, but for upstream's fixes in it"""
    items: Items = []
    pats, tests_dir = selftests.pat_tests(base), selftests.build(base, unaware=True)
    two = {'root': kernels.tree_kernel(base, base.root(), 'stock', 'kernel-root'),
           'quirk': series}
    for npt in (1, 0) if is_all() else (1,):
        was, now = boot_both(base, two, pats, npt, tests_dir=tests_dir)
        items.append(judged(f'quirk enabled: verdicts of the stock kernel, npt={npt}',
                            expected.same_verdicts(*(ktap.cases(b.text()) for b in (was, now)),
                                                   expected.repaired(base.before[-1]))))
        if now.vmruns:
            more = faulty_cases(now) - faulty_cases(was)
            items.append(item(not more, 'quirk enabled: the view finds what it finds on the stock '
                              f'kernel, npt={npt}', ' '.join(sorted(more))))
    return items


def checker(base: Base) -> Items:
    log = base.results / 'series-npt1.vmrun'
    if not log.exists():
        return [item('skip', 'checker of VMRUNs', 'no log of VMRUNs')]
    with open(log) as f:
        return [item(verdict, f'checker: {name}', detail)
                for verdict, name, detail in vmruns.selftest(f)]


def step(base: Base, n: int) -> Items:
    """After one patch"""
    name = f'patch {n} builds, boots, and the PAT tests'
    try:
        b = boot.run(kernels.step_kernel(base, n), f'step-{n}', selftests.pat_tests(base),
                     base=base)
    except Fatal as e:
        return [item(False, name, str(e))]
    return [as_expected(name, b.text(), base, n),
            *watched(f'what only the view sees after patch {n}', b, base, n)]


# ---- what of it is at a time ----

def own_test(base: Base, two: list[Kernel]) -> Chain:
    """Of bases that get gPAT from their series"""
    return [] if base.own_tests() else [("Mainline's own test", lambda: mainlines_own(base, two))]


def shared(base: Base, series: Kernel) -> Chain:
    """Of bases whose series has the quirk; what is a port of another one's has no more than that"""
    if not base.is_opt_in() or not (is_all() or base.before[-1].is_default()):
        return []
    chain = [('The quirk enabled', lambda: with_quirk(base, series))]
    if base.before[-1].is_default() and is_all():
        chain += [('Checkpoints between kernels, with and without the quirk',
                   lambda: program(base, 'migrate', 'run')),
                  ('Each short sequence of operations, with and without the quirk',
                   lambda: program(base, 'model', 'test'))]
    return chain


def groups(base: Base, two: list[Kernel], tests: list[str]) -> list[Chain]:
    """A chain is for what uses the same files or directories, or what was kept before: another
    base's build/, build/<base>/check, build/roots; all else is in any order.  What takes long is
    early"""
    same = 'does what the model does'
    kvms = {**({'mainline': []} if is_all() else {}), 'mainline-series': ['RANDOM=8']}
    models = [(f'Another KVM {same}: {kvm}',
               lambda kvm=kvm, more=more: program(base, 'model', kvm, *more, skip=f'{kvm} {same}',
                                                  result=base.results / f'model-{kvm}.ktap'))
              for kvm, more in kvms.items()]
    own_tests = {f.name: (f'The lab\'s own tests: {f.name}', lambda f=f: tap(f))
                 for f in sorted((place.lab / 't').glob('*.t'))}
    checks = [('Series', lambda: series_items(base)),
              ('make check: the mails, user-space ABI, the selftest',
               lambda: program(base, 'check', 'fast'))]
    first = [('Emulated machine, npt=1', lambda: two_kernels(base, two, 1, tests)),
             ('The checker itself: a log that is right, spoilt', lambda: checker(base)),
             *own_test(base, two), *shared(base, two[1])]
    steps = ('Each patch builds (W=1, KVM_WERROR) and boots in its turn',
             lambda: [i for n in base.applied() for i in step(base, n)])
    short = [('Emulated machine, npt=0', lambda: two_kernels(base, two, 0, tests)),
             ('Two CPUs', lambda: smp(base, two[1])),
             ('Style (checkpatch; Signed-off-by is the sender\'s)', lambda: style(base))]
    if base.own_tests():
        # The rest is about another ABI, or about the lab
        return [first, [steps], checks, *([part] for part in (*short, own_tests['mail.t']))]
    ports = [name for name in bases.names() if base.is_default() and not base.linux
             and name != base.name]
    ports.sort(key=lambda port: not Base(port).key('source'))	# with that it is a whole kernel
    alone = [port for port in ports if Base(port).key('source') or not Base(port).key('suite')
             and not Base(port).fix_tests()]
    others = {port: (port, lambda port=port: other(port)) for port in ports}
    return [
        first, *([others[port]] for port in alone),
        [('Checkpoints between kernels', lambda: program(base, 'migrate', 'run')), *models,
         *(part for port, part in others.items() if port not in alone)],
        [*checks, own_tests.pop('checks.t')], [steps],
        [('Bochs, a CPU that obeys g_pat', lambda: on_bochs(base, two)),
         ('Memory types, on Bochs',
          lambda: program(base, 'types', *['mutants'] * is_all(), skip='memory types'))],
        *([part] for part in (
            ('Kernels broken on purpose', lambda: program(base, 'mutants', 'sample', MUTANTS)),
            ('Each short sequence of operations, against the model',
             lambda: program(base, 'model', 'test')),
            ('A minute of hostile input, a race (make fuzz has a debug kernel for it)',
             lambda: program(base, 'fuzz', 'run', FUZZ, '1', 'plain')),
            ('QEMU: the patches, if its source is here', lambda: program(base, 'vmms', 'patches')),
            ('Real hypervisors', lambda: program(base, 'stack', 'short', skip='real hypervisors')),
            ('Xen', lambda: program(base, 'xen', 'short', skip='Xen')),
            ('Jobs for LAVA', lambda: program(base, 'lava', skip='jobs for LAVA')),
            ('A fresh Debian 13',
             lambda: program(base, 'fresh', skip='make run in a fresh Debian 13')),
            ('Which release takes which series',
             lambda: program(base, 'bases', 'newest', result=place.build / 'bases/bases.ktap',
                             skip='which release takes which series')),
            ('The Debian package',
             lambda: program(base, 'deb', 'check', skip='the Debian package')), *own_tests.values(),
            ('Benchmark', lambda: program(base, 'bench', 'repeat', 'vmrun')), *short,
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
        put(file, f'content {content}\ndate {datetime.date.today()}\n' 'summary Tested with make '
            f'test{" ALL=1" * is_all()}: {report.summary()} ({versions.short(made_with)}).\n')


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
            run_groups(report, [[('Series', lambda: series_items(base)),
                                 ('Objects', lambda: objects(base))]])
            return ktap.finish(report)
        tests = [] if short else selftests.NEIGHBOURS
        programs = [] if short else [f.stem for f in selftests.overlay_files(base, '*.c')]
        two = [kernels.stock_kernel(base), kernels.series_kernel(base)]
        out = selftests.build(base, [*tests, *programs])
        tests = [t for t in tests if (out / t).exists()]
        made_with = versions.write(base, qemu.find().binary, [two[0].image, *two[1].modules])
        say('VERSIONS', versions.short(made_with))
        if short:
            run_groups(report,
                       [[('Series', lambda: series_items(base)),
                         *((f'npt={npt}', lambda npt=npt: two_kernels(base, two, npt, []))
                           for npt in ((1, 0) if is_all() else (1,))),
                         *(own_test(base, two) if is_all() else []), *shared(base, two[1])]])
        else:
            run_groups(report, groups(base, two, tests))
            if base.is_default() and not base.linux:
                # looks at all of them
                run_groups(report, [[('Ports', lambda: program(base, 'ports'))]])
            record_tested(base, report, content, made_with)
    except Fatal as e:
        # What the rest cannot do without
        report.item('skip' if short and e.status == 3 else False, 'source, kernels and tests',
                    str(e))
    for i in report.items:
        if i.detail.endswith('SECOND TRY'):
            say('AGAIN', f'{i.name}: {i.detail}')
    return ktap.finish(report)
