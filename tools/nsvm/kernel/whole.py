# SPDX-License-Identifier: GPL-2.0
"""A whole kernel, where the distribution's cannot be: image and KVM's modules

Built from build/<base>/whole with one object directory for each flavour, in which only
what differs is compiled again; image and modules are copied to where they are wanted.
Configured by arch/x86/configs/nsvm-pat.config, of a debug kernel nsvm-pat-debug.config
after it, and patches/<base>/config: what they do not mention is off (allnoconfig), what
they ask for and don't get is an error.  A line "# no CONFIG_FOO: reason" in the latter
says that this base has no such symbol, and it is an error if it has.
"""
import re
import shutil
import tempfile
from pathlib import Path

from lib import jobs, versions
from lib.base import Base, digest, git, put, read
from lib.say import Fatal
from lib.settings import place, rel, settings
from source import package, release
from source import tree as source_tree

# Of a source, what it takes to compile KVM's files
FOR_OBJECTS = ['COPYING', 'Kbuild', 'Makefile', '*Kconfig*', 'arch/x86', 'drivers/Makefile',
               'fs/Makefile', 'include', 'init', 'ipc/Makefile', 'kernel', 'lib/Makefile',
               'scripts', 'tools', 'usr/Makefile', 'virt']
# Not made: what no kernel is compiled from
NO_SOURCE = {'Documentation', 'LICENSES', 'CREDITS', 'MAINTAINERS'}


def fragments(base: Base, debug: bool) -> list[Path]:
    configs = place.top / 'arch/x86/configs'
    files = [configs / 'nsvm-pat.config', *([configs / 'nsvm-pat-debug.config'] if debug else []),
             *(b.dir / 'config' for b in (*base.before, base))]
    return [f for f in files if f.exists()]


def has_symbol(whole: Path, symbol: str) -> bool:
    """Does any Kconfig of that source define CONFIG_...?"""
    return bool(git(whole, 'grep', '-lE', rf'^\s*(menu)?config {symbol[7:]}$', '--', 'Kconfig*',
                    '*/Kconfig*', check=False))


def check_config(base: Base, whole: Path, obj: Path, files: list[Path]) -> None:
    """allnoconfig says nothing of what it drops"""
    have = dict(re.findall(r'^(CONFIG_\w+)=(.*)$', read(obj / '.config'), re.M))
    text = '\n'.join(read(f) for f in files)
    none = re.findall(r'^# no (CONFIG_[A-Z0-9_]+): .+', text, re.M)
    for symbol in none:
        if has_symbol(whole, symbol) and not base.linux:
            raise Fatal(f'{rel(files[-1])} says that there is no {symbol}, but {rel(whole)} has it')
    # The value is empty where it is not set
    want = dict(re.findall(r'^(?:# )?(CONFIG_[A-Z0-9_]+)(?: is not set|=(.*))$', text, re.M))
    lost = [symbol for symbol, value in want.items() if symbol not in none
            and have.get(symbol, '') != value]
    if base.linux:
        # Of any release: what it does not know is not asked for
        lost = [symbol for symbol in lost if has_symbol(whole, symbol)]
    if lost:
        lost = [f'{symbol}={want[symbol] or "n"}' for symbol in lost]
        raise Fatal(f'the configuration lost: {" ".join(lost)}')


def make_argv(source: Path, obj: Path, werror: bool = True) -> list[str | Path]:
    """How make is started: W=1, but for kernel-doc, which is a perl for each of a thousand files"""
    return ['make', '-C', source, f'O={obj}', f'-j{jobs.workers()}', 'W=1', 'cmd_checkdoc=',
            'LOCALVERSION=', 'KBUILD_BUILD_USER=nsvm', 'KBUILD_BUILD_HOST=lab',
            'KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 2026',
            'LLVM=1' if settings.CC == 'clang' else f'CC={settings.CC}',
            *([] if werror else ['CONFIG_KVM_WERROR='])]


