# SPDX-License-Identifier: GPL-2.0
"""stack [PART] [VMM=...] - real hypervisors in each other, and real migrations of them

On the emulated machine, L0, the distribution's QEMU runs the distribution's kernel, L1, and
that once more, L2: unmodified packages, but for L0's KVM modules of the series.  Each VMRUN
is watched.  PART is one of these; by default all but the last two:

pats     L2 writes the PATs of other systems.  With which of them does the CPU run it?
file     L1 with a running L2 is saved to a file (libvirt's managed save) on each kernel, by
         each QEMU, while L2 is active and while it is not, and restored on each kernel
socket   the same from one QEMU to another one of the same kernel, over a Unix socket
soak     20 migrations in a row
short    for make test: of these what one machine with the series can do: pats, and a migration while L2 is active

A file *.flat of kvm-unit-tests as PART is run on both kernels.

VMM names the QEMUs in L0, older ones first, with blanks between: installed, newest (the lab's own, of
build/qemu), patched (with the series for QEMU, built on demand), or a directory in which one is
unpacked.  L1's is the installed one.

Results: stack.ktap; stack.txt, the tables; stack.svg, the picture; stack-*.log and, of each
level, .console.
Exit status: 0 all as it must be, 1 not, 3 there is no such kernel or QEMU here.
"""
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from kernel import kernels
from kernel.kernels import Kernel
from lib import ktap
from lib.base import Base, put
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import place, settings
from machine import boot, levels, qemu
from proof import vmruns
from proof.watch import Phase, Watch, page, svg
from source import tree, vmm
from source.debian import NOT_HERE

MEMORY = 1536		# MiB that two L1, and L0, need
RESET = '0007040600070406'		# APM volume 2, "PAT Register"
# What L2 writes: who else does, and where that is to be seen
PATS = {
    '0001050600070406': 'FreeBSD',		# sys/amd64/amd64/pmap.c, pmap_init_pat()
    '0007010600070106': 'Windows',		# Windows Research Kernel, base/ntos/ke/i386/pat.c
    RESET: 'reset',
    '0006060606060606': 'VirtualBox',		# for its guests: VMM/VMMR0/HWSVMR0.cpp
}
NAMES = PATS | {'0407050600070106': 'Linux'}		# arch/x86/mm/pat/memtype.c
CARRIED = [*PATS][-1]		# of the L2 that is migrated
PARTS = ('pats', 'file', 'socket', 'soak', 'short')


def vmms() -> tuple[dict[str, Path], list[str]]:
    """name -> root of each QEMU, the first one is L1's; names of those for L0, older ones first"""
    known = {'installed': Path('/'), 'newest': place.build / 'qemu/root'}
    roots, names = {'installed': known['installed']}, []
    for name in settings.given.get('VMM', 'installed newest').split():
        if name == 'patched':
            known[name] = vmm.build().parent / 'root'
        root = known.get(name, Path(name).expanduser().resolve())
        if name == 'newest' and not root.exists():
            continue		# what is installed is as new
        names.append(name if name in known else 'given')
        roots[names[-1]] = root
    return roots, names


class Machine:
    """Boots of L0 with the same room"""

    def __init__(self, base: Base, of: dict[str, Kernel], roots: dict[str, Path], l2: str,
                 more: dict[str, Path] | None = None) -> None:
        self.base, self.of = base, of
        self.dir = base.b / 'stack'
        self.dir.mkdir(exist_ok=True)
        self.room = levels.room(base, of['base'], roots, l2, more or {}, self.dir / 'room')

    def run(self, k: str, label: str, what: str, believes: str, l1s: int = 1) -> tuple[Watch, vmruns.Check, str]:
        """What was seen at its VMRUNs, and what it said"""
        watch, check = Watch(believes), vmruns.Check(label)
        results, limit = self.base.results, settings.number('TIMEOUT') * l1s

        def feed(line: str) -> None:
            check.feed(line)
            watch.feed(line)
        with Ticker('STACK', label) as ticker:
            b = boot.run(self.of[k], label, [f'stack:l0:{what}'], base=self.base, tests_dir=place.lab / 'machine',
                         live=feed, room=self.room, timeout=limit, test_timeout=limit,
                         ports=tuple(results / f'{label}.{level}.console' for level in ('l1', 'l2')))
        say('STACK', f'{label}: {check.vmruns} VMRUNs ({elapsed(ticker.start)})')
        return watch, check, b.text()


