# SPDX-License-Identifier: GPL-2.0
"""export - export the commits of build/<base>/src to patches/<base>

Updates the list of patches and the diffstat in the cover letter, and the overlay's copy of each
selftest that the series adds.  The export is byte-stable: exporting what was applied gives the
same files.

Refuses whatever would lose a commit: uncommitted edits, fixups that are not squashed, a commit
without changes, a patch that was left out.

Exit status: 0 exported; 1 refused, and patches/, overlay and src are unchanged.
"""
import re
import shutil
from pathlib import Path

from lib.base import Base, put, read
from lib.say import Fatal, say
from lib.settings import place, rel

TESTS = 'tools/testing/selftests/kvm'
MARK = '.git/nsvm-applied'
FORMAT = ('--zero-commit', '--no-signature', '--no-numbered', '--full-index',
          '--diff-algorithm=myers')


def commits_of(base: Base) -> list[str]:
    """The series as it is in src; Fatal if it is none"""
    where, commits = rel(base.src), base.commits()
    if base.left_out():
        raise Fatal(f'{where} lacks {", ".join(base.left_out())}, as it has the change from '
                    'upstream: export from a release that needs it')
    if not base.is_clean():
        raise Fatal(f'{where} has edits that are in no commit: commit them first')
    if not base.git('symbolic-ref', '-q', 'HEAD', check=False):
        raise Fatal(f'{where} is on no branch: finish the rebase that is under way, or '
                    'git checkout series')
    if base.git('merge-base', base.commit(), 'HEAD', check=False) != base.commit():
        raise Fatal(f'{where} is on something that is not a child of tag base')
    if not commits:
        raise Fatal(f'{where} has no commits on top of tag base')
    if base.git('rev-list', '--merges', f'{base.commit()}..HEAD'):
        raise Fatal(f'{where} has merges: a series is a straight line')
    fixup = re.search('^(fixup|squash|amend)! .*',
                      base.git('log', '--format=%s', f'{base.commit()}..HEAD'), re.M)
    if fixup:
        raise Fatal(f'"{fixup[0]}" is not squashed yet: git -C {where} rebase -i --autosquash base')
    return commits


def for_overlay(base: Base) -> dict[str, Path]:
    """Of the files that the series adds and the overlay has: path in src -> file that must follow
    it.

    Raises:
        Fatal: the overlay was edited, and the commits do not have it.
    """
    behind: dict[str, Path] = {}
    added = base.git('diff', '--name-only', '--no-renames', '--diff-filter=A', base.commit(),
                     'HEAD', '--', f'{TESTS}/x86', f'{TESTS}/x86_64').split()
    for path in added:
        file = place.overlay / Path(path).name
        if not file.exists():
            continue
        was = base.git('rev-parse', '-q', '--verify', f'{applied(base)[1]}:{path}', check=False)
        ours = base.git('hash-object', '--no-filters', str(file))
        if ours == base.git('rev-parse', f'HEAD:{path}'):
            continue
        if was not in ('', ours):
            raise Fatal(
                f'{rel(file)} was edited, and is a copy of what the commits in {rel(base.src)} '
                f'have: commit it there (git diff --no-index {rel(base.src / path)} {rel(file)})')
        behind[path] = file
    return behind


def cover(base: Base, letter: str, head: str) -> str:
    """The letter, from the line "<author> (<number>):" to "base-tree:" made anew, and its number"""
    span = f'{base.commit()}..{head}'
    author = base.git('log', '-1', '--format=%an', head)
    count = base.git('rev-list', '--count', span)
    made = (f'{author} ({count}):\n{base.git("log", "--reverse", "--format=  %s", span)}\n\n'
            f'{base.git("diff", "--stat=72", "--summary", base.commit(), head)}\n\n')
    text = re.split(r'^\S.* \([0-9]+\):$', letter, 1, re.M)[0]
    number = rf'\1 {"0" * len(count)}/{count}]'
    text = re.sub(r'^(Subject: \[PATCH.*?) 0+/[0-9]+\]', number, text, 1, re.M)
    return text + made + ''.join(re.findall('^base-tree: .*', letter, re.M | re.S))


def write(base: Base, commits: list[str], to: Path) -> None:
    """Patches, series and cover letter, in a directory of their own"""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    base.git('format-patch', '-q', *FORMAT, '-o', str(to), f'{base.commit()}..{commits[-1]}')
    patches = [p for p in sorted(to.iterdir()) if p.stat().st_size]
    # of a commit without changes, git makes an empty file or none
    if len(patches) != len(commits):
        named = [p.name for p in to.iterdir() if p not in patches]
        raise Fatal(f'{" ".join(named) or "a patch"} would be empty, as its commit changes '
                    f'nothing: git -C {rel(base.src)} rebase -i base')
    put(to / 'series', ''.join(f'{p.name}\n' for p in patches))
    letter = read(base.dir / '0000-cover-letter.patch')
    if letter:
        put(to / '0000-cover-letter.patch', cover(base, letter, commits[-1]))


def applied(base: Base) -> list[str]:
    """What series is in src, and its last commit"""
    return (read(base.src / MARK).split() or ['', base.commit()])[:2]


def make(base: Base, to: Path) -> list[str]:
    """What patches/<base> is to be, in a directory; its commits"""
    base.need_tree()
    commits = commits_of(base)
    write(base, commits, to)
    return commits


def main(args: list[str]) -> int:
    if args:
        raise Fatal('usage: export')
    base = Base().lock()
    made, (series_id, head) = base.b / 'export.tmp', applied(base)
    commits, behind = make(base, made), for_overlay(base)
    names = {p.name for p in (*made.iterdir(), *base.dir.glob('[0-9][0-9][0-9][0-9]-*.patch'))}
    changed = [name for name in sorted(names) if read(made / name) != read(base.dir / name)]
    if base.series() and base.series_id() != series_id and any(name[:5] != '0000-'
                                                               for name in changed):
        raise Fatal(f'{rel(base.dir)} is not what {rel(base.src)} was made from, and would be '
                    'overwritten: git checkout it if that can go; else keep your commits in a '
                    f'branch, git reset --hard {head[:12]}, make tree, and rebase them')
    for path, file in behind.items():
        shutil.copyfile(base.src / path, file)
        say('PATCHES', f'{rel(file)} is now what the commits say')
    for name in changed:
        if (made / name).exists():
            shutil.move(made / name, base.dir / name)
        else:
            (base.dir / name).unlink()
    shutil.rmtree(made)
    put(base.src / MARK, f'{base.series_id()} {commits[-1]}\n')
    say('PATCHES', f'{len(commits)} patches in {rel(base.dir)}, {len(changed)} files changed')
    return 0
