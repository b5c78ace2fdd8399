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
from typing import Iterable

from lib.base import put
from lib.say import begun, elapsed
from lib.settings import rel

RESULT = re.compile(r'(not )?ok\b(?: +([0-9]+))?\s*(?:- )?(.*)')
PLAN = re.compile(r'1\.\.([0-9]+)\s*(?:#\s*SKIP\S*\s*(.*))?', re.I)
# What a result's name ends with: a "#" that is not escaped, and one of the words of KTAP
DIRECTIVE = re.compile(r'(?<!\\)#\s*(SKIP|TODO|XFAIL|TIMEOUT|ERROR)\S*\s*(.*)', re.I)


@dataclass
class Result:
    """One "ok" or "not ok" line, with the lines around it that are no results"""
    verdict: str	# ok, not ok, skip
    name: str
    reason: str		# what a directive says
    before: list[str]
    after: list[str] = field(default_factory=list)


@dataclass
class Stream:
    """What a text says as KTAP; lines that are indented are those of subtests, and not counted"""
    results: list[Result] = field(default_factory=list)
    plan: int | None = None
    skipped: str | None = None		# "1..0 # SKIP reason"
    problems: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)	# after the last result


def directed(verdict: str, text: str) -> tuple[str, str, str]:
    """Verdict, name and reason of a result line, as its directive has it.

    TODO and XFAIL are failures that are known, so a skip; TIMEOUT and ERROR are failures.
    """
    directive = DIRECTIVE.search(text)
    if not directive:
        return verdict, text.strip().replace('\\#', '#'), ''
    word, reason = directive[1].upper(), directive[2].strip()
    name = text[:directive.start()].strip().replace('\\#', '#')
    if word == 'SKIP':
        return 'skip' if verdict == 'ok' else verdict, name, reason
    return 'skip' if word in ('TODO', 'XFAIL') else 'not ok', name, f'{word} {reason}'.strip()


def read_stream(lines: Iterable[str]) -> Stream:
    """The one reader of KTAP and TAP.

    Args:
        lines: of one test or program.

    Returns:
        Its results in order.  What breaks the format's rules is in problems: a number that
        comes twice, a second plan, fewer or more results than planned, "Bail out!".
    """
    stream, numbers = Stream(), set()
    for line in map(str.rstrip, lines):
        if m := RESULT.fullmatch(line):
            if m[2] and m[2] in numbers:
                stream.problems.append(f'a second result {m[2]}')
            numbers.add(m[2])
            stream.results.append(Result(*directed('not ok' if m[1] else 'ok', m[3]), stream.rest))
            stream.rest = stream.results[-1].after
        elif m := PLAN.fullmatch(line):
            if stream.plan is not None:
                stream.problems.append('a second plan')
            stream.plan = int(m[1])
            if not stream.plan:
                stream.skipped = m[2] or ''
        elif line.startswith('Bail out!'):
            stream.problems.append(line)
        elif line:
            stream.rest.append(line)
    if stream.plan is not None and len(stream.results) != stream.plan:
        stream.problems.append(f'{len(stream.results)} results of {stream.plan}')
    return stream


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


def status_text(status: str) -> str:
    """What an exit status of a shell tells; 254 is how a selftest ends after a failed assertion."""
    if status == 'died':
        return 'the machine went down'
    if status in ('137', '124', '143'):
        return 'time limit, or killed'
    if 128 < int(status) <= 128 + 64:
        return f'killed by signal {int(status) - 128}'
    return f'exit status {status}{", a failed assertion" * (status == "254")}'


def failed_assertion(lines: list[str]) -> str:
    """Where the last assertion of a KVM selftest failed: the line after the one that says so."""
    where = [after.strip() for line, after in zip(lines, lines[1:])
             if 'Test Assertion Failure' in line]
    return where[-1] if where else ''