def compile_objects(base: Base) -> list[str]:
    """Compile what the series changes of KVM, as the whole kernel would, and keep nothing of it.

    Returns:
        The names of the objects.

    Raises:
        Fatal: one does not compile, or warns; names file and line.
    """
    changed = base.git('diff', '--name-only', base.root(), base.worktree(), '--',
                       'arch/x86/kvm/*.c').split()
    # x86.c has what kvm_host.h says of quirks
    objects = sorted({'arch/x86/kvm/x86.o', *(f'{f[:-2]}.o' for f in changed)})
    with tempfile.TemporaryDirectory(dir=base.b, prefix='objects-', suffix='.tmp') as scratch:
        source, obj = Path(scratch, 'source'), Path(scratch, 'obj')
        package.unpack(release.archive_of_src(base), source, FOR_OBJECTS)
        jobs.output(['sh', '-c', 'git archive "$1" arch/x86 include virt | tar -x -C "$2"', 'sh',
                     base.worktree(), source], cwd=base.src)
        obj.mkdir()
        put(obj / 'allconfig', ''.join(read(f) for f in fragments(base, False)))
        make = make_argv(source, obj)
        jobs.step('KERNEL', base.logs / 'config-objects.log', 'configured',
                  [*make, f'KCONFIG_ALLCONFIG={obj}/allconfig', 'allnoconfig'])
        jobs.step('KERNEL', base.logs / 'build-objects.log',
                  f'{len(objects)} objects of KVM compiled', [*make, *objects])
    return objects


def build(base: Base, tree: str, to: Path, label: str, flavour: str, debug: bool,
          quiet: bool = False, werror: bool = True) -> None:
    """to/{vmlinux or bzImage,modules,id} of that tree of src"""
    files = fragments(base, debug)
    compiler = versions.first_line(settings.CC, '--version')
    if not compiler:
        raise Fatal(f'compiler {settings.CC} does not run: is it installed?')
    listing = base.git('ls-tree', base.git('rev-parse', f'{tree}^{{tree}}'))
    for_bochs = ['bzImage'] if settings.MACHINE == 'bochs' else []
    made_of = digest(*(line for line in listing.splitlines()
                       if line.split('\t')[1] not in NO_SOURCE | {'tools'}), base.commit(),
                     compiler, *files, *for_bochs, Path(__file__))
    if read(to / 'id') == made_of:
        return
    whole = source_tree.set_whole(base, tree)
    obj, log = base.b / f'obj{flavour}', base.logs / f'build-{label}{flavour}.log'
    obj.mkdir(parents=True, exist_ok=True)
    (to / 'id').unlink(missing_ok=True)
    make = make_argv(whole, obj, werror)
    configured = digest(compiler, *files)
    stamp = obj / 'configured'
    if read(stamp) != configured or any(f.stat().st_mtime > stamp.stat().st_mtime
                                        for f in whole.rglob('Kconfig*')):
        put(obj / 'allconfig', ''.join(read(f) for f in files))
        jobs.step('KERNEL', base.logs / f'config-{label}{flavour}.log',
                  f'{label}{flavour} configured',
                  [*make, f'KCONFIG_ALLCONFIG={obj}/allconfig', 'allnoconfig'],
                  f'cannot configure {label}', quiet=quiet)
        check_config(base, whole, obj, files)
        put(stamp, configured)
    image = obj / ('arch/x86/boot/bzImage' if debug else 'vmlinux')
    jobs.step('KERNEL', log, f'{label}{flavour} built, a whole kernel',
              [*make, image.name, *for_bochs, 'modules'], f'{label} does not build', quiet=quiet)
    check_config(base, whole, obj, files)
    shutil.rmtree(to, ignore_errors=True)
    (to / 'modules').mkdir(parents=True)
    order = [obj / line.strip().removesuffix('.o').removesuffix('.ko')
             for line in read(obj / 'modules.order').splitlines()]
    # irqbypass, kvm, kvm-amd: none but these is a module
    names = sorted((o.name for o in order), key=lambda name: (name.startswith('kvm'), name))
    for o in order:
        jobs.output(['strip', '--strip-debug', '-o', to / f'modules/{o.name}.ko', f'{o}.ko'])
    put(to / 'modules/order', ''.join(f'{name}\n' for name in names))
    jobs.output(['strip', '--strip-debug', '-o', to /
                 image.name, image] if not debug else ['cp', image, to / image.name])
    if for_bochs:
        shutil.copy(obj / 'arch/x86/boot/bzImage', to / 'vmlinuz')
    put(to / 'id', made_of)