# ---- the PATs that L2 writes ----

def table(seen: dict[str, Watch]) -> str:
    """For people: in each phase, with what the CPU ran L2"""
    out = [f'{"L2 has written":<30}  {"on":<7} {"VMRUNs":>7} {"with it":>7}  RDMSR   L1 keeps its  '
           'page with PAT index 1']
    for k, w in seen.items():
        for p in w.phases[:1 + len(PATS)]:
            name = 'nothing (Linux with nopat)' if p.name == 'start' else f'{p.name} {NAMES.get(p.name, "")}'
            ran = p.l2.most_common(1)[0][0] if p.l2 else ''
            reads_it, kept = 'it' if set(p.reads) <= {p.believes} else 'not it', 'yes' if keeps(w) else 'no'
            out.append(f'{name:<30}  {k:<7} {p.l2.total():>7} {p.right:>7}  {reads_it:<6}  {kept:<12}  '
                       f'{page(ran)}, L2 means {page(p.believes)}')
    return '\n'.join(out) + '\n'


def keeps(w: Watch) -> bool:
    """Has L1, since it wrote its own PAT, always run with that?"""
    pats = [p for _, p in w.bands['L1']]
    return bool(pats) and pats[-1] in NAMES and NAMES[pats[-1]] == 'Linux' and pats.count(pats[-1]) == 1


def judge_pats(report: ktap.Report, k: str, w: Watch, log: str) -> None:
    """base: L2 runs with L1's PAT whatever it wrote; series: with its own, from the first VMRUN on"""
    wrong, phases = [], w.phases[:1 + len(PATS)]
    for p in phases:
        want = p.l2.total() if k == 'series' else 0
        if not p.l2 or p.right != want or set(p.reads) - {p.believes}:
            wrong.append(f'{p.name}: of {p.l2.total()} VMRUNs {p.right} had {p.believes}, {want} must; '
                         f'RDMSR: {" ".join(p.reads) or "-"}')
    if [p.name for p in phases] != ['start', *PATS]:
        wrong.append(f'L2 wrote {" ".join(p.name for p in phases[1:]) or "nothing"}')
    figures = f'{sum(p.right for p in phases)} of {sum(p.l2.total() for p in phases)} VMRUNs'
    report.item(not wrong, f'{k}: L2 runs with {"the PAT that it has" if k == "series" else "the PAT of L1 always"}',
                wrong[0] if wrong else f'{figures} had the PAT that L2 reads')
    report.item(keeps(w), f'{k}: L1 keeps its PAT', ' '.join(dict.fromkeys(p for _, p in w.bands['L1'])))
    works = 'memory is wrong' not in log and bool(re.search('L2 (is done|goes on)', log))
    report.item(works, f'{k}: L2 works', f'{log.count("memory is right")} checksums')


def pats(base: Base, of: dict[str, Kernel], report: ktap.Report) -> str:
    machine = Machine(base, of, {'installed': Path('/')}, ':'.join(PATS))
    seen = {}
    for k in of:
        seen[k], check, log = machine.run(k, f'stack-{k}', 'run:installed', RESET)
        judge_pats(report, k, seen[k], log)
        if k == 'series':
            report.item(check.ok, f'{k}: VMRUNs', check.figures if check.ok else check.text().split('\n')[0])
    titles = {'base': base.name, 'series': 'with the series'}
    put(base.results / 'stack.svg', svg({titles[k]: w for k, w in seen.items()}, NAMES))
    return table(seen)


# ---- migration ----

class Moved(NamedTuple):
    """An L1 after it was carried"""
    who: str		# by which QEMU, and "guest" or "host"
    how: str		# kernel that saved it, kernel and QEMU that restored it
    flags: str		# of nested state, as restored
    g_pat: str		# of vmcb12, as restored
    end: str		# and in the end
    phase: Phase
    reads: list[tuple[int, str, str]]		# of L2, as it says: number, RDMSR, is its memory right?


def reads(text: str) -> list[tuple[int, str, str]]:
    found = re.findall(r'^# stack: L2 (\d+) reads (\S+), memory is (\w+)$', text, re.M)
    return [(int(n), pat, memory) for n, pat, memory in found]