def judge(test: str, lines: list[str], status: str, ms: int) -> list[Case]:
    """The cases of one test, and last the test itself.

    Args:
        lines: what it printed.
        status: its exit status, or "died".
        ms: milliseconds that it took.
    """
    stream, why = read_stream(lines), status_text(status)
    cases: list[Case] = []
    for result in stream.results:
        reason = result.reason or (failed_assertion(result.before)
                                   if result.verdict == 'not ok' else '')
        cases.append(Case(test, re.sub(r'\s+', '_', result.name or result.reason), result.verdict,
                          reason, ms))
    missing = (stream.plan or 0) - len(cases)
    if missing > 0:
        cases.append(Case(test, f'({missing}_of_{stream.plan}_cases)', 'not ok',
                          f'no result: {why}', ms))
    failures = sum(c.verdict == 'not ok' for c in cases)
    nothing_ran = (cases or stream.plan == 0) and not any(c.verdict == 'ok' for c in cases)
    skips = [re.sub(r'^[^,]*SKIP[^A-Za-z]*', '', line.strip()) for line in lines
             if re.search('SKIP|skip', line)]
    assertion = failed_assertion(stream.rest)
    if not any(line.strip() for line in lines):
        whole = ('not ok', f'printed nothing, {why}')
    elif failures:
        whole = ('not ok', f'{failures} not ok')
    elif stream.problems:
        whole = ('not ok', stream.problems[0])
    elif status == '4' or status == '0' and nothing_ran:
        whole = ('skip', cases[0].reason if cases else stream.skipped or ''.join(skips[-1:]))
    elif status != '0':
        whole = ('not ok', f'{assertion}, {why}' if assertion else why)
    else:
        whole = ('ok', '')
    return [*cases, Case(test, '', *whole, ms)]


def cases(log: str) -> list[Case]:
    """All that the tests of a machine said, see machine/init for the form of the log"""
    results, test, lines = [], '', []
    for line in log.splitlines():
        m = re.match(r'# nsvm: (begin|end) (\S+)(?: rc=([0-9]+) ms=([0-9]+))?', line)
        if m and m[1] == 'begin':
            test, lines = m[2], []
        elif m and test:
            results += judge(test, lines, m[3], int(m[4]))
            test = ''
        elif test:
            lines.append(line)
    return results + (judge(test, lines, 'died', 0) if test else [])


def write_stream(results: list[tuple[list[str], str, str, str]]) -> list[str]:
    """The one writer of KTAP; of each result: lines of its subtests, verdict, name, reason"""
    out = ['KTAP version 1', f'1..{len(results)}']
    for number, (subtests, verdict, name, reason) in enumerate(results, 1):
        out += [f'  {line}' for line in subtests]
        line = f'{"not ok" if verdict == "not ok" else "ok"} {number} {name}'
        if verdict == 'skip':
            out.append(f'{line} # SKIP {reason}')
        else:
            out += [line, f'# {reason}'] if reason else [line]
    return out


def nested(labels: dict[str, list[Case]]) -> str:
    """One KTAP stream: labels, in each the tests, in each its cases"""
    kernels = []
    for label, cases in labels.items():
        tests, inner = [], []
        for c in cases:
            if c.case:
                inner.append(([], c.verdict, c.case, c.reason))
            else:
                tests.append((write_stream(inner) if inner else [], c.verdict, c.test, c.reason))
                inner = []
        failed = not tests or any(verdict == 'not ok' for _, verdict, _, _ in tests)
        kernels.append((write_stream(tests), 'not ok' if failed else 'ok', label, ''))
    return '\n'.join(write_stream(kernels)) + '\n'


# ---- two kernels side by side ----

def readable(name: str) -> str:
    return name.replace('_', ' ').replace('.', ': ')


@dataclass
class Row:
    """A case on both kernels"""
    test: str
    case: str
    stock: str		# verdict, '' if it was not run
    series: Case


def rows(base: list[Case], series: list[Case]) -> list[Row]:
    """Each case, and each test that has none, or that failed after its cases had passed"""
    was = {(c.test, c.case): c.verdict for c in base}
    now = {(c.test, c.case): c for c in series}
    order = list(dict.fromkeys([*was, *now]))
    with_cases = {test for test, case in order if case}
    every = [Row(*key, was.get(key, ''), now.get(key, Case(*key, 'not ok', 'was not run')))
             for key in order]
    failed = {r.test for r in every if r.case and r.series.verdict == 'not ok'}
    return [r for r in every if r.case or r.test not in with_cases or r.series.verdict == 'not ok'
            and r.test not in failed]


def count(table_rows: list[Row]) -> dict[str, int]:
    """Verdicts on the series; fixed, held and broken are of those that ran on the stock kernel"""
    pairs = {'fixed': ('not ok', 'ok'), 'held': ('ok', 'ok'), 'broken': ('ok', 'not ok')}
    counts = {verdict: sum(r.series.verdict == verdict for r in table_rows)
              for verdict in ('ok', 'not ok', 'skip')}
    return counts | {name: sum((r.stock, r.series.verdict) == pair for r in table_rows)
                     for name, pair in pairs.items()}


