# SPDX-License-Identifier: GPL-2.0
"""ports - show how the ports differ from the series of the default base

Compares the series of each other base with that one by git range-diff, unless BASE has "tests:
own".  A series that adds the quirk is compared with the one that adds it on the default base.
What is compared are the commits of build/<base>/src, with work that is not exported yet.

Prints for each patch
  identical      message and diff are the same, except for line numbers
  context only   only the code around the changes, or their place, differs
  changed        the number of added and removed lines that differ, counted on both sides;
                 "message" if the changelog differs as well
The range-diff is in build/ports/<base>.diff.

A patch that only one of the two series has must be in BASE: "differs: + ..." or "differs: - ...".

Results: build/<default base>/results/ports.ktap.
Exit status: 0, or 1 if such a patch is not there.
"""
import re

from lib import ktap
from lib.base import Base, names, put
from lib.kind import is_default, is_opt_in, own_tests
from lib.say import Fatal, say
from lib.settings import place, rel
from source import tree
from source.debian import NOT_HERE


def verdict(text: str) -> str:
    """What a range-diff of two patches says"""
    section, count = '', {'message': 0, 'code': 0, 'context': 0}
    for line in text.splitlines()[1:]:
        line = line[4:]
        side, line = line[:1], line[1:]
        if side == '@' or re.fullmatch(' ## .* ##', line):
            section = line
        elif side in ('+', '-'):
            in_message = re.search('Metadata|Commit message', section)
            count['message' if in_message else 'code' if line[:1] in ('+', '-') else 'context'] += 1
    if not any(count.values()):
        return 'identical'
    code = count['code']
    change = 'context only' if count['context'] else 'same diff'
    if code:
        change = f'changed: {code} line{"s" * (code > 1)}'
    return change + ', message' * (count['message'] > 0)


def subjects(base: Base) -> dict[str, str]:
    """subject -> commit, of the patches in src"""
    return {line[41:]: line[:40] for line in
            base.git('log', '--reverse', '--format=%H %s', f'{base.commit()}..HEAD').splitlines()}


def compare(first: Base, port: Base, report: ktap.Report) -> None:
    diff = place.build / f'ports/{port.name}.diff'
    was, now, text = subjects(first), subjects(port), ''
    objects = {'GIT_ALTERNATE_OBJECT_DIRECTORIES': str(port.src / '.git/objects')}
    say('PORTS', f'{port.name} against {first.name}: {rel(diff)}')
    # Not as in the BASE of the series before, which says what that one differs in
    claimed = {line[2:]: line[0]
               for line in re.findall(r'^differs:[ \t]*(.+?)[ \t]*$', port.text, re.M)}
    for subject in dict.fromkeys([*now, *was, *claimed]):
        alone = '' if (subject in now) == (subject in was) else '+' if subject in now else '-'
        reason = {'+': 'only in this port', '-': 'not in this port', '': 'in neither series'}[alone]
        if subject in now and not alone:
            # However much was changed, it is compared with its counterpart
            ranges = [f'{commit}^..{commit}' for commit in (was[subject], now[subject])]
            one = first.git('range-diff', '--no-color', '--creation-factor=999', *ranges,
                            env=objects)
            text += f'{one}\n'
            reason = verdict(one)
        as_claimed = alone == claimed.get(subject, '')
        report.item(as_claimed, f'{port.name}: {subject}', reason if as_claimed
                    else f'{reason}, and not as "differs:" in {rel(port.dir)}/BASE says')
    put(diff, text)


def original(port: Base, bases: list[Base]) -> Base | None:
    """What it is a port of, if it is one; the first one is the default"""
    if own_tests(port):
        return None
    if not is_opt_in(port):
        return bases[0]
    first = next((base for base in bases if is_opt_in(base) and is_default(base.before[-1])),
                 port)
    return first if first.name != port.name else None


def main(args: list[str]) -> int:
    if Base().linux:
        raise Fatal('LINUX= is one tree of yours, ports are compared on the bases of patches/')
    first, *others = sorted(map(Base, names()), key=lambda base: not is_default(base))
    tree.make(first)
    report = ktap.Report(first.results / 'ports.ktap')
    for port in others:
        origin = original(port, [first, *others])
        if not port.series() or not origin:
            say('PORTS', f'{port.name} has '
                f'{"a series of its own, no port" if port.series() else "no series yet"}')
            continue
        try:
            compare(tree.make(origin), tree.make(port), report)
        except Fatal as e:
            if e.status != NOT_HERE:
                raise
            report.item('skip', port.name, str(e))
    return ktap.finish(report)