def moved(watch: Watch, log: str, how: str) -> list[Moved]:
    """Of each "restored" in the log; what L2 said comes when that QEMU has ended"""
    parts = re.split(r'^# stack: restored ', log, flags=re.M)[1:]
    phases = [p for p in watch.phases if p.name != 'start' and p.name not in PATS]
    found = []
    for part, phase in zip(parts, phases):
        who, _, flags, _, g_pat = part.split('\n')[0].split()[:5]
        end = re.search(r'^# stack: end flags \S+ g_pat (\S+)', part, re.M)
        found.append(Moved(who, how, flags, g_pat, end[1] if end else '', phase, reads(part.rpartition('L2 goes on')[2])))
    return found


def wrong(m: Moved, restorer: str, last: bool = True) -> str:
    """What is not as it must be.  QEMU carries vmcb_pa only: on the series L2 has L1's PAT until L1 runs (which is
    at once, if an interrupt is pending), and then its own; the base has one PAT.  The patched one carries all.
    last: of those on one machine"""
    guest = m.who.endswith('guest')
    p = m.phase
    if (m.flags != 'none' and bool(int(m.flags, 16) & 1)) != guest:
        return f'nested state has flags {m.flags}'
    if guest and m.g_pat != CARRIED or m.end not in (CARRIED, *([''] if not last else [])):
        return f'vmcb12.g_pat is {m.g_pat}, and {m.end} in the end'
    if not p.l2:
        return 'L2 did not run'
    if p.first[CARRIED] and not m.who.startswith('patched-'):
        return f'{p.first[CARRIED]} VMRUNs before L1 ran had the PAT of L2, which nobody carried'
    if p.right != (p.l2.total() if restorer == 'series' else 0):
        return f'of {p.l2.total()} VMRUNs after L1 ran {p.right} had {CARRIED}'
    numbers = [n for n, _, _ in m.reads]
    if last and (len(numbers) < 3 or numbers != list(range(numbers[0], numbers[0] + len(numbers)))):
        return f'L2 counts {" ".join(map(str, numbers)) or "nothing"}'
    bad = [f'{n}: {pat}, {memory}' for n, pat, memory in m.reads if (pat, memory) != (CARRIED, 'right')]
    return f'L2 reads {bad[0]}' if bad else ''


def line(m: Moved) -> str:
    p = m.phase
    return (f'{m.how:<32}  {m.who:<15}  {m.flags:>5}  {p.first.total():>6}, {p.first[CARRIED]:>4}  '
            f'{p.l2.total():>6}, {p.right:>6}  {m.g_pat:<16}  {m.end:<16}  {len(m.reads):>3}')


HEAD = f'''\
flags: of nested state, restored; bit 0: L2 is active.  VMRUNs of L2 until L1 ran, and after that; and with L2's PAT
{"from -> to":<32}  {"from, while in":<15}  flags  {"until L1":>12}  {"after":>14}  \
{"vmcb12.g_pat":<16}  {"in the end":<16}  L2 counts'''


def file(base: Base, of: dict[str, Kernel], report: ktap.Report) -> str:
    roots, names = vmms()
    states = ('guest', 'host')
    machine = Machine(base, of, roots, f'{CARRIED}:on')
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i:]]		# none goes back
    out = []
    for saver in of:
        machine.run(saver, f'stack-save-{saver}', f'save:{"/".join(states)}:{":".join(names)}', RESET, len(names))
        for restorer in of:
            watch, check, log = machine.run(restorer, f'stack-{saver}-{restorer}', 'restore:' + ':'.join(
                f'{b}-{a}-{state}' for a, b in pairs for state in states), CARRIED, len(pairs))
            found = moved(watch, log, f'{saver} -> {restorer}, file')
            for m in found:
                why = wrong(m, restorer)
                report.item(not why, f'{m.how}, saved by {m.who}', why or 'as it must be')
            if len(found) != len(pairs) * len(states):
                report.item(False, f'{check.label}: restored', f'{len(found)} of {len(pairs) * len(states)}')
            out += [line(m) for m in found]
    return '\n'.join([HEAD, *out]) + '\n'


