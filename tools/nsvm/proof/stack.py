# SPDX-License-Identifier: GPL-2.0
"""stack [PART] [VMM=...] - real hypervisors in each other, and real migrations of them

On the emulated machine, L0, the distribution's QEMU runs the distribution's kernel, L1, and
that once more, L2: unmodified packages, but for L0's KVM modules of the series.  Each VMRUN
is watched.  PART is one of these; by default the first three:

pats     L2 writes the PATs of other systems.  With which of them does the CPU run it?
file     L1 with a running L2 is saved to a file (libvirt's managed save) on each kernel, by
         each QEMU, while L2 is active and while it is not, and restored on each kernel
socket   the same from one QEMU to another one of the same kernel, over a Unix socket
each     as file, while L2 is active; the kernels are also the one on which a VMM must ask for
         L2's PAT (the opt-in kernel_of this base) and mainline's
soak     20 migrations in a row
smp      L1 and L2 have two CPUs (and L0, with SMP=2), L2's write different PATs, and are moved
         between L1's.  With which of them does each run?
short    for make test, on the series only: pats, and a migration while L2 is active

PART=xen has Xen as L1, see xen.py.  PART can also be tests of others, which must say the same of
each kernel: a file *.flat of kvm-unit-tests, a program kvm_svm* of LTP (static), or a directory
of these, see proof/suites.py.

VMM names the QEMUs in L0, older ones first, with blanks between: installed, newest (the lab's
own, of build/qemu), patched (the newest with patches, built on demand), a directory of patches/
with another one, or a directory in which one is unpacked.  L1's is the installed one.

A QEMU that has the property svm-nested-pat runs with its newest machine type, where that is on,
and in migrations also as "older", with the machine type of all others, where it is off.

The kernels are stock and series; of a base on which the VMM has to ask, only the one that it is
about.

Results: stack.ktap; stack.txt, the tables; stack.svg, the picture; stack-*.log and, of each
level, .console.
Exit status: 0 all as it must be, 1 not, 3 there is no such kernel or QEMU here.
"""
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Callable, NamedTuple

from kernel import kernels
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, names, put
from lib.kind import has_gpat, is_opt_in, mainline
from lib.pat import LINUX, NAMES, RESET
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import place, settings
from machine import boot, levels, qemu
from proof import suites, vcpus, vmruns
from proof.watch import Phase, Watch, page, svg
from source import tree, vmm
from source.debian import NOT_HERE

MEMORY = 1536		# MiB that two L1, and L0, need
PATS = [pat for pat in NAMES if pat != LINUX]		# what L2 writes
CARRIED = PATS[-1]		# of the L2 that is migrated
PARTS = ('pats', 'file', 'socket', 'each', 'soak', 'smp', 'short')
OLD = 'pc-i440fx-7.2'		# a machine type that each QEMU has
PROPERTY = 'svm-nested-pat'
# Kernel -> the PATs of its guests: L1 and L2 share one, each has one, or each has one if the VMM
# asks
KINDS = {'stock': 'shared', 'series': 'separate', 'opt-in': 'asked', 'mainline': 'asked'}


@dataclass(frozen=True)
class Vmm:
    """A QEMU, and how it is started; asks: for a PAT of L2's own, and carries it"""
    name: str
    root: Path
    machine: str = OLD
    cpu: str = 'host'
    asks: bool = False

    def settings(self, directory: str) -> str:
        """For machine/stack; directory: the one of the room where it is"""
        return f'dir=/room/{directory} machine={self.machine} cpu={self.cpu}\n'


def has_property(root: Path) -> bool:
    """Is L2's PAT something that this QEMU knows of?"""
    libraries = ':'.join(map(str, root.glob('usr/lib/*-linux-gnu')))
    properties = jobs.output(
        [root / levels.BINARY, '-device', 'qemu64-x86_64-cpu,help'], check=False,
        env={'LD_LIBRARY_PATH': libraries} if root != Path('/') else {})
    return f' {PROPERTY}=' in properties


def find_vmms(default: str = 'installed') -> list[Vmm]:
    """Those of VMM=, the older ones first"""
    result = []
    for name in settings.given.get('VMM', default).split():
        if name == 'newest' and not (place.build / 'qemu/root').exists():
            continue		# what is installed is as new
        if name == 'patched' or name in names(vmm=True):
            root = vmm.build(of=name if name != 'patched' else '').parent / 'root'
        else:
            known = {'installed': Path('/'), 'newest': place.build / 'qemu/root'}
            root = known.get(name, Path(name).expanduser().resolve())
            name = name if name in known else 'given'
        asks = has_property(root)
        result.append(Vmm(name, root, 'pc' if asks else OLD, asks=asks))
    return result


