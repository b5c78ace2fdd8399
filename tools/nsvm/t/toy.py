# SPDX-License-Identifier: GPL-2.0
"""For export.t and mail.t: a toy of a repository in a temporary directory, and TAP"""
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

lab = Path(__file__).resolve().parents[1]
top = Path(tempfile.mkdtemp(prefix='nsvm-toy-'))
atexit.register(shutil.rmtree, top)
b, patches, overlay = top / 'build/toy', top / 'patches/toy', top / 'overlay'
tree = b / 'src'
letter = patches / '0000-cover-letter.patch'
code, test = 'arch/x86/kvm/x.c', 'tools/testing/selftests/kvm/x86/toy_test.c'
AUTHOR = 'Jürgen Toy With A Name That Makes Git Fold'
PLACES = [f'BUILD={top}/build', f'PATCHES={top}/patches', f'OVERLAY={overlay}', 'BASE=toy']
count = 0
prefix: list[str] = []		# what nsvm is started by
os.environ.update(HOME=str(top), XDG_CACHE_HOME=f'{top}/cache', XDG_DATA_HOME=f'{top}/data',
                  EMAIL='')
sys.path.insert(0, str(lab))


def is_(got: object, want: object, name: str, detail: str = '') -> None:
    global count
    count += 1
    print(f'{"ok" if got == want else "not ok"} {count} {name}', flush=True)
    if got != want:
        print(f'# {got!r}, and not {want!r} {" ".join(detail.split())}', flush=True)


def run(*argv: str | Path, where: Path = top) -> subprocess.CompletedProcess:
    return subprocess.run(argv, cwd=where, text=True, capture_output=True, stdin=subprocess.DEVNULL)


def git(where: Path, *args: str) -> str:
    r = run('git', *args, where=where)
    assert r.returncode == 0, (args, r.stderr)
    return r.stdout.strip()


def nsvm(program: str, *args: str) -> subprocess.CompletedProcess:
    return run(*prefix, lab / 'nsvm', program, *PLACES, *args)


def script(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'#!/bin/sh\n{text}\n')
    file.chmod(0o755)


def commit(subject: str, *files: tuple[str, str]) -> None:
    for name, text in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    git(tree, 'add', '-A')
    git(tree, 'commit', '-q', '--allow-empty', f'--author={AUTHOR} <j@example.net>', '-m', subject)


def make(*files: tuple[str, str]) -> None:
    """A base with these files, no commit on it, no patch"""
    for d in (tree, patches, overlay):
        d.mkdir(parents=True)
    (top / '.gitconfig').write_text('[user]\nname = Some One Else\nemail = else@example.org\n')
    (patches / 'BASE').write_text('kernel: 1.2.3\n')
    letter.write_text(
        f'From {"0" * 40} Mon Sep 17 00:00:00 2001\nFrom: Some Toy\n <toy@example.net>\n'
        'Date: Tue, 24 Nov 2026 08:00:00 +0000\nSubject: [PATCH 0/9] Toy\n\nText.\n\n'
        'Nobody (0):\n  Old\n\nbase-tree: x\nchange-id: 20260101-toy-0123456789ab\n')
    git(tree, 'init', '-q', '-b', 'series')
    commit('Base', *files)
    git(tree, 'tag', 'base')
    (tree / '.git/nsvm-base').write_text(git(tree, 'rev-parse', 'HEAD') + '\n')
    (tree / '.git/nsvm-source').write_text('source linux-source-toy 7\n')
