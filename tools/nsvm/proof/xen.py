# SPDX-License-Identifier: GPL-2.0
"""xen [PART] - Xen as L1, which leaves IA32_PAT to its guests: whose PAT has whom?

Debian's own Xen is started by the installed QEMU in L0, on the kernels of stack.py.  Each VMRUN
is watched, and which PATs each guest was run with decides, not what a console says.  PART is one
of these, by default all but the last two:

one      its dom0, a program of ours (machine/xen-guest.c), writes the PATs of other systems
two      Debian's kernel as dom0 has xl start two guests, each of which writes its own PAT, and
         then try to save and restore the first one (machine/xen-dom0)
moved    QEMU saves Xen with a running guest on the stock kernel, and restores it on the series, and
         on the opt-in of it, whose quirk this QEMU leaves enabled
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
from typing import Callable, Iterable

from kernel import distro
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, put
from lib.pat import NAMES, RESET
from lib.say import Fatal, say
from lib.settings import place
from machine import boot, levels
from proof import stack
from proof.moves import (CARRIED, INSTALLED, KINDS, PATS, XEN, Arrival, Host, Move, Vmm,
                         find_restore_fault, parse_arrivals)
from proof.stack import Lab, Part, Seen
from proof.watch import Watch, svg
from source import debian, release

VERSIONS = {'bookworm': '4.17', 'trixie': '4.20'}
FIRST, SECOND = PATS[:2]		# what two guests write
NAMED = NAMES | {XEN: 'Xen'}
TRIES = 4
COUNT = 10		# migrations over a socket
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
ROW = '{:<20}  {:<6}  {:<17}  {}'.format


# ---- what runs ----

def fill_room(lab: Lab, suite: str, settings: tuple[str, str, str], files: dict[str, Path],
              v: Vmm = INSTALLED) -> None:
    """With the Xen of a suite as L1.

    Args:
        settings: megabytes, modules with their command lines, command line.
        files: more, by their names in the room.
    """
    version = VERSIONS[suite]
    root = debian.root(suite, f'xen-{version}', [f'xen-hypervisor-{version}-amd64'])
    packed = root / f'boot/xen-{version}-amd64.gz'
    (lab.dir / 'xen').write_bytes(gzip.decompress(packed.read_bytes()))
    put(lab.dir / 'xen.settings', ''.join(f'{line}\n' for line in settings))
    roots, vmm_files = lab.write_vmms([v])
    own = {name: lab.dir / name for name in ('xen', 'xen.settings')}
    lab.room = levels.make(roots, own | vmm_files | files, lab.dir / 'room')


def build_guest(lab: Lab) -> Path:
    to = lab.dir / 'xen-guest'
    jobs.step('XEN', lab.base.logs / 'xen-guest.log', 'the guest',
              [*CC, '-o', to, place.lab / 'machine/xen-guest.c'],
              'xen-guest.c does not build', quiet=True)
    return to


def fill_with_guest(lab: Lab, suite: str, does: str, v: Vmm = INSTALLED) -> None:
    """Our guest is dom0"""
    fill_room(lab, suite,
              ('384', f'xen-guest {does}', f'{CONSOLE} dom0=pvh dom0-iommu=none dom0_mem=64M'),
              {'xen-guest': build_guest(lab)}, v)


class Dom0(Kernel):
    """Its modules are in dir itself"""
    modules = property(lambda self: [self.dir / f'{name}.ko' for name in MODULES])


def unpack_linux(base: Base, to: Path) -> Path:
    """The kernel of the base's version that can be dom0, which the cloud flavour cannot: its
    vmlinuz"""
    name = f'linux-image-{distro.info(base, "release").replace("-cloud", "")}-unsigned'
    version, suite, _ = release.of_src(base)
    deb = debian.Archive(suite).have(name, version)
    debian.unpack(deb, to, '*/vmlinuz*', *(f'*/{m}.ko*' for m in MODULES))
    for ko in [*to.rglob('*.ko*')]:
        (to / f'{ko.name.partition(".")[0]}.ko').write_bytes(distro.decompress(ko))
    return next(to.rglob('vmlinuz*'))


def find_utilities(suite: str) -> list[Path]:
    """xl and what it starts, with libraries; libgcc_s is for pthread_cancel(), which looks for it
    then"""
    version = VERSIONS[suite]
    root = debian.root(suite, f'xen-utils-{version}', [f'xen-utils-{version}'])
    # Debian 13 has no /lib64 in its packages, as that is a link to /usr/lib64
    lib64 = next(root / d for d in ('lib64', 'usr/lib64') if (root / d).exists())
    loader = lib64 / 'ld-linux-x86-64.so.2'
    libraries = [*root.glob('usr/lib/x86_64-linux-gnu'), *root.glob('lib/x86_64-linux-gnu')]
    programs = [root / f'usr/lib/xen-{version}/bin/{name}' for name in PROGRAMS]
    words: list[str] = []
    for program in programs:
        words += jobs.output([loader.resolve(), '--library-path', ':'.join(map(str, libraries)),
                              '--list', program]).split()
    gcc = next(f for d in libraries if (f := d / 'libgcc_s.so.1').exists())
    return [*programs, *sorted({Path(w) for w in words if w.startswith(str(root))}), gcc, loader]


def fill_with_linux(lab: Lab, suite: str) -> None:
    """Linux is dom0, our guest that of xl"""
    d = lab.dir / 'dom0'
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir()
    dom0, vmlinuz = Dom0(d, 'dom0'), unpack_linux(lab.base, d)
    job = boot.make_job(dom0, place.lab / 'machine',
                        [f'xen-dom0:{VERSIONS[suite]}:{FIRST}:{SECOND}'],
                        [build_guest(lab), *find_utilities(suite)], limit=9999)
    boot.make_initrd(dom0, d / 'initrd', job)
    fill_room(lab, suite,
              ('704', 'vmlinuz console=hvc0 panic=-1 mitigations=off loglevel=4 nowatchdog '
               'tsc=reliable,/room/dom0', f'{CONSOLE} {FOR_DOM0}'),
              {'vmlinuz': vmlinuz, 'dom0': d / 'initrd'})


def run(lab: Lab, k: str, label: str, has_ended: Callable[[Seen], bool], l1s: int) -> Seen | None:
    """Boot until Xen and dom0 did all, at most TRIES times: on a busy machine Xen may find that
    its timer does not work.  What the last one showed, or None if there is nothing"""
    seen = None
    for n in range(1, TRIES + 1):
        try:
            seen = lab.run(k, label, 'run:installed', l1s)
            if has_ended(seen):
                return seen
            reason = f'Xen or dom0 did not come to its end (console: {label}.l1.console)'
        except boot.Misbehaved as e:
            reason = str(e)
        say('XEN', f'{label}, try {n} of {TRIES}: {reason}')
    return seen


# ---- verdicts: with which PATs each VMCB was run, one after the other ----

def name_pats(pats: Iterable[str]) -> str:
    return ' > '.join(NAMED.get(p, p) for p in pats) or 'nothing'


def has_own(k: str) -> bool:
    return Host(k, INSTALLED).has_own


def find_guests(watch: Watch) -> list[list[str]]:
    """The PATs of each guest, in the order in which they were started."""
    return [watch.pats(f'guest {guest.number}') for name, guest in watch.guests.items()
            if not name.startswith('restored')]


def find_restored(watch: Watch) -> list[str]:
    """The PATs of the first of two guests, after it was restored"""
    second = [*watch.guests][1:2]
    for name, guest in watch.guests.items():
        if name.startswith('restored') and name.split()[-1] not in second:
            return watch.pats(f'guest {guest.number}')
    return []


def expect(own: bool, wrote: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The PATs of Xen and of each guest, if one after the other writes these; own: has each its
    own?"""
    if own:
        return [RESET, XEN], [[RESET, *pats] for pats in wrote]
    shared = [XEN, *(pat for pats in wrote for pat in pats)]
    begins = [sum(map(len, wrote[:i])) for i in range(len(wrote))]
    return [RESET, *shared], [shared[begin:] for begin in begins]