def add_older(vmms: list[Vmm]) -> list[Vmm]:
    """And those that know of L2's PAT with a machine type that does not"""
    older = [replace(v, name='older', machine=OLD, asks=False) for v in vmms[-1:] if v.asks]
    return [v for v in vmms if not v.asks] + older + [v for v in vmms if v.asks]


def has_own(k: str, v: Vmm) -> bool:
    """Has L2 a PAT of its own on this kernel, with this VMM?"""
    return KINDS[k] == 'separate' or KINDS[k] == 'asked' and v.asks


def kernels_of(base: Base) -> dict[str, Kernel]:
    if has_gpat(base):
        return {'mainline': kernels.stock_kernel(base)}
    if is_opt_in(base):
        return {'opt-in': kernels.series_kernel(base)}
    return {'stock': kernels.stock_kernel(base), 'series': kernels.series_kernel(base)}


def opt_ins(base: Base) -> list[Base]:
    """Those on top of it"""
    return [other for name in names()
            if is_opt_in(other := Base(name)) and other.before[-1].name == base.name]


def add_kernels_of(others: list[Base], base: Base) -> dict[str, Kernel]:
    """And those of other bases, on which a VMM has to ask"""
    kernel_of = kernels_of(base)
    for other in others:
        kernel_of |= kernels_of(tree.make(other))
    return kernel_of


class Machine:
    """Boots of L0 with the same room"""

    def __init__(self, base: Base, kernel_of: dict[str, Kernel], vmms: list[Vmm], l2: str,
                 more: dict[str, Path] | None = None) -> None:
        self.base, self.kernel_of = base, kernel_of
        self.dir = base.b / 'stack'
        self.dir.mkdir(exist_ok=True)
        vmms = [Vmm('installed', Path('/')), *(v for v in vmms if v.name != 'installed')]
        first = base.before[0] if base.before else base		# L1 and L2 are the distribution's
        roots = {v.root: v.name for v in reversed(vmms)}
        for v in vmms:
            put(self.dir / f'{v.name}.vmm', v.settings(roots[v.root]))
        files = {f'{v.name}.vmm': self.dir / f'{v.name}.vmm' for v in vmms} | (more or {})
        self.room = levels.room(first, kernels.stock_kernel(tree.make(first)),
                                {roots[v.root]: v.root for v in vmms}, l2, files, self.dir / 'room')

    def run(self, k: str, label: str, command: str, believes: str, l1s: int = 1,
            also: Callable[[str], object] = lambda line: None) -> tuple[Watch, vmruns.Check, str]:
        """What was seen at its VMRUNs, and what it said; also: who else gets each line"""
        watch, check = Watch(believes), vmruns.Check(label)
        results, limit = self.base.results, settings.number('TIMEOUT') * l1s

        def feed(line: str) -> None:
            check.feed(line)
            watch.feed(line)
            also(line)
        with Ticker('STACK', label) as ticker:
            b = boot.run(self.kernel_of[k], label, [f'stack:l0:{command}'], base=self.base,
                         tests_dir=place.lab / 'machine', live=feed, room=self.room, timeout=limit,
                         test_timeout=limit, ports=tuple(results / f'{label}.{level}.console'
                                                         for level in ('l1', 'l2')))
        say('STACK', f'{label}: {check.vmruns} VMRUNs ({elapsed(ticker.start)})')
        return watch, check, b.text()


# ---- the PATs that L2 writes ----

def format_table(seen: dict[str, Watch]) -> str:
    """For people: in each phase, with what the CPU ran L2"""
    out = [f'{"L2 has written":<30}  {"kernel, QEMU":<20} {"VMRUNs":>7} {"with it":>7}  RDMSR   '
           'L1 keeps its  page with PAT index 1']
    for k, w in seen.items():
        for p in w.phases[:1 + len(PATS)]:
            name = ('nothing (Linux with nopat)' if p.name == 'start'
                    else f'{p.name} {NAMES.get(p.name, "")}')
            ran = p.l2.most_common(1)[0][0] if p.l2 else ''
            reads_it, kept = ('it' if set(p.reads) <= {p.believes} else 'not it',
                              'yes' if has_kept(w) else 'no')
            out.append(f'{name:<30}  {k:<20} {p.l2.total():>7} {p.right:>7}  {reads_it:<6}  '
                       f'{kept:<12}  {page(ran)}, L2 means {page(p.believes)}')
    return '\n'.join(out) + '\n'


