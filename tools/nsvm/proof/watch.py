# SPDX-License-Identifier: GPL-2.0
"""What a log of VMRUNs says of the guests of a guest: with which PAT the CPU ran each, in phases

A phase begins when L2 writes IA32_PAT, or with a line of machine/stack that says that a saved
L1 was restored.

L0 has one VMCB for all that a vCPU of L1 runs.  Which guest of L1, or which vCPU of L2, that is,
tells the vmcb12 of L1's last VMRUN there (line A), wherever L1 runs it.
"""
import time
from collections import Counter
from dataclasses import dataclass, field

from lib.pat import RESET, TYPES, combined
from lib.svg import Names, Picture, colours_of


def page(pat: str) -> str:
    """The type of a page with PAT index 1, if MTRRs and nested page tables say WB"""
    return combined(TYPES.get(int(pat[-4:-2], 16), '?'), 'WB') if pat else '?'


@dataclass
class Phase:
    name: str
    believes: str = ''		# what L2 wrote last, if that was here
    guest: str = ''		# vmcb12 of who wrote it
    l2: Counter[str] = field(default_factory=Counter)	# g_pat of L2's VMRUNs
    first: Counter[str] = field(default_factory=Counter)  # of those before L1 ran, after a restore
    l1: Counter[str] = field(default_factory=Counter)	# and of L1's
    reads: Counter[str] = field(default_factory=Counter)	# what RDMSR returned to L2

    @property
    def right(self) -> int:
        return self.l2[self.believes]


@dataclass
class Guest:
    """A guest of L1, or a vCPU of L2"""
    number: int		# from 1 on, in the order in which they were run first
    on: Counter[str] = field(default_factory=Counter)	# vmcb01 of a vCPU of L1 -> VMRUNs there
    moves: int = 0		# from one vCPU of L1 to another
    last: str = ''		# the vmcb01 where it ran last


class Watch:
    """Lines go in by feed() as they come"""

    def __init__(self) -> None:
        self.of_all = Phase('start', RESET)	# the phase of a guest that has not written since
        self.phases = [self.of_all]
        self.phase_of: dict[str, Phase] = {}	# and of one that has
        self.guests: dict[str, Guest] = {}	# by vmcb12
        self.here: dict[str, str] = {}		# CPU -> vmcb01
        self.runs: dict[str, str] = {}		# vmcb01 -> guest
        self.access: dict[str, tuple[str, int, str]] = {}	# of a guest: r or w, RIP, value
        self.era = ''
        self.restored = False		# and L1 has not run yet
        self.begun = time.monotonic()
        # Who -> from when on, the PAT: also "guest 1" and so on, and vCPUs of L1 as "L1 vmcb01"
        self.bands: dict[str, list[tuple[float, str]]] = {'L1': [], 'L2': [], 'L2 reads': []}
        self.marks: list[tuple[float, str]] = []

    def band(self, name: str, value: str) -> None:
        band = self.bands.setdefault(name, [])
        if not band or band[-1][1] != value:
            band.append((time.monotonic() - self.begun, value))

    def pats(self, name: str) -> list[str]:
        """The PATs of a band, one after the other."""
        return [pat for _, pat in self.bands[name]]

    def writes(self) -> dict[str, list[Phase]]:
        """Each guest that wrote (a BIOS does not) -> the phases that this began."""
        written = {name: [p for p in self.phases[1:] if p.guest == name] for name in self.guests}
        return {name: phases for name, phases in written.items() if phases}

    def feed(self, line: str) -> None:
        match line.split():
            case ['V', _, cpu, vmcb, g_pat, _, _, _, _, rip, value, vmcb01, _, _]:
                self.here[cpu] = vmcb01
                if vmcb == vmcb01:
                    self.l1_ran(vmcb01, g_pat)
                else:
                    self.l2_ran(vmcb01, g_pat, int(rip, 16), value)
            case ['M', _, cpu, vmcb, kind, rip, value] if vmcb != self.here.get(cpu):
                guest = self.runs.get(self.here.get(cpu, ''), '')
                self.access[guest] = kind, int(rip, 16), value
            case ['A', _, cpu, vmcb, _, vmcb12] if vmcb == self.here.get(cpu):
                self.runs[vmcb] = self.era + vmcb12
            case ['T', '#', 'stack:', *words]:
                self.marks.append((time.monotonic() - self.begun, ' '.join(words)))
                match words:
                    case ['restored', name, *_]:
                        self.of_all = Phase(name)
                        self.phases.append(self.of_all)
                        self.phase_of.clear()
                        self.access.clear()
                        self.restored = True
                    case ['L1', 'restores', *_]:	# a guest, to the vmcb12 of another
                        self.era += 'restored '

    def l1_ran(self, vmcb01: str, g_pat: str) -> None:
        self.restored = False
        self.of_all.l1[g_pat] += 1
        self.band('L1', g_pat)
        self.band(f'L1 {vmcb01}', g_pat)

    def l2_ran(self, vmcb01: str, g_pat: str, rip: int, value: str) -> None:
        name = self.runs.get(vmcb01, '')
        guest = self.guests.setdefault(name, Guest(len(self.guests) + 1))
        kind, at, wrote = self.access.pop(name, ('', 0, ''))
        if kind and rip == at + 2:		# WRMSR and RDMSR have two bytes
            if kind == 'w':
                self.phase_of[name] = Phase(wrote, wrote, name)
                self.phases.append(self.phase_of[name])
            else:
                self.phase_of.get(name, self.of_all).reads[value] += 1
            self.band('L2 reads', wrote if kind == 'w' else value)
        phase = self.phase_of.get(name, self.of_all)
        (phase.first if self.restored else phase.l2)[g_pat] += 1
        guest.on[vmcb01] += 1
        guest.moves += guest.last not in ('', vmcb01)
        guest.last = vmcb01
        self.band('L2', g_pat)
        self.band(f'guest {guest.number}', g_pat)


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
