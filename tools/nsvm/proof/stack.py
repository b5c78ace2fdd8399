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
         L2's PAT (the opt-in of this base) and mainline's
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
import textwrap
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from kernel import kernels
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, names, put
from lib.kind import has_gpat, is_opt_in, mainline
from lib.pat import LINUX, NAMES
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import place, settings
from machine import boot, levels, qemu
from proof import suites, vmruns
from proof.moves import (CARRIED, HEAD, INSTALLED, KINDS, OLD, PATS, REFUSAL, Arrival, Host, Move,
                         Vmm, find_restore_fault, find_socket_fault, format_arrival,
                         parse_arrivals, parse_reads)
from proof.watch import Phase, Watch, page, svg
from source import tree, vmm
from source.debian import NOT_HERE

MEMORY = 1536		# MiB that two L1, and L0, need
PROPERTY = 'svm-nested-pat'


# ---- QEMUs and kernels ----

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


def find_kernels(base: Base) -> dict[str, Kernel]:
    """By their names in KINDS, those that this base is about."""
    if has_gpat(base):
        return {'mainline': kernels.stock_kernel(base)}
    if is_opt_in(base):
        return {'opt-in': kernels.series_kernel(base)}
    return {'stock': kernels.stock_kernel(base), 'series': kernels.series_kernel(base)}


def find_last_kernel(base: Base) -> dict[str, Kernel]:
    return dict([*find_kernels(base).items()][-1:])


def find_with_opt_ins(base: Base) -> dict[str, Kernel]:
    """And those of the bases on top of it, on which a VMM has to ask."""
    kernel_of = find_kernels(base)
    for other in map(Base, names()):
        if is_opt_in(other) and other.before[-1].name == base.name:
            kernel_of |= find_kernels(tree.make(other))
    return kernel_of


def find_with_mainline(base: Base) -> dict[str, Kernel]:
    return find_with_opt_ins(base) | find_kernels(tree.make(mainline()))


# ---- what all parts share, those of xen.py too ----

class Seen(NamedTuple):
    """Of one boot of L0"""
    watch: Watch
    check: vmruns.Check
    log_text: str


@dataclass
class Lab:
    """A base, its kernels by their names in KINDS, a report; and the room of levels.py for L0"""
    base: Base
    kernel_of: dict[str, Kernel]
    report: ktap.Report
    room: Path | None = None

    @property
    def dir(self) -> Path:
        """Where rooms are made; it goes in the end"""
        return self.base.b / 'stack'

    def write_vmms(self, vmms: list[Vmm]) -> tuple[dict[str, Path], dict[str, Path]]:
        """Directories of the room, one for all QEMUs with the same root; a .vmm file for each."""
        name_of = {v.root: v.name for v in reversed(vmms)}
        files = {f'{v.name}.vmm': self.dir / f'{v.name}.vmm' for v in vmms}
        for v in vmms:
            put(files[f'{v.name}.vmm'], v.settings(name_of[v.root]))
        return {name_of[v.root]: v.root for v in vmms}, files

    def fill_room(self, vmms: list[Vmm], l2: str, more: dict[str, Path] | None = None) -> None:
        """With Linux as L1, and as L2, which does what l2 says; more: files, by names there."""
        roots, files = self.write_vmms([INSTALLED, *(v for v in vmms if v.name != 'installed')])
        first = self.base.before[0] if self.base.before else self.base	# of the distribution
        self.room = levels.room(first, kernels.stock_kernel(tree.make(first)), roots, l2,
                                files | (more or {}), self.dir / 'room')

    def run(self, k: str, label: str, command: str, l1s: int = 1) -> Seen:
        """Boot L0 for one command of machine/stack; l1s: how many L1s it runs, for the limit."""
        watch, check = Watch(), vmruns.Check(label)
        results, limit = self.base.results, settings.number('TIMEOUT') * l1s

        def feed(line: str) -> None:
            check.feed(line)
            watch.feed(line)
        with Ticker('STACK', label) as ticker:
            done = boot.run(self.kernel_of[k], label, [f'stack:l0:{command}'], base=self.base,
                            tests_dir=place.lab / 'machine', live=feed, room=self.room,
                            timeout=limit, test_timeout=limit,
                            ports=tuple(results / f'{label}.{level}.console'
                                        for level in ('l1', 'l2')))
        say('STACK', f'{label}: {check.vmruns} VMRUNs ({elapsed(ticker.start)})')
        return Seen(watch, check, done.text())

    def judge_view(self, host: Host, name: str, check: vmruns.Check) -> None:
        """Is what the plugin saw right?  That is known where L2 has a PAT of its own."""
        if host.has_own:
            is_ok, text = vmruns.verdict(check)
            self.report.item(is_ok, f'{name}: VMRUNs', text)

    def judge_work(self, name: str, log_text: str) -> None:
        works = 'memory is wrong' not in log_text and re.search('L2 (is done|goes on)', log_text)
        self.report.item(bool(works), f'{name}: L2 works',
                         f'{log_text.count("memory is right")} checksums')