def over_socket(report: ktap.Report, k: str, seen: tuple[Watch, vmruns.Check, str], how: str, count: int) -> list[str]:
    watch, check, log = seen
    found = moved(watch, log, f'{k}, {how}')
    bad = [f'number {i}: {why}' for i, m in enumerate(found, 1) if (why := wrong(m, k, i == len(found)))]
    bad += [f'{len(found)} of {count} migrations'] if len(found) != count else []
    numbers = [n for n, _, _ in reads(log)]
    counted = [*map(int, re.findall(r' counted (\d+)$', log, re.M)), len(numbers)]
    bad += ['L2 lost count'] if numbers != list(range(1, len(numbers) + 1)) or counted != sorted(set(counted)) else []
    report.item(not bad, f'{k}: {count} over a socket', bad[0] if bad else f'L2 counts, to {len(numbers)}')
    if k == 'series':
        report.item(check.ok, f'{check.label}: VMRUNs', check.figures if check.ok else check.text().split('\n')[0])
    return [line(m) for m in found]


def socket(base: Base, of: dict[str, Kernel], report: ktap.Report, on: tuple[str, ...], count: int) -> str:
    roots, names = vmms()
    machine = Machine(base, of, roots, f'{CARRIED}:on')
    out = []
    for k in on:
        what = f'to {names[-1]}'
        seen = machine.run(k, f'stack-socket-{k}', f'socket:{names[0]}:{names[-1]}:{count}', RESET, 1 + count // 5)
        out += over_socket(report, k, seen, what, count)
    return '\n'.join([HEAD, *out]) + '\n'


def short(base: Base, of: dict[str, Kernel], report: ktap.Report) -> str:
    machine = Machine(base, of, {'installed': Path('/')}, ':'.join([*PATS, 'on']))
    seen = machine.run('series', 'stack-short', 'socket:installed:installed:1', RESET)
    judge_pats(report, 'series', seen[0], seen[2])
    return '\n'.join([table({'series': seen[0]}), HEAD, *over_socket(report, 'series', seen, 'to installed', 1)]) + '\n'


# ---- kvm-unit-tests ----

def unit(base: Base, of: dict[str, Kernel], report: ktap.Report, flat: Path) -> str:
    """Says the same on both kernels"""
    machine = Machine(base, of, {'installed': Path('/')}, 'on', {'unit': flat})
    said = {}
    for k in of:
        log = machine.run(k, f'stack-unit-{k}', 'unit:installed', RESET)[2]
        verdicts = re.sub('0x[0-9a-f]+', '0x...', log)		# some tests choose bits at random
        said[k] = re.findall(r'^(?:PASS|FAIL|SKIP): .*|^SUMMARY: .*', verdicts, re.M) or ['no result']
        report.item('SUMMARY' in said[k][-1], f'{flat.stem} on the {k}', said[k][-1])
    report.item(said['base'] == said['series'], f'{flat.stem} says the same on both')
    return '\n'.join(f'{k}: {s[-1]}' for k, s in said.items()) + '\n'


def main(args: list[str]) -> int:
    what = args[0] if args else ''
    flat = Path(what).expanduser()
    if len(args) > 1 or what not in ('', *PARTS) and not (flat.suffix == '.flat' and flat.exists()):
        raise Fatal(f'usage: stack [{"|".join(PARTS)}] [VMM=...]')
    if 'MEMORY' in settings.given and settings.number('MEMORY') < MEMORY:
        raise Fatal(f'MEMORY={settings.MEMORY} is too little for three levels: {MEMORY} or more')
    settings.given.setdefault('MEMORY', str(MEMORY))
    base = Base().lock()
    tree.make(base)
    qemu.ensure()
    if not qemu.find().plugin or boot.accelerator(False) != 'tcg':
        raise Fatal('nobody would see the VMRUNs: no QEMU that can load the plugin, or no emulation', NOT_HERE)
    if not kernels.is_packaged(base):
        raise Fatal(f'{base.name} has no packaged kernel here, which L1 and L2 need', NOT_HERE)
    of = {'base': kernels.base_kernel(base), 'series': kernels.series_kernel(base)}
    report = ktap.Report(base.results / 'stack.ktap')
    parts = {'pats': lambda: pats(base, of, report), 'file': lambda: file(base, of, report),
             'socket': lambda: socket(base, of, report, ('base', 'series'), 2),
             'soak': lambda: socket(base, of, report, ('series',), 20), 'short': lambda: short(base, of, report)}
    texts = []
    for part in [what] if what else PARTS[:3]:
        report.group(part)
        texts.append(parts[part]() if part in parts else unit(base, of, report, flat))
    shutil.rmtree(base.b / 'stack')
    text = '\n'.join(texts)
    put(base.results / 'stack.txt', text)
    print('\n' + re.sub('^(?=.)', '  ', text, flags=re.M))
    return ktap.finish(report)
