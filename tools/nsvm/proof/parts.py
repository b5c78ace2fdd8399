# SPDX-License-Identifier: GPL-2.0
"""The parts of make test that boot kernels: each function boots some, and returns what it found"""
from pathlib import Path

from kernel import kernels, selftests, whole
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base
from lib.kind import is_opt_in
from lib.ktap import Item
from lib.say import Fatal
from lib.settings import settings
from machine import bochs, boot
from machine.boot import Boot
from proof import expected, vmruns
from source.debian import NOT_HERE

Items = list[Item]


def is_all() -> bool:
    return settings.given.get('ALL') == '1'


def item(name: str, verdict: bool | str, detail: str = '') -> Item:
    """The name first, as what judges returns the other two."""
    return Item(verdict, name, detail)


def failed(name: str, error: Fatal) -> Item:
    """A skip if what it needs cannot be had here, else a failure."""
    return item(name, 'skip' if error.status == NOT_HERE else False, str(error))


# ---- one boot, or one of each kernel ----

def boot_both(base: Base, labels: dict[str, Kernel], tests: list[str], npt: int,
              **options) -> list[Boot]:
    """Boot these kernels at the same time."""
    return jobs.together(*(lambda kernel=kernel, label=label: boot.run(
        kernel, f'{label}-npt{npt}', tests, base=base, npt=npt, **options)
        for label, kernel in labels.items()))


def check_of(done: Boot) -> vmruns.Check | None:
    return vmruns.check_file(done.vmruns, done.log.stem)


def as_expected(name: str, log_text: str, base: Base, n: int) -> Item:
    return item(name, *expected.compare(base, ktap.cases(log_text), n))


def view_after(name: str, done: Boot, base: Base, n: int) -> Items:
    """Faults that only the VMRUN view can find after patch n, if there are any."""
    check = check_of(done)
    if not check:
        return [item(name, *vmruns.verdict(None))]
    if not expected.view_faults(base, n):
        return []
    return [item(name, *expected.compare_view(base, check, n))]


def verdicts(done: Boot, test: str) -> list[str]:
    return [f'{c.case} {c.verdict}'.strip() for c in ktap.cases(done.text()) if c.test == test]


def neighbours(base: Base, kernels_of: dict[str, Kernel], boots: list[Boot], npt: int,
               tests: list[str]) -> Items:
    """KVM's other selftests must have the same verdicts on both kernels."""
    items = []
    for test in tests:
        stock, series = (verdicts(done, test) for done in boots)
        again = ''
        if test == 'state_test' and (stock != ['ok'] or series != ['ok']):
            # The emulator loses AVX state about once in 200 runs: once more
            again = ', PASSED AT THE SECOND TRY'
            labels = {f'again-{label}': kernel for label, kernel in kernels_of.items()}
            stock, series = (verdicts(done, test)
                             for done in boot_both(base, labels, [test], npt))
        detail = f'the same {len(series)} verdicts' if len(series) > 1 else ''.join(series)
        same = stock == series and series != []
        items.append(item(f'neighbour {test}, npt={npt}', same, f'{detail} on both{again}'
                          if same else f'stock: {", ".join(stock) or "no result"}; '
                          f'series: {", ".join(series) or "no result"}'))
    return items


# ---- parts ----

def two_kernels(base: Base, stock: Kernel, series: Kernel, npt: int, tests: list[str]) -> Items:
    """The stock kernel and the series with all PAT tests, and with these tests of KVM's own."""
    both = {'stock': stock, 'series': series}
    boots = boot_both(base, both, [*selftests.pat_tests(base), *tests], npt)
    patches = (base.unpatched(), len(base.series()))
    compare = expected.compare if npt else expected.without_npt
    suffix = '' if npt else ', npt=0'
    items = [item(f'PAT tests on {kernel}{suffix}', *compare(base, ktap.cases(done.text()), n))
             for kernel, done, n in zip(('the stock kernel', 'the series'), boots, patches)]
    if npt:
        items += view_after('what only the view sees on the stock kernel', boots[0], base,
                            patches[0])
    items.append(item(f'VMRUNs on the series{suffix}', *vmruns.verdict(check_of(boots[1]))))
    return items + neighbours(base, both, boots, npt, tests)


def two_cpus(base: Base, series: Kernel) -> Items:
    done = boot.run(series, 'series-smp2', selftests.pat_tests(base), base=base, smp=2)
    return [as_expected('PAT tests on the series, two CPUs', done.text(), base,
                        len(base.series())),
            item('VMRUNs on the series, two CPUs', *vmruns.verdict(check_of(done)))]


