# SPDX-License-Identifier: GPL-2.0
"""tree base|series - the kernel's source, and the series applied to it

base     build/<base>/src is a git tree of the base, tag "base", from the package that
         patches/<base>/BASE names, fetched by apt ("suite:", of that suite; "source:",
         the file "file:" of that source package).  It holds what a series, KVM's
         modules, selftests and user-space headers need, see PART.  With LINUX= it
         shares the objects of that git tree, which is only read.  With "after: <base>" in
         BASE, that one's series is part of it.
series   the patches of patches/<base>/series are applied to it by plain git am,
         branch "series".  Again when a patch has changed.  A tree with commits or
         edits of its own is left alone.

For what compiles a whole kernel, build/<base>/whole is the complete source.

Exit status: 0 done, or nothing to do; 1 not, and src is as before; 3 not, as the
source cannot be had.
"""
import re
import shutil
import time
from pathlib import Path

from lib import jobs
from lib.base import GIT_ENV, Base, digest, git, git_argv, git_ok, put, read
from lib.say import Fatal, elapsed, say
from lib.settings import place, rel, settings
from source import debian, setup
from source.debian import NOT_HERE

# Patterns for tar, "*" across directories, and for git's sparse checkout.  Each is in
# every kernel; top-level Makefiles make it a kernel tree for get_maintainer.pl.  The
# selftests of 7.3 have links to headers of drivers.
PART = ['COPYING', 'CREDITS', 'Kbuild', 'Kconfig', 'LICENSES', 'MAINTAINERS', 'Makefile', 'README',
        'Documentation/virt', 'arch/x86', 'drivers/Makefile', 'drivers/dma/*.h', 'drivers/net/ethernet/intel/*.h',
        'fs/Makefile', 'include', 'init/Makefile', 'ipc/Makefile', 'kernel/Makefile', 'lib/Makefile', 'scripts',
        'tools/arch/x86', 'tools/build', 'tools/include', 'tools/lib', 'tools/scripts', 'tools/testing/selftests/*.*',
        'tools/testing/selftests/Makefile', 'tools/testing/selftests/[krv]*', 'usr', 'virt']
QEMU = ['[!r]*', 'r[!o]*']	# without roms/, two thirds of it


def part_of(base: Base) -> list[str]:
    return QEMU if base.is_vmm() else PART


def release(src: Path) -> str:
    return read(src / 'VERSION').strip() or kernel_version(read(src / 'Makefile'))


def kernel_version(makefile: str) -> str:
    return '.'.join(re.search(rf'^{part} *= *(\S+)', makefile, re.M)[1] for part in ('VERSION', 'PATCHLEVEL', 'SUBLEVEL'))


# ---- a packaged source ----

def archive(base: Base) -> Path:
    """The package, or the tarball"""
    package, version, file, suite = (base.key(k) for k in ('package', 'version', 'file', 'suite'))
    name = file or base.need_key('package')
    found = debian.at_hand(name, version, base.key('sha256'))
    if found:
        return found
    with debian.Archive(suite, 'source' if file else 'deb') as apt:
        try:
            apt.update()
            if not apt.suite and not apt.ask(package):
                setup.update_lists()
            return apt.fetch(base.key('source') if file else package, version if file else '', file)
        except Fatal as e:
            found = debian.at_hand(name, '', base.key('sha256'))
            if not found:
                raise Fatal(f'{e} (for {base.name}; LINUX= takes a tree of yours)', e.status) from None
            return found


def unpack(deb: Path, to: Path, part: list[str]) -> None:
    """What is in a linux-source package or a tarball, or a part of it, without its top directory"""
    top = f'{deb.name.split("_")[0]}' if deb.suffix == '.deb' else re.sub(r'_(.*?)(\+ds)?\.orig.*', r'-\1', deb.name)
    to.mkdir(parents=True)
    patterns = ' '.join(f"'{top}/{p}'" for p in part)
    source = f"dpkg-deb --fsys-tarfile '{deb}' | tar -xOf - './usr/src/{top}.tar.xz'" if deb.suffix == '.deb' else f"cat '{deb}'"
    script = f"{source} | tar -x -I 'xz -d -T0' -C '{to}' --strip-components=1 --anchored --wildcards {patterns}"
    jobs.step('TREE', place.build / 'unpack.log', f'{deb.name} unpacked{", what a series needs" if part else ""}',
              ['bash', '-o', 'pipefail', '-c', script], f'cannot unpack {deb.name}')
    if not (to / 'Makefile').exists():
        raise Fatal(f'{deb.name} holds no source')


