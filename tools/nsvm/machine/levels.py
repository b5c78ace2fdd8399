# SPDX-License-Identifier: GPL-2.0
"""A machine in a machine in a machine: what each level is given

L0 is the emulated machine with the kernel under test.  In it QEMU runs the distribution's
kernel with the distribution's own modules, L1, and in that once more, L2.  Each has the same
init as L0, and machine/stack as the test that it runs.  Programs and kernels are on a file
system of their own, the room, which is L0's second disk and L1's first one.
"""
import os
import shutil
from pathlib import Path

from kernel import distro
from kernel.kernels import Kernel
from lib import jobs
from lib.base import Base
from lib.say import Fatal
from lib.settings import place, rel
from machine import boot
from source.debian import NOT_HERE

BINARY = 'usr/bin/qemu-system-x86_64'
FIRMWARE = ('bios-256k.bin', 'kvmvapic.bin', 'linuxboot_dma.bin', 'pvh.bin', 'multiboot_dma.bin')
SIZE = '2G'		# of the room: saved machines are put there


class Bare(Kernel):
    """What runs no guests: to load KVM takes seconds there"""
    modules = property(lambda self: [])


def vmm(root: Path) -> list[Path]:
    """The files of the QEMU in a root: program, libraries, firmware; the machine's own in /"""
    if not (root / BINARY).exists():
        raise Fatal(f'no QEMU in {rel(root)}: {rel(root / BINARY)} is missing (make setup)',
                    NOT_HERE)
    libs = ':'.join(map(str, root.glob('usr/lib/*-linux-gnu')))
    words = jobs.output(['ldd', root / BINARY], env={'LD_LIBRARY_PATH': libs})
    if 'not found' in words:
        raise Fatal(f'{rel(root / BINARY)} does not find its libraries', NOT_HERE)
    shared = [root / 'usr/share' / d / f for f in FIRMWARE for d in ('qemu', 'seabios')]
    return [root / BINARY, *(Path(w) for w in words.split() if w.startswith('/')),
            *(f for f in shared if f.exists())]


def write_initrd(kernel: Kernel, to: Path, job: str, files: list[Path]) -> None:
    """What runs "stack WHAT" with these files"""
    boot.make_initrd(kernel, to, boot.make_job(kernel, place.lab / 'machine', [f'stack:{job}'],
                                               files, limit=9999))


def make(vmms: dict[str, Path], files: dict[str, Path], to: Path) -> Path:
    """A file system with a directory for each QEMU, and files"""
    mke2fs = shutil.which('mke2fs', path=f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin')
    if not mke2fs:
        raise Fatal('no mke2fs (make setup)', NOT_HERE)
    d = to.with_suffix('.tmp')
    shutil.rmtree(d, ignore_errors=True)
    for name, root in vmms.items():
        (d / name).mkdir(parents=True)
        for f in vmm(root):
            shutil.copy(f, d / name)
    for name, f in files.items():
        shutil.copy(f, d / name)
    to.unlink(missing_ok=True)
    jobs.output([mke2fs, '-q', '-t', 'ext4', '-O', '^has_journal', '-d', d, to, SIZE])
    shutil.rmtree(d)
    return to


def room(base: Base, kernel: Kernel, vmms: dict[str, Path], l2: str, more: dict[str, Path],
         to: Path) -> Path:
    """The first QEMU is L1's as well; kernel: of L1 and L2; l2: what that does; more: files"""
    l1_initrd, l2_initrd = to.with_suffix('.l1'), to.with_suffix('.l2')
    write_initrd(kernel, l1_initrd, f'l1:{next(iter(vmms))}', [])
    # What is not there is in the kernel
    modules = [f for m in distro.MORE if (f := distro.get(base) / f'modules/{m}.ko').exists()]
    write_initrd(Bare(kernel.dir, kernel.label), l2_initrd, f'l2:{l2}', modules)
    return make(vmms, {'vmlinux': kernel.image, 'l1': l1_initrd, 'l2': l2_initrd, **more}, to)
