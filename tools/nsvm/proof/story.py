# SPDX-License-Identifier: GPL-2.0
"""What happened in a case, from a VMRUN log: as text and as a picture, for people"""
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, NamedTuple

from lib.base import read
from lib.svg import COLOURS, Names, Picture

# of the picture: a column is WIDE, a log TALL
LEFT, WIDE, TOP, TALL = 170, 112, 92, 206
MOST = 60		# columns

# What happened -> in the text, in the picture
SAID = {'runs': ('runs with g_pat {}', ''),
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
    kind: str		# a key of SAID
    n: str		# number of the VMRUN
    level: str
    value: str		# of the PAT; where vmcb12 is
    state: State


@dataclass
class Story:
    test: str
    case: str
    verdict: str = ''
    vmruns: int = 0
    state: State = State()		# at the last VMRUN
    events: list[Event] = field(default_factory=list)


def stories(lines: Iterable[str], want: str = '') -> list[Story]:
    """Of the cases wanted: a test, a case, or the end of one after a dot; all by default"""
    told: list[Story] = []
    vcpu: dict[str, str] = {}		# CPU -> its VMCB
    # that -> fields of M: number, VMCB, r or w, RIP, value
    access: dict[str, tuple[str, ...]] = {}
    test, story = '', None

    def begin(case: str) -> Story | None:
        if want and want not in (case, test) and not case.endswith(f'.{want}'):
            return None
        told.append(Story(test, case))
        return told[-1]

    for line in lines:
        match line.split():
            case ['T', '#', 'nsvm:', 'begin', name, *_]:
                test = name
                access.clear()
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
                vcpu[cpu] = mine
                m = access.pop(mine, None)
                if not story:
                    continue
                story.vmruns += 1
                if m:
                    before, exited, rw, at, wrote = m
                    done = {'r': 'reads', 'w': 'writes'}[rw]
                    kind = 'exits' if exited != vmcb else 'faults' if at == rip else done
                    value = {'reads': value, 'exits': ''}.get(kind, wrote)
                    story.events.append(Event(kind, before, 'L1' if exited == mine else 'L2', value,
                                              story.state))
                state = State('L1' if vmcb == mine else 'L2', g_pat, hpat)
                if state != story.state:
                    story.events.append(Event('runs', n, state.level, g_pat, state))
                story.state = state
            case ['M', n, cpu, exited, rw, at, wrote]:
                access[vcpu.get(cpu, '')] = (n, exited, rw, at, wrote)
            case ['A', n, _, _, _, vmcb12] if story:
                story.events.append(Event('vmrun', n, 'L1', vmcb12, story.state))
            case ['B']:
                story = None
                access.clear()
                vcpu.clear()
    return [s for s in told if s.events or s.verdict]


def sources(test: Path) -> str:
    """Of a test, and of the headers beside it that it includes"""
    text = read(test)
    return text + ''.join(sources(test.parent / name)
                          for name in re.findall(r'^#include "(.*)"', text, re.M))


def pat_names(source: str) -> Names:
    """The names that a test's source has for PATs"""
    return {value: name for name, value in re.findall(
        r'^#define\s+([A-Z0-9_]*PAT[A-Z0-9_]*)\s+0x([0-9A-Fa-f]{16})[uU][lL][lL]', source, re.M)}


def text(story: Story, names: Names) -> str:
    def named(value: str) -> str:
        return f'{value} ({names[value]})' if value in names else value

    lines = [f'{story.test} {story.case}' + (f': {story.verdict}' if story.verdict else ''),
             f'  {"VMRUN":>9}']
    for e in story.events:
        keeps = f', L1 keeps {named(e.state.hpat)}' if e.kind == 'runs' and e.level == 'L2' else ''
        lines.append(f'  {e.n:>9}  {e.level} {SAID[e.kind][0].format(named(e.value))}{keeps}')
    return '\n'.join(lines)


# ---- A picture ----

def stretches(keys: list) -> list[tuple[int, int]]:
    """Begin and end of each run of equal ones"""
    edges = [i for i in range(len(keys)) if not i or keys[i] != keys[i - 1]]
    return list(zip(edges, [*edges[1:], len(keys)]))


def short(value: str, names: Names) -> str:
    return names.get(value, value[8:])


def svg(panels: dict[str, Story], names: Names) -> str:
    """The stories one above the other, a column for each thing that happened.

    Args:
        panels: title -> story.
        names: of PATs.

    Returns:
        The picture; '' if nothing happened, or too much.
    """
    most = max(len(s.events) for s in panels.values())
    if not 0 < most <= MOST:
        return ''
    used = [v for s in panels.values() for e in s.events for v in (
        '' if e.kind == 'vmrun' else e.value, e.state.pat('L1'), e.state.pat('L2')) if v]
    values = list(dict.fromkeys([*names, *used]))
    colours = {v: COLOURS[i % len(COLOURS)] for i, v in enumerate(values)}
    first = next(iter(panels.values()))
    picture = Picture(f'{first.test} {first.case}', LEFT + most * WIDE + 24,
                      TOP + len(panels) * TALL + 20)
    picture.text(16, 28, first.case, 'font-size="17" font-weight="bold" fill="#222"')
    picture.text(16, 48, 'Each VMRUN as the CPU sees it, from left to right. Solid: the VMCB that '
                 'runs. Pale: what L1 will run with.', 'fill="#555"')
    x: float = 16
    for v in (v for v in values if v in used):
        label = f'{v} {names[v]}' if v in names else v
        picture.box(x, 60, 14, 14, colours[v])
        picture.text(x + 20, 72, label, 'fill="#222" font-size="12"')
        x += 40 + 7.6 * len(label)
    for y, (title, story) in zip(range(TOP, picture.height, TALL), panels.items()):
        draw_frame(picture, y, title, story)
        for level, down in (('L1', 60), ('L2', 96)):
            draw_pats(picture, y + down, [(e.state.pat(level), e.state.level == level)
                                          for e in story.events], colours, names)
        draw_events(picture, y, story.events, colours, names)
    return str(picture)


def draw_frame(picture: Picture, y: int, title: str, story: Story) -> None:
    """Title and verdict of a story, names of its lines, and who runs"""
    verdict = story.verdict or '-'
    picture.text(16, y + 24, title, 'font-size="15" font-weight="bold" fill="#222"')
    picture.text(16, y + 42, f'case: {verdict}',
                 f'fill="{"#2a7f4f" if verdict == "ok" else "#b00020"}"')
    for down, name in ((78, 'vmcb01.g_pat (L1)'), (114, 'vmcb02.g_pat (L2)'),
                       (150, 'IA32_PAT, VMRUN')):
        picture.text(16, y + down, name, 'fill="#222"')
    picture.text(16, y + 182, 'VMRUN number', 'fill="#777" font-size="11"')
    for begin, end in stretches([e.state.level for e in story.events]):
        x, level = LEFT + begin * WIDE, story.events[begin].state.level
        picture.box(x + 1, y + 28, (end - begin) * WIDE - 2, 22,
                    '#e4e7eb' if level == 'L1' else '#f6e3c5')
        picture.text(x + 8, y + 44, f'{level} runs', 'fill="#222"')


def draw_pats(picture: Picture, y: int, band: list[tuple[str, bool]], colours: dict[str, str],
              names: Names) -> None:
    """The PATs of a VMCB.  Solid (True) where it is in use; what is pale has its value written
    unless it is the same as left of it"""
    for begin, end in stretches(band):
        x, (pat, solid) = LEFT + begin * WIDE, band[begin]
        if pat:
            picture.box(x, y, (end - begin) * WIDE, 26, colours[pat],
                        '' if solid else 'opacity="0.28"')
        if pat and (solid or not begin or band[begin - 1] != (pat, True)):
            style = 'fill="#fff" font-weight="bold"' if solid else 'fill="#222"'
            picture.text(x + 8, y + 18, short(pat, names), style)


def draw_events(picture: Picture, y: int, events: list[Event], colours: dict[str, str],
                names: Names) -> None:
    """What the guests did, and the numbers of VMRUNs"""
    for x, e in zip(range(LEFT, picture.width, WIDE), events):
        label = SAID[e.kind][1].format(short(e.value, names))
        if label:
            picture.box(x + 3, y + 132, WIDE - 6, 26, '#fff',
                        f'rx="5" stroke-width="2" stroke="{colours.get(e.value, "#999")}"')
            picture.text(x + WIDE // 2, y + 149, label,
                         'text-anchor="middle" font-size="11" fill="#222"')
        picture.text(x + 3, y + 182, e.n, 'fill="#777" font-size="11"')
