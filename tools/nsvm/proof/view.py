# SPDX-License-Identifier: GPL-2.0
"""view [CASE|list] - what happened in a case of the last make run, at each VMRUN

Prints what happened in CASE, on the stock kernel and on the series, and draws it:
results/view.svg.  CASE is the name of a test or of a case, or the part of a case's name after the
dot.  list prints all names.  The data are the logs of the plugin vmrun.c.
"""
import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from lib.base import Base, put, read
from lib.kind import has_gpat
from lib.say import Fatal
from lib.settings import place, rel
from lib.svg import Names, Picture, colours_of

DEFAULT = 'npt_on.l2_write_is_saved_at_vmexit'
# of the picture: a column is WIDE, a story TALL
LEFT, WIDE, TOP, TALL = 170, 112, 92, 206
MOST = 60		# columns

# What happened -> in the text, in the picture
WORDS = {'runs': ('runs with g_pat {}', ''),
         'reads': ('reads IA32_PAT:   {}', 'reads {}'),
         'writes': ('writes IA32_PAT:  {}', 'writes {}'),
         'faults': ('writes IA32_PAT:  {}, and faults', 'writes {}: #GP'),
         'exits': ('accesses IA32_PAT, which L1 intercepts', 'access: to L1'),
         'vmrun': ('executes VMRUN, vmcb12 at {}', 'VMRUN')}


class State(NamedTuple):
    """At a VMRUN"""
    level: str = ''		# L1 or L2, which runs with
    g_pat: str = ''
    hpat: str = ''		# the g_pat of vmcb01

    def pat(self, level: str) -> str:
        """g_pat of vmcb01 or vmcb02, the latter only while L2 runs"""
        return self.hpat if level == 'L1' else self.g_pat if self.level == 'L2' else ''


class Event(NamedTuple):
    kind: str		# a key of WORDS
    n: str		# number of the VMRUN
    level: str
    value: str		# of the PAT; where vmcb12 is
    state: State


@dataclass
class Story:
    """What happened in a case"""
    test: str
    case: str
    verdict: str = ''
    vmruns: int = 0
    state: State = State()		# at the last VMRUN
    events: list[Event] = field(default_factory=list)

    def vmrun(self, n: str, vmcb: str, own: str, g_pat: str, hpat: str) -> None:
        """A VMRUN of L0; own: the VMCB with which this CPU runs L1."""
        self.vmruns += 1
        state = State('L1' if vmcb == own else 'L2', g_pat, hpat)
        if state != self.state:
            self.events.append(Event('runs', n, state.level, g_pat, state))
        self.state = state

    def access(self, m: tuple[str, ...], own: str, vmcb: str, rip: str, value: str) -> None:
        """An access of IA32_PAT (fields of a line M), and the VMRUN after it."""
        n, exited, rw, at, wrote = m
        kind = {'r': 'reads', 'w': 'writes'}[rw]
        if exited != vmcb:
            kind = 'exits'
        elif at == rip:
            kind = 'faults'
        value = {'reads': value, 'exits': ''}.get(kind, wrote)
        self.events.append(Event(kind, n, 'L1' if exited == own else 'L2', value, self.state))


def stories(lines: Iterable[str], want: str = '') -> list[Story]:
    """What happened in each case of a log.

    Args:
        want: a test, a case, or the end of one after a dot; all by default.
    """
    begun: list[Story] = []
    own: dict[str, str] = {}		# CPU -> the VMCB with which it runs L1
    # that -> fields of M: number, VMCB, r or w, RIP, value
    accesses: dict[str, tuple[str, ...]] = {}
    test, story = '', None

    def begin(case: str) -> Story | None:
        if want and want not in (case, test) and not case.endswith(f'.{want}'):
            return None
        begun.append(Story(test, case))
        return begun[-1]

    for line in lines:
        match line.split():
            case ['T', '#', 'nsvm:', 'begin', name, *_]:
                test = name
                accesses.clear()
                story = begin('-')
            case ['T', '#', 'nsvm:', *_]:
                story = None
            case ['T', '#', 'RUN', case, *_]:
                story = begin(case)
            case ['T', 'ok' as word, *_] | ['T', 'not' as word, 'ok', *_]:
                if story:
                    story.verdict = 'ok' if word == 'ok' else 'not ok'
                story = None
            case ['V', n, cpu, vmcb, g_pat, _, _, _, _, rip, value, mine, hpat, _]:
                own[cpu] = mine
                access = accesses.pop(mine, None)
                if story and access:
                    story.access(access, mine, vmcb, rip, value)
                if story:
                    story.vmrun(n, vmcb, mine, g_pat, hpat)
            case ['M', n, cpu, exited, rw, at, wrote]:
                accesses[own.get(cpu, '')] = (n, exited, rw, at, wrote)
            case ['A', n, _, _, _, vmcb12] if story:
                story.events.append(Event('vmrun', n, 'L1', vmcb12, story.state))
            case ['B']:
                story = None
                accesses.clear()
                own.clear()
    return [s for s in begun if s.events or s.verdict]


def pat_names(test: Path) -> Names:
    """The names that a test, and the headers beside it that it includes, have for PATs."""
    text = read(test)
    headers = re.findall(r'^#include "(.*)"', text, re.M)
    source = ''.join([text, *(read(test.parent / name) for name in headers)])
    return {value: name for name, value in re.findall(
        r'^#define\s+([A-Z0-9_]*PAT[A-Z0-9_]*)\s+0x([0-9A-Fa-f]{16})[uU][lL][lL]', source, re.M)}


