# SPDX-License-Identifier: GPL-2.0
"""boot - a shell on the emulated machine, on the kernel of the series, the tests in /tests

run() is what all proofs use: boot a kernel, run tests, collect.  A boot is good if the
machine reached the end of the tests and its kernel said nothing bad on its console.  What
the tests said is for lib/ktap.

The machine is started once for each image, without any test, and saved when it waits
for work (see init): from then on it is resumed, which takes a tenth of a boot, with
kvm-amd.ko and the tests on its disk.  What needs another CPU, command line, number of
CPUs or an exact number of instructions boots as usual.  Saved machines are in
build/<base>/machines.
"""
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Sequence

from kernel import selftests
from kernel.kernels import Kernel, series_kernel
from lib import jobs
from lib.base import Base, alone, digest, read
from lib.say import Fatal
from lib.settings import place, rel, settings
from machine import cpio, qemu
from source import tree

DISK = 256 << 20	# bytes, of which a file has those that are not zero
KEPT = 4		# saved machines
# The words with which a kernel says that something is wrong
COMPLAINT = re.compile(
    r'^(?:\[ *[0-9.]+\] *)?(.*(?:WARNING: |BUG: |BUG at |Oops|Kernel panic|general protection|'
    r'possible circular|possible recursive|suspicious RCU|INFO: trying to register|'
    r'kmemleak: [0-9]+ new|INFO: task .* blocked|UBSAN: |KASAN: |unable to handle).*)$', re.M)
# With KVM and that CPU, it warns of SRSO; Xen warns of its PVH dom0
HARMLESS = re.compile(
    'Speculative Return Stack Overflow: WARNING: |WARNING: PVH is an experimental mode')


class Misbehaved(Fatal):
    """The machine hangs, panics, complains or goes down"""


@dataclass
class Boot:
    log: Path			# what init and the tests print
    console: Path		# kernel messages
    vmruns: Path | None		# each VMRUN, see vmrun.c; None: not watched
    stopped: bool = False	# at the first "not ok"

    def text(self) -> str:
        return self.log.read_text(errors='replace')


@dataclass
class Options:
    """All about a boot but its kernel and its tests"""
    # The machine
    smp: int | None = None		# CPUs, by default SMP=
    cpu: str = ''		# by default CPU=
    append: str = ''		# to the kernel's command line
    # One CPU, emulated, whose clock counts its instructions: one a ns, and a tick of the TSC
    icount: bool = False
    room: Path | None = None		# a file that is its second disk, and outlives it
    net: int = 0		# a port of 127.0.0.1 that leads to port 22 of its network card
    ports: tuple[Path, ...] = ()		# consoles of what runs in it: ttyS2 and so on
    # What runs there
    npt: int = 1		# of kvm_amd
    parameters: str = ''		# of kvm_amd, more of them
    tests_dir: Path | None = None		# by default that of the base
    files: Sequence[Path] = ()		# more for /tests
    keep: Path | None = None		# becomes a tar.gz of what the tests leave in /tmp/keep
    test_timeout: int | None = None		# seconds, by default TEST_TIMEOUT=
    # Who watches
    view: bool = True		# the plugin, if there is one
    # Gets each line of the log of VMRUNs, which is then no file
    live: Callable[[str], object] | None = None
    timeout: int | None = None		# seconds, by default TIMEOUT=
    until_failure: bool = False		# stop at the first "not ok"

    @property
    def cpus(self) -> int:
        return 1 if self.icount else self.smp or settings.number('SMP')

    @property
    def can_resume(self) -> bool:
        """Whether the saved machine is like that one"""
        special = (self.icount or self.append or self.cpu or self.room or self.ports or self.net)
        return (not special and self.cpus == settings.number('SMP')
                and accelerator(False) == 'tcg')


def accelerator(icount: bool) -> str:
    """KVM only where kvm_amd itself can nest; a /dev/kvm alone says nothing"""
    if icount or settings.ACCEL == 'tcg':
        return 'tcg'
    nested = read(Path('/sys/module/kvm_amd/parameters/nested')).strip() in ('1', 'Y')
    if nested and os.access('/dev/kvm', os.W_OK):
        return 'kvm'
    if settings.ACCEL == 'kvm':
        raise Fatal('ACCEL=kvm: this host has no kvm_amd with nested=1, or no access to /dev/kvm')
    return 'tcg'


# QEMU's TCG loses an interrupt at times: VMRUN and #VMEXIT change its flags without a lock, until
# 10.2.  If it was the only timer, none comes after it; a periodic one comes again.
TICKS = ['nohz=off', 'highres=off']
SETTINGS = ('MACHINE', 'ACCEL', 'CPU', 'SMP', 'MEMORY', 'QEMU', 'TIMEOUT', 'TEST_TIMEOUT', 'VIEW')


