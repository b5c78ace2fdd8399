# SPDX-License-Identifier: GPL-2.0
"""clean objects|all [FORCE=1] - remove what was made

objects  objects, kernels, tests, results and logs of every base; sources, downloads and
         build/.config stay
all      build/.  Refused if a source tree there has commits or edits that are not in patches/
         (FORCE=1: removed anyway)

Exit status: 0 removed, 1 refused.
"""
import shutil
from pathlib import Path

from lib.base import git, git_ok, read
from lib.say import Fatal, say
from lib.settings import place, rel, settings

SOURCES = ('src', 'whole')


def need_nothing_own(src: Path) -> None:
    here = git(src, 'rev-parse', 'HEAD', check=False)
    made = read(src / '.git/nsvm-base').split() + read(src / '.git/nsvm-applied').split()
    if here not in made or git(src, 'status', '--porcelain', check=False):
        raise Fatal(f'{rel(src)} has commits or edits of its own: make patches first, or FORCE=1')


def main(args: list[str]) -> int:
    trees = [mark.parents[1] for mark in place.build.glob('*/src/.git/nsvm-base')]
    if args == ['objects']:
        for src in trees:
            for f in src.parent.iterdir():
                if f.name not in SOURCES:
                    shutil.rmtree(f) if f.is_dir() and not f.is_symlink() else f.unlink()
            git_ok(src, 'worktree', 'prune')
        say('CLEAN', f'objects removed; sources are still in {rel(place.build)}')
    elif args == ['all']:
        for src in trees if settings.given.get('FORCE') != '1' else []:
            need_nothing_own(src)
        shutil.rmtree(place.build, ignore_errors=True)
        say('CLEAN', f'{rel(place.build)} removed')
    else:
        raise Fatal('usage: clean objects|all')
    return 0
