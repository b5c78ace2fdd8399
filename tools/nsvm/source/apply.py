# SPDX-License-Identifier: GPL-2.0
"""How the patches of a base go onto a commit: by plain git am, one after the other

A patch that does not apply strictly is tried again with git am -C1, which wants one line of
context instead of three: stable kernels change lines next to those of a series.  A patch that
BASE names in "upstream: <patch> <name> <file>" is left out where that file has that name,
because the tree then has the upstream commit that the patch stands for.
"""
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lib import jobs
from lib.base import Base, git, git_ok, read
from lib.say import Fatal
from lib.settings import rel


@dataclass
class Applied:
    """What git am made of patches"""
    commit: str = ''
    # those that took -C1: "<patch> at <file>:<line>"
    loose: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)	# those that the tree has from upstream

    def __str__(self) -> str:
        strictness = f'with -C1: {", ".join(self.loose)}' if self.loose else 'strictly'
        return '; '.join([strictness, *(f'{name} is upstream there' for name in self.left_out)])


def patches(*bases: Base) -> list[Path]:
    """The files of their series, in order"""
    return [base.dir / name for base in bases for name in base.series()]


def is_upstream(repo: Path, commit: str, patch: Path) -> bool:
    """Does that commit have the change that the patch stands for?  BASE beside it tells"""
    for name, mark, file in re.findall(r'^upstream:\s*(\S+)\s+(\S+)\s+(\S+)$',
                                       read(patch.parent / 'BASE'), re.M):
        if name == patch.name and git_ok(repo, 'grep', '-qw', mark, commit, '--', file):
            return True
    return False


def where_it_fails(log: Path) -> str:
    """file:line, or what else git says, of an am that failed"""
    m = re.search(r'^error: (?:patch failed: )?(.*?:\d+$|'
                  r'.*(?=: does not (?:exist in|match) index))', read(log), re.M)
    return m[1] if m else jobs.first_error(log)


def need_strict(base: Base, kernel: str, applied: Applied) -> None:
    """Fatal if a patch takes -C1 on the release that the series was made on"""
    if applied.loose and kernel == base.key('kernel') and not base.linux:
        patch, _, where = applied.loose[0].partition(' at ')
        raise Fatal(f'{patch} does not apply: {where} (but with git am -C1, and this is {kernel}, '
                    'the release that it was made on)')


def apply_in(base: Base, repo: Path, todo: list[Path], onto: str = 'base',
             work: Path | None = None) -> Applied:
    """Apply patches in an empty worktree: am takes from the index what it needs, and neither files
    nor branches of the repository are touched.

    Args:
        repo: has the commit onto, by default the tag base.
        work: a directory for the worktree and the log; by default that of the base.

    Raises:
        Fatal: a patch does not apply; names patch, file and line.
    """
    am, log, done = (work or base.b) / 'am.tmp', (work or base.logs) / 'am.log', Applied()
    try:
        shutil.rmtree(am, ignore_errors=True)
        git(repo, 'worktree', 'prune')
        git(repo, 'worktree', 'add', '-q', '--no-checkout', '--detach', str(am), onto)
        git(am, 'sparse-checkout', 'disable', check=False)
        git(am, 'read-tree', 'HEAD')
        for patch in todo:
            if not patch.exists():
                raise Fatal(f'series names {patch.name}, but there is no such file in '
                            f'{rel(patch.parent)}')
            if is_upstream(am, 'HEAD', patch):
                done.left_out.append(patch.name)
                continue
            am_patch = ('am', '-q', '--committer-date-is-author-date', str(patch))
            if git_ok(am, *am_patch, log=log):
                continue
            where = where_it_fails(log)
            git_ok(am, 'am', '--abort')
            git(am, 'read-tree', 'HEAD')
            if git_ok(am, *am_patch, '-C1', log=log):
                done.loose.append(f'{patch.name} at {where}')
                continue
            has_it = git_ok(am, 'apply', '--cached', '--reverse', '--check', str(patch))
            raise Fatal(f'{patch.name} does not apply: {where_it_fails(log)}' +
                        (' (the tree has that change already)' if has_it else ''))
        done.commit = git(am, 'rev-parse', 'HEAD')
        return done
    finally:
        shutil.rmtree(am, ignore_errors=True)
        git(repo, 'worktree', 'prune')
