# SPDX-License-Identifier: GPL-2.0
"""What the PAT tests must say of a kernel: patches/<base>/cases

  <test> <case> <patches>    such as "svm_nested_pat_test npt_on.x 0-5,7-8": passes after
                             those patches, 0 being none, and fails after the others
  view <case> <patches>      the same for what the checker of VMRUNs says of a case
"""
from lib.base import Base, lines
from lib.ktap import Case
from lib.say import Fatal
from lib.settings import rel
from proof.vmruns import Check


def within(n: int, ranges: str) -> bool:
    """Is n in "0-5,7"?"""
    ends = [part.partition('-') for part in ranges.split(',')]
    return any(int(first) <= n <= int(last or first) for first, _, last in ends)


def load(base: Base) -> dict[tuple[str, str], str]:
    file = base.dir / 'cases'
    if not file.exists():
        raise Fatal(f'no {rel(file)}')
    return {(test, case): ranges for test, case, ranges in (line.split() for line in lines(file))}


def load_tests(base: Base) -> dict[tuple[str, str], str]:
    """Without what is about the checker of VMRUNs"""
    return {key: ranges for key, ranges in load(base).items() if key[0] != 'view'}


def find_stale(base: Base, count: int) -> str:
    """The first case that does not pass after the last of count patches, or '': a series repairs
    what its tests test, so the numbers are those of another length of it"""
    stale = [f'{test} {case} {ranges}' for (test, case), ranges in load_tests(base).items()
             if not within(count, ranges)]
    return f'{stale[0]}: not after patch {count}' if stale else ''


def compare(base: Base, cases: list[Case], n: int) -> tuple[bool, str]:
    """Results after patch n: how many passed and failed, or what is not as it must be"""
    want = load_tests(base)
    cases = [c for c in cases if c.case]
    seen = {(c.test, c.case) for c in cases}
    faults = []
    for c in cases:
        key = (c.test, c.case)
        if key not in want:
            faults.append(f'{c.name} is not in the file cases')
        elif c.verdict == 'skip':
            faults.append(f'{c.name} was skipped: {c.reason}')
        elif within(n, want[key]) and c.verdict != 'ok':
            faults.append(f'{c.name} fails and must pass: {c.reason}')
        elif not within(n, want[key]) and c.verdict == 'ok':
            faults.append(f'{c.name} passes and must fail')
    faults += [f'{test} {case} is in the file cases and was not run' for test, case in want
               if (test, case) not in seen]
    if faults:
        return False, faults[0] + (f' (and {len(faults) - 1} more)' if len(faults) > 1 else '')
    passed = sum(c.verdict == 'ok' for c in cases)
    return True, f'{passed} pass, {len(cases) - passed} fail, as they must'


def same_verdicts(was: list[Case], now: list[Case],
                  may_pass: set[tuple[str, str]]) -> tuple[bool, str]:
    """Has each case the same verdict?  may_pass: what may fail at first, then pass"""
    before, after = ({(c.test, c.case): c.verdict for c in cases if c.case} for cases in (was, now))
    differ = [key for key in before | after if before.get(key) != after.get(key)]
    fixed = [key for key in differ if key in may_pass
             and (before.get(key), after.get(key)) == ('not ok', 'ok')]
    faults = [f'{" ".join(key)}: {before.get(key, "none")}, {after.get(key, "none")}'
              for key in differ if key not in fixed]
    if faults or not before:
        return False, f'{faults[0]} ({len(faults)} of {len(before)})' if faults else 'nothing ran'
    count = ', '.join(f'{list(after.values()).count(v)} {v}' for v in ('ok', 'not ok', 'skip'))
    more = f'; {" ".join(fixed[0])}: an upstream fix' if fixed else ''
    return True, f'the same {len(after) - len(fixed)}: {count}{more}'


def repaired(base: Base) -> set[tuple[str, str]]:
    """(test, case) of what fails without the patches in front that stand for upstream ones"""
    upstream = [line.split()[0] for line in base.keys('upstream')]
    n = next((n for n, name in enumerate(base.series()) if name not in upstream), 0)
    return {key for key, ranges in load(base).items() if within(n, ranges)
            and not within(0, ranges)}


def view_faults(base: Base, n: int) -> set[str]:
    """The cases that the checker must find fault with after patch n"""
    return {case for (test, case), ranges in load(base).items() if test == 'view'
            and not within(n, ranges)}


def compare_view(base: Base, check: Check, n: int) -> tuple[bool, str]:
    """Does the checker of VMRUNs find fault with the right cases after patch n?"""
    want, seen = view_faults(base, n), check.faulty_cases()
    first = f': {check.errors[0].text}' if check.errors else ''
    if seen == want:
        return True, ' '.join(sorted(seen)) + first
    return False, f'{" ".join(sorted(seen)) or "none"}, and not {" ".join(sorted(want))}'


def without_npt(base: Base, every: list[Case], n: int) -> tuple[bool, str]:
    """Without nested NPT, cases pass, have nothing to test, or fail as they do with it"""
    want = load(base)
    cases = [c for c in every if c.case and c.test in {test for test, _ in want}]
    failed = [c for c in cases if c.verdict == 'not ok']
    faults = [c for c in failed if within(n, want.get((c.test, c.case), f'{n}'))]
    passed, skipped = (sum(c.verdict == v for c in cases) for v in ('ok', 'skip'))
    text = f'{passed} ran and passed, {skipped} skipped'
    if faults:
        text = f'{faults[0].name} fails: {faults[0].reason}'
    elif failed:
        text += f', {len(failed)} fail as with npt=1'
    return not faults and passed + len(failed) > 0, text
