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
from lib.base import Base, digest, git, git_ok, names, read, root_of
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


def releases(packages: set[str], newest: bool) -> dict[tuple[str, str], list[str]]:
    """(package, version) -> suites that have it; of an upstream release the newest version"""
    suites_of: dict[tuple[str, str], list[str]] = {}
    for suite in SUITES:
        try:
            with debian.Archive(suite, 'one') as apt:
                apt.update()
                for name in packages:
                    for version in release.versions_in(apt, name)[:1 if newest else None]:
                        upstream = release.upstream_part(version)
                        key = next(((n, v) for n, v in suites_of if n == name
                                    and release.upstream_part(v) == upstream), (name, version))
                        suites_of.setdefault(key, []).append(suite)
        except Fatal as e:
            say('BASES', f'{suite}: {e}')
    return suites_of


def in_order(suites_of: dict[tuple[str, str], list[str]]) -> list[tuple[str, str]]:
    """By package, the newest version first"""
    return [(name, version) for name in sorted({name for name, _ in suites_of})
            for version in release.newest_first({v for n, v in suites_of if n == name})]


def src_of(package: str, version: str) -> tuple[Path, str] | None:
    """A src that was made of that release, and its commit without any series"""
    for mark in place.build.glob('*/src/.git/nsvm-source'):
        if read(mark).startswith(f'source {package} {version}\n'):
            return mark.parents[1], root_of(mark.parents[1])
    return None


def tree_of_package(base: Base, version: str, suites: list[str]) -> tuple[Path, str]:
    """A git tree with what patches touch of a release, and its commit"""
    if there := src_of(base.key('package'), version):
        return there
    to = place.build / f'bases/{base.key("package")}_{version}'
    if not read(to / '.git/nsvm-base'):
        to.parent.mkdir(parents=True, exist_ok=True)
        archive = debian.at_hand(base.key('package'), version, '')
        if not archive:
            with debian.Archive(suites[0], 'one') as apt:
                apt.update()
                archive = apt.fetch(base.key('package'), version)
        package.make_tree(base, archive, to, TOUCHED, suites[0])
    return to, 'base'


def tree_of_file(base: Base) -> tuple[Path, str]:
    """The same of a base that has one release, the file of a source package"""
    if there := src_of(base.key('file'), base.key('version')):
        return there
    to = place.build / f'bases/{base.key("file")}'
    if not read(to / '.git/nsvm-base'):
        to.parent.mkdir(parents=True, exist_ok=True)
        package.make_tree(base, release.file_of(base), to, TOUCHED, base.key('suite'))
    return to, 'base'


def borrow(named: str) -> tuple[Path, str]:
    """A repository that has the objects of a user's tree, which stays as it is, and the commit"""
    where, _, ref = named.partition('@')
    theirs = Path(where).expanduser()
    if not git_ok(theirs, 'rev-parse', '--git-dir'):
        raise Fatal(f'{where} is no git tree')
    commit = git(theirs, 'rev-parse', '-q', '--verify', f'{ref or "HEAD"}^{{commit}}', check=False)
    if not commit:
        raise Fatal(f'{where} has no commit {ref}')
    repo = place.build / f'bases/borrowed-{digest(str(theirs.resolve()))}'
    if not (repo / 'HEAD').exists():
        repo.mkdir(parents=True, exist_ok=True)
        git(repo, 'init', '-q', '--bare')
    tree.share_objects(theirs, repo)
    return repo, commit


def line_of(kernel: str) -> str:
    """6.12 of 6.12.117"""
    return '.'.join(kernel.split('.')[:2])


def bases_for(kernel: str, bases: list[Base]) -> list[Base]:
    """Those of its line; if there is none, the ports"""
    same = [base for base in bases if line_of(base.key('kernel')) == line_of(kernel)]
    return same or [base for base in bases if not base.own_tests()]


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
    suites_of = releases({base.key('package') for base in bases if base.key('package')}, newest)
    for name, version in in_order(suites_of):
        suites = suites_of[name, version]
        of = [base for base in bases if base.key('package') == name]
        try:
            repo, commit = tree_of_package(of[0], version, suites)
        except Fatal as e:
            report.item('skip', f'{name} {version}', str(e))
            continue
        for base in of:
            report_on(report, base, repo, commit, f'{base.name} on {version} ({", ".join(suites)})')
    for base in bases:
        if base.key('file'):
            try:
                report_on(report, base, *tree_of_file(base),
                          f'{base.name} on {base.key("kernel")} (the file {base.key("file")})')
            except Fatal as e:
                report.item('skip', f'{base.name} on {base.key("kernel")}', str(e))
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