def judge(report: ktap.Report, title: str, k: str, watch: Watch, wrote: list[list[str]]) -> None:
    own, xen, seen = has_own(k), watch.pats('L1'), find_guests(watch)
    xen_must, guests_must = expect(own, wrote)
    how = 'keeps its PAT' if own else "runs with its guests' PATs"
    report.item(xen == xen_must, f'{title}, {k}: Xen {how}', name_pats(xen))
    how = 'its own PAT' if own else 'the PAT that was written last, by whom ever'
    for n, must in enumerate(guests_must):
        pats = seen[n] if n < len(seen) else []
        report.item(pats == must, f'{title}, {k}: guest {n + 1} has {how}', name_pats(pats))
    if len(seen) > len(guests_must):
        report.item(False, f'{title}, {k}: guests', f'{len(seen)}')


def format_guests(title: str, k: str, watch: Watch) -> list[str]:
    """For people"""
    pats_of = {'Xen': watch.pats('L1')}
    pats_of |= {f'guest {n}': pats for n, pats in enumerate(find_guests(watch), 1)}
    if again := find_restored(watch):
        pats_of['guest 1, restored'] = again
    return [ROW(title, k, who, name_pats(pats)) for who, pats in pats_of.items()]


# ---- the parts ----

def own_suite() -> str:
    """The machine's own release, if there is a Xen of it."""
    return debian.codename() if debian.codename() in VERSIONS else [*VERSIONS][-1]