def commit_all(where: Path, message: str) -> None:
    """Every file is a big file: they go to one pack, instead of one file each"""
    when = '@1577836800 +0000'
    git(where, 'init', '-q', '-b', 'series')
    git(where, '-c', 'core.bigFileThreshold=1', '-c', 'core.compression=1', 'add', '-A', '-f')
    git(where, 'commit', '-q', '-m', message, env={'GIT_AUTHOR_DATE': when, 'GIT_COMMITTER_DATE': when})
    git(where, 'tag', 'base')


def from_package(base: Base, to: Path, part: bool, deb: Path | None = None) -> None:
    """A part is of that deb or what archive() finds; the complete source is that of src"""
    place.downloads.mkdir(parents=True, exist_ok=True)
    tmp = to.with_name(f'{to.name}.tmp')
    shutil.rmtree(tmp, ignore_errors=True)
    try:
        source = read(base.src / '.git/nsvm-source')
        deb = deb or (not part and debian.at_hand(source.split()[-1], '', '')) or archive(base)
        if not part and deb.name not in source:
            raise Fatal(f'the archive has {deb.name}, {rel(base.src)} is another version, which is gone', NOT_HERE)
        unpack(deb, tmp, part_of(base) if part else [])
        kernel = release(tmp)
        begin = time.monotonic()
        commit_all(tmp, f"{base.project()} {kernel}, Debian's {base.key('package') or base.key('source')}")
        say('TREE', f'git tree made, tag base ({elapsed(begin)})')
        version = debian.version_of(deb) if deb.suffix == '.deb' else base.key('version')
        put(tmp / '.git/nsvm-source', f'source {base.key("package") or base.key("file")} {version}\n'
                                      f'sha256 {read(deb.with_name(deb.name + ".sha256")).strip()} {deb.name}\n')
        put(tmp / '.git/nsvm-base', git(tmp, 'rev-parse', 'HEAD') + '\n')
        shutil.rmtree(to, ignore_errors=True)
        tmp.replace(to)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    if part:
        made_on = base.key('kernel')
        what = 'the series was made on' if base.series() else f'{rel(base.dir)} was made for'
        say('TREE', f'{base.project()} {kernel} ({version})' + (f', the release {what}' if kernel == made_on else f'; {what} {made_on}'))


def forget(base: Base, *marks: str) -> None:
    for mark in marks:
        (base.src / '.git' / mark).unlink(missing_ok=True)


# ---- a tree of the user's ----

def from_linux(base: Base) -> None:
    """src shares that tree's objects and nothing else: its branches, its index and its
    files are not touched"""
    theirs = Path(base.linux)
    if not git_ok(theirs, 'rev-parse', '--git-dir'):
        raise Fatal(f'LINUX={base.linux} is no git tree')
    ref = settings.LINUX_REF
    commit = git(theirs, 'rev-parse', '-q', '--verify', f'{ref}^{{commit}}', check=False)
    if not commit:
        raise Fatal(f'LINUX={base.linux} has no commit {ref}')
    if not git_ok(theirs, 'cat-file', '-e', f'{commit}:arch/x86/kvm/svm/nested.c'):
        raise Fatal(f'LINUX={base.linux} is no kernel tree: it has no arch/x86/kvm/svm/nested.c')
    if base.commit() and base.root() == commit:
        return
    if base.commit() and not is_ours(base):
        raise Fatal(f'{rel(base.src)} has commits or edits of its own, on another base: make patches, then make distclean')
    if not (base.src / '.git').exists():
        base.src.mkdir(parents=True)
        base.git('init', '-q', '-b', 'series')
    common = (theirs / git(theirs, 'rev-parse', '--git-common-dir')).resolve()
    put(base.src / '.git/objects/info/alternates', f'{common}/objects\n')
    if (common / 'shallow').exists():
        shutil.copy(common / 'shallow', base.src / '.git/shallow')
    base.git('sparse-checkout', 'set', '--no-cone', *(f'/{p}' for p in PART))
    kernel = kernel_version(base.git('show', f'{commit}:Makefile'))
    jobs.step('TREE', base.logs / 'checkout.log', f'Linux {kernel}, {ref} of {base.linux}',
              git_argv(base.src, 'checkout', '-q', '-f', '-B', 'series', commit),
              f'cannot check out {ref} of {base.linux}', env=GIT_ENV)
    base.git('tag', '-f', 'base')
    forget(base, 'nsvm-applied', 'nsvm-root', 'nsvm-before')
    put(base.src / '.git/nsvm-source', f'source {base.linux} {commit}\n')
    put(base.src / '.git/nsvm-base', f'{commit}\n')
    if git(theirs, 'status', '--porcelain', '-uno', check=False):
        say('TREE', f'uncommitted changes in {base.linux} are not part of it')