class Part(NamedTuple):
    """run: gives lines for people; kernels: that it needs"""
    run: Callable[[Lab], list[str]]
    kernels: Callable[[Base], dict[str, Kernel]] = find_kernels


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


def run_parts(program: str, base: Base, parts: dict[str, Part], head: list[str]) -> int:
    """Run parts, and write PROGRAM.ktap and PROGRAM.txt; returns the exit status."""
    report, rows = ktap.Report(base.results / f'{program}.ktap'), [*head]
    for name, part in parts.items():
        report.group(name)
        lab = Lab(base, part.kernels(base), report)
        lab.dir.mkdir(exist_ok=True)
        rows += part.run(lab)
    shutil.rmtree(base.b / 'stack')
    text = '\n'.join(rows).lstrip('\n') + '\n'
    put(base.results / f'{program}.txt', text)
    print('\n' + textwrap.indent(text, '  '))
    return ktap.finish(report)


# ---- the PATs that L2 writes ----

PATS_ROW = '{:<30}  {:<20} {:>7} {:>7}  {:<6}  {:<12}  {}'.format


def format_pats(title: str, watch: Watch) -> list[str]:
    """For people: in each phase, with what the CPU ran L2"""
    rows = []
    for p in watch.phases[:1 + len(PATS)]:
        wrote = ('nothing (Linux with nopat)' if p.name == 'start'
                 else f'{p.name} {NAMES.get(p.name, "")}')
        ran = p.l2.most_common(1)[0][0] if p.l2 else ''
        rows.append(PATS_ROW(wrote, title, p.l2.total(), p.right,
                             'it' if set(p.reads) <= {p.believes} else 'not it',
                             'yes' if has_kept(watch.pats('L1')) else 'no',
                             f'{page(ran)}, L2 means {page(p.believes)}'))
    return rows


PATS_HEAD = ['', PATS_ROW('L2 has written', 'kernel, QEMU', 'VMRUNs', 'with it', 'RDMSR',
                          'L1 keeps its', 'page with PAT index 1')]


def has_kept(l1_pats: list[str]) -> bool:
    """Has L1, since it wrote its own PAT, always run with that?"""
    return l1_pats[-1:] == [LINUX] and l1_pats.count(LINUX) == 1


def find_pat_fault(p: Phase, has_own: bool) -> str:
    """L2 runs with its own PAT from the first VMRUN on, or with that of L1 whatever it wrote."""
    must = p.l2.total() if has_own else 0
    if p.l2 and p.right == must and not set(p.reads) - {p.believes}:
        return ''
    return (f'{p.name}: of {p.l2.total()} VMRUNs {p.right} had {p.believes}, {must} must; '
            f'RDMSR: {" ".join(p.reads) or "-"}')


