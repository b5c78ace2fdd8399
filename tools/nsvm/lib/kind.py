# SPDX-License-Identifier: GPL-2.0
"""What kind of series a base has, and which tests it has for it, by the keys of its BASE"""
from lib.base import Base, lines, names
from lib.say import Fatal, need_match
from lib.settings import place, rel

HARNESS = 'tools/testing/selftests/kvm/include/kvm_test_harness.h'


def default_name() -> str:
    """Of the base that the others are ports of"""
    return need_match(r'^config BASE\n(?:\s.*\n)*?\s+default "(.*)"',
                      (place.top / 'Kconfig').read_text(), 'Kconfig has no BASE')


def is_default(base: Base) -> bool:
    return base.name == default_name()


def has_gpat(base: Base) -> bool:
    """Has the kernel gPAT, and a svm_nested_pat_test, without the series?  Then that, as the
    series changes it, is the PAT test, and the series is no port"""
    return base.key('tests') == 'own'


def is_opt_in(base: Base) -> bool:
    """Has L2 a PAT of its own only if the VMM disables the quirk that the series adds?"""
    return base.key('quirk') != '' and not has_gpat(base)


def tests_base(base: Base) -> Base:
    """Whose selftests run on it: its own, or as stable kernels are tested those of a newer one.
    The series then adds no test"""
    other = base.key('tests')
    if other in ('', 'own', base.name):
        # Before 6.10, the library has no harness
        if not base.linux or not base.commit() or has_gpat(base):
            return base
        has_harness = base.git('ls-tree', '-r', '--name-only', 'base', HARNESS)
        return base if has_harness else Base(base.name, packaged=True)
    if other not in names():
        raise Fatal(f'{rel(base.dir)}/BASE has tests of {other}, but there is no '
                    f'{rel(place.patches / other)}')
    return Base(other)


def fix_tests(base: Base) -> list[str]:
    """Of a series of fixes that are not about PAT"""
    return tests_base(base).keys('test')


def own_tests(base: Base) -> list[str]:
    """Of a series that is no port"""
    if fix_tests(base) or not has_gpat(base):
        return fix_tests(base)
    cases = [line for line in lines(base.dir / 'cases') if line[:5] != 'view ']
    return list(dict.fromkeys(line.split()[0] for line in cases))


def mainline() -> Base:
    """The base that has gPAT of its own"""
    candidates = [n for n in names() if has_gpat(Base(n)) and not Base(n).before]
    if len(candidates) != 1:
        raise Fatal(f'not one base of {rel(place.patches)} has "tests: own": '
                    f'{" ".join(candidates) or "none"}')
    return Base(candidates[0])