def result_id(kernel: Kernel, tests: Iterable[Path], *more: str | Path) -> str:
    """Names all that the results of a boot depend on: a kept result counts while this is the same.

    Args:
        kernel: that was booted.
        tests: the programs that ran there.
        more: what else the result depends on, such as the file of the program that judged it.
    """
    lab = [
        f for room in ('lib', 'kernel', 'machine') for f in sorted((place.lab / room).iterdir())
        if f.is_file()
    ]
    q = qemu.find()
    how = [q.binary, q.version, str(q.plugin), *(getattr(settings, name) for name in SETTINGS)]
    return digest(kernel.id, *how, *(t for t in tests if t.exists()), *lab,
                  place.lab / 'proof/vmruns.py', *more)


# ---- what it boots ----

def make_initrd(kernel: Kernel, to: Path, job: bytes = b'') -> Path:
    """Write busybox, init and the modules but kvm-amd, and the job if it has no disk for that"""
    busybox = shutil.which('busybox')
    if not busybox:
        raise Fatal('no busybox (make setup)')
    files: cpio.Files = {name: (cpio.DIRECTORY, b'') for name in ('bin', 'modules')}
    files['init'] = (cpio.PROGRAM, place.lab / 'machine/init')
    files['bin/busybox'] = (cpio.PROGRAM, Path(busybox))
    for applet in jobs.output([busybox, '--list']).split():
        files.setdefault(f'bin/{applet}', (cpio.LINK, b'busybox'))
    early = [m for m in kernel.modules if m.stem != 'kvm-amd']
    files |= {f'modules/{m.name}': (cpio.FILE, m) for m in early}
    files['modules/early'] = (cpio.FILE, ''.join(f'{m.stem}\n' for m in early).encode())
    to.write_bytes(cpio.newc(files) + job)
    return to


def make_job(kernel: Kernel, tests_dir: Path, tests: list[str], files: Sequence[Path], *,
             limit: int, keep: bool = False, parameters: str = 'nested=1') -> bytes:
    """Return the archive of what init reads and runs, see there; tests that are not among the
    files, which are all in /tests, are in tests_dir"""
    variables = {'TESTS': ' '.join(tests), 'LIMIT': limit, 'KEEP': 'y' * keep,
                 'PARAMETERS': parameters}
    text = ''.join(f"{name}='{value}'\n" for name, value in variables.items())
    content: cpio.Files = {'job': (cpio.DIRECTORY, b''), 'job/tests': (cpio.DIRECTORY, b''),
                           'job/variables': (cpio.FILE, text.encode())}
    content |= {f'job/{m.name}': (cpio.FILE, m) for m in kernel.modules if m.stem == 'kvm-amd'}
    elsewhere = {'shell', *(f.name for f in files)}
    programs = [tests_dir / name for t in tests if (name := t.partition(':')[0]) not in elsewhere]
    for f in [*programs, *files]:
        if not f.exists():
            raise Fatal(f'no test {f.name} in {rel(f.parent)} (make selftests)')
        content[f'job/tests/{f.name}'] = (cpio.PROGRAM, f)
    return cpio.newc(content)


def make_disk(to: Path, job: bytes = b'') -> None:
    with open(to, 'wb') as f:
        f.write(job)
        f.truncate(max(DISK, len(job)))


def make_command(kernel: Kernel, initrd: Path, disk: Path, options: Options,
                 *more: str | Path) -> list:
    """Return how QEMU is started"""
    accel, clock, drive = accelerator(options.icount), [], []
    words = ['console=ttyS0', 'panic=-1', 'nokaslr', 'no5lvl', 'no_timer_check', 'mitigations=off',
             'loglevel=7', *(['norandmaps'] if options.icount else TICKS), options.append]
    memory = settings.number('MEMORY')
    if kernel.image.name == 'bzImage':		# a debug kernel
        memory = max(memory, 1024)
    if options.icount:
        clock = ['-icount', 'shift=0,sleep=off', '-rtc', 'base=2026-01-01T00:00:00,clock=vm',
                 '-seed', '1']
    else:
        # The first disk, whatever else there is
        drive = ['-drive', f'if=none,id=disk,format=raw,readonly=on,file={disk}',
                 '-device', 'virtio-blk-pci,drive=disk']
        accel = accel.replace('tcg', 'tcg,thread=multi')
    return [
        qemu.find().binary, '-accel', accel, *clock, '-machine', 'q35',
        '-cpu', 'host' if accel == 'kvm' else options.cpu or settings.CPU,
        '-smp', options.cpus, '-m', memory, '-no-user-config', '-nodefaults', '-display', 'none',
        '-no-reboot', '-kernel', kernel.image, '-initrd', initrd, '-append', ' '.join(words),
        *drive, *more
    ]


