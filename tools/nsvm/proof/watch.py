# SPDX-License-Identifier: GPL-2.0
"""What a log of VMRUNs says of a guest of a guest: with which PAT the CPU ran it, in phases

A phase begins when L2 writes IA32_PAT, or with a line of machine/stack that says that a saved
L1 was restored.  What L2 believes to have is what it wrote last.  If L1 has more guests than one,
the vmcb12 with which L1 ran one tells which it is; L0 has a single VMCB for all of them.
"""
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from lib.pat import TYPES, combined
from lib.svg import Names, Picture, colours_of

RESTORED = re.compile(r'T # stack: restored (\S+) flags (\S+) g_pat (\S+)')


def page(pat: str) -> str:
    """The type of a page with PAT index 1, if MTRRs and nested page tables say WB"""
    return combined(TYPES.get(int(pat[-4:-2], 16), '?'), 'WB') if pat else '?'


@dataclass
class Phase:
    name: str
    believes: str
    guest: str = ''		# vmcb12 of who wrote it
    l2: Counter[str] = field(default_factory=Counter)	# g_pat of L2's VMRUNs
    first: Counter[str] = field(default_factory=Counter)  # of those before L1 ran, after a restore
    l1: Counter[str] = field(default_factory=Counter)	# and of L1's
    reads: Counter[str] = field(default_factory=Counter)	# what RDMSR returned to L2

    @property
    def right(self) -> int:
        return self.l2[self.believes]


class Watch:
    """Lines go in by feed() as they come"""

    def __init__(self, believes: str) -> None:
        self.phases = [Phase('start', believes)]
        self.access: dict[str, tuple[str, int, str]] = {}	# of a guest: r or w, RIP, value
        self.mine = self.guest = self.era = ''
        self.restored = False		# and L1 has not run yet
        self.begun = time.monotonic()
        # A picture's: who -> from when on, the PAT; a guest -> the PATs that it was run with
        self.bands: dict[str, list[tuple[float, str]]] = {'L1': [], 'L2': [], 'L2 reads': []}
        self.guests: dict[str, list[str]] = {}
        self.marks: list[tuple[float, str]] = []

    def band(self, name: str, value: str) -> None:
        band = self.bands.setdefault(name, [])
        if not band or band[-1][1] != value:
            band.append((time.monotonic() - self.begun, value))

    def begin(self, name: str, believes: str) -> None:
        self.phases.append(Phase(name, believes, self.guest))

    def feed(self, line: str) -> None:
        if line[0] == 'V':
            self.vmrun(line.split())
        elif line[0] == 'M':
            _, _, _, vmcb, kind, rip, value = line.split()
            if vmcb != self.mine:
                self.access[self.guest] = kind, int(rip, 16), value
        elif line[0] == 'A' and len(f := line.split()) == 6:	# the last line may be cut off
            self.guest = self.era + f[5]
        elif line.startswith('T # stack: '):
            text = line[11:].strip()
            self.marks.append((time.monotonic() - self.begun, text))
            if m := RESTORED.match(line):
                self.begin(m[1], self.phases[-1].believes)
                self.restored = True
                self.access.clear()
            elif text.startswith('L1 restores'):
                self.era += 'restored '	# a guest, which may get the vmcb12 of one that has gone

    def vmrun(self, f: list[str]) -> None:
        if len(f) != 14:
            return
        vmcb, g_pat, rip, value, self.mine = f[3], f[4], f[9], f[10], f[11]
        if vmcb == self.mine:
            self.restored = False
            self.phases[-1].l1[g_pat] += 1
            self.band('L1', g_pat)
            return
        if self.guest in self.access:
            kind, at, wrote = self.access.pop(self.guest)
            if int(rip, 16) == at + 2 and kind == 'w':
                self.begin(wrote, wrote)
                self.band('L2 reads', wrote)
            elif int(rip, 16) == at + 2:
                self.phases[-1].reads[value] += 1
                self.band('L2 reads', value)
        phase = self.phases[-1]
        (phase.first if self.restored else phase.l2)[g_pat] += 1
        self.band('L2', g_pat)
        ran_with = self.guests.setdefault(self.guest, [])
        if ran_with[-1:] != [g_pat]:
            ran_with.append(g_pat)
        self.band(f'guest {[*self.guests].index(self.guest) + 1}', g_pat)


# ---- A picture ----

WIDTH, LEFT, TOP, TALL = 1200, 190, 92, 190
ROWS = {'L1': 'L1 runs with', 'L2': 'L2 runs with', 'L2 reads': 'L2 wrote and reads'}
# What stack says -> a letter below the picture
MARKS = {'L1 is up': 'L1', 'L2 is up': 'L2', 'L2 writes': 'w', 'L2 is done': 'end'}


def svg(panels: dict[str, Watch], names: Names, rows: dict[str, str] = ROWS) -> str:
    """A picture of what was seen, one panel above the other, time to the right.

    Args:
        panels: title -> what was seen.
        names: of PATs.
        rows: three bands of a Watch -> their captions.
    """
    longest = max(w.marks[-1][0] for w in panels.values()) or 1
    colours = colours_of(v for w in panels.values() for band in w.bands.values() for _, v in band)
    picture = Picture('The PATs that the CPU is given', WIDTH, TOP + len(panels) * TALL + 20)
    picture.heading('A hypervisor in a hypervisor: the PATs that the CPU is given',
                    f'From left to right: {longest:.0f} seconds of the emulated machine.')
    picture.legend(60, colours, names)

    def at(seconds: float) -> int:
        return LEFT + int(seconds * (WIDTH - LEFT - 24) / longest)

    for y, (title, w) in zip(range(TOP, picture.height, TALL), panels.items()):
        picture.text(16, y + 24, title, 'font-size="15" font-weight="bold" fill="#222"')
        for down, (name, caption) in zip((40, 76, 112), rows.items()):
            picture.text(16, y + down + 18, caption, 'fill="#222"')
            band = w.bands.get(name, [])
            for (begin, value), (end, _) in zip(band, [*band[1:], (w.marks[-1][0], '')]):
                picture.box(at(begin), y + down, max(at(end) - at(begin), 1), 26, colours[value])
        for seconds, text in w.marks:
            letters = [letter for mark, letter in MARKS.items() if text.startswith(mark)]
            if letters:
                picture.box(at(seconds), y + 36, 1, 112, '#222')
                picture.text(at(seconds) - 3, y + 162, letters[0], 'font-size="11" fill="#555"')
    picture.text(16, picture.height - 12, 'L1: it is up.  L2: it is up.  w: it writes IA32_PAT.',
                 'fill="#555" font-size="12"')
    return str(picture)
