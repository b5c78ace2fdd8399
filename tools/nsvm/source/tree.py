# SPDX-License-Identifier: GPL-2.0
"""tree base|series - the kernel's source, and the series applied to it

base     makes build/<base>/src, a git tree with tag "base", from the package that
         patches/<base>/BASE names.  release.py chooses the release, once.  The tree holds what a
         series, KVM's modules, selftests and user-space headers need: see PART in package.py.
         With LINUX=, it shares the objects of that git tree, which is only read.  If BASE has
         "after: <base>", the series of that base is part of it.
series   applies the patches of patches/<base>/series with git am on branch "series", again if a
         patch has changed: see apply.py.  A tree with commits or edits of its own is left alone.

The complete source, for a whole kernel, is in build/<base>/whole.

Exit status: 0 done, or nothing to do; 1 failed, and src is as before; 3 the source cannot be had.
"""
import shutil
import time
from pathlib import Path

from lib import jobs
from lib.base import GIT_ENV, Base, digest, git, git_argv, git_ok, put, read
from lib.say import Fatal, elapsed, say
from lib.settings import rel, settings
from source import package, release
from source.apply import Applied, apply_in, patches


# ---- a tree of the user's ----

def commit_in(theirs: Path, ref: str, name: str) -> str:
    """The commit that ref is in a git tree, which messages call name"""
    if not git_ok(theirs, 'rev-parse', '--git-dir'):
        raise Fatal(f'{name} is no git tree')
    commit = git(theirs, 'rev-parse', '-q', '--verify', f'{ref}^{{commit}}', check=False)
    if not commit:
        raise Fatal(f'{name} has no commit {ref}')
    return commit


def share_objects(theirs: Path, git_dir: Path) -> None:
    """That git directory has the objects of their tree as well, which is only read"""
    common = (theirs / git(theirs, 'rev-parse', '--git-common-dir')).resolve()
    put(git_dir / 'objects/info/alternates', f'{common}/objects\n')
    if (common / 'shallow').exists():
        shutil.copy(common / 'shallow', git_dir / 'shallow')


def from_linux(base: Base) -> None:
    """src shares that tree's objects; its branches, index and files are not touched"""
    theirs, ref, part = Path(base.linux), settings.LINUX_REF, digest(*package.PART)
    commit = commit_in(theirs, ref, f'LINUX={theirs}')
    if not git_ok(theirs, 'cat-file', '-e', f'{commit}:arch/x86/kvm/svm/nested.c'):
        raise Fatal(f'LINUX={theirs} is no kernel tree: it has no arch/x86/kvm/svm/nested.c')
    if base.commit() and not is_ours(base):
        if base.root() != commit:
            raise Fatal(f'{rel(base.src)} has commits or edits of its own, on another base: make '
                        'patches, then make distclean')
        return
    if base.root() == commit and read(base.src / '.git/nsvm-part') == part:
        return
    if not (base.src / '.git').exists():
        base.src.mkdir(parents=True)
        base.git('init', '-q', '-b', 'series')
    share_objects(theirs, base.src / '.git')
    base.git('sparse-checkout', 'set', '--no-cone', *(f'/{p}' for p in package.PART))
    kernel = package.kernel_version(base.git('show', f'{commit}:Makefile'))
    jobs.step('TREE', base.logs / 'checkout.log', f'Linux {kernel}, {ref} of {theirs}',
              git_argv(base.src, 'checkout', '-q', '-f', '-B', 'series', commit),
              f'cannot check out {ref} of {theirs}', env=GIT_ENV)
    base.git('tag', '-f', 'base')
    for mark in ('applied', 'left-out', 'root', 'before'):
        (base.src / f'.git/nsvm-{mark}').unlink(missing_ok=True)
    put(base.src / '.git/nsvm-part', part)
    put(base.src / '.git/nsvm-source', f'source {theirs} {commit}\n')
    put(base.src / '.git/nsvm-base', f'{commit}\n')
    if git(theirs, 'status', '--porcelain', '-uno', check=False):
        say('TREE', f'uncommitted changes in {theirs} are not part of it')


