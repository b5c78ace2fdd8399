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
class How:
    """All about a boot but its kernel and its tests"""
    # The machine
    smp: int | None = None		# CPUs, by default SMP=
    cpu: str = ''		# by default CPU=
    append: str = ''		# to the kernel's command line
    # one CPU, emulated, whose clock counts its instructions: one a ns, and a tick of the TSC
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
    # gets each line of the log of VMRUNs, which is then no file
    live: Callable[[str], object] | None = None
    timeout: int | None = None		# seconds, by default TIMEOUT=
    until_failure: bool = False		# stop at the first "not ok"

    @property
    def cpus(self) -> int:
        return 1 if self.icount else self.smp or settings.number('SMP')

    @property
    def limit(self) -> int:
        return self.timeout or settings.number('TIMEOUT')


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


def early(kernel: Kernel) -> list[Path]:
    return [m for m in kernel.modules if m.stem != 'kvm-amd']


def make_initrd(kernel: Kernel, to: Path,
                job: dict[str, tuple[int, bytes | Path]] | None = None) -> Path:
    """busybox, init and the modules but kvm-amd; job: what else would come on the disk"""
    busybox = shutil.which('busybox')
    if not busybox:
        raise Fatal('no busybox (make setup)')
    files: dict[str, tuple[int, bytes]] = {d: (0o40755, b'') for d in ('bin', 'modules')}
    files['init'] = (0o100755, (place.lab / 'machine/init').read_bytes())
    files['bin/busybox'] = (0o100755, Path(busybox).read_bytes())
    for applet in jobs.output([busybox, '--list']).split():
        files.setdefault(f'bin/{applet}', (0o120777, b'busybox'))
    for m in early(kernel):
        files[f'modules/{m.name}'] = (0o100644, m.read_bytes())
    files['modules/early'] = (0o100644, ''.join(f'{m.stem}\n' for m in early(kernel)).encode())
    for d in ('job', 'job/tests') if job else ():
        files[d] = (0o40755, b'')
    for name, (mode, content) in (job or {}).items():
        files[f'job/{name}'] = (0o100000 | mode,
                                content.read_bytes() if isinstance(content, Path) else content)
    to.write_bytes(cpio.newc(files))
    return to


def make_job(kernel: Kernel, tests_dir: Path, tests: list[str], files: list[Path], *, limit: int,
             keep: bool = False,
             parameters: str = 'nested=1') -> dict[str, tuple[int, bytes | Path]]:
    """What init reads and runs, see there: name -> (permissions, content).  Tests that are among
    the files are not looked for"""
    variables = {
        'TESTS': ' '.join(tests), 'LIMIT': str(limit), 'KEEP': 'y' if keep else '',
        'PARAMETERS': parameters
    }
    content: dict[str, tuple[int, bytes | Path]] = {
        'variables': (0o644, ''.join(f"{k}='{v}'\n" for k, v in variables.items()).encode())}
    for m in kernel.modules:
        if m.stem == 'kvm-amd':
            content['kvm-amd.ko'] = (0o644, m)
    elsewhere = {'shell', *(f.name for f in files)}
    for t in dict.fromkeys(name for t in tests if (name := t.partition(':')[0]) not in elsewhere):
        if not (tests_dir / t).exists():
            raise Fatal(f'no test {t} in {rel(tests_dir)} (make selftests)')
        content[f'tests/{t}'] = (0o755, tests_dir / t)
    for f in files:
        content[f'tests/{f.name}'] = (f.stat().st_mode & 0o777, f)
    return content