def make_base(base: Base) -> Base:
    """src is there"""
    base.lock()
    if base.linux:
        from_linux(base)
    elif not base.commit() or (read(base.src / '.git/nsvm-part') not in ('', digest(*part_of(base))) and is_ours(base)
                               and len(base.git('branch', '--list').splitlines()) == 1):
        from_package(base, base.src, part=True)
        put(base.src / '.git/nsvm-part', digest(*part_of(base)))
    precede(base)
    return base


def make_whole(base: Base) -> Path:
    """The complete source in a git tree with tag base.  What is checked out there is up to
    the one who asks, see set_whole()"""
    whole = base.b / 'whole'
    if base.linux:
        if git(whole, 'rev-parse', '-q', '--verify', 'HEAD^{commit}', check=False) != base.root() or not (whole / '.git').is_file():
            base.git('worktree', 'prune')
            shutil.rmtree(whole, ignore_errors=True)
            jobs.step('TREE', base.logs / 'whole.log', 'complete source checked out',
                      ['git', '-C', base.src, 'worktree', 'add', '-q', '--detach', '-f', whole, base.root()],
                      'cannot check out the complete source', env=GIT_ENV)
            git(whole, 'sparse-checkout', 'disable')
    elif read(whole / '.git/nsvm-source') != read(base.src / '.git/nsvm-source'):
        shutil.rmtree(whole, ignore_errors=True)
        from_package(base, whole, part=False)
    return whole


def set_whole(base: Base, tree: str) -> Path:
    """The complete source with what that tree of src has changed; other files keep their times"""
    whole = make_whole(base)
    index, start = whole / '.git/nsvm-index', 'base'
    if (whole / '.git').is_file():
        index, start = whole / 'nsvm-index', base.root()
    env = {'GIT_INDEX_FILE': str(index)}
    git(whole, 'read-tree', start, env=env)
    diff = base.git('diff', '--binary', '--full-index', '--no-ext-diff', base.root(), tree)
    if diff:
        git(whole, 'apply', '--cached', input=diff + '\n', env=env)
    wanted = git(whole, 'write-tree', env=env)
    index.unlink()
    git(whole, 'read-tree', '--reset', '-u', wanted)
    return whole


# ---- series ----

def is_ours(base: Base) -> bool:
    """Is src exactly the base, or the base with what was applied here?"""
    return base.is_clean() and base.head() in (base.commit(), *read(base.src / '.git/nsvm-applied').split()[1:])


def patches(*bases: Base) -> list[Path]:
    return [b.dir / p for b in bases for p in b.series()]


def apply_in(base: Base, repo: Path, todo: list[Path], onto: str = 'base', *options: str) -> str:
    """git am of the patches on tag base of a repository, or a commit, in an empty worktree:
    am takes from the index what it needs, and nothing else is touched.  The last commit"""
    am, log = base.b / 'am.tmp', base.logs / 'am.log'
    try:
        shutil.rmtree(am, ignore_errors=True)
        git(repo, 'worktree', 'prune')
        git(repo, 'worktree', 'add', '-q', '--no-checkout', '--detach', str(am), onto)
        git(am, 'sparse-checkout', 'disable', check=False)
        git(am, 'read-tree', 'HEAD')
        for file in todo:
            p, patch = file.name, str(file)
            if not file.exists():
                raise Fatal(f'series names {p}, but there is no such file in {rel(file.parent)}')
            if git_ok(am, 'am', '-q', *options, '--committer-date-is-author-date', patch, log=log):
                continue
            where = re.search(r'^error: (?:patch failed: )?(.*?:\d+$|.*(?=: does not (?:exist in|match) index))', read(log), re.M)
            already = git_ok(am, 'apply', '--cached', '--reverse', '--check', patch)
            raise Fatal(f'{p} does not apply: {where[1] if where else jobs.first_error(log)}' +
                        (' (the tree has that change already)' if already else ''))
        return git(am, 'rev-parse', 'HEAD')
    finally:
        shutil.rmtree(am, ignore_errors=True)
        git(repo, 'worktree', 'prune')