def run_one(lab: Lab, suites: Iterable[str] = VERSIONS) -> list[str]:
    """A dom0 of ours"""
    rows, must = [], {f'reads {pat}, memory is right' for pat in PATS}
    for suite in suites:
        title, label = f'Xen {VERSIONS[suite]}', f'xen-{VERSIONS[suite]}'
        fill_with_guest(lab, suite, ' '.join(PATS))
        for k in lab.kernel_of:
            seen = run(lab, k, f'{label}-{k}', lambda seen: 'L2 is done' in seen.log_text, 2)
            if not seen:
                lab.report.item(False, f'{title}, {k}', f'Xen does not run in {TRIES} boots')
                continue
            judge(lab.report, title, k, seen.watch, [PATS])
            reads = set(re.findall('L2 [0-9]+ (.*)', seen.log_text))
            lab.report.item(reads == must, f'{title}, {k}: what the guest reads is what it wrote',
                            '; '.join(sorted(reads ^ must)))
            lab.judge_view(Host(k, INSTALLED), f'{label}-{k}', seen.check)
            rows += format_guests(title, k, seen.watch)
    return rows


def run_short(lab: Lab) -> list[str]:
    return run_one(lab, [own_suite()])


def is_not_saved(log_text: str) -> bool:
    """xl (4.17, 4.20) asks a PVH guest to suspend itself, which ours cannot"""
    return "guest didn't acknowledge suspend" in log_text


def has_ended(seen: Seen) -> bool:
    """Has dom0 started, saved and restored all that this xl can save, without a crash?"""
    if 'Segmentation fault' in seen.log_text:
        return False
    return (seen.log_text.count('Xen would save') == 2
            and (bool(find_restored(seen.watch)) or is_not_saved(seen.log_text)))


def judge_xl(lab: Lab, title: str, k: str, seen: Seen) -> str:
    """What xl saves and restores; returns what it would save, for people."""
    own, again = has_own(k), find_restored(seen.watch)
    saved = re.findall('Xen would save of [a-z]+ PAT ([0-9a-f]{16})', seen.log_text)
    saved_names = name_pats(saved).replace('>', 'and')
    lab.report.item(saved == ([FIRST, SECOND] if own else [RESET, RESET]),
                    f'{title}, {k}: xl would save {"what each has" if own else "what none has"}',
                    saved_names)
    name = f'{title}, {k}: guest 1, saved and restored by xl'
    if is_not_saved(seen.log_text):
        lab.report.item('skip', name, 'xl asks the guest to suspend itself; ours cannot')
    else:
        lab.report.item(again == [FIRST if own else SECOND], name, name_pats(again))
    return saved_names


def run_two(lab: Lab) -> list[str]:
    """Two guests, on each Xen"""
    rows, panels = [], {}
    for suite, version in VERSIONS.items():
        title = f'Xen {version}, two VMs'
        fill_with_linux(lab, suite)
        for k in lab.kernel_of:
            seen = run(lab, k, f'xen-two-{version}-{k}', has_ended, 5)
            if not seen or not has_ended(seen):
                lab.report.item('skip', f'{title}, {k}',
                                f'dom0 did not come to its end in {TRIES} boots')
                continue
            judge(lab.report, title, k, seen.watch, [[FIRST], [SECOND]])
            saved_names = judge_xl(lab, title, k, seen)
            rows += [*format_guests(title, k, seen.watch),
                     ROW(title, k, 'xl would save', saved_names)]
            panels[f'Xen {version}, {k}'] = seen.watch
    if panels:
        put(lab.base.results / 'xen.svg', svg(panels, NAMED, {
            'L1': 'Xen runs with', 'guest 1': 'first VM runs with',
            'guest 2': 'second VM runs with'}))
    return rows