def has_kept(w: Watch) -> bool:
    """Has L1, since it wrote its own PAT, always run with that?"""
    pats = [p for _, p in w.bands['L1']]
    return (bool(pats) and pats[-1] in NAMES and NAMES[pats[-1]] == 'Linux'
            and pats.count(pats[-1]) == 1)


def judge_view(report: ktap.Report, name: str, check: vmruns.Check) -> None:
    """Is what the plugin saw right?"""
    report.item(check.ok, name, check.figures if check.ok else check.text().split('\n')[0])


def judge_pats(report: ktap.Report, k: str, own: bool, w: Watch, log: str) -> None:
    """k: kernel and VMM, for people; own: L2 runs with its own PAT from the first VMRUN on, else
    with that of L1 whatever it wrote"""
    faults, phases = [], w.phases[:1 + len(PATS)]
    for p in phases:
        want = p.l2.total() if own else 0
        if not p.l2 or p.right != want or set(p.reads) - {p.believes}:
            faults.append(f'{p.name}: of {p.l2.total()} VMRUNs {p.right} had {p.believes}, '
                         f'{want} must; RDMSR: {" ".join(p.reads) or "-"}')
    if [p.name for p in phases] != ['start', *PATS]:
        faults.append(f'L2 wrote {" ".join(p.name for p in phases[1:]) or "nothing"}')
    figures = f'{sum(p.right for p in phases)} of {sum(p.l2.total() for p in phases)} VMRUNs'
    report.item(
        not faults, f'{k}: L2 runs with {"the PAT that it has" if own else "the PAT of L1 always"}',
        faults[0] if faults else f'{figures} had the PAT that L2 reads')
    report.item(has_kept(w), f'{k}: L1 keeps its PAT',
                ' '.join(dict.fromkeys(p for _, p in w.bands['L1'])))
    works = 'memory is wrong' not in log and bool(re.search('L2 (is done|goes on)', log))
    report.item(works, f'{k}: L2 works', f'{log.count("memory is right")} checksums')


def run_pats(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report) -> str:
    vmms = find_vmms()
    machine = Machine(base, kernel_of, vmms, ':'.join(PATS))
    seen = {}
    for k, v in ((k, v) for k in kernel_of for v in vmms):
        name = f'{k}, {v.name}'
        seen[name], check, log = machine.run(k, f'stack-{k}-{v.name}', f'run:{v.name}', RESET)
        judge_pats(report, name, has_own(k, v), seen[name], log)
        if has_own(k, v):
            judge_view(report, f'{name}: VMRUNs', check)
    put(base.results / 'stack.svg',
        svg({f'{base.name}, {name} QEMU': w for name, w in seen.items()}, NAMES))
    return format_table(seen)


# ---- migration ----

REFUSAL = 'KVM on this host does not give'		# the sentence of patches/qemu-*


class Moved(NamedTuple):
    """An L1 after it was carried"""
    who: str		# by which QEMU, and "guest" or "host"
    how: str		# kernel that saved it, kernel and QEMU that restored it
    flags: str		# of nested state, as restored
    g_pat: str		# of vmcb12, as restored
    end: str		# and in the end
    phase: Phase
    reads: list[tuple[int, str, str]]	# of L2, as it says: number, RDMSR, is its memory right?


@dataclass(frozen=True)
class Move:
    """From one kernel and VMM to another: what becomes of L2's PAT"""
    saver: str
    by: Vmm
    restorer: str
    to: Vmm

    @property
    def sent(self) -> bool:
        """The stream has L2's PAT, if L2 is active"""
        return has_own(self.saver, self.by) and self.by.asks

    @property
    def refused(self) -> bool:
        return self.sent and not has_own(self.restorer, self.to)

    @property
    def first(self) -> bool:
        """Has L2 its own PAT before L1 ran?"""
        return has_own(self.restorer, self.to) and self.sent

    def lost(self, guest: bool) -> bool:
        """Where the VMM has to ask, L2 keeps what it shared with L1: it had no other one"""
        return guest and not self.sent and KINDS[self.restorer] == 'asked' and self.to.asks

    def after(self, guest: bool) -> bool:
        """And after that?"""
        return has_own(self.restorer, self.to) and not self.lost(guest)