def precede(base: Base) -> None:
    """What BASE has to come "after:" becomes part of tag base, again when it has changed"""
    names = ', '.join(rel(b.dir) for b in base.before)
    before = ' '.join(b.series_id() for b in base.before)
    if read(base.src / '.git/nsvm-before') == before:
        return
    if not is_ours(base):
        say('TREE', f'{rel(base.src)} has commits or edits of its own: left on what {names} was')
        return
    root = base.root()
    commit = apply_in(base, base.src, patches(*base.before), root)
    base.git('checkout', '-q', '-f', '-B', 'series', commit)
    base.git('tag', '-f', 'base')
    forget(base, 'nsvm-applied')
    for mark, text in (('root', f'{root}\n'), ('base', f'{commit}\n'), ('before', before)):
        put(base.src / f'.git/nsvm-{mark}', text)
    say('TREE', f'tag base is after {names}')


def with_fixes(base: Base) -> str:
    """What is in src now, edits included, and the patches of the base that "fixes:" names"""
    now = base.git('commit-tree', '-p', 'HEAD', '-m', 'now', base.worktree())
    return apply_in(base, base.src, patches(Base(base.key('fixes'))), now, '-C1')	# what is around a change may differ


def make_series(base: Base) -> Base:
    """src has the patches"""
    base.lock()
    base.need_tree()
    begin = time.monotonic()
    series_id, count = base.series_id(), len(base.series())
    was = (read(base.src / '.git/nsvm-applied').split() or [''])[0]
    if not is_ours(base):
        changed = '' if was == series_id else f', and {rel(base.dir)} is not what was applied last'
        say('TREE', f'{rel(base.src)} has commits or edits of its own: left as it is{changed}')
    elif was == series_id and base.head() != base.commit():
        say('TREE', f'{rel(base.src)} has the {count} patches of {rel(base.dir)}')
    elif count:
        try:
            applied = apply_in(base, base.src, patches(base))
        except Fatal as e:
            kernel, wanted = release(base.src), base.key('kernel')
            if base.linux or kernel == wanted:
                raise
            raise Fatal(f'{e} (this is {kernel}, the series is for {wanted}, which the archive has no longer)', NOT_HERE) from None
        base.git('checkout', '-q', '-B', 'series', applied)
        put(base.src / '.git/nsvm-applied', f'{series_id} {applied}\n')
        say('TREE', f'{count} patches of {rel(base.dir)} applied by git am ({elapsed(begin)})')
    return base


def renew(base: Base) -> bool:
    """Fetch apt's lists again.  If the archive has another version of the source now, and src is
    exactly base and series, src moves to that one; Fatal 3 if the series does not apply to it.
    False: nothing is known that was not before"""
    try:
        with debian.Archive(base.key('suite')) as apt:
            apt.update()
            if not apt.suite:
                setup.update_lists()
            found = apt.ask(base.key('package'))
            if not found or found[1] in read(base.src / '.git/nsvm-source') or not is_ours(base):
                return True
            deb = apt.fetch(base.key('package'))
    except Fatal:
        return False
    new = base.b / 'newer'
    try:
        shutil.rmtree(new, ignore_errors=True)
        from_package(base, new, True, deb)
        try:
            apply_in(base, new, patches(*base.before, base))
        except Fatal as e:
            raise Fatal(f'the archive has {deb.name} now, and {e}', NOT_HERE) from None
        base.git('fetch', '-q', '--no-tags', str(new), 'base')
        base.git('checkout', '-q', '-f', '-B', 'series', 'FETCH_HEAD')
        base.git('tag', '-f', 'base')
        for mark in ('nsvm-source', 'nsvm-base'):
            put(base.src / '.git' / mark, read(new / '.git' / mark))
        forget(base, 'nsvm-root', 'nsvm-before')
    finally:
        shutil.rmtree(new, ignore_errors=True)
    precede(base)
    make_series(base)
    return True


def make(base: Base) -> Base:
    return make_series(make_base(base))


def main(args: list[str]) -> int:
    base = Base()
    if args == ['base']:
        make_base(base)
    elif args == ['series']:
        make(base)
    else:
        raise Fatal('usage: tree base|series')
    return 0
