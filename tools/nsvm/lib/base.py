# SPDX-License-Identifier: GPL-2.0
"""A base: a directory of patches/, what its BASE says, and its directory in build/"""
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Iterator

from lib import jobs
from lib.say import Fatal
from lib.settings import place, rel, settings

# Deaf to the user's and the machine's configuration
GIT = ['git', '-c', 'gc.auto=0', '-c', 'core.hooksPath=/dev/null', '-c',
       'advice.detachedHead=false', '-c', 'user.name=nsvm lab', '-c', 'user.email=nsvm@localhost']
GIT_ENV = {'GIT_CONFIG_GLOBAL': '/dev/null', 'GIT_CONFIG_NOSYSTEM': '1'}
locked: dict[Path, int] = {}


def git_argv(where: Path, *args: str) -> list:
    """To be started with GIT_ENV"""
    return [*GIT[:1], '-C', where, *GIT[1:], *args]


def git(where: Path, *args: str, check: bool = True, env: dict[str, str] | None = None,
        **popen) -> str:
    """What git prints there, without the last newline"""
    return jobs.output(git_argv(where, *args), check, env={**GIT_ENV, **(env or {})},
                       **popen).removesuffix('\n')


def git_ok(where: Path, *args: str, log: Path | None = None, **popen) -> bool:
    return jobs.call(git_argv(where, *args), log, env=GIT_ENV, **popen) == 0


def put(file: Path, text: str) -> None:
    """The file has this, whole or not at all"""
    file.parent.mkdir(parents=True, exist_ok=True)
    tmp = file.with_name(file.name + '.tmp')
    tmp.write_text(text)
    tmp.replace(file)


def read(file: Path) -> str:
    """What put() wrote, or nothing"""
    return file.read_text() if file.exists() else ''


@contextlib.contextmanager
def new_directory(to: Path) -> Iterator[Path]:
    """An empty one, which becomes that one when all has gone well"""
    tmp = to.with_name(f'{to.name}.tmp')
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        yield tmp
        shutil.rmtree(to, ignore_errors=True)
        tmp.replace(to)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """One at a time, of all threads of all programs that have this file"""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def digest(*parts: str | bytes | Path) -> str:
    """Names all that: text as it is, files by what is in them"""
    h = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        h.update(b'%d ' % len(data) + data)
    return h.hexdigest()[:16]


def root_of(src: Path) -> str:
    """The commit of a src that is the source alone, without any series"""
    return (read(src / '.git/nsvm-root') or read(src / '.git/nsvm-base')).strip()


def lines(file: Path) -> list[str]:
    """Of a file of patches/: without comments and empty lines"""
    text = [re.sub(r'(^|\s)#.*', '', line).rstrip() for line in read(file).splitlines()]
    return [line for line in text if line]


OF_VMM = re.compile(r'^source:[ \t]*qemu$', re.M)


def names(vmm: bool = False) -> list[str]:
    """Of kernels, or of VMMs"""
    return sorted(f.parent.name for f in place.patches.glob('*/BASE')
                  if (OF_VMM.search(read(f)) is not None) == vmm)