def command(kernel: Kernel, initrd: Path, disk: Path, how: How, *more: str | Path) -> list:
    """How QEMU is started"""
    accel, is_debug = accelerator(how.icount), kernel.image.name == 'bzImage'
    words = ['console=ttyS0', 'panic=-1', 'nokaslr', 'no5lvl', 'no_timer_check', 'mitigations=off',
             'loglevel=7', *(['norandmaps'] if how.icount else TICKS), how.append]
    exact = [
        '-icount', 'shift=0,sleep=off', '-rtc', 'base=2026-01-01T00:00:00,clock=vm', '-seed', '1'
    ]
    # The first disk, whatever else there is
    drive = ['-drive', f'if=none,id=disk,format=raw,readonly=on,file={disk}',
             '-device', 'virtio-blk-pci,drive=disk']
    memory = max(settings.number('MEMORY'), 1024 if is_debug else 0)
    return [
        qemu.find().binary, '-accel', accel if how.icount or accel == 'kvm' else 'tcg,thread=multi',
        *(exact if how.icount else []), '-machine', 'q35', '-cpu',
        'host' if accel == 'kvm' else how.cpu or settings.CPU, '-smp', how.cpus, '-m', memory,
        '-no-user-config', '-nodefaults', '-display', 'none', '-no-reboot', '-kernel', kernel.image,
        '-initrd', initrd, '-append', ' '.join(words), *([] if how.icount else drive), *more
    ]


def save(base: Base, kernel: Kernel) -> None:
    """Have the machine saved, for those who will resume it"""
    with tempfile.TemporaryDirectory(dir=base.b, prefix='save-', suffix='.tmp') as scratch:
        resumed(base, kernel, make_initrd(kernel, Path(scratch, 'initrd')), Path(scratch), How())


def resumed(base: Base, kernel: Kernel, initrd: Path, tmp: Path, how: How) -> list[str]:
    """What makes QEMU resume the saved machine, if there can be one"""
    other = how.icount or how.append or how.cpu or how.room or how.ports or how.net
    if other or accelerator(False) != 'tcg' or how.cpus != settings.number('SMP'):
        return []
    argv = command(kernel, initrd, tmp / 'blank', How())
    state = saved_machine(base, kernel, initrd, argv, tmp / 'blank', tmp / 'console')
    return ['-incoming', f"exec:cat '{state}'"] if state else []


def saved_machine(base: Base, kernel: Kernel, initrd: Path, argv: list, blank: Path,
                  console: Path) -> Path | None:
    """The machine as it waits for work; started and saved if it is not there.  None if it
    cannot be saved"""
    image = kernel.image.resolve()
    stat = image.stat()
    same = [str(a) for a in argv if str(blank.parent) not in str(a) and a != kernel.image]
    state = base.b / 'machines' / digest(f'{image} {stat.st_size} {stat.st_mtime_ns}', initrd, *
                                         same, Path(__file__))
    with alone(base.b / '.saving'):
        if state.exists():
            state.touch()
            return state
        state.parent.mkdir(parents=True, exist_ok=True)
        with open(blank, 'wb') as f:
            f.truncate(DISK)
        log, tmp = console.with_suffix('.saved'), state.with_suffix('.tmp')
        log.unlink(missing_ok=True)
        with open(console.with_suffix('.qemu'), 'w') as said:
            p = jobs.start([*argv, '-serial', f'file:{console}', '-serial', f'file:{log}',
                            '-serial', 'null', '-monitor', 'stdio'],
                           stdin=subprocess.PIPE, stdout=said, stderr=said, text=True)
        try:
            limit = time.monotonic() + settings.number('TIMEOUT')
            while p.poll() is None and time.monotonic() < limit and '# nsvm: waiting' not in read(
                    log):
                time.sleep(0.05)
            if p.poll() is None and '# nsvm: waiting' in read(log):
                p.communicate('migrate_set_parameter max-bandwidth 10G\n'
                              f'migrate "exec:cat >\'{tmp}\'"\nquit\n', timeout=60)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass
        finally:
            rc = jobs.finish(p, 0)
            log.unlink(missing_ok=True)
        if rc != 0 or not tmp.exists():
            tmp.unlink(missing_ok=True)
            return None		# the boot that follows says why
        tmp.replace(state)
        for old in sorted(state.parent.iterdir(), key=lambda f: f.stat().st_mtime)[:-KEPT]:
            old.unlink()
        return state