def text(story: Story, names: Names) -> str:
    def named(value: str) -> str:
        return f'{value} ({names[value]})' if value in names else value

    lines = [f'{story.test} {story.case}' + (f': {story.verdict}' if story.verdict else ''),
             f'  {"VMRUN":>9}']
    for e in story.events:
        keeps = f', L1 keeps {named(e.state.hpat)}' if e.kind == 'runs' and e.level == 'L2' else ''
        lines.append(f'  {e.n:>9}  {e.level} {WORDS[e.kind][0].format(named(e.value))}{keeps}')
    return '\n'.join(lines)


# ---- A picture ----

def stretches(keys: Iterable[tuple]) -> Iterator[tuple[int, int, tuple]]:
    """Place, width and key of each run of equal ones."""
    begin = 0
    for key, equal in groupby(keys):
        count = len(list(equal))
        yield LEFT + begin * WIDE, count * WIDE, key
        begin += count


def svg(panels: dict[str, Story], names: Names) -> str:
    """The stories one above the other, a column for each thing that happened.

    Args:
        panels: title -> story.
        names: of PATs.

    Returns:
        The picture; '' if nothing happened, or too much.
    """
    columns = max(len(s.events) for s in panels.values())
    if not 0 < columns <= MOST:
        return ''
    used = {v for s in panels.values() for e in s.events for v in (
        '' if e.kind == 'vmrun' else e.value, e.state.pat('L1'), e.state.pat('L2')) if v}
    colours = {v: c for v, c in colours_of([*names, *sorted(used)]).items() if v in used}
    first = next(iter(panels.values()))
    picture = Picture(f'{first.test} {first.case}', LEFT + columns * WIDE + 24,
                      TOP + len(panels) * TALL + 20)
    picture.heading(first.case, 'Each VMRUN as the CPU sees it, from left to right. Solid: the '
                    'VMCB that runs. Pale: what L1 will run with.')
    picture.legend(60, colours, names)
    for y, (title, story) in zip(range(TOP, picture.height, TALL), panels.items()):
        draw(picture, y, title, story, colours, names)
    return str(picture)


def draw(picture: Picture, y: int, title: str, story: Story, colours: dict[str, str],
         names: Names) -> None:
    """Who runs, the PATs of both VMCBs, what the guests did, and the numbers of VMRUNs."""
    def short(value: str) -> str:
        return names.get(value, value[8:])

    verdict, grey = story.verdict or '-', 'fill="#777" font-size="11"'
    picture.text(16, y + 24, title, 'font-size="15" font-weight="bold" fill="#222"')
    picture.text(16, y + 42, f'case: {verdict}',
                 f'fill="{"#2a7f4f" if verdict == "ok" else "#b00020"}"')
    for down, name in ((78, 'vmcb01.g_pat (L1)'), (114, 'vmcb02.g_pat (L2)'),
                       (150, 'IA32_PAT, VMRUN')):
        picture.text(16, y + down, name, 'fill="#222"')
    picture.text(16, y + 182, 'VMRUN number', grey)
    for x, width, level in stretches(e.state.level for e in story.events):
        picture.cell(x + 1, y + 28, width - 2, 22, f'{level} runs',
                     '#e4e7eb' if level == 'L1' else '#f6e3c5', text_style='fill="#222"')
    for level, down in (('L1', 60), ('L2', 96)):
        for x, width, (pat, is_running) in stretches((e.state.pat(level), e.state.level == level)
                                                     for e in story.events):
            if pat:
                picture.cell(x, y + down, width, 26, short(pat), colours[pat],
                             '' if is_running else 'opacity="0.28"',
                             'fill="#fff"' if is_running else 'fill="#222"')
    for x, e in zip(range(LEFT, picture.width, WIDE), story.events):
        label = WORDS[e.kind][1].format(short(e.value))
        if label:
            picture.cell(x + 3, y + 132, WIDE - 6, 26, label, '#fff', 'rx="5" stroke-width="2" '
                         f'stroke="{colours.get(e.value, "#999")}"', 'fill="#222"')
        picture.text(x + 3, y + 182, e.n, grey)


# ---- the last make run ----

def stories_of(base: Base, kernel: str, case: str) -> list[Story]:
    log = base.results / f'{kernel}.vmrun'
    if not log.exists():
        raise Fatal(f'no {rel(log)}: make run first')
    with open(log, errors='replace') as f:
        wanted = stories(f, case)
    if not wanted:
        raise Fatal(f'no case {case} in {rel(log)}: make view CASE=list')
    return wanted


def main(args: list[str]) -> int:
    if len(args) > 1:
        raise Fatal('usage: view [CASE|list]')
    base, case = Base(), args[0] if args else DEFAULT
    if case == 'list':
        for s in stories_of(base, 'series', ''):
            if s.vmruns:
                print(f'{s.vmruns:6} VMRUNs  {s.verdict:7} {s.test} {s.case}')
        return 0
    tests = base.src / 'tools/testing/selftests/kvm/x86' if has_gpat(base) else place.overlay
    names: Names = {}
    panels = {}
    for kernel in ('stock', 'series'):
        wanted = stories_of(base, kernel, case)
        for story in wanted:
            names |= pat_names(tests / f'{story.test}.c')
        print('', kernel, *(f'{text(story, names)}\n' for story in wanted), sep='\n', end='')
        panels[kernel] = next((s for s in wanted if s.events), wanted[0])
    picture = svg(panels, names)
    if picture:
        put(base.results / 'view.svg', picture)
        print(f'\n  as a picture: {rel(base.results / "view.svg")}')
    else:
        print('\n  no picture: too long, or nothing happened')
    return 0