def run_moved(lab: Lab) -> list[str]:
    """Of the whole Xen"""
    if 'stock' not in lab.kernel_of:
        raise Fatal(f'moved: {lab.base.name} is no base with a stock kernel')
    suite, source = own_suite(), Host('stock', INSTALLED)
    fill_with_guest(lab, suite, f'{CARRIED} on')
    lab.run('stock', 'xen-save', 'save:guest:installed', 2)
    rows = ['', 'Moved by QEMU while a guest runs']
    for k in [k for k in lab.kernel_of if k in ('series', 'opt-in')]:
        move = Move(source, Host(k, INSTALLED), is_xen=True)
        seen = lab.run(k, f'xen-moved-{k}', 'restore:installed-installed-guest', 2)
        arrival = next(iter(parse_arrivals(seen.watch, seen.log_text)), None)
        fault = find_restore_fault(arrival, move, 'installed-guest')
        does = 'the guest loses its PAT for good' if has_own(k) else 'the guest keeps its PAT'
        lab.report.item(not fault, f'Xen {VERSIONS[suite]}, stock -> {k}: {does}', fault)
        if isinstance(arrival, Arrival):
            p, reads = arrival.phase, dict.fromkeys(pat for _, pat, _ in arrival.reads)
            rows.append(f'{"stock -> " + k:<16}  wrote {name_pats([CARRIED])}; '
                        f'ran with {name_pats(p.first)}, '
                        f'and once Xen ran with {name_pats(p.l2)}; '
                        f'reads {name_pats(reads)}; Xen runs with {name_pats(p.l1)}')
    return rows


def name_end(move: Move) -> str:
    """What becomes of the guest, for people."""
    must = move.expect()
    if not must:
        return 'is refused'
    if must.after != CARRIED:
        return 'loses its PAT'
    is_shared = 'shared' == KINDS[move.source.kernel] == KINDS[move.target.kernel]
    return 'shares its PAT' if is_shared else 'keeps its PAT'


def run_carried(lab: Lab) -> list[str]:
    v = stack.find_vmms()[0]
    if not v.asks:
        raise Fatal('carried: VMM= has to be a QEMU that asks for L2\'s PAT, such as patched')
    fill_with_guest(lab, own_suite(), f'{CARRIED} on', v)
    rows = ['', f'Moved by the {v.name} QEMU while a guest runs']
    for move, _, _, fault in stack.move_each(lab, 'xen', [(v, v, 'guest')], is_xen=True):
        title, end = f'{move.source.kernel} -> {move.target.kernel}', f'the guest {name_end(move)}'
        lab.report.item(not fault, f'{title}: {end}', fault)
        rows.append(f'{title:<22} {end}{" NOT: " + fault if fault else ""}')
    for k in (k for k in lab.kernel_of if KINDS[k] == 'asked'):
        seen = lab.run(k, f'xen-socket-{k}', f'socket:{v.name}:{v.name}:{COUNT}', 3)
        arrivals, fault = stack.read_socket(Move(Host(k, v), Host(k, v), is_xen=True), seen, COUNT)
        lab.report.item(not fault, f'{k}: {COUNT} over a socket, the guest keeps its PAT', fault)
        rows.append(f'{k}: {len(arrivals)} over a socket, '
                    f'{sum(a.phase.l2.total() for a in arrivals)} VMRUNs of the guest')
    return rows


PARTS = {'one': Part(run_one), 'two': Part(run_two),
         'moved': Part(run_moved, stack.find_with_opt_ins),
         'carried': Part(run_carried, stack.find_with_mainline), 'short': Part(run_short)}


def main(args: list[str]) -> int:
    if args[1:] or args and args[0] not in PARTS:
        raise Fatal(f'usage: xen [{"|".join(PARTS)}]')
    base = stack.prepare()
    wanted = args or [*PARTS][:3 if 'stock' in stack.find_kernels(base) else 2]
    return stack.run_parts('xen', base, {name: PARTS[name] for name in wanted},
                           [ROW('', 'on', 'who', 'runs with the PATs of, one after the other')])
