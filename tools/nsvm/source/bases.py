# SPDX-License-Identifier: GPL-2.0
"""bases [newest] [TREE[@COMMIT]]... - which series apply to which releases

Prints whether they apply strictly, with -C1, or not.  Tries each release that Debian's suites
have, and each git tree that is named.  A tree is tried with the bases of its line (6.18 for a
6.18.44), or with all ports.  newest: only the newest release of each suite.  Prints where a patch
fails, and which patches a release has from upstream.  Each release is fetched once; the files
that patches touch are kept in build/bases.

Results: build/bases/bases.ktap.  A release that does not take a series strictly is a "skip" there,
because releases change without us.
Exit status: 0, or 3 if nothing could be had.
"""
from pathlib import Path

from lib import ktap
from lib.base import Base, digest, git, names, read, root_of
from lib.kind import own_tests
from lib.say import Fatal, say
from lib.settings import place
from source import apply, debian, package, release, tree
from source.debian import NOT_HERE

# Of Debian 12 and 13, and what comes after them
SUITES = ('bookworm', 'bookworm-security', 'bookworm-backports', 'trixie', 'trixie-security',
          'trixie-backports', 'sid')
# What patches touch, in every kernel
TOUCHED = ['Makefile', 'Documentation/virt', 'arch/x86/include', 'arch/x86/kvm',
           'tools/testing/selftests/kvm', 'virt/kvm']


def releases(bases: list[Base], newest: bool) -> dict[tuple[str, str], list[str]]:
    """(package or file, version) -> suites that have it; of an upstream release the newest
    version"""
    suites_of: dict[tuple[str, str], list[str]] = {}
    for suite in SUITES:
        try:
            with debian.Archive(suite, []) as apt:
                apt.update()
                for name in {base.key('package') for base in bases} - {''}:
                    for version in release.versions_in(apt, name)[:1 if newest else None]:
                        upstream = release.upstream_part(version)
                        key = next(((n, v) for n, v in suites_of if n == name
                                    and release.upstream_part(v) == upstream), (name, version))
                        suites_of.setdefault(key, []).append(suite)
        except Fatal as e:
            say('BASES', f'{suite}: {e}')
    return suites_of | {(base.key('file'), base.key('version')): [base.key('suite')]
                        for base in bases if base.key('file')}


def in_order(suites_of: dict[tuple[str, str], list[str]]) -> list[tuple[str, str]]:
    """By package, the newest version first"""
    return [(name, version) for name in sorted({name for name, _ in suites_of})
            for version in release.newest_first({v for n, v in suites_of if n == name})]


def tree_of(base: Base, name: str, version: str, suite: str) -> tuple[Path, str]:
    """A git tree with what patches touch of a release, and its commit without any series"""
    for mark in place.build.glob('*/src/.git/nsvm-source'):
        if read(mark).startswith(f'source {name} {version}\n'):
            return mark.parents[1], root_of(mark.parents[1])
    to = place.build / f'bases/{name}_{version}'
    if not read(to / '.git/nsvm-base'):
        to.parent.mkdir(parents=True, exist_ok=True)
        apt = debian.Archive(suite, [], bool(base.key('file')))
        archive = release.archive_of(base, version, apt)
        package.make_tree(base, archive, to, TOUCHED, suite)
    return to, 'base'


def borrow(named: str) -> tuple[Path, str]:
    """A repository that has the objects of a user's tree, which stays as it is, and the commit"""
    where, _, ref = named.partition('@')
    theirs = Path(where).expanduser()
    commit = tree.commit_in(theirs, ref or 'HEAD', where)
    repo = place.build / f'bases/borrowed-{digest(str(theirs.resolve()))}'
    if not (repo / 'HEAD').exists():
        repo.mkdir(parents=True, exist_ok=True)
        git(repo, 'init', '-q', '--bare')
    tree.share_objects(theirs, repo)
    return repo, commit


def bases_for(kernel: str, bases: list[Base]) -> list[Base]:
    """Those of its line, such as 6.12; if there is none, the ports"""
    same = [base for base in bases
            if base.key('kernel').split('.')[:2] == kernel.split('.')[:2]]
    return same or [base for base in bases if not own_tests(base)]


def report_on(report: ktap.Report, base: Base, repo: Path, commit: str, name: str) -> None:
    """One line: what git am makes of a series there"""
    try:
        applied = apply.apply_in(base, repo, apply.patches(*base.before, base), commit,
                                 place.build / 'bases')
        report.item('skip' if applied.loose else 'ok', name, str(applied))
    except Fatal as e:
        report.item('skip', name, f'not: {e}')


def main(args: list[str]) -> int:
    bases = [base for base in map(Base, names()) if base.series()]
    newest, trees = 'newest' in args, [arg for arg in args if arg != 'newest']
    report = ktap.Report(place.build / 'bases/bases.ktap')
    report.group('Releases in Debian')
    suites_of = releases(bases, newest)
    for name, version in in_order(suites_of):
        of = [base for base in bases if name in (base.key('package'), base.key('file'))]
        suites = suites_of[name, version]
        try:
            repo, commit = tree_of(of[0], name, version, suites[0])
        except Fatal as e:
            report.item('skip', f'{name} {version}', str(e))
            continue
        for base in of:
            report_on(report, base, repo, commit, f'{base.name} on {version} ({", ".join(suites)})')
    if trees:
        report.group('Git trees')
    for named in trees:
        repo, commit = borrow(named)
        kernel = package.kernel_version(git(repo, 'show', f'{commit}:Makefile', check=False))
        for base in bases_for(kernel, bases):
            report_on(report, base, repo, commit, f'{base.name} on {kernel} ({named})')
    ktap.finish(report)
    if not report.count('ok') and not trees:
        raise Fatal('no release of any base can be had', NOT_HERE)
    return 0
