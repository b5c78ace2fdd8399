# SPDX-License-Identifier: GPL-2.0
"""KTAP: what tests say on a machine, what programs of the lab say, tables of both

A test's output, as machine/init collects it, becomes Cases: a test that prints
results is judged by them, by its plan and by its exit status, one that prints none
by its exit status (4 is a skip).  A test that prints nothing at all has failed.

A program reports items with Report, and another one reads them with read().
"""
import re
from dataclasses import dataclass, field
from pathlib import Path

from lib.base import put
from lib.say import begun, elapsed
from lib.settings import rel

RESULT = re.compile(r'(not )?ok +[0-9]+\s*(?:- )?(.*?)\s*(?:# *(?:SKIP|skip)\s*(.*))?')


@dataclass
class Case:
    test: str
    case: str		# '' is the test itself
    verdict: str	# ok, not ok, skip
    reason: str = ''
    ms: int = 0		# of the whole test

    @property
    def name(self) -> str:
        return f'{self.test} {self.case}' if self.case else self.test


def status_text(rc: str) -> str:
    if rc == 'died':
        return 'the machine went down'
    if rc in ('137', '124', '143'):
        return 'time limit, or killed'
    return f'killed by signal {int(rc) - 128}' if int(rc) > 128 else f'exit status {rc}'


def judge(test: str, lines: list[str], rc: str, ms: int) -> list[Case]:
    """The cases of one test, and last itself"""
    found: list[Case] = []
    plan, said, assertion, asserting = 0, '', '', False
    text = [line.strip() for line in lines if line.strip()]
    for line in text:
        m = RESULT.fullmatch(line)
        if m:
            verdict = 'not ok' if m[1] else 'skip' if m[3] is not None else 'ok'
            reason = m[3] if verdict == 'skip' else assertion if verdict == 'not ok' else ''
            found.append(Case(test, re.sub(r'\s+', '_', m[2] or m[3] or ''), verdict, reason or '', ms))
            assertion = ''
        elif re.match(r'1\.\.[0-9]', line):
            plan += int(re.match(r'1\.\.([0-9]+)', line)[1])		# of each machine that had a part of it
            said = line.partition('# SKIP ')[2] or said
        else:
            if asserting:
                assertion = line
            asserting = 'Test Assertion Failure' in line
            if re.search('SKIP|skip', line):
                said = re.sub(r'^[^,]*SKIP[^A-Za-z]*', '', line)
    why = status_text(rc)
    if len(found) < plan:
        found.append(Case(test, f'({plan - len(found)}_of_{plan}_cases)', 'not ok', f'no result: {why}', ms))
    bad = sum(c.verdict == 'not ok' for c in found)
    good = any(c.verdict == 'ok' for c in found)
    if not text:
        whole = ('not ok', f'printed nothing, {why}')
    elif bad:
        whole = ('not ok', f'{bad} not ok')
    elif rc == '4' or (rc == '0' and found and not good):
        whole = ('skip', found[0].reason if found else said)
    elif rc != '0':
        whole = ('not ok', f'{assertion}, {why}' if assertion else why)
    else:
        whole = ('ok', '')
    return [*found, Case(test, '', *whole, ms)]


def cases(log: str) -> list[Case]:
    """All that the tests of a machine said, see machine/init for the form of the log"""
    found, test, lines = [], '', []
    for line in log.splitlines():
        m = re.match(r'# nsvm: (begin|end) (\S+)(?: rc=([0-9]+) ms=([0-9]+))?', line)
        if m and m[1] == 'begin':
            test, lines = m[2], []
        elif m and test:
            found += judge(test, lines, m[3], int(m[4]))
            test = ''
        elif test:
            lines.append(line)
    return found + (judge(test, lines, 'died', 0) if test else [])


def nested(labels: dict[str, list[Case]]) -> str:
    """One KTAP stream: labels, in each the tests, in each its cases"""
    def result(number: int, name: str, verdict: str, reason: str) -> list[str]:
        line = f'{"not ok" if verdict == "not ok" else "ok"} {number} {name}'
        if verdict == 'skip':
            return [f'{line} # SKIP {reason}']
        return [line, f'# {reason}'] if verdict == 'not ok' and reason else [line]

    out = ['KTAP version 1', f'1..{len(labels)}']
    for i, (label, found) in enumerate(labels.items(), 1):
        tests: list[str] = []
        inner: list[str] = []
        count = number = 0
        for c in found:
            if c.case:
                number += 1
                inner += result(number, c.case, c.verdict, c.reason)
                continue
            count += 1
            if number:
                tests += [f'    {line}' for line in ('KTAP version 1', f'1..{number}', *inner)]
            tests += [f'  {line}' for line in result(count, c.test, c.verdict, c.reason)]
            inner, number = [], 0
        bad = not count or any(c.verdict == 'not ok' for c in found if not c.case)
        out += ['  KTAP version 1', f'  1..{count}', *tests, f'{"not ok" if bad else "ok"} {i} {label}']
    return '\n'.join(out) + '\n'


# ---- two kernels side by side ----

def readable(name: str) -> str:
    return name.replace('_', ' ').replace('.', ': ')


@dataclass
class Row:
    """A case on both kernels"""
    test: str
    case: str
    base: str		# verdict, '' if it was not run
    series: Case


def rows(base: list[Case], series: list[Case]) -> list[Row]:
    """Each case, and each test that has none, or that failed after its cases had passed"""
    was = {(c.test, c.case): c.verdict for c in base}
    now = {(c.test, c.case): c for c in series}
    order = list(dict.fromkeys([*was, *now]))
    with_cases = {test for test, case in order if case}
    found = [Row(*key, was.get(key, ''), now.get(key, Case(*key, 'not ok', 'was not run'))) for key in order]
    failed = {r.test for r in found if r.case and r.series.verdict == 'not ok'}
    return [r for r in found
            if r.case or r.test not in with_cases or r.series.verdict == 'not ok' and r.test not in failed]


