# SPDX-License-Identifier: GPL-2.0
"""xen [PART] - Xen as L1, which leaves IA32_PAT to its guests: whose PAT has whom?

Debian's own Xen is started by the installed QEMU in L0, on the kernels of stack.py.  Each VMRUN
is watched, and which PATs each guest was run with decides, not what a console says.  PART is one
of these, by default all but the last two:

one      its dom0, a program of ours (machine/xen-guest.c), writes the PATs of other systems
two      Debian's kernel as dom0 has xl start two guests, each of which writes its own PAT, and
         then save and restore the first one (machine/xen-dom0)
moved    QEMU saves Xen with a running guest on the stock kernel, and restores it on the series, and
         on the opt-in kernel_of it, whose quirk this QEMU leaves enabled
carried  a QEMU that asks for L2's PAT and carries it (VMM=patched) saves Xen with a running guest
         on each kernel, mainline's included, and restores it on each; and migrates it over a socket
         ten times on those that have to be asked
short    for make test: "one", with the Xen of the machine's own release.

What Xen or dom0 does not bring to its end is tried TRIES times; "two" is a SKIP if none is.

Results: xen.ktap; xen.txt, the table; xen.svg, the picture; xen-*.log, .console (L0) and
.l1.console (Xen, its guests).
Exit status: 0 all as it must be, 1 not, 3 it cannot be had here.
"""
import gzip
import re
import shutil
from pathlib import Path
from typing import Callable

from kernel import distro
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, put
from lib.kind import mainline
from lib.say import Fatal, say
from lib.settings import place
from machine import boot, levels
from proof import stack
from proof.stack import CARRIED, NAMES, PATS, RESET
from proof.vmruns import Check
from proof.watch import Watch, svg
from source import debian, release

VERSIONS = {'bookworm': '4.17', 'trixie': '4.20'}
XEN = '0000050100070406'		# its own: xen/arch/x86/include/asm/processor.h, XEN_MSR_PAT
FIRST, SECOND = [*PATS][:2]		# what two guests write
NAMED = NAMES | {XEN: 'Xen'}
INSTALLED = stack.Vmm('installed', Path('/'))
TRIES = 4
COUNT = 10		# migrations over a socket
PARTS = ('one', 'two', 'moved', 'carried', 'short')
CC = ['gcc', '-m32', '-march=i686', '-Os', '-Wall', '-Wextra', '-Werror', '-ffreestanding',
      '-fno-pie', '-no-pie', '-fno-stack-protector', '-fno-asynchronous-unwind-tables', '-nostdlib',
      '-static', '-Wl,-Ttext-segment=0x100000,--build-id=none']