class Base:
    """Base() is what BASE= and LINUX= say, Base(name) another; packaged: without LINUX=

    Documentation/backport.rst lists the keys of the file BASE.  Which kind of series that makes
    is in kind.py."""

    def __init__(self, name: str = '', packaged: bool = False) -> None:
        self.name = name or settings.BASE
        if re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9._-]*', self.name) is None:
            raise Fatal(f'BASE={self.name} is no name of a directory of patches/')
        self.dir = place.patches / self.name
        if not (self.dir / 'BASE').exists():
            raise Fatal(f'no {rel(self.dir)}/BASE; BASE= is one of: {" ".join(names())}')
        self.linux = ''
        if self.name == settings.BASE and settings.LINUX != 'packaged' and not packaged:
            self.linux = os.path.expanduser(settings.LINUX)
        self.b = place.build / (self.name + ('-own' if self.linux else ''))
        self.src = self.b / 'src'		# of what make run reads: the series
        self.logs = self.b / 'logs'
        self.results = self.b / 'results'
        self.text = read(self.dir / 'BASE')
        self.before: list[Base] = []	# whose series are part of the base
        after = self.key('after')
        if after:
            if after not in names():
                raise Fatal(f'{rel(self.dir)}/BASE is after {after}, but there is no '
                            f'{rel(place.patches / after)}')
            self.before = [*Base(after).before, Base(after)]

    def keys(self, key: str) -> list[str]:
        """What BASE does not say is as in that of the one before"""
        values = re.findall(rf'^{key}:[ \t]*(.*?)[ \t]*$', self.text, re.M)
        return values or (self.before[-1].keys(key) if self.before else [])

    def key(self, key: str) -> str:
        return (self.keys(key) or [''])[0]

    def need_key(self, key: str) -> str:
        if not self.key(key):
            raise Fatal(f'{rel(self.dir)}/BASE has no "{key}:"')
        return self.key(key)

    def series(self) -> list[str]:
        """The patches, in order"""
        return lines(self.dir / 'series')

    def left_out(self) -> list[str]:
        """Patches that were not applied to src, because it has them from upstream"""
        return read(self.src / '.git/nsvm-left-out').split()

    def applied(self) -> list[int]:
        """The numbers of the patches that src has, each with a commit of its own"""
        return [n for n, name in enumerate(self.series(), 1) if name not in self.left_out()]

    def unpatched(self) -> int:
        """After how many patches of the series the tag base is: those that it has from upstream"""
        return len(self.left_out())

    def series_id(self) -> str:
        for p in self.series():
            if not (self.dir / p).exists():
                raise Fatal(f'series names {p}, but there is no such file in {rel(self.dir)}')
        return digest(*self.series(), *(self.dir / p for p in self.series()))

    def is_vmm(self) -> bool:
        """QEMU, and no kernel: can be applied, exported and built, see source/vmm.py"""
        return OF_VMM.search(self.text) is not None

    def project(self) -> str:
        return 'QEMU' if self.is_vmm() else 'Linux'

    # ---- git in src ----

    def git(self, *args: str, **more) -> str:
        return git(self.src, *args, **more)

    def need_tree(self) -> None:
        if not (self.src / '.git/nsvm-base').exists():
            raise Fatal(f'no tree in {rel(self.src)} yet: make tree')

    def commit(self) -> str:
        """The base itself, tag base"""
        return read(self.src / '.git/nsvm-base').strip()

    def root(self) -> str:
        """The source, without the series before this one"""
        return root_of(self.src)

    def head(self) -> str:
        return self.git('rev-parse', 'HEAD')

    def commits(self) -> list[str]:
        return self.git('rev-list', '--reverse', f'{self.commit()}..HEAD').split()

    def is_clean(self) -> bool:
        return not self.git('status', '--porcelain')

    def worktree(self) -> str:
        """The tree object of what is there now: commits, edits and new files alike"""
        index = self.src / f'.git/nsvm-index-{os.getpid()}-{threading.get_ident()}'
        index.write_bytes((self.src / '.git/index').read_bytes())
        env = {'GIT_INDEX_FILE': str(index)}
        try:
            self.git('add', '-A', env=env)
            return self.git('write-tree', env=env)
        finally:
            index.unlink()

    # ---- one at a time ----

    def lock(self) -> 'Base':
        if self.b not in locked and str(self.b) not in settings.LOCKED.split(':'):
            try:
                self.b.mkdir(parents=True, exist_ok=True)
                fd = os.open(self.b / '.lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as e:
                raise Fatal(f'cannot write {rel(self.b)}: {e.strerror}') from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Fatal(
                    f'another run is at work in {rel(self.b)}: wait for it to end') from None
            locked[self.b] = fd
        return self