def count(found: list[Row]) -> dict[str, int]:
    """Verdicts on the series; fixed, held and broken are of those that were run on the base"""
    pairs = {'fixed': ('not ok', 'ok'), 'held': ('ok', 'ok'), 'broken': ('ok', 'not ok')}
    return {verdict: sum(r.series.verdict == verdict for r in found) for verdict in ('ok', 'not ok', 'skip')} | \
        {name: sum((r.base, r.series.verdict) == pair for r in found) for name, pair in pairs.items()}


def table(found: list[Row], name: str = 'series') -> tuple[str, bool]:
    """What changed, for people; and whether no case of the series, which is called name, is "not ok" and
    some are ok"""
    some = any(r.base for r in found)
    told: list[tuple[str, str, str, str]] = []
    with_cases, last = {r.test for r in found if r.case}, ''
    for r in found:
        if r.case and r.test != last:
            told.append((r.test, '', '', ''))
            last = r.test
        what = f'  {readable(r.case)}' if r.case else f'({r.test})' if r.test in with_cases else r.test
        told.append((what, r.base or '(none)' * some, r.series.verdict, '' if r.series.verdict == 'ok' else r.series.reason))
    wide = max([24, *(len(row[0]) for row in told)])
    word, n = {'skip': 'SKIP'}, count(found)
    out = ['', f'  {"case":<{wide}}  {"base" if some else "":<7}  {name}', '  ' + '-' * (wide + 18)]
    out += [f'  {a:<{wide}}  {word.get(b, b):<7}  {word.get(c, c):<7}  {d}'.rstrip() for a, b, c, d in told]
    out += ['', f'  on the {name}: {n["ok"]} ok, {n["not ok"]} not ok, {n["skip"]} skipped']
    if n['fixed'] or n['held']:
        out.append(f'  {n["fixed"]} cases were wrong before and are right after, {n["held"]} hold before and after')
    if n['broken']:
        out.append(f'  {n["broken"]} cases were right before and are wrong after')
    return '\n'.join(out), n['ok'] > 0 and not n['not ok']


# ---- programs of the lab ----

@dataclass
class Item:
    verdict: str
    name: str
    detail: str = ''


@dataclass
class Report:
    """What a program finds: a line for people each, and KTAP in a file at the end"""
    path: Path
    items: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.unlink(missing_ok=True)

    def group(self, title: str) -> None:
        """What comes now, and when"""
        print(f'\n  {title:<70} {elapsed(begun):>9}', flush=True)

    def item(self, verdict: str | bool, name: str, detail: str = '') -> bool:
        """True and False are ok and not ok; returns whether it is no failure"""
        verdict = {True: 'ok', False: 'not ok'}.get(verdict, verdict)
        self.items.append(Item(verdict, name, detail))
        print(f'  {"SKIP" if verdict == "skip" else verdict:<7} {name}{": " + detail if detail else ""}', flush=True)
        return verdict != 'not ok'

    def add(self, items: list[Item]) -> None:
        for i in items:
            self.item(i.verdict, i.name, i.detail)

    def count(self, verdict: str) -> int:
        return sum(i.verdict == verdict for i in self.items)

    def summary(self) -> str:
        return f'{self.count("ok")} passed, {self.count("not ok")} failed, {self.count("skip")} skipped'

    def close(self) -> bool:
        """Write the file; is there no failure?"""
        put(self.path, write(self.items))
        return not self.count('not ok')


def write(items: list[Item]) -> str:
    out = ['KTAP version 1', f'1..{len(items)}']
    for n, i in enumerate(items, 1):
        name, detail = i.name.replace('#', '\\#'), ' '.join(i.detail.split())
        if i.verdict == 'skip':
            out.append(f'ok {n} {name} # SKIP {detail}')
        else:
            out += [f'{i.verdict} {n} {name}', *([f'# {detail}'] if detail else [])]
    return '\n'.join(out) + '\n'


def read(path: Path) -> list[Item]:
    """The items of what Report wrote, or of TAP as prove takes it; a plan that was not
    kept is an item that failed, as is a file that is not there"""
    if not path.exists():
        return [Item('not ok', path.stem, f'no {rel(path)}')]
    return parse(path.read_text(errors='replace'), path.stem)


def parse(text: str, name: str = '') -> list[Item]:
    items: list[Item] = []
    plan = None
    for line in text.splitlines():
        m = re.fullmatch(r'(not )?ok +[0-9]+\s*(?:- )?(.*?)(?:\s+# SKIP ?(.*))?', line)
        if m:
            items.append(Item('not ok' if m[1] else 'skip' if m[3] is not None else 'ok', m[2].replace('\\#', '#'), m[3] or ''))
        elif line.startswith('# ') and items and not items[-1].detail:
            items[-1].detail = line[2:]
        elif re.match(r'1\.\.[0-9]+', line):
            plan = int(re.match(r'1\.\.([0-9]+)', line)[1])
    if plan != len(items):
        items.append(Item('not ok', name, f'{len(items)} results of {plan if plan is not None else "a plan that is missing"}'))
    return items


def finish(report: Report) -> int:
    """The last lines of a program, and its exit status"""
    good = report.close()
    print(f'\n  {elapsed(begun)} in all, {rel(report.path)}\n{report.summary()}', flush=True)
    return 0 if good else 1