CONSOLE = 'console=com1 com1=115200,8n1'
# QEMU's XSAVE and XRSTOR ignore CR0.TS (10.0; FXSAVE does not), by which Xen finds out whose
# registers a CPU has: by default, a program of dom0 ends up with those of a guest.  Then Xen has
# to switch them at once.
FOR_DOM0 = 'guest_loglvl=all conring_size=1m spec-ctrl=eager-fpu dom0_mem=448M,max:448M'
PROGRAMS = ('xl', 'xenstored', 'xenconsoled', 'xen-init-dom0', 'xen-hvmctx', 'libxl-save-helper')
MODULES = ('xen-privcmd', 'xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'xenfs')	# in this order
Seen = tuple[Watch, Check, str]


# ---- what runs ----

def unpack_xen(suite: str) -> Path:
    version = VERSIONS[suite]
    return debian.root(suite, f'xen-{version}', [f'xen-hypervisor-{version}-amd64'])


class L1(stack.Machine):
    """Boots of L0 with a Xen in the room"""

    def __init__(self, base: Base, kernel_of: dict[str, Kernel], suite: str,
                 settings: tuple[str, str, str], more: dict[str, Path],
                 v: stack.Vmm = INSTALLED) -> None:
        """settings: megabytes, modules with their command lines, command line; more: files beside
        it"""
        self.base, self.kernel_of, self.dir = base, kernel_of, base.b / 'xen'
        self.dir.mkdir(exist_ok=True)
        packed = unpack_xen(suite) / f'boot/xen-{VERSIONS[suite]}-amd64.gz'
        (self.dir / 'xen').write_bytes(gzip.decompress(packed.read_bytes()))
        put(self.dir / 'xen.settings', ''.join(f'{line}\n' for line in settings))
        put(self.dir / f'{v.name}.vmm', v.settings(v.name))
        files = {name: self.dir / name for name in ('xen', 'xen.settings', f'{v.name}.vmm')}
        self.room = levels.make({v.name: v.root}, {**files, **more}, self.dir / 'room')


def build_guest(base: Base) -> Path:
    to = base.b / 'xen/xen-guest'
    to.parent.mkdir(exist_ok=True)
    jobs.step('XEN', base.logs / 'xen-guest.log', 'the guest',
              [*CC, '-o', to, place.lab / 'machine/xen-guest.c'],
              'xen-guest.c does not build', quiet=True)
    return to


def with_guest(base: Base, kernel_of: dict[str, Kernel], suite: str, does: str,
               v: stack.Vmm = INSTALLED) -> L1:
    """Our guest is dom0"""
    return L1(base, kernel_of, suite,
              ('384', f'xen-guest {does}', f'{CONSOLE} dom0=pvh dom0-iommu=none dom0_mem=64M'),
              {'xen-guest': build_guest(base)}, v)


class Dom0(Kernel):
    """Its modules are in dir itself"""
    modules = property(lambda self: [self.dir / f'{name}.ko' for name in MODULES])


def linux(base: Base, to: Path) -> Path:
    """The kernel of the base's version that can be dom0, which the cloud flavour cannot: its
    vmlinuz"""
    name = f'linux-image-{distro.info(base, "release").replace("-cloud", "")}-unsigned'
    version, suite, _ = release.of_src(base)
    deb = debian.Archive(suite).have(name, version)
    debian.unpack(deb, to, '*/vmlinuz*', *(f'*/{m}.ko*' for m in MODULES))
    for ko in [*to.rglob('*.ko*')]:
        (to / f'{ko.name.partition(".")[0]}.ko').write_bytes(distro.decompress(ko))
    return next(to.rglob('vmlinuz*'))


def utilities(suite: str) -> list[Path]:
    """xl and what it starts, with libraries; libgcc_s is for pthread_cancel(), which looks for it
    then"""
    version = VERSIONS[suite]
    root = debian.root(suite, f'xen-utils-{version}', [f'xen-utils-{version}'])
    # Debian 13 has no /lib64 in its packages, as that is a link to /usr/lib64
    lib64 = next(root / d for d in ('lib64', 'usr/lib64') if (root / d).exists())
    loader = (lib64 / 'ld-linux-x86-64.so.2').resolve()
    libraries = [*root.glob('usr/lib/x86_64-linux-gnu'), *root.glob('lib/x86_64-linux-gnu')]
    programs = [root / f'usr/lib/xen-{version}/bin/{name}' for name in PROGRAMS]
    words: list[str] = []
    for program in programs:
        words += jobs.output([loader, '--library-path', ':'.join(map(str, libraries)),
                              '--list', program]).split()
    gcc = next(f for d in libraries if (f := d / 'libgcc_s.so.1').exists())
    return [*programs, *sorted({Path(w) for w in words if w.startswith(str(root))}), gcc,
            lib64 / 'ld-linux-x86-64.so.2']


def with_linux(base: Base, kernel_of: dict[str, Kernel], suite: str) -> L1:
    """Linux is dom0, our guest that of xl"""
    d = base.b / 'xen/dom0'
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir(parents=True)
    vmlinuz = linux(base, d)
    words = ':'.join([VERSIONS[suite], FIRST, SECOND])
    dom0 = Dom0(d, 'dom0')
    files = [build_guest(base), *utilities(suite)]
    job = boot.make_job(dom0, place.lab / 'machine', [f'xen-dom0:{words}'], files, limit=9999)
    boot.make_initrd(dom0, d / 'initrd', job)
    return L1(base, kernel_of, suite,
              ('704', 'vmlinuz console=hvc0 panic=-1 mitigations=off loglevel=4 nowatchdog '
               'tsc=reliable,/room/dom0', f'{CONSOLE} {FOR_DOM0}'),
              {'vmlinuz': vmlinuz, 'dom0': d / 'initrd'})


def run(machine: L1, k: str, label: str, ended: Callable[[Seen], bool], l1s: int) -> Seen | None:
    """Boot until Xen and dom0 did all, at most TRIES times: on a busy machine Xen may find that
    its timer does not work.  What the last one showed, or None if there is nothing"""
    seen = None
    for n in range(1, TRIES + 1):
        try:
            seen = machine.run(k, label, 'run:installed', RESET, l1s)
            if ended(seen):
                return seen
            why = f'Xen or dom0 did not come to its end (console: {label}.l1.console)'
        except boot.Misbehaved as e:
            why = str(e)
        say('XEN', f'{label}, try {n} of {TRIES}: {why}')
    return seen


# ---- verdicts: with which PATs each VMCB was run, one after the other ----

def name_pats(pats: list[str]) -> str:
    return ' > '.join(NAMED.get(p, p) for p in pats) or 'nothing'


def of_xen(w: Watch) -> list[str]:
    return [pat for _, pat in w.bands['L1']]


def has_own(k: str) -> bool:
    return stack.has_own(k, INSTALLED)


def expected(own: bool, wrote: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The PATs of Xen and of each guest, if one after the other writes these; own: has each its
    own?"""
    if own:
        return [RESET, XEN], [[RESET, *mine] for mine in wrote]
    shared = [XEN, *(pat for mine in wrote for pat in mine)]
    begins = [sum(map(len, wrote[:i])) for i in range(len(wrote))]
    return [RESET, *shared], [shared[begin:] for begin in begins]


def judge(report: ktap.Report, title: str, k: str, w: Watch, wrote: list[list[str]]) -> None:
    own = has_own(k)
    xen, guests = expected(own, wrote)
    seen = [w.guests[name] for name in w.guests if not name.startswith('restored')]
    how = 'keeps its PAT' if own else "runs with its guests' PATs"
    report.item(of_xen(w) == xen, f'{title}, {k}: Xen {how}', name_pats(of_xen(w)))
    for n, must in enumerate(guests):
        pats = seen[n] if n < len(seen) else []
        how = 'its own PAT' if own else 'the PAT that was written last, by whom ever'
        report.item(pats == must, f'{title}, {k}: guest {n + 1} has {how}', name_pats(pats))
    if len(seen) > len(guests):
        report.item(False, f'{title}, {k}: guests', f'{len(seen)}')


def rows(title: str, k: str, w: Watch) -> list[str]:
    """For people"""
    guests = {f'guest {n}': pats for n, (name, pats) in enumerate(w.guests.items(), 1)
              if not name.startswith('restored')}
    again = restored(w)
    guests |= {'guest 1, restored': again} if again else {}
    return [f'{title:<20}  {k:<6}  {who:<17}  {name_pats(pats)}'
            for who, pats in {'Xen': of_xen(w), **guests}.items()]


def restored(w: Watch) -> list[str]:
    """The PATs of the first of two guests, after it was restored"""
    second = [*w.guests][1:2]
    of_first = [pats for name, pats in w.guests.items()
             if name.startswith('restored') and name.split()[-1] not in second]
    return of_first[0] if of_first else []


# ---- the parts ----

def run_one(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report, suite: str) -> list[str]:
    """A dom0 of ours"""
    title, out = f'Xen {VERSIONS[suite]}', []
    machine = with_guest(base, kernel_of, suite, ' '.join(PATS))
    for k in kernel_of:
        seen = run(machine, k, f'xen-{VERSIONS[suite]}-{k}',
                   lambda seen: 'L2 is done' in seen[2], 2)
        if not seen:
            report.item(False, f'{title}, {k}', f'Xen does not run in {TRIES} boots')
            continue
        w, check, log = seen
        judge(report, title, k, w, [[*PATS]])
        reads = set(re.findall('L2 [0-9]+ (.*)', log))
        must = {f'reads {pat}, memory is right' for pat in PATS}
        report.item(reads == must, f'{title}, {k}: what the guest reads is what it wrote',
                    '; '.join(sorted(reads ^ must)))
        if has_own(k):
            stack.judge_view(report, f'{check.label}: VMRUNs', check)
        out += rows(title, k, w)
    return out


def has_ended(seen: Seen) -> bool:
    """Has dom0 started, saved and restored all that this xl can save, without a crash?"""
    watch, _, log = seen
    if 'Segmentation fault' in log:
        return False
    return log.count('Xen would save') == 2 and (bool(restored(watch)) or is_not_saved(log))


def is_not_saved(log: str) -> bool:
    """xl of 4.20 asks a PVH guest to suspend itself, which ours cannot"""
    return "guest didn't acknowledge suspend" in log


def two_of(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report,
           suite: str) -> tuple[list[str], dict[str, Watch]]:
    """The rows and the pictures of one Xen"""
    title, out, panels = f'Xen {VERSIONS[suite]}, two VMs', [], {}
    machine = with_linux(base, kernel_of, suite)
    for k in kernel_of:
        seen = run(machine, k, f'xen-two-{VERSIONS[suite]}-{k}', has_ended, 5)
        if not seen or not has_ended(seen):
            report.item('skip', f'{title}, {k}', f'dom0 did not come to its end in {TRIES} boots')
            continue
        (w, _, log), own = seen, has_own(k)
        judge(report, title, k, w, [[FIRST], [SECOND]])
        saved = re.findall('Xen would save of [a-z]+ PAT ([0-9a-f]{16})', log)
        saved_names = name_pats(saved).replace('>', 'and')
        report.item(saved == ([FIRST, SECOND] if own else [RESET, RESET]),
                    f'{title}, {k}: xl would save {"what each has" if own else "what none has"}',
                    saved_names)
        name = f'{title}, {k}: guest 1, saved and restored by xl'
        if is_not_saved(log):
            report.item('skip', name, 'this xl asks the guest to suspend itself; ours cannot')
        else:
            report.item(restored(w) == [FIRST if own else SECOND], name, name_pats(restored(w)))
        out += [*rows(title, k, w), f'{title:<20}  {k:<6}  {"xl would save":<17}  {saved_names}']
        panels[f'Xen {VERSIONS[suite]}, {k}'] = w
    return out, panels


def run_two(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report) -> list[str]:
    """Two guests, on each Xen"""
    out, panels = [], {}
    for suite in VERSIONS:
        its_rows, its_panels = two_of(base, kernel_of, report, suite)
        out += its_rows
        panels |= its_panels
    if panels:
        put(base.results / 'xen.svg', svg(panels, NAMED, {
            'L1': 'Xen runs with', 'guest 1': 'first VM runs with',
            'guest 2': 'second VM runs with'}))
    return out


def find_fault(m: stack.Moved, own: bool) -> str:
    """What is not as it must be, of a Xen that came from the stock kernel, where L2's PAT is in
    hPAT only.  own: L2 has that until it exits to L1, and then what Xen set up in vmcb12; else L1
    and L2 go on sharing it"""
    after = RESET if own else CARRIED
    if m.flags == 'none' or not int(m.flags, 16) & 1:
        return f'L2 was not active: nested state has flags {m.flags}'
    if (m.g_pat, m.end) != (RESET, RESET):
        return f'vmcb12.g_pat is {m.g_pat}, and {m.end} in the end'
    if set(m.phase.first) - {CARRIED} or set(m.phase.l1) != {CARRIED}:
        return (f'before L1 ran {name_pats([*m.phase.first])}; '
                f'L1 runs with {name_pats([*m.phase.l1])}')
    if set(m.phase.l2) != {after}:
        return f'L2 runs with {name_pats([*m.phase.l2])}'
    bad = [f'{n}: {pat}, {memory}' for n, pat, memory in m.reads[1:]
           if (pat, memory) != (after, 'right')]
    return f'L2 reads {bad[0]}' if bad else 'L2 says nothing' if len(m.reads) < 3 else ''


def run_moved(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report,
              suite: str) -> list[str]:
    """Of the whole Xen"""
    if 'stock' not in kernel_of:
        raise Fatal(f'moved: {base.name} is no base with a stock kernel')
    machine = with_guest(base, kernel_of, suite, f'{CARRIED} on')
    machine.run('stock', 'xen-save', 'save:guest:installed', RESET, 2)
    out = ['', 'Moved by QEMU while a guest runs']
    for k in [k for k in kernel_of if k in ('series', 'opt-in')]:
        w, _, log = machine.run(k, f'xen-moved-{k}', 'restore:installed-installed-guest',
                                CARRIED, 2)
        moves = stack.parse_moves(w, log, f'stock -> {k}')
        why = find_fault(moves[0], has_own(k)) if moves else 'not restored'
        does = 'the guest loses its PAT for good' if has_own(k) else 'the guest keeps its PAT'
        report.item(not why, f'Xen {VERSIONS[suite]}, stock -> {k}: {does}', why)
        for m in moves:
            out.append(f'{m.how:<16}  wrote {name_pats([CARRIED])}; '
                       f'ran with {name_pats([*m.phase.first])}, '
                       f'and once Xen ran with {name_pats([*m.phase.l2])}; '
                       f'reads {name_pats(list(dict.fromkeys(pat for _, pat, _ in m.reads)))}; '
                       f'Xen runs with {name_pats([*m.phase.l1])}')
    return out


def find_fault_if_carried(m: stack.Moved, shared: bool) -> str:
    """What is not as it must be, where L2 keeps its PAT.  shared: L1 has had the same one since
    before"""
    ran, mine = {*m.phase.first, *m.phase.l2}, CARRIED if shared else XEN
    if m.flags == 'none' or not int(m.flags, 16) & 1:
        return f'L2 was not active: nested state has flags {m.flags}'
    if ran != {CARRIED} or {*m.phase.l1} - {mine}:
        return f'L2 runs with {name_pats([*ran])}, Xen with {name_pats([*m.phase.l1])}'
    bad = [f'{n}: {pat}, {memory}' for n, pat, memory in m.reads[1:]
           if (pat, memory) != (CARRIED, 'right')]
    return f'L2 reads {bad[0]}' if bad else ''


def restored_on(w: Watch, log: str, move: stack.Move) -> tuple[str, str]:
    """What a restore was, and what is not as it must be."""
    refusal = re.search(r'^# stack: refused \S+?: (.*)$', log, re.M)
    if refusal or move.refused:
        right = refusal and move.refused and stack.REFUSAL in refusal[1]
        return 'is refused', '' if right else refusal[1] if refusal else 'it is not'
    arrivals = stack.parse_moves(w, log, '')
    if not arrivals:
        return 'is restored', 'it is not'
    if stack.KINDS[move.saver] == 'shared' and stack.KINDS[move.restorer] != 'asked':
        own = stack.has_own(move.restorer, move.to)
        return 'loses its PAT' if own else 'shares its PAT', find_fault(arrivals[0], own)
    return 'keeps its PAT', find_fault_if_carried(arrivals[0], stack.KINDS[move.saver] == 'shared')


def run_carried(base: Base, kernel_of: dict[str, Kernel], report: ktap.Report,
                suite: str) -> list[str]:
    v = stack.find_vmms()[0]
    if not v.asks:
        raise Fatal('carried: VMM= has to be a QEMU that asks for L2\'s PAT, such as patched')
    machine, out = (with_guest(base, kernel_of, suite, f'{CARRIED} on', v),
                    ['', f'Moved by the {v.name} QEMU while a guest runs'])
    for a in kernel_of:
        machine.run(a, f'xen-save-{a}', f'save:guest:{v.name}', RESET, 2)
        for b in kernel_of:
            w, _, log = machine.run(b, f'xen-{a}-{b}', f'restore:{v.name}-{v.name}-guest',
                                    CARRIED, 2)
            end, why = restored_on(w, log, stack.Move(a, v, b, v))
            report.item(not why, f'{a} -> {b}: the guest {end}', why)
            out.append(f'{a + " -> " + b:<22} the guest {end}{" NOT: " + why if why else ""}')
    for k in (k for k in kernel_of if stack.KINDS[k] == 'asked'):
        w, _, log = machine.run(k, f'xen-socket-{k}', f'socket:{v.name}:{v.name}:{COUNT}', RESET, 3)
        arrivals = stack.parse_moves(w, log, '')
        bad = [f'{len(arrivals)} of {COUNT}'] * (len(arrivals) != COUNT)
        bad += [why for m in arrivals if m.who.endswith('guest')
                and (why := find_fault_if_carried(m, False))]
        if any({*m.phase.first, *m.phase.l2} != {CARRIED} for m in arrivals):
            bad.append('L2 lost its PAT')
        report.item(not bad, f'{k}: {COUNT} over a socket, the guest keeps its PAT',
                    bad[0] if bad else '')
        out.append(f'{k}: {len(arrivals)} over a socket, '
                   f'{sum(m.phase.l2.total() for m in arrivals)} VMRUNs of the guest')
    return out


def main(args: list[str]) -> int:
    if args[1:] or args and args[0] not in PARTS:
        raise Fatal(f'usage: xen [{"|".join(PARTS)}]')
    base = stack.prepare()
    kernel_of = stack.kernels_of(base)
    own = debian.codename() if debian.codename() in VERSIONS else [*VERSIONS][-1]
    report = ktap.Report(base.results / 'xen.ktap')
    parts = {'one': lambda: [line for suite in VERSIONS
                             for line in run_one(base, kernel_of, report, suite)],
             'two': lambda: run_two(base, kernel_of, report),
             'moved': lambda: run_moved(
                 base, stack.add_kernels_of(stack.opt_ins(base), base), report, own),
             'carried': lambda: run_carried(
                 base, stack.add_kernels_of([*stack.opt_ins(base), mainline()], base),
                 report, own),
             'short': lambda: run_one(base, kernel_of, report, own)}
    out = [f'{"":<20}  {"on":<6}  {"who":<17}  runs with the PATs of, one after the other']
    for part in args or PARTS[:3 if 'stock' in kernel_of else 2]:
        report.group(part)
        out += parts[part]()
    shutil.rmtree(base.b / 'xen')
    text = ''.join(f'{line}\n' for line in out)
    put(base.results / 'xen.txt', text)
    print('\n' + re.sub('^(?=.)', '  ', text, flags=re.M))
    return ktap.finish(report)
