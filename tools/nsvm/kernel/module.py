# SPDX-License-Identifier: GPL-2.0
"""KVM's modules of a tree, as external modules for the distribution's kernel

The modules that the tree changes, kvm-amd.ko for a change of svm/ alone, are built
against its linux-headers by its compiler with its flags, plus W=1 and KVM_WERROR; the
others are the distribution's own.  A header of KVM goes with them, in front of the one
in linux-headers.  A tree that changes more of the kernel than KVM takes a whole kernel:
Fatal 3.
"""
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from kernel import distro
from lib import jobs
from lib.base import Base, digest, put, read
from lib.say import Fatal
from source.debian import NOT_HERE

UAPI = 'arch/x86/include/uapi/asm/kvm.h'
# The structs in it are also those of vmlinux and of other modules, which remain the distribution's:
# it goes with KVM's modules if only the masks of quirks differ, which nothing but KVM uses
HOST = 'arch/x86/include/asm/kvm_host.h'
SOURCES = ('arch/x86/kvm', 'virt/kvm', UAPI, HOST)
QUIRKS = re.compile(r'^#define KVM_X86_\w*QUIRKS\b(?:.*\\\n)*.*\n', re.M)


def differs_in_quirks(before: str, after: str) -> bool:
    """Do two versions of HOST differ in nothing but the masks of quirks?"""
    return QUIRKS.sub('', before) == QUIRKS.sub('', after)


def changed_files(base: Base, tree: str) -> list[str]:
    """Of what a kernel is compiled from"""
    return base.git('diff', '--name-only', base.root(), tree, '--', 'arch', 'virt',
                    'include').split()


def changed_modules(base: Base, tree: str) -> list[str]:
    """Those of kvm and kvm-amd that differ from the base's"""
    files = changed_files(base, tree)
    ours = [UAPI]
    if HOST in files and differs_in_quirks(*(base.git('show', f'{commit}:{HOST}') + '\n'
                                             for commit in (base.root(), tree))):
        ours.append(HOST)
    other = [f for f in files if not f.startswith(('arch/x86/kvm/', 'virt/kvm/')) and f not in ours]
    if other:
        raise Fatal(f'the series changes {other[0]}: that takes a whole kernel', NOT_HERE)
    if any(not f.startswith('arch/x86/kvm/svm/') and f != UAPI for f in files):
        return ['kvm', 'kvm-amd']
    return ['kvm-amd'] if files else []


def write_sources(base: Base, tree: str, to: Path, modules: list[str]) -> None:
    """What did not change keeps its time.  Builds wherever it is moved to"""
    with tempfile.NamedTemporaryFile(suffix='.tar') as archive:
        base.git('archive', '-o', archive.name, tree, *SOURCES)
        with tarfile.open(archive.name) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar
                     if member.isfile()}
    # Before the headers of the kernel, which have others
    files['first/asm/kvm.h'], host = files.pop(UAPI), files.pop(HOST)
    if HOST in changed_files(base, tree):
        files['first/asm/kvm_host.h'] = host
    kbuild = files['arch/x86/kvm/Makefile'].decode()
    kbuild = re.sub(r'\$\(srctree\)/virt/kvm/', '$(src)/../../../virt/kvm/', kbuild)
    kbuild = re.sub(r'-I *(\$\(srctree\)/)?arch/x86/kvm', '-I $(src)', kbuild)
    # Only what is wanted of the modules
    kbuild = re.sub(r'^obj-.*[ \t](kvm-intel|kvm-amd|kvm)\.o$', '', kbuild, flags=re.M)
    kbuild += ''.join(f'obj-m += {m}.o\n' for m in modules)
    # The last one is where kvm.ko's trace points are found from
    flags = '-I$(src)/../../../first $(NOSTDINC_FLAGS) -I$(src)/..'
    files['arch/x86/kvm/Kbuild'] = f'NOSTDINC_FLAGS := {flags}\n{kbuild}'.encode()
    for name, text in files.items():
        f = to / name
        if not f.exists() or f.read_bytes() != text:
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_bytes(text)
    for f in to.rglob('*.[chS]'):
        if str(f.relative_to(to)) not in files and not f.name.endswith('.mod.c'):
            f.unlink()


def compiler(base: Base) -> str:
    """That of the headers; another one makes modules that do not load, or worse"""
    cc = distro.info(base, 'compiler')
    runs = distro.runner(base)
    if jobs.call([*runs, cc, '--version']) if runs else not shutil.which(cc):
        raise Fatal(f'the headers of {distro.info(base, "release")} want {cc}, which is not '
                    'installed', NOT_HERE)
    return cc


def build(base: Base, tree: str, obj: Path, to: Path, label: str, quiet: bool = False,
          werror: bool = True) -> None:
    """to/{vmlinux,modules,id} of that tree of src, with the objects in obj"""
    d = distro.get(base)
    modules = changed_modules(base, tree)
    cc = compiler(base)
    of = (distro.info(base, key) for key in ('version', 'release', 'compiler'))	# wherever it is
    made_of = digest(*of, *modules, base.git('rev-parse', *(f'{tree}:{s}' for s in SOURCES)),
                     Path(__file__))
    if read(to / 'id') == made_of:
        return
    (to / 'modules').mkdir(parents=True, exist_ok=True)
    (to / 'id').unlink(missing_ok=True)
    for old in (to / 'modules').iterdir():
        old.unlink()
    if modules:
        write_sources(base, tree, obj, modules)
        jobs.step('KERNEL', base.logs / f'build-{label}.log',
                  f'{", ".join(f"{m}.ko" for m in modules)} of {label} built for '
                  f'{distro.info(base, "release")}',
                  [*distro.runner(base), 'make', '-C', distro.info(base, 'headers'),
                   f'M={obj}/arch/x86/kvm', f'-j{jobs.workers()}', 'W=1',
                   f'CONFIG_KVM_WERROR={"y" if werror else ""}', 'CONFIG_DEBUG_INFO_BTF_MODULES=',
                   'cmd_checkdoc=', f'CC={cc}', 'modules'], f'{label} does not build', quiet=quiet)
    for m in read(d / 'modules/order').split():
        if m in modules:
            jobs.output(['strip', '--strip-debug', '-o', to / f'modules/{m}.ko',
                         obj / f'arch/x86/kvm/{m}.ko'])
        else:
            (to / f'modules/{m}.ko').symlink_to(d / f'modules/{m}.ko')
    put(to / 'modules/order', read(d / 'modules/order'))
    image = to / 'vmlinux'
    image.unlink(missing_ok=True)
    image.symlink_to(d / 'vmlinux')
    put(to / 'id', made_of)