# ---- the saved machine ----

def saved_machine(base: Base, kernel: Kernel, initrd: Path, tmp: Path) -> Path | None:
    """Return the machine as it waits for work, saved now if it was not.  None if it cannot be
    saved: the boot that follows says why"""
    argv, image = make_command(kernel, initrd, tmp / 'blank', Options()), kernel.image.resolve()
    stat = image.stat()
    same = [str(a) for a in argv if str(tmp) not in str(a) and a != kernel.image]
    state = base.b / 'machines' / digest(f'{image} {stat.st_size} {stat.st_mtime_ns}', initrd,
                                         *same, Path(__file__))
    with alone(base.b / '.saving'):
        if state.exists():
            state.touch()
            return state
        state.parent.mkdir(parents=True, exist_ok=True)
        make_disk(tmp / 'blank')
        if not save_machine(argv, state, tmp):
            return None
        for old in sorted(state.parent.iterdir(), key=lambda f: f.stat().st_mtime)[:-KEPT]:
            old.unlink()
        return state


def save_machine(argv: list, state: Path, tmp: Path) -> bool:
    """Start that machine and save it when it waits for work; False if it does not come to that"""
    log, unfinished = tmp / 'waiting', state.with_suffix('.tmp')
    p = jobs.start([*argv, '-serial', 'null', '-serial', f'file:{log}', '-serial', 'null',
                    '-monitor', 'stdio'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, text=True)
    limit = time.monotonic() + settings.number('TIMEOUT')
    while not (waits := '# nsvm: waiting' in read(log)) and not jobs.has_ended(p):
        if time.monotonic() > limit:
            break
        time.sleep(0.05)
    if waits:
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            p.communicate('migrate_set_parameter max-bandwidth 10G\n'
                          f'migrate "exec:cat >\'{unfinished}\'"\nquit\n', timeout=60)
    if jobs.finish(p, 0) != 0 or not unfinished.exists():
        unfinished.unlink(missing_ok=True)
        return False
    unfinished.replace(state)
    return True


# ---- a boot ----

def run(kernel: Kernel, label: str, tests: list[str], *, base: Base, **fields) -> Boot:
    """Boot it, and run tests.

    Args:
        kernel: image and modules.
        label: results are base.results/label.{log,console,vmrun}.
        tests: names, or name:argument:argument.
        fields: of Options.

    Raises:
        Misbehaved: the machine did; one line that names the console.
        Fatal: QEMU did not do its work.
    """
    kernel.need()
    options, plugin, results = Options(**fields), qemu.find().plugin, base.results
    view = options.view and accelerator(options.icount) == 'tcg' and plugin is not None
    results.mkdir(parents=True, exist_ok=True)
    boot = Boot(results / f'{label}.log', results / f'{label}.console',
                results / f'{label}.vmrun' if view and not options.live else None)
    output = results / f'{label}.qemu'
    for f in (boot.log, boot.console, output, results / f'{label}.vmrun', options.keep,
              *options.ports):
        if f:
            f.unlink(missing_ok=True)
    limit = options.timeout or settings.number('TIMEOUT')
    with tempfile.TemporaryDirectory(dir=base.b, prefix=f'{label}-', suffix='.tmp') as scratch:
        fifo = Path(scratch, 'fifo')
        argv = make_machine(kernel, tests, base, options, Path(scratch))
        # As the saved machine has them: console, log, and one more
        for port in (boot.console, boot.log, *(options.ports or [options.keep])):
            argv += ['-serial', f'file:{port}' if port else 'null']
        reader = None
        if view and options.live:
            os.mkfifo(fifo)
            reader = threading.Thread(target=feed, args=(fifo, options.live), daemon=True)
            reader.start()
            argv += ['-plugin', f'{plugin},log={fifo},limit=-1']
        elif view:
            argv += ['-plugin', f'{plugin},log={boot.vmruns}']
        with open(output, 'w') as f:
            p = jobs.start(argv, stdout=f, stderr=f)
        if options.until_failure:
            threading.Thread(target=stop_at_failure, args=(p, boot), daemon=True).start()
        status = jobs.finish(p, limit)
        if reader:
            # wakes it, if QEMU never came to it
            os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
            reader.join(60)
    if not boot.stopped:
        check(boot, label, status, limit, output, options.ports)
    return boot


def make_machine(kernel: Kernel, tests: list[str], base: Base, options: Options,
                 tmp: Path) -> list[str | Path]:
    """Make disk and initramfs in tmp, and return the command for a machine that has them"""
    job = make_job(kernel, options.tests_dir or base.b / 'selftests', tests, options.files,
                   keep=bool(options.keep),
                   limit=options.test_timeout or settings.number('TEST_TIMEOUT'),
                   parameters=f'nested=1 npt={options.npt} {options.parameters}'.strip())
    more: list[str | Path] = []
    if options.icount:
        # When a disk answers is up to the host, and no two boots would be the same
        initrd = make_initrd(kernel, tmp / 'initrd', job)
    else:
        initrd = make_initrd(kernel, tmp / 'initrd')
        make_disk(tmp / 'disk', job)
    if options.can_resume and (state := saved_machine(base, kernel, initrd, tmp)):
        more = ['-incoming', f"exec:cat '{state}'"]
    if options.room:
        more += ['-drive', f'if=none,id=room,format=raw,file={options.room}',
                 '-device', 'virtio-blk-pci,drive=room']
    if options.net:
        more += ['-netdev', f'user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{options.net}-:22',
                 '-device', 'virtio-net-pci,netdev=net,romfile=']
    return make_command(kernel, initrd, tmp / 'disk', options, *more)


def stop_at_failure(p: subprocess.Popen, boot: Boot) -> None:
    """Stop the machine at the first "not ok" of its log"""
    while not jobs.has_ended(p):
        time.sleep(0.05)
        tail = boot.log.read_bytes()[-4096:] if boot.log.exists() else b''
        if re.search(rb'^not ok ', tail, re.M):
            boot.stopped = True
            time.sleep(0.05)	# for the reason, which is printed before or right after
            jobs.kill(p)


def feed(fifo: Path, live: Callable[[str], object]) -> None:
    with open(fifo) as f:
        for line in f:
            live(line)


# ---- the verdict ----

def text_of(file: Path) -> str:
    return file.read_bytes().replace(b'\r', b'').decode(errors='replace') if file.exists() else ''


def check(boot: Boot, label: str, status: int | None, timeout: int, output: Path,
          ports: tuple[Path, ...] = ()) -> None:
    """Raise Misbehaved if the machine did not do what it should, or one in it, whose consoles are
    the ports; Fatal if the emulator failed, whose exit status is None at the time limit"""
    if boot.log.exists():
        boot.log.write_bytes(boot.log.read_bytes().replace(b'\r', b''))
    log = text_of(boot.log)
    consoles = [f for f in (boot.console, *ports) if f.exists()]
    console = ''.join(map(text_of, consoles))
    complaint = next((m[1] for m in COMPLAINT.finditer(console) if not HARMLESS.search(m[1])), '')
    module = re.search(r'^# nsvm: no module (.*)', log, re.M)
    last = f'last: {jobs.last_line(text_of(boot.console))}'
    reason = ''
    if status is None:
        reason = f'no end after {timeout} s, stopped; {last}'
    elif status:
        if 0 < status <= 128:
            raise Fatal(f'{label}: QEMU failed: {jobs.last_line(text_of(output))} '
                        f'(exit status {status})')
        number = -status if status < 0 else status - 128
        raise Fatal(f'{label}: QEMU was killed by signal {number} (console: {rel(boot.console)})')
    elif module:
        name = module[1].split(':')[0].replace('-', '_')
        why = re.search(rf'^.*\b{name}: .*', console, re.M)
        reason = (f'a module does not load: {module[1]}' +
                  (f'; {why[0].split("] ")[-1]}' if why else ''))
    elif complaint:
        reason = f'kernel: {complaint}'
    elif '# nsvm: kernel ' not in log:
        reason = f'the kernel did not reach init; {last}'
    elif '# nsvm: done' not in log:
        reason = f'the machine went down in the middle of the tests; {last}'
    if reason:
        files = ', '.join(map(rel, consoles or [boot.console]))
        raise Misbehaved(f'{label}: {reason} (console: {files})')
    if not output.read_text():
        output.unlink()


def shell(base: Base) -> None:
    """Boot the series with all tests, and with this terminal as both serial ports"""
    kernel, tests_dir = series_kernel(base), selftests.build(base)
    with tempfile.TemporaryDirectory(dir=base.b, prefix='shell-', suffix='.tmp') as scratch:
        tests = [f for f in tests_dir.iterdir() if f.name != '.stamp']
        argv = [*make_machine(kernel, ['shell'], base, Options(append='quiet', files=tests),
                              Path(scratch)),
                '-chardev', 'stdio,id=tty,mux=on,signal=off', '-serial', 'chardev:tty',
                '-serial', 'chardev:tty', '-serial', 'null', '-mon', 'chardev=tty']
        status = subprocess.call([str(a) for a in argv], env=jobs.environment())
    if status:
        raise Fatal(f'QEMU failed (exit status {status})')


def main(args: list[str]) -> int:
    if args:
        raise Fatal('usage: boot')
    shell(tree.make(Base()))
    return 0
