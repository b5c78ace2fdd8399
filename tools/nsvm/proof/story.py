# SPDX-License-Identifier: GPL-2.0
"""What happened in a case, from a VMRUN log: as text and as a picture, for people"""
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, NamedTuple
from xml.sax.saxutils import escape

from lib.base import read

COLOURS = ('#2b5d9b', '#2f8f9d', '#c8452f', '#8a5a9e', '#6b6b6b', '#b36a00', '#2a7f4f', '#444444')
LEFT, WIDE, TOP, TALL = 170, 112, 92, 206		# of the picture: a column is WIDE, a log TALL
MOST = 60		# columns
Names = dict[str, str]		# value of a PAT -> its name

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
    what: str
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
    found: list[Story] = []
    vcpu: dict[str, str] = {}		# CPU -> its VMCB
    access: dict[str, tuple[str, ...]] = {}		# that -> fields of M: number, VMCB, r or w, RIP, value
    test, story = '', None

    def begin(case: str) -> Story | None:
        if want and want not in (case, test) and not case.endswith(f'.{want}'):
            return None
        found.append(Story(test, case))
        return found[-1]

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
                    what = 'exits' if exited != vmcb else 'faults' if at == rip else done
                    value = {'reads': value, 'exits': ''}.get(what, wrote)
                    story.events.append(Event(what, before, 'L1' if exited == mine else 'L2', value, story.state))
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
    return [s for s in found if s.events or s.verdict]


def sources(test: Path) -> str:
    """Of a test, and of the headers beside it"""
    text = read(test)
    return text + ''.join(read(test.parent / name) for name in re.findall(r'^#include "(.*)"', text, re.M))


def pat_names(source: str) -> Names:
    """The names that a test's source has for PATs"""
    return {value: name for name, value in
            re.findall(r'^#define\s+([A-Z0-9_]*PAT[A-Z0-9_]*)\s+0x([0-9A-Fa-f]{16})[uU][lL][lL]', source, re.M)}


def text(story: Story, names: Names) -> str:
    def named(value: str) -> str:
        return f'{value} ({names[value]})' if value in names else value

    lines = [f'{story.test} {story.case}' + (f': {story.verdict}' if story.verdict else ''), f'  {"VMRUN":>9}']
    for e in story.events:
        keeps = f', L1 keeps {named(e.state.hpat)}' if e.what == 'runs' and e.level == 'L2' else ''
        lines.append(f'  {e.n:>9}  {e.level} {SAID[e.what][0].format(named(e.value))}{keeps}')
    return '\n'.join(lines)


# ---- A picture ----

def stretches(keys: list) -> list[tuple[int, int]]:
    """Begin and end of each run of equal ones"""
    edges = [i for i in range(len(keys)) if not i or keys[i] != keys[i - 1]]
    return list(zip(edges, [*edges[1:], len(keys)]))


def svg(panels: dict[str, Story], names: Names) -> str:
    """title -> story: one above the other, a column for each thing that happened; '' if there is none, or too many"""
    def put(x: float, y: int, s: object, style: str) -> None:
        out.append(f'<text x="{int(x)}" y="{y}" {style}>{escape(str(s))}</text>')

    def box(x: float, y: int, w: int, h: int, fill: str, more: str = '') -> None:
        out.append(f'<rect x="{int(x)}" y="{y}" width="{w}" height="{h}" fill="{fill}" {more}/>')

    def short(value: str) -> str:
        return names.get(value, value[8:])

    most = max(len(s.events) for s in panels.values())
    if not 0 < most <= MOST:
        return ''
    used = [v for s in panels.values() for e in s.events
            for v in ('' if e.what == 'vmrun' else e.value, e.state.pat('L1'), e.state.pat('L2')) if v]
    values = list(dict.fromkeys([*names, *used]))
    colour = {v: COLOURS[i % len(COLOURS)] for i, v in enumerate(values)}
    first = next(iter(panels.values()))
    width, height = LEFT + most * WIDE + 24, TOP + len(panels) * TALL + 20
    out = ['<!-- SPDX-License-Identifier: GPL-2.0 -->',
           f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13">',
           f'<title>{escape(f"{first.test} {first.case}")}</title>']
    box(0, 0, width, height, '#fff')
    put(16, 28, first.case, 'font-size="17" font-weight="bold" fill="#222"')
    put(16, 48, 'Each VMRUN as the CPU sees it, from left to right. Solid: the VMCB that runs. '
        'Pale: what L1 will run with.', 'fill="#555"')
    x: float = 16
    for v in (v for v in values if v in used):
        label = f'{v} {names[v]}' if v in names else v
        box(x, 60, 14, 14, colour[v])
        put(x + 20, 72, label, 'fill="#222" font-size="12"')
        x += 40 + 7.6 * len(label)
    for y, (title, story) in zip(range(TOP, height, TALL), panels.items()):
        verdict, events = story.verdict or '-', story.events
        put(16, y + 24, title, 'font-size="15" font-weight="bold" fill="#222"')
        put(16, y + 42, f'case: {verdict}', f'fill="{"#2a7f4f" if verdict == "ok" else "#b00020"}"')
        for down, what in ((78, 'vmcb01.g_pat (L1)'), (114, 'vmcb02.g_pat (L2)'), (150, 'IA32_PAT, VMRUN')):
            put(16, y + down, what, 'fill="#222"')
        put(16, y + 182, 'VMRUN number', 'fill="#777" font-size="11"')
        for begin, end in stretches([e.state.level for e in events]):
            x, level = LEFT + begin * WIDE, events[begin].state.level
            box(x + 1, y + 28, (end - begin) * WIDE - 2, 22, '#e4e7eb' if level == 'L1' else '#f6e3c5')
            put(x + 8, y + 44, f'{level} runs', 'fill="#222"')
        for level, down in (('L1', 60), ('L2', 96)):
            # Solid where it is in use; what is pale has its value written unless it is the same as left of it
            band = [(e.state.pat(level), e.state.level == level) for e in events]
            for begin, end in stretches(band):
                x, (pat, solid) = LEFT + begin * WIDE, band[begin]
                if pat:
                    box(x, y + down, (end - begin) * WIDE, 26, colour[pat], '' if solid else 'opacity="0.28"')
                if pat and (solid or not begin or band[begin - 1] != (pat, True)):
                    style = 'fill="#fff" font-weight="bold"' if solid else 'fill="#222"'
                    put(x + 8, y + down + 18, short(pat), style)
        for x, e in zip(range(LEFT, width, WIDE), events):
            said = SAID[e.what][1].format(short(e.value))
            if said:
                box(x + 3, y + 132, WIDE - 6, 26, '#fff',
                    f'rx="5" stroke-width="2" stroke="{colour.get(e.value, "#999")}"')
                put(x + WIDE // 2, y + 149, said, 'text-anchor="middle" font-size="11" fill="#222"')
            put(x + 3, y + 182, e.n, 'fill="#777" font-size="11"')
    return '\n'.join([*out, '</svg>', ''])
