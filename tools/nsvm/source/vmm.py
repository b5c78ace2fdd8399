# SPDX-License-Identifier: GPL-2.0
"""vmm [TARGET...] - build QEMU with its series in patches/

Builds build/<vmm>/src, with uncommitted edits, for x86_64 and KVM only, without optional features.
Nothing is installed.  The binary is build/<vmm>/obj/qemu-system-x86_64; build/<vmm>/root has it in
the layout of a package, with the packaged firmware.  TARGET is another target of QEMU's ninja.

Exit status: 0 built, 1 not, 3 cannot be had here.
"""
import re
from pathlib import Path

from lib import jobs
from lib.base import Base, digest, names, put, read
from source import debian, package, setup, tree

BINARY = 'qemu-system-x86_64'
CONFIGURE = ['--target-list=x86_64-softmmu', '--without-default-features', '--enable-kvm',
             '--disable-tcg', '--disable-docs', '--disable-debug-info', '--disable-install-blobs',
             '--disable-download']


def tools(base: Base) -> Path:
    """The Python packages that QEMU's configure wants, which the machine's release may lack"""
    to, wanted = base.b / 'tools', base.key('tools')
    if read(to / 'packages') != wanted:
        with debian.Archive(base.key('suite')) as apt:
            apt.update()
            to.mkdir(parents=True, exist_ok=True)
            for name in wanted.split():
                debian.unpack(apt.fetch(name), to)
        put(to / 'packages', wanted)
    return to / 'usr/lib/python3/dist-packages'


def configure(base: Base, env: dict[str, str]) -> Path:
    obj = base.b / 'obj'
    this = digest(base.commit(), *CONFIGURE)
    if read(obj / 'nsvm-configured') != this:
        # Debian's tarball lacks firmware that is only looked for
        for name in re.findall(r"'(edk2-\S+\.fd)'", read(base.src / 'pc-bios/meson.build')):
            (base.src / f'pc-bios/{name}.bz2').touch()
        for dts in (base.src / 'pc-bios/dtb').glob('*.dts'):
            dts.with_suffix('.dtb').touch()
        put(base.src / '.git/info/exclude', '/pc-bios/*.bz2\n/pc-bios/dtb/*.dtb\n')
        obj.mkdir(exist_ok=True)
        jobs.step('VMM', base.logs / 'configure.log',
                  f'QEMU {package.release(base.src)} configured',
                  [base.src / 'configure', *CONFIGURE], 'configure of QEMU failed', cwd=obj,
                  env=env)
        put(obj / 'nsvm-configured', this)
    return obj


def build(*targets: str, of: str = '') -> Path:
    """The directory with what was built; of: in patches/, by default that of the newest release"""
    setup.main(['run', 'vmm'])
    base = tree.make(Base(of or names(vmm=True)[-1]))
    env = {'PYTHONPATH': str(tools(base))}
    obj = configure(base, env)
    wanted = targets or (BINARY,)
    jobs.step('VMM', base.logs / 'vmm.log', f'QEMU with the series: {" ".join(wanted)}',
              ['ninja', '-C', obj, f'-j{jobs.workers()}', *wanted], 'QEMU does not build', env=env)
    if (obj / BINARY).exists():
        root = base.b / 'root/usr'
        for link, to in ((f'bin/{BINARY}', obj / BINARY), ('share/qemu', '/usr/share/qemu'),
                         ('share/seabios', '/usr/share/seabios')):
            (root / link).parent.mkdir(parents=True, exist_ok=True)
            (root / link).unlink(missing_ok=True)
            (root / link).symlink_to(to)
    return obj


def main(args: list[str]) -> int:
    build(*args)
    return 0