def parse_reads(text: str) -> list[tuple[int, str, str]]:
    lines = re.findall(r'^# stack: L2 (\d+) reads (\S+), memory is (\w+)$', text, re.M)
    return [(int(n), pat, memory) for n, pat, memory in lines]


def parse_moves(watch: Watch, log: str, how: str) -> list[Moved]:
    """Of each "restored" in the log; what L2 said comes when that QEMU has ended"""
    parts = re.split(r'^# stack: restored ', log, flags=re.M)[1:]
    phases = [p for p in watch.phases if p.name != 'start' and p.name not in PATS]
    result = []
    for part, phase in zip(parts, phases):
        who, _, flags, _, g_pat = part.split('\n')[0].split()[:5]
        end = re.search(r'^# stack: end flags \S+ g_pat (\S+)', part, re.M)
        result.append(Moved(who, how, flags, g_pat, end[1] if end else '', phase,
                            parse_reads(part.rpartition('L2 goes on')[2])))
    return result


def find_fault(m: Moved, move: Move, last: bool = True) -> str:
    """What is not as it must be: QEMU carries vmcb_pa only, so that on the series L2 has L1's PAT
    until L1 runs (which is at once, if an interrupt is pending), and then its own; one that asks
    for L2's PAT carries it; stock has one PAT.
    last: of those on one machine"""
    guest, p = m.who.endswith('guest'), m.phase
    first, after = (CARRIED if own else LINUX for own in (move.first, move.after(guest)))
    end = LINUX if move.lost(guest) else CARRIED		# L1 itself puts L2's PAT there
    if (m.flags != 'none' and bool(int(m.flags, 16) & 1)) != guest:
        return f'nested state has flags {m.flags}'
    if guest and m.g_pat != CARRIED or m.end not in (end, *([''] if not last else [])):
        return f'vmcb12.g_pat is {m.g_pat}, and {m.end} in the end'
    if not p.l2:
        return 'L2 did not run'
    if p.first[first] != p.first.total():
        return f'of {p.first.total()} VMRUNs before L1 ran {p.first[first]} had {first}'
    if p.l2[after] != p.l2.total():
        return f'of {p.l2.total()} VMRUNs after L1 ran {p.l2[after]} had {after}'
    numbers = [n for n, _, _ in m.reads]
    if last and (len(numbers) < 3 or numbers != list(range(numbers[0], numbers[0] + len(numbers)))):
        return f'L2 counts {" ".join(map(str, numbers)) or "nothing"}'
    bad = [f'{n}: {pat}, {memory}' for n, pat, memory in m.reads
           if (pat, memory) != (CARRIED, 'right')]
    return f'L2 reads {bad[0]}' if bad else ''


def format_move(m: Moved) -> str:
    p = m.phase
    return (f'{m.how:<32}  {m.who:<15}  {m.flags:>5}  {p.first.total():>6}, {p.first[CARRIED]:>4}  '
            f'{p.l2.total():>6}, {p.right:>6}  {m.g_pat:<16}  {m.end:<16}  {len(m.reads):>3}')


HEAD = f'''\
flags: of nested state, restored; bit 0: L2 is active.  VMRUNs of L2 until L1 ran, and after \
that; and with L2's PAT
{"from -> to":<32}  {"from, while in":<15}  flags  {"until L1":>12}  {"after":>14}  \
{"vmcb12.g_pat":<16}  {"in the end":<16}  L2 counts'''


def run_file(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report,
         states: tuple[str, ...] = ('guest', 'host')) -> str:
    vmms = add_older(find_vmms('installed newest'))
    machine = Machine(base, kernel_of, vmms, f'{CARRIED}:on')
    every = [(a, b, state) for i, a in enumerate(vmms) for b in vmms[i:]	# none goes back
             if a.machine == b.machine for state in states]
    out = []
    for saver in kernel_of:
        machine.run(saver, f'stack-save-{saver}',
                    f'save:{"/".join(states)}:{":".join(v.name for v in vmms)}', RESET, len(vmms))
        for restorer in kernel_of:
            watch, _, log = machine.run(
                restorer, f'stack-{saver}-{restorer}',
                'restore:' + ':'.join(f'{b.name}-{a.name}-{state}' for a, b, state in every),
                CARRIED, len(every))
            ends = re.findall(r'^# stack: (restored|refused) \S+?(?:: (.*)| flags .*)$', log, re.M)
            arrived = iter(parse_moves(watch, log, ''))
            for (a, b, state), (end, reason) in zip_longest(every, ends, fillvalue=('', '')):
                if not state:
                    break
                move, how, who = (Move(saver, a, restorer, b),
                                  f'{saver} -> {restorer}, {b.name}', f'{a.name}-{state}')
                m = next(arrived) if end == 'restored' else None
                out.append(format_move(m._replace(how=how)) if m
                           else f'{how:<32}  {who:<15}  {end}')
                if move.refused and state == 'guest':
                    why = ('' if end == 'refused' and REFUSAL in reason
                           else f'is not refused: {reason}')
                else:
                    why = find_fault(m, move) if m else f'is not restored: {reason}'
                report.item(not why, f'{how}, saved by {who}', why or 'as it must be')
    return '\n'.join([HEAD, *out]) + '\n'