def is_outdated(base: Base) -> bool:
    """Was src made when other files were taken of a source, and has nobody worked there?"""
    return (read(base.src / '.git/nsvm-part') not in ('', digest(*package.part_of(base)))
            and is_ours(base) and len(base.git('branch', '--list').splitlines()) == 1)


def make_base(base: Base) -> Base:
    """src is there"""
    base.lock()
    if base.linux:
        from_linux(base)
    elif not base.commit() or is_outdated(base):
        release.choose(base)
        put(base.src / '.git/nsvm-part', digest(*package.part_of(base)))
    precede(base)
    return base


def make_whole(base: Base) -> Path:
    """The complete source in a git tree with tag base; set_whole() checks out what is wanted"""
    whole = base.b / 'whole'
    if base.linux:
        if git(whole, 'rev-parse', '-q', '--verify', 'HEAD^{commit}',
               check=False) != base.root() or not (whole / '.git').is_file():
            base.git('worktree', 'prune')
            shutil.rmtree(whole, ignore_errors=True)
            jobs.step('TREE', base.logs / 'whole.log', 'complete source checked out',
                      ['git', '-C', base.src, 'worktree', 'add', '-q', '--detach', '-f', whole,
                       base.root()], 'cannot check out the complete source', env=GIT_ENV)
            git(whole, 'sparse-checkout', 'disable')
    elif read(whole / '.git/nsvm-source') != read(base.src / '.git/nsvm-source'):
        shutil.rmtree(whole, ignore_errors=True)
        package.make_tree(base, release.archive_of_src(base), whole, [], release.of_src(base)[1])
    return whole


def set_whole(base: Base, tree: str) -> Path:
    """The complete source with what that tree of src has changed; other files keep their times"""
    whole = make_whole(base)
    index = base.b / 'whole-index'
    env = {'GIT_INDEX_FILE': str(index)}
    git(whole, 'read-tree', base.root() if base.linux else 'base', env=env)
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
    return base.is_clean() and base.head() in (base.commit(),
                                               *read(base.src / '.git/nsvm-applied').split()[1:])


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
    commit = apply_in(base, base.src, patches(*base.before), root).commit
    base.git('checkout', '-q', '-f', '-B', 'series', commit)
    base.git('tag', '-f', 'base')
    (base.src / '.git/nsvm-applied').unlink(missing_ok=True)
    for mark, text in (('root', f'{root}\n'), ('base', f'{commit}\n'), ('before', before)):
        put(base.src / f'.git/nsvm-{mark}', text)
    say('TREE', f'tag base is after {names}')


def with_fixes(base: Base) -> str:
    """What is in src now, edits included, and then the patches of the bases that "fixes:" names"""
    now = base.git('commit-tree', '-p', 'HEAD', '-m', 'now', base.worktree())
    return apply_in(base, base.src, patches(*map(Base, base.keys('fixes'))), now).commit


def apply_series(base: Base) -> Applied:
    """On tag base; what fails says how another release is taken"""
    try:
        return apply_in(base, base.src, patches(base))
    except Fatal as e:
        if base.linux:
            raise
        raise Fatal(f'{e} (this is {package.release(base.src)}; without {rel(base.src)}, a '
                    'release that takes it is looked for)') from None


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
        say('TREE', f'{rel(base.src)} has the {len(base.applied())} patches of {rel(base.dir)}')
    elif count:
        applied = apply_series(base)
        base.git('checkout', '-q', '-B', 'series', applied.commit)
        put(base.src / '.git/nsvm-left-out', ''.join(f'{name}\n' for name in applied.left_out))
        put(base.src / '.git/nsvm-applied', f'{series_id} {applied.commit}\n')
        for name in applied.left_out:
            say('TREE', f'{name} is left out: the tree has it from upstream')
        for where in applied.loose:
            say('TREE', f'{where} does not apply strictly: git am -C1')
        say('TREE', f'{count - len(applied.left_out)} patches of {rel(base.dir)} applied by git am '
            f'({elapsed(begin)})')
    return base


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