def judge_pats(lab: Lab, title: str, host: Host, seen: Seen) -> None:
    phases = seen.watch.phases[:1 + len(PATS)]
    faults = [fault for p in phases if (fault := find_pat_fault(p, host.has_own))]
    if [p.name for p in phases] != ['start', *PATS]:
        faults.append(f'L2 wrote {" ".join(p.name for p in phases[1:]) or "nothing"}')
    figures = f'{sum(p.right for p in phases)} of {sum(p.l2.total() for p in phases)} VMRUNs'
    whose = 'the PAT that it has' if host.has_own else 'the PAT of L1 always'
    lab.report.item(not faults, f'{title}: L2 runs with {whose}',
                    faults[0] if faults else f'{figures} had the PAT that L2 reads')
    l1_pats = seen.watch.pats('L1')
    lab.report.item(has_kept(l1_pats), f'{title}: L1 keeps its PAT',
                    ' '.join(dict.fromkeys(l1_pats)))
    lab.judge_work(title, seen.log_text)


def run_pats(lab: Lab) -> list[str]:
    vmms = find_vmms()
    lab.fill_room(vmms, ':'.join(PATS))
    rows, panels = [*PATS_HEAD], {}
    for host in (Host(k, v) for k in lab.kernel_of for v in vmms):
        k, name = host.kernel, host.vmm.name
        seen = lab.run(k, f'stack-{k}-{name}', f'run:{name}')
        judge_pats(lab, f'{k}, {name}', host, seen)
        lab.judge_view(host, f'{k}, {name}', seen.check)
        rows += format_pats(f'{k}, {name}', seen.watch)
        panels[f'{lab.base.name}, {k}, {name} QEMU'] = seen.watch
    put(lab.base.results / 'stack.svg', svg(panels, NAMES))
    return rows


# ---- migration ----

def move_each(lab: Lab, program: str, pairs: list[tuple[Vmm, Vmm, str]], is_xen: bool = False
              ) -> Iterator[tuple[Move, str, Arrival | str | None, str]]:
    """Save L1 on each kernel and restore it on each, by pairs of QEMUs, in a state (guest, host).

    Returns:
        The move, who saved L1, what came of it as parse_arrivals() has it, and its fault.
    """
    savers = dict.fromkeys(a.name for a, _, _ in pairs)
    states = dict.fromkeys(state for _, _, state in pairs)
    save = f'save:{"/".join(states)}:{":".join(savers)}'
    restore = 'restore:' + ':'.join(f'{b.name}-{a.name}-{state}' for a, b, state in pairs)
    for saver in lab.kernel_of:
        lab.run(saver, f'{program}-save-{saver}', save, 1 + len(savers))
        for restorer in lab.kernel_of:
            seen = lab.run(restorer, f'{program}-{saver}-{restorer}', restore, 1 + len(pairs))
            arrivals = parse_arrivals(seen.watch, seen.log_text)[:len(pairs)]
            for (a, b, state), arrival in zip_longest(pairs, arrivals):
                move, who = Move(Host(saver, a), Host(restorer, b), is_xen), f'{a.name}-{state}'
                yield move, who, arrival, find_restore_fault(arrival, move, who)


def run_file(lab: Lab, states: tuple[str, ...] = ('guest', 'host')) -> list[str]:
    """states: of L2 when L1 is saved, active and not"""
    vmms = add_older(find_vmms('installed newest'))
    lab.fill_room(vmms, f'{CARRIED}:on')
    pairs = [(a, b, state) for i, a in enumerate(vmms) for b in vmms[i:]	# none goes back
             if a.machine == b.machine for state in states]
    rows = [*HEAD]
    for move, who, arrival, fault in move_each(lab, 'stack', pairs):
        title = f'{move.source.kernel} -> {move.target.kernel}, {move.target.vmm.name}'
        lab.report.item(not fault, f'{title}, saved by {who}', fault or 'as it must be')
        rows.append(format_arrival(title, who, arrival))
    return rows


def read_socket(move: Move, seen: Seen, count: int) -> tuple[list[Arrival], str]:
    """The L1s that came over a socket, and what of them is not as it must be."""
    arrivals = [a for a in parse_arrivals(seen.watch, seen.log_text) if isinstance(a, Arrival)]
    return arrivals, find_socket_fault(arrivals, move, seen.log_text, count)