def over_socket(report: ktap.Report, move: Move, seen: tuple[Watch, vmruns.Check, str],
                count: int) -> list[str]:
    watch, check, log = seen
    name = f'{move.saver}, to {move.to.name}'
    arrivals = parse_moves(watch, log, name)
    # From the second one on, the QEMU that the first one went to is the one that it comes from
    moves = [move, *[replace(move, by=move.to)] * len(arrivals)]
    bad = [f'number {i}: {why}' for i, m in enumerate(arrivals, 1)
           if (why := find_fault(m, moves[i - 1], i == len(arrivals)))]
    bad += [f'{len(arrivals)} of {count} migrations'] if len(arrivals) != count else []
    numbers = [n for n, _, _ in parse_reads(log)]
    counted = [*map(int, re.findall(r' counted (\d+)$', log, re.M)), len(numbers)]
    bad += (['L2 lost count'] if numbers != list(range(1, len(numbers) + 1))
            or counted != sorted(set(counted)) else [])
    report.item(not bad, f'{name}: {count} over a socket',
                bad[0] if bad else f'L2 counts, to {len(numbers)}')
    if has_own(move.restorer, move.to):
        judge_view(report, f'{check.label}: VMRUNs', check)
    return [format_move(m) for m in arrivals]


def run_socket(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report, count: int) -> str:
    vmms = find_vmms('installed newest')
    off = [replace(v, name='off', cpu=f'host,{PROPERTY}=off', asks=False)
           for v in vmms[-1:] if v.asks]
    machine = Machine(base, kernel_of, vmms + off, f'{CARRIED}:on')
    out = []
    a, b = vmms[0], vmms[-1]
    if a.machine != b.machine:		# they have no machine type in common that asks
        raise Fatal(f'VMM={a.name} and {b.name}: no migration, '
                    f'as the first one knows no {PROPERTY}')
    for k in kernel_of:
        seen = machine.run(k, f'stack-socket-{k}', f'socket:{a.name}:{b.name}:{count}', RESET,
                           1 + count // 5)
        out += over_socket(report, Move(k, a, k, b), seen, count)
        if off and KINDS[k] == 'asked':
            out.append(judge_refusal(report, machine, Move(k, b, k, off[0])))
    return '\n'.join([HEAD, *out]) + '\n'


def judge_refusal(report: ktap.Report, machine: Machine, move: Move) -> str:
    """One QEMU that asks, and one that was told not to"""
    log = machine.run(move.saver, f'stack-refuse-{move.saver}',
                      f'refuse:{move.by.name}:{move.to.name}', RESET)[2]
    reason = re.search(r'^# stack: refused \S+: (.*)$', log, re.M)
    right = reason is not None and REFUSAL in reason[1] and 'the source goes on' in log
    report.item(right, f'{move.saver}: refused over a socket, the source goes on',
                reason[1] if reason else 'is not refused')
    return f'{move.saver}, {PROPERTY}=off{"":<3}  refused: {reason[1] if reason else "no"}'


def run_short(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report) -> str:
    (k, _), v = list(kernel_of.items())[-1], find_vmms()[0]
    machine = Machine(base, kernel_of, [v], ':'.join([*PATS, 'on']))
    watch, check, log = machine.run(k, 'stack-short', f'socket:{v.name}:{v.name}:1', RESET, 2)
    judge_pats(report, k, has_own(k, v), watch, log)
    return '\n'.join([format_table({k: watch}), HEAD,
                      *over_socket(report, Move(k, v, k, v), (watch, check, log), 1)]) + '\n'


# ---- two CPUs ----

def run_smp(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report) -> str:
    v = find_vmms()[0]
    machine = Machine(base, kernel_of, [v], ':'.join(PATS))
    out = [vcpus.HEAD]
    for k in kernel_of:
        watch, own = vcpus.Watch(), has_own(k, v)
        _, check, log = machine.run(k, f'stack-smp-{k}', f'run:{v.name}:2', RESET, 4, watch.feed)
        vcpus.judge(report, k, own, watch, PATS)
        works = 'memory is wrong' not in log and 'L2 is done' in log
        report.item(works, f'{k}: L2 works', f'{log.count("memory is right")} checksums')
        if own:
            judge_view(report, f'{k}: VMRUNs', check)
        out += vcpus.rows(k, watch)
    return '\n'.join(out) + '\n'


# ---- tests of others ----

def run_suite(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report, path: Path) -> str:
    """They say the same on each kernel"""
    v, runs, files = find_vmms()[0], suites.runs_of(path), {}
    for r in runs:
        files[r.program.name] = r.program
        if r.program.suffix == '.flat':
            files[f'{r.name}.options'] = base.b / f'stack/{r.name}.options'
            put(files[f'{r.name}.options'],
                shlex.join(['-kernel', f'/room/{r.program.name}', *r.options]))
    machine = Machine(base, kernel_of, [v], 'on', files)
    command = ':'.join(['suite', v.name, *(r.name for r in runs)])
    printed = {}
    for k in kernel_of:
        log = machine.run(k, f'stack-suite-{k}', command, RESET, 2 * len(runs))[2]
        printed[k] = suites.sections(log)
    out = []
    for r in runs:
        logs = {k: printed[k].get(r.name, '') for k in kernel_of}
        sums = {k: suites.summary(log) for k, log in logs.items()}
        differ = suites.difference(*logs.values())
        report.item(not differ, f'{r.name} says the same on each',
                    differ or ' and '.join(dict.fromkeys(sums.values())))
        out += [f'{r.name:<45}  {k:<10}  {text}' for k, text in sums.items()]
    return '\n'.join(out) + '\n'


def prepare() -> Base:
    """The base, if this machine can run three levels and watch them; Fatal 3 if not"""
    if 'MEMORY' in settings.given and settings.number('MEMORY') < MEMORY:
        raise Fatal(f'MEMORY={settings.MEMORY} is too little for three levels: {MEMORY} or more')
    settings.given.setdefault('MEMORY', str(MEMORY))
    base = Base().lock()
    tree.make(base)
    qemu.ensure()
    if not qemu.find().plugin or boot.accelerator(False) != 'tcg':
        raise Fatal('nobody would see the VMRUNs: no QEMU that can load the plugin, '
                    'or no emulation', NOT_HERE)
    if not kernels.is_packaged(base):
        raise Fatal(f'{base.name} has no packaged kernel here, which L1 and L2 need', NOT_HERE)
    return base


def main(args: list[str]) -> int:
    part_wanted = args[0] if args else ''
    if part_wanted == 'xen':
        from proof import xen
        return xen.main(args[1:])
    path = Path(part_wanted).expanduser()
    if len(args) > 1 or part_wanted not in ('', *PARTS) and not path.exists():
        raise Fatal(f'usage: stack [{"|".join(PARTS)}] [VMM=...]')
    base = prepare()
    kernel_of = kernels_of(base)
    report = ktap.Report(base.results / 'stack.ktap')
    parts = {'pats': lambda: run_pats(base, kernel_of, report),
             'file': lambda: run_file(base, kernel_of, report),
             'socket': lambda: run_socket(
                 base, kernel_of, report, 10 if 'asked' in (KINDS[k] for k in kernel_of) else 2),
             'each': lambda: run_file(
                 base, add_kernels_of([*opt_ins(base), mainline()], base), report, ('guest',)),
             'soak': lambda: run_socket(base, dict([*kernel_of.items()][-1:]), report, 20),
             'short': lambda: run_short(base, kernel_of, report),
             'smp': lambda: run_smp(base, kernel_of, report)}
    texts = []
    for part in [part_wanted] if part_wanted else PARTS[:3]:
        report.group(part)
        texts.append(parts[part]() if part in parts else run_suite(base, kernel_of, report, path))
    shutil.rmtree(base.b / 'stack')
    text = '\n'.join(texts)
    put(base.results / 'stack.txt', text)
    print('\n' + re.sub('^(?=.)', '  ', text, flags=re.M))
    return ktap.finish(report)