def watch_log(p: subprocess.Popen, log: Path, stopped: threading.Event) -> None:
    """Stop the machine at the first "not ok" """
    while p.poll() is None:
        time.sleep(0.05)
        if re.search(r'^not ok ', read_tail(log), re.M):
            stopped.set()
            time.sleep(0.05)	# for the reason, which is printed before or right after
            jobs.kill(p)


def read_tail(log: Path) -> str:
    return log.read_bytes()[-4096:].decode(errors='replace') if log.exists() else ''


def last_words(file: Path) -> str:
    return jobs.last_line(file.read_text(errors='replace')) if file.exists() else ''


def run(kernel: Kernel, label: str, tests: list[str], *, base: Base, **how) -> Boot:
    """Boot it, and run tests.

    Args:
        kernel: image and modules.
        label: results are base.results/label.{log,console,vmrun}.
        tests: names, or name:argument:argument.
        how: fields of How.

    Raises:
        Misbehaved: the machine did; one line that names the console.
        Fatal: QEMU did not do its work.
    """
    return start(kernel.need(), label, tests, base, How(**how))


def start(kernel: Kernel, label: str, tests: list[str], base: Base, how: How) -> Boot:
    """The same, with all that is known of the machine"""
    q, results = qemu.find(), base.results
    view = how.view and accelerator(how.icount) == 'tcg' and q.plugin is not None
    results.mkdir(parents=True, exist_ok=True)
    boot = Boot(results / f'{label}.log', results / f'{label}.console',
                results / f'{label}.vmrun' if view and not how.live else None)
    output = results / f'{label}.qemu'
    for f in (boot.log, boot.console, output, results / f'{label}.vmrun', how.keep, *how.ports):
        if f:
            f.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=base.b, prefix=f'{label}-', suffix='.tmp') as scratch:
        tmp = Path(scratch)
        argv = [*make_machine(kernel, tests, base, how, tmp), *serial_ports(boot, how)]
        reader = None
        if view:
            to = boot.vmruns or tmp / 'fifo'
            if how.live:
                os.mkfifo(to)
                reader = threading.Thread(target=feed, args=(to, how.live), daemon=True)
                reader.start()
            argv += ['-plugin', f'{q.plugin},log={to}' + (',limit=-1' if how.live else '')]
        with open(output, 'w') as f:
            p = jobs.start(argv, stdout=f, stderr=f)
        stopped = threading.Event()
        if how.until_failure:
            threading.Thread(target=watch_log, args=(p, boot.log, stopped), daemon=True).start()
        status = jobs.finish(p, how.limit)
        if reader:
            # wakes it, if QEMU never came to it
            os.close(os.open(tmp / 'fifo', os.O_RDWR | os.O_NONBLOCK))
            reader.join(60)
    boot.stopped = stopped.is_set()
    check(boot, label, status, how.limit, output, how.ports)
    return boot


def make_machine(kernel: Kernel, tests: list[str], base: Base, how: How, tmp: Path) -> list:
    """Disk and initramfs in tmp, and the command for a machine that has them"""
    parameters = f'nested=1 npt={how.npt} {how.parameters}'.strip()
    job = make_job(kernel, how.tests_dir or base.b / 'selftests', tests, list(how.files),
                   keep=bool(how.keep), limit=how.test_timeout or settings.number('TEST_TIMEOUT'),
                   parameters=parameters)
    if not how.icount:
        cpio.disk(job, tmp / 'disk', DISK)
    # When a disk answers is up to the host, and no two boots would be the same
    initrd = make_initrd(kernel, tmp / 'initrd', job if how.icount else None)
    more = resumed(base, kernel, initrd, tmp, how)
    if how.room:
        more += [
            '-drive', f'if=none,id=room,format=raw,file={how.room}', '-device',
            'virtio-blk-pci,drive=room'
        ]
    if how.net:
        more += ['-netdev', f'user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{how.net}-:22',
                 '-device', 'virtio-net-pci,netdev=net,romfile=']
    return command(kernel, initrd, tmp / 'disk', how, *more)