def table(cases: list[Row], name: str = 'series') -> tuple[str, bool]:
    """What changed, for people; whether some cases of the series are ok and none is not"""
    some = any(r.stock for r in cases)
    told: list[tuple[str, str, str, str]] = []
    with_cases, last = {r.test for r in cases if r.case}, ''
    for r in cases:
        if r.case and r.test != last:
            told.append((r.test, '', '', ''))
            last = r.test
        whole = f'({r.test})' if r.test in with_cases else r.test
        name_cell = f'  {readable(r.case)}' if r.case else whole
        told.append((name_cell, r.stock or '(none)' * some, r.series.verdict,
                     '' if r.series.verdict == 'ok' else r.series.reason))
    wide = max([24, *(len(row[0]) for row in told)])
    word, n = {'skip': 'SKIP'}, count(cases)
    out = ['', f'  {"case":<{wide}}  {"stock" if some else "":<7}  {name}',
           '  ' + '-' * (wide + 18)]
    out += [f'  {a:<{wide}}  {word.get(b, b):<7}  {word.get(c, c):<7}  {d}'.rstrip()
            for a, b, c, d in told]
    out += ['', f'  on the {name}: {n["ok"]} ok, {n["not ok"]} not ok, {n["skip"]} skipped']
    if n['fixed'] or n['held']:
        out.append(f'  {n["fixed"]} cases were wrong before and are right after, {n["held"]} hold '
                   'before and after')
    if n['broken']:
        out.append(f'  {n["broken"]} cases were right before and are wrong after')
    return '\n'.join(out), n['ok'] > 0 and not n['not ok']


# ---- programs of the lab ----

@dataclass
class Item:
    """True and False as verdicts are ok and not ok"""
    verdict: str | bool
    name: str
    detail: str = ''

    def __post_init__(self) -> None:
        self.verdict = {True: 'ok', False: 'not ok'}.get(self.verdict, self.verdict)


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
        """Returns whether it is no failure"""
        new = Item(verdict, name, detail)
        self.items.append(new)
        print(f'  {"SKIP" if new.verdict == "skip" else new.verdict:<7} '
              f'{name}{": " + detail if detail else ""}', flush=True)
        return new.verdict != 'not ok'

    def add(self, items: list[Item]) -> None:
        for i in items:
            self.item(i.verdict, i.name, i.detail)

    def count(self, verdict: str) -> int:
        return sum(i.verdict == verdict for i in self.items)

    def summary(self) -> str:
        return (f'{self.count("ok")} passed, {self.count("not ok")} failed, '
                f'{self.count("skip")} skipped')

    def close(self) -> bool:
        """Write the file; is there no failure?"""
        put(self.path, write(self.items))
        return not self.count('not ok')


def write(items: list[Item]) -> str:
    return '\n'.join(write_stream([([], i.verdict, i.name.replace('#', '\\#'),
                              ' '.join(i.detail.split())) for i in items])) + '\n'


def read(path: Path) -> list[Item]:
    """The items of what Report wrote, or of TAP as prove takes it; a plan that was not
    kept is an item that failed, as is a file that is not there"""
    if not path.exists():
        return [Item('not ok', path.stem, f'no {rel(path)}')]
    return parse(path.read_text(errors='replace'), path.stem)


def parse(text: str, name: str = '') -> list[Item]:
    """The same of a text; name: what a problem of the whole is called"""
    stream = read_stream(text.splitlines())
    if stream.plan == 0 and not stream.results and not stream.problems:
        return [Item('skip', name, stream.skipped or '')]
    items = []
    for result in stream.results:
        comments = [line[2:] for line in result.after if line.startswith('# ')]
        items.append(Item(result.verdict, result.name,
                          result.reason or (comments[0] if comments else '')))
    if stream.plan is None:
        stream.problems.append(f'{len(items)} results, and no plan')
    return items + [Item('not ok', name, problem) for problem in stream.problems[:1]]


def finish(report: Report) -> int:
    """The last lines of a program, and its exit status"""
    good = report.close()
    print(f'\n  {elapsed(begun)} in all, {rel(report.path)}\n{report.summary()}', flush=True)
    return 0 if good else 1