def checker(base: Base) -> Items:
    """What the checker of VMRUNs says of the log of a boot with npt=1, spoilt in many ways."""
    log = base.results / 'series-npt1.vmrun'
    if not log.exists():
        return [item('checker of VMRUNs', 'skip', 'no log of VMRUNs')]
    with open(log) as f:
        return [item(f'checker: {name}', verdict, detail)
                for verdict, name, detail in vmruns.selftest(f)]


def each_patch(base: Base) -> Items:
    """The kernel after each patch builds, boots, and passes the tests that it must pass."""
    items = []
    for n in base.applied():
        name = f'patch {n} builds, boots, and the PAT tests'
        try:
            done = boot.run(kernels.step_kernel(base, n), f'step-{n}', selftests.pat_tests(base),
                            base=base)
        except Fatal as e:
            items.append(item(name, False, str(e)))
            continue
        items.append(as_expected(name, done.text(), base, n))
        items += view_after(f'what only the view sees after patch {n}', done, base, n)
    return items


def on_bochs(base: Base, stock: Kernel, series: Kernel) -> Items:
    """The PAT tests on the other machine; without ALL=1 only those of the series."""
    pats, patches = selftests.pat_tests(base), len(base.series())
    runs = [('the stock kernel', pats, base.unpatched()),
            ('the series', ['load:series.ko:nested=1', *pats], patches),
            ('the series with nrips=0', ['load:series.ko:nested=1:nrips=0', *pats], patches)]
    if not is_all():
        runs = [('the stock kernel', [], 0), runs[1]]
    tests = [test for _, tests, _ in runs for test in tests]
    try:
        done, _ = bochs.run(stock, 'bochs', tests, base=base, others={'series': series})
    except Fatal as e:
        return [failed('PAT tests on Bochs', e)]
    items = [as_expected(f'PAT tests on {kernel}, on Bochs', section, base, n)
             for (kernel, tests, n), section in zip(runs, bochs.sections(done.text())) if tests]
    refused = bochs.refused(base.results / 'bochs.bochs')
    return [*items, item("Bochs' CPU refuses no VMRUN", not refused,
                         refused[0][1] if refused else '')]


def mainlines_test(base: Base, stock: Kernel, series: Kernel) -> Items:
    """Mainline's test, which knows nothing of ours and skips itself without the quirk."""
    quirk = is_opt_in(base)
    name = f'mainline\'s own test{"" if quirk else ", without its quirk"}'
    try:
        tests_dir = selftests.mainline_test(quirk)
    except Fatal as e:
        return [failed(name, e)]
    items: Items = []
    for kernel, label, must in ((stock, 'stock', 'skip' if quirk else 'not ok'),
                                (series, 'series', 'ok')):
        log_text = boot.run(kernel, f'mainline-{label}', [selftests.MAINLINE_TEST], base=base,
                            tests_dir=tests_dir).text()
        test = ktap.cases(log_text)[-1]
        detail = f'{test.verdict}, {log_text.count("Testing: ")} parts'
        items.append(item(f'{name}, on {label}', test.verdict == must,
                          f'{detail}: {test.reason}' if test.reason else detail))
    return items


def with_quirk(base: Base, series: Kernel) -> Items:
    """With the quirk enabled, the series is for tests as if it were not there.

    Tests that do not know the quirk, and thus do not disable it, see the kernel without any of
    the series, but for upstream's fixes in it.
    """
    items: Items = []
    pats, tests_dir = selftests.pat_tests(base), selftests.build(base, unaware=True)
    both = {'root': kernels.tree_kernel(base, base.root(), 'stock', 'kernel-root'),
            'quirk': series}
    for npt in (1, 0) if is_all() else (1,):
        boots = boot_both(base, both, pats, npt, tests_dir=tests_dir)
        cases = [ktap.cases(done.text()) for done in boots]
        items.append(item(f'quirk enabled: verdicts of the stock kernel, npt={npt}',
                          *expected.same_verdicts(*cases, expected.repaired(base.before[-1]))))
        checks = [check_of(done) for done in boots]
        if all(checks):
            more = checks[1].faulty_cases() - checks[0].faulty_cases()
            items.append(item('quirk enabled: the view finds what it finds on the stock kernel, '
                              f'npt={npt}', not more, ' '.join(sorted(more))))
    return items


def compile_objects(base: Base) -> Items:
    """In place of booting a whole kernel: what the series changes compiles."""
    compiled = whole.compile_objects(base)
    return [item('what the series changes of KVM compiles (W=1, KVM_WERROR)', True,
                 ' '.join(Path(o).name for o in compiled)),
            item('PAT tests', 'skip', 'they take a whole kernel, as Debian packages none of this '
                 'base: make test ALL=1')]