def judge_socket(lab: Lab, move: Move, seen: Seen, count: int) -> list[str]:
    title = f'{move.source.kernel}, to {move.target.vmm.name}'
    arrivals, fault = read_socket(move, seen, count)
    lab.report.item(not fault, f'{title}: {count} over a socket',
                    fault or f'L2 counts, to {len(parse_reads(seen.log_text))}')
    lab.judge_view(move.target, seen.check.label, seen.check)
    return [format_arrival(title, a.who, a) for a in arrivals]


def judge_refusal(lab: Lab, move: Move) -> str:
    """One QEMU that asks, and one that was told not to"""
    k = move.source.kernel
    seen = lab.run(k, f'stack-refuse-{k}',
                   f'refuse:{move.source.vmm.name}:{move.target.vmm.name}')
    reasons = [a for a in parse_arrivals(seen.watch, seen.log_text) if isinstance(a, str)]
    reason = reasons[0] if reasons else ''
    lab.report.item(REFUSAL in reason and 'the source goes on' in seen.log_text,
                    f'{k}: refused over a socket, the source goes on', reason or 'is not refused')
    return f'{k}, {PROPERTY}=off{"":<3}  refused: {reason or "no"}'


def run_socket(lab: Lab, count: int = 0) -> list[str]:
    """count: of migrations on each kernel, by default more where the VMM has to ask"""
    asked = [k for k in lab.kernel_of if KINDS[k] == 'asked']
    count = count or (10 if asked else 2)
    vmms = find_vmms('installed newest')
    first, last = vmms[0], vmms[-1]
    if first.machine != last.machine:		# they have no machine type in common that asks
        raise Fatal(f'VMM={first.name} and {last.name}: no migration, '
                    f'as the first one knows no {PROPERTY}')
    off = replace(last, name='off', cpu=f'host,{PROPERTY}=off', asks=False)
    lab.fill_room([*vmms, off] if last.asks else vmms, f'{CARRIED}:on')
    rows = [*HEAD]
    for k in lab.kernel_of:
        seen = lab.run(k, f'stack-socket-{k}', f'socket:{first.name}:{last.name}:{count}',
                       1 + count // 5)
        rows += judge_socket(lab, Move(Host(k, first), Host(k, last)), seen, count)
        if last.asks and k in asked:
            rows.append(judge_refusal(lab, Move(Host(k, last), Host(k, off))))
    return rows


def run_short(lab: Lab) -> list[str]:
    host = Host([*lab.kernel_of][-1], find_vmms()[0])
    k, name = host.kernel, host.vmm.name
    lab.fill_room([host.vmm], ':'.join([*PATS, 'on']))
    seen = lab.run(k, 'stack-short', f'socket:{name}:{name}:1', 2)
    judge_pats(lab, k, host, seen)
    return [*PATS_HEAD, *format_pats(k, seen.watch),
            *HEAD, *judge_socket(lab, Move(host, host), seen, 1)]


# ---- two CPUs ----

VCPU_ROW = '{:<10}  {:<6}  {:<27}  {:>7}  {:>7}  {}'.format


def format_vcpus(k: str, watch: Watch) -> list[str]:
    rows = []
    for n, (name, phases) in enumerate(watch.writes().items()):
        guest = watch.guests[name]
        where = f'{" and ".join(map(str, guest.on.values()))} in all, moved {guest.moves} times'
        rows += [VCPU_ROW(k, f'vCPU {n}', f'{p.name} {NAMES.get(p.name, ""):<10}', p.l2.total(),
                          p.right, where) for p in phases]
    return rows


def judge_vcpus(lab: Lab, host: Host, watch: Watch) -> None:
    """Each vCPU of L2 runs with what it wrote itself, or never does; they write PATS in turns."""
    writes, faults = watch.writes(), []
    if len(writes) != 2:
        faults.append(f'{len(writes)} vCPUs of L2 wrote')
    for n, phases in enumerate(writes.values()):
        wrote = [p.name for p in phases]
        if wrote != PATS[n::2]:
            faults.append(f'vCPU {n} wrote {" ".join(wrote)}')
        faults += [f'vCPU {n}, {fault}' for p in phases
                   if (fault := find_pat_fault(p, host.has_own))]
    k, whose = host.kernel, 'its own PAT' if host.has_own else 'the PAT of L1'
    lab.report.item(not faults, f'{k}: each vCPU of L2 runs with {whose}',
                    faults[0] if faults else '')
    moves = [watch.guests[name].moves for name in writes]
    lab.report.item(bool(moves) and all(moves), f'{k}: L2 moves between the vCPUs of L1',
                    ' and '.join(f'{n} times' for n in moves))
    l1_pats = [pats for name in watch.bands if name.startswith('L1 ')
               and LINUX in (pats := watch.pats(name))]
    lab.report.item(len(l1_pats) == 2 and all(map(has_kept, l1_pats)),
                    f'{k}: each vCPU of L1 keeps its PAT', ', '.join(map(' '.join, l1_pats)))


def run_smp(lab: Lab) -> list[str]:
    v = find_vmms()[0]
    lab.fill_room([v], ':'.join(PATS))
    rows = ['', VCPU_ROW('kernel', 'L2', 'wrote', 'VMRUNs', 'with it', 'on vCPUs of L1')]
    for k in lab.kernel_of:
        seen = lab.run(k, f'stack-smp-{k}', f'run:{v.name}:2', 4)
        judge_vcpus(lab, Host(k, v), seen.watch)
        lab.judge_work(k, seen.log_text)
        lab.judge_view(Host(k, v), k, seen.check)
        rows += format_vcpus(k, seen.watch)
    return rows


# ---- tests of others ----

def run_suite(lab: Lab, path: Path) -> list[str]:
    """They say the same on each kernel"""
    v, runs, files = find_vmms()[0], suites.runs_of(path), {}
    for r in runs:
        files[r.program.name] = r.program
        if r.program.suffix == '.flat':
            files[f'{r.name}.options'] = lab.dir / f'{r.name}.options'
            put(files[f'{r.name}.options'],
                shlex.join(['-kernel', f'/room/{r.program.name}', *r.options]))
    lab.fill_room([v], 'on', files)
    command = ':'.join(['suite', v.name, *(r.name for r in runs)])
    printed = {k: suites.sections(lab.run(k, f'stack-suite-{k}', command, 2 * len(runs)).log_text)
               for k in lab.kernel_of}
    rows = ['']
    for r in runs:
        logs = {k: texts.get(r.name, '') for k, texts in printed.items()}
        summaries = {k: suites.summary(text) for k, text in logs.items()}
        differ = suites.difference(*logs.values())
        lab.report.item(not differ, f'{r.name} says the same on each',
                        differ or ' and '.join(dict.fromkeys(summaries.values())))
        rows += [f'{r.name:<45}  {k:<10}  {text}' for k, text in summaries.items()]
    return rows


PARTS = {'pats': Part(run_pats), 'file': Part(run_file), 'socket': Part(run_socket),
         'each': Part(partial(run_file, states=('guest',)), find_with_mainline),
         'soak': Part(partial(run_socket, count=20), find_last_kernel),
         'smp': Part(run_smp), 'short': Part(run_short, find_last_kernel)}


def main(args: list[str]) -> int:
    if args[:1] == ['xen']:
        from proof import xen
        return xen.main(args[1:])
    parts = {}
    for wanted in args or [*PARTS][:3]:
        path = Path(wanted).expanduser()
        if len(args) > 1 or wanted not in PARTS and not path.exists():
            raise Fatal(f'usage: stack [{"|".join(PARTS)}] [VMM=...]')
        parts[wanted] = PARTS.get(wanted, Part(partial(run_suite, path=path)))
    return run_parts('stack', prepare(), parts, [])