def serial_ports(boot: Boot, how: How) -> list[str]:
    """Console, log, and one more, as the saved machine has them, or all of how.ports"""
    files = [boot.console, boot.log, *(how.ports or [how.keep])]
    return [word for f in files for word in ('-serial', f'file:{f}' if f else 'null')]


def feed(fifo: Path, live: Callable[[str], object]) -> None:
    with open(fifo) as f:
        for line in f:
            live(line)


def check(boot: Boot, label: str, rc: int | None, timeout: int, said: Path,
          ports: tuple[Path, ...] = ()) -> None:
    """Fatal if the machine did not do what it should, or one in it"""
    if boot.log.exists():
        boot.log.write_bytes(boot.log.read_bytes().replace(b'\r', b''))
    log = boot.text() if boot.log.exists() else ''
    consoles = [f for f in (boot.console, *ports) if f.exists()]
    console = ''.join(f.read_text(errors='replace').replace('\r', '') for f in consoles)
    see = f'(console: {", ".join(map(rel, consoles or [boot.console]))})'
    bad = [m[1] for m in COMPLAINT.finditer(console) if not HARMLESS.search(m[1])]
    module = re.search(r'^# nsvm: no module (.*)', log, re.M)
    if boot.stopped:
        return
    if rc is None:
        raise Misbehaved(
            f'{label}: no end after {timeout} s, stopped; last: {last_words(boot.console)} {see}')
    if rc < 0 or rc > 128:
        raise Fatal(f'{label}: QEMU was killed by signal {-rc if rc < 0 else rc - 128} {see}')
    if rc:
        raise Fatal(f'{label}: QEMU failed: {last_words(said)} (exit status {rc})')
    if module:
        reason = re.search(rf'^.*\b{module[1].split(":")[0].replace("-", "_")}: .*', console, re.M)
        raise Misbehaved(f'{label}: a module does not load: {module[1]}' +
                         (f'; {reason[0].split("] ")[-1]}' if reason else '') + f' {see}')
    if bad:
        raise Misbehaved(f'{label}: kernel: {bad[0]} {see}')
    if '# nsvm: kernel ' not in log:
        raise Misbehaved(
            f'{label}: the kernel did not reach init; last: {last_words(boot.console)} {see}')
    if '# nsvm: done' not in log:
        raise Misbehaved(f'{label}: the machine went down in the middle of the tests; '
                         f'last: {last_words(boot.console)} {see}')
    if not said.read_text():
        said.unlink()


def shell(base: Base) -> None:
    kernel = series_kernel(base)
    tests_dir = selftests.build(base)
    with tempfile.TemporaryDirectory(dir=base.b, prefix='shell-', suffix='.tmp') as scratch:
        tmp = Path(scratch)
        tests = [f for f in tests_dir.iterdir() if f.name != '.stamp']
        cpio.disk(make_job(kernel, tests_dir, ['shell'], tests, limit=0), tmp / 'disk', DISK)
        argv = command(kernel, make_initrd(kernel, tmp / 'initrd'), tmp / 'disk',
                       How(append='quiet'))
        rc = subprocess.call([str(a) for a in argv] + [
            '-chardev', 'stdio,id=tty,mux=on,signal=off', '-serial', 'chardev:tty', '-serial',
            'null', '-mon', 'chardev=tty'
        ], env=jobs.environment())
    if rc:
        raise Fatal(f'QEMU failed (exit status {rc})')


def main(args: list[str]) -> int:
    if args:
        raise Fatal('usage: boot')
    shell(tree.make(Base()))
    return 0
