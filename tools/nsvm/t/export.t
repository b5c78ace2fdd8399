#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""What make patches does with commits and with the overlay"""
from pathlib import Path

import toy
from toy import code, commit, git, is_, letter, nsvm, overlay, patches, test, top, tree

ours, header = overlay / 'toy_test.c', overlay / 'toy.h'


def state() -> dict[Path, bytes]:
    return {f: f.read_bytes() for d in (patches, overlay) for f in d.iterdir()}


def exported(name: str, subjects: str, text: str) -> None:
    """The patches are these, and the test is that text in the overlay and in the tree"""
    r = nsvm('export')
    names = [p.name for p in sorted(patches.glob('000[1-9]-*.patch')) if p.stat().st_size]
    is_([r.returncode, ' '.join(n[5:-6] for n in names), (patches / 'series').read_text().split(),
         ours.read_text(), git(tree, 'show', f'HEAD:{test}')], [0, subjects, names, text, text],
        name, r.stderr)


def refused(name: str, why: str) -> None:
    was = state(), git(tree, 'rev-parse', 'HEAD')
    r = nsvm('export')
    same = was == (state(), git(tree, 'rev-parse', 'HEAD'))
    is_((r.returncode, why in r.stderr, same), (1, True, True), name, r.stderr)
    git(tree, 'reset', '-q', '--hard')


toy.make((code, '0'))
commit('One', (code, '1'))
commit('Test', (test, 'a'), (test.replace('_test.c', '.h'), 'h'))
ours.write_text('a')
header.write_text('h')
exported('two commits are two patches', 'One Test', 'a')
text = letter.read_text()
is_((f'Subject: [PATCH 0/2] Toy\n\nText.\n\n{toy.AUTHOR} (2):\n  One\n  Test\n\n {code} '
     in text, text[text.rindex(' create mode'):]),
    (True, f' create mode 100644 {test}\n\nbase-tree: x\nchange-id: 20260101-toy-0123456789ab\n'),
    'the cover letter names them', text)
was = state()
exported('again', 'One Test', 'a')
is_(state(), was, 'and nothing changes')

git(tree, 'commit', '-q', '--amend', '-m', 'Test it')
mark = tree / '.git/nsvm-applied'
mark.rename(top / 'kept')
refused('patches/ that src was not made from stay', 'would be overwritten')
(top / 'kept').rename(mark)
exported('a patch with another name', 'One Test-it', 'a')

commit('Correct', (test, 'b'))
exported('a commit that changes the test is a patch, and the overlay has it', 'One Test-it Correct',
         'b')
commit('fixup! Correct', (test, 'c'))
refused('a fixup that is not squashed', 'rebase -i --autosquash base')
git(tree, '-c', 'sequence.editor=true', 'rebase', '-q', '-i', '--autosquash', 'base')
exported('one that is', 'One Test-it Correct', 'c')
ours.write_text('d')
refused('an edit of the copy', 'was edited, and is a copy of')
ours.write_text('c')
commit('More', (test, 'f'))
exported('a commit of it goes there', 'One Test-it Correct More', 'f')
commit('Nothing')
refused('an empty commit', '0005-Nothing.patch would be empty')
git(tree, 'reset', '-q', '--hard', 'HEAD~1')
(tree / test).write_text('g')
refused('edits', 'in no commit')
git(tree, 'checkout', '-q', 'HEAD~1')
refused('no branch, as in a rebase', 'is on no branch')
git(tree, 'checkout', '-q', '-b', 'side', 'HEAD~1')
commit('Side', (code, '2'))
git(tree, 'merge', '-q', '-m', 'Merge', 'series')
refused('a merge', 'has merges')

git(tree, 'checkout', '-q', 'series')
git(tree, 'reset', '-q', '--hard', 'HEAD~1')
exported('a commit that is gone is no patch any more', 'One Test-it Correct', 'c')
print(f'1..{toy.count}')
