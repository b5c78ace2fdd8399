# SPDX-License-Identifier: GPL-2.0
"""kernels - build the kernel of the series: an image and a directory of modules

By default, the stock kernel is the distribution's, and the series is its image with our modules,
built against its headers (see distro, module).  A whole kernel is built with LINUX=, with another
compiler, for debugging, and for a base without such packages (see whole).  Programs that use a
kernel see no difference.

  stock   the kernel without it       build/<base>/kernel-stock
  series  what is in src, with edits  build/<base>/kernel
  N       after patch N               build/<base>/step-N
"""
from dataclasses import dataclass
from pathlib import Path

from kernel import distro, module, whole
from lib.base import Base, alone, read
from lib.say import Fatal, say
from lib.settings import rel, settings
from source import tree as source_tree
from source.debian import NOT_HERE


@dataclass
class Kernel:
    dir: Path
    label: str

    @property
    def id(self) -> str:
        """Names what it was made from"""
        return read(self.dir / 'id').strip()

    @property
    def image(self) -> Path:
        there = [f for f in (self.dir / 'vmlinux', self.dir / 'bzImage') if f.exists()]
        if not there:
            raise Fatal(f'no image in {rel(self.dir)} (make kernel)')
        return there[0]

    @property
    def compressed(self) -> Path:
        """What a boot loader takes"""
        at = self.image.resolve()
        return at if at.name == 'bzImage' else at.with_name('vmlinuz')

    @property
    def modules(self) -> list[Path]:
        """In the order in which they are loaded"""
        return [self.dir / f'modules/{m}.ko' for m in read(self.dir / 'modules/order').split()]

    @property
    def kvm_amd(self) -> Path:
        """The module that differs between stock and series"""
        return self.need().dir / 'modules/kvm-amd.ko'

    def need(self) -> 'Kernel':
        if not self.id or not self.modules:
            raise Fatal(f'no kernel in {rel(self.dir)} (make kernel)')
        return self


decided: dict[str, bool] = {}


def is_packaged(base: Base, debug: bool = False) -> bool:
    """Is it the distribution's kernel here?"""
    if base.is_vmm():
        raise Fatal(f'{base.name} is no kernel: tools/nsvm/nsvm vmms tests it')
    if debug or settings.DEBUG_KERNEL == 'y' or settings.CC != 'gcc':
        return False
    if base.linux or base.key('source'):
        return False
    if base.name not in decided:
        try:
            distro.get(base)
            module.compiler(base)
            decided[base.name] = True
        except Fatal as e:
            if e.status != NOT_HERE:
                raise
            say('KERNEL', f'{base.name}: a whole kernel, as {e}')
            decided[base.name] = False
    return decided[base.name]


def flavour(debug: bool) -> str:
    """What directories of whole kernels end with"""
    if debug or settings.DEBUG_KERNEL == 'y':
        return '-debug'
    return '' if settings.CC == 'gcc' else f'-{settings.CC.rpartition("/")[2]}'


def tree_kernel(base: Base, tree: str, worker: str, label: str, debug: bool = False,
                quiet: bool = True, werror: bool = True) -> Kernel:
    """That of a tree object (or commit) of src, in build/<base>/<label>, or for a whole kernel
    <label><flavour>.

    Args:
        worker: whose objects, so that several can be made at once.
        quiet: say nothing if it builds.
        werror: a warning is an error.
    """
    to = base.b / f'{label}{flavour(debug)}'
    try:
        if is_packaged(base, debug):
            module.build(base, tree, base.b / f'module{worker}', to, label, quiet, werror)
            return Kernel(to, label)
    except Fatal as e:
        if e.status != NOT_HERE:
            raise
        say('KERNEL', f'{label}: a whole kernel, as {e}')
    # there is one tree, and one directory of objects for a flavour
    with alone(base.b / '.whole'):
        whole.build(base, tree, to, label, flavour(debug), debug, quiet, werror)
    return Kernel(to, label)


def stock_kernel(base: Base) -> Kernel:
    base.need_tree()
    return tree_kernel(base, 'base', '', 'kernel-stock', quiet=False)


def series_kernel(base: Base, debug: bool = False) -> Kernel:
    base.need_tree()
    return tree_kernel(base, base.worktree(), '', 'kernel', debug, quiet=False)


def fixed_kernel(base: Base, debug: bool = False) -> Kernel:
    """The series, and what "fixes:" in BASE names"""
    if not base.key('fixes'):
        return series_kernel(base, debug)
    base.need_tree()
    return tree_kernel(base, source_tree.with_fixes(base), 'fixed', 'kernel-fixed', debug,
                       quiet=False)


def step_kernel(base: Base, n: int) -> Kernel:
    """After patch n of the series"""
    commits, applied = base.commits(), base.applied()
    if len(commits) != len(applied):
        raise Fatal(f'{rel(base.src)} has other commits than patches/')
    return tree_kernel(base, commits[applied.index(n)], 'step', f'step-{n}', quiet=False)


def main(args: list[str]) -> int:
    if args:
        raise Fatal('usage: kernels')
    series_kernel(source_tree.make(Base()))
    return 0
