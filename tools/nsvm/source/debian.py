# SPDX-License-Identifier: GPL-2.0
"""Packages of Debian: of the machine's own release, and of other suites

Other suites are where the machine's own archive is, by its apt configuration;
apt then works on lists and a cache of its own in build/apt/<suite>, and nothing is
installed.  Whatever is fetched is checked against apt's SHA256 and kept in build/dl.
"""
import hashlib
import os
import re
import shutil
import threading
from pathlib import Path

from lib import jobs
from lib.base import new_directory, put, read
from lib.say import Fatal, say
from lib.settings import place, rel

NOT_HERE = 3		# status of Fatal: cannot be had

CONF = '''\
Dir::State::Lists "{d}/lists";
Dir::State::status "{d}/status";
Dir::State::extended_states "{d}/extended_states";
Dir::Cache "{d}/cache";
Dir::Etc::sourcelist "{d}/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Retries "2";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
'''


def codename() -> str:
    """Of the machine's release, '' if it is no Debian"""
    m = re.search(r'^VERSION_CODENAME="?([^"\n]*)', read(Path('/etc/os-release')), re.M)
    return m[1] if m else ''


def own_suites() -> list[str]:
    return [codename() + part for part in ('', '-updates', '-security')]


def has_sum(file: Path, sha256: str) -> bool:
    with open(file, 'rb') as f:
        return hashlib.file_digest(f, 'sha256').hexdigest() == sha256


class Archive:
    """The machine's own ("" or "own"), or that of a suite, with lists of its own"""

    def __init__(self, suite: str = '', also: list[str] | None = None,
                 source: bool = False) -> None:
        """
        Args:
            suite: one of the machine's own release is the machine's own archive, but for the next
                two.
            also: other suites whose packages are known, too, perhaps none.
            source: the files of source packages, not packages.
        """
        if suite == 'own' or suite in own_suites() and also is None and not source:
            suite = ''
        if suite and not re.fullmatch(r'[a-z0-9-]+', suite):
            raise Fatal(f'suite {suite} is no name of a suite')
        self.suite = suite
        self.also = also or []
        self.type = 'deb-src' if source else 'deb'
        self.dir = place.build / 'apt' / f'{suite}-{os.getpid()}-{threading.get_ident()}'

    # ---- apt's view ----

    def sources(self) -> list[str]:
        """The lines of sources.list; the suites are where those of the machine are"""
        keyrings = [f for end in ('gpg', 'pgp')
                    if (f := Path(f'/usr/share/keyrings/debian-archive-keyring.{end}')).exists()]
        key = f'[signed-by={keyrings[0]}] ' if keyrings else ''
        own, lines = codename(), []
        targets = jobs.output(['apt-get', 'indextargets', '--format',
                               '$(REPO_URI) $(RELEASE) $(COMPONENT)', 'Created-By: Packages'])
        there = [line.split() for line in targets.splitlines() if len(line.split()) == 3]
        for suite in (self.suite, *self.also):
            like = f'{own}-security' if suite.endswith('-security') else own
            lines += [f'{self.type} {key}{uri} {suite} {part}' for uri, release, part in there
                      if own and release == like]
        return list(dict.fromkeys(lines))

    def configure(self, status: str = '') -> None:
        """Of a suite: sources.list and apt.conf; status: packages that are there"""
        if not shutil.which('apt-get'):
            raise Fatal('there is no apt-get here', NOT_HERE)
        sources = self.sources()
        if not sources:
            raise Fatal('apt knows no archive of this release '
                        f'({codename() or "no VERSION_CODENAME in /etc/os-release"})', NOT_HERE)
        for sub in ('lists/partial', 'cache/archives/partial'):
            (self.dir / sub).mkdir(parents=True, exist_ok=True)
        put(self.dir / 'sources.list', ''.join(f'{s}\n' for s in sources))
        put(self.dir / 'status', status)
        put(self.dir / 'apt.conf', CONF.format(d=self.dir))

    def argv(self, program: str, *args: str) -> list:
        return [program, *(['-c', self.dir / 'apt.conf'] if self.suite else []), *args]

    def get(self, *args: str) -> list:
        return self.argv('apt-get', '-q', '-y', '-o', 'Acquire::Retries=2', *args)

    def update(self, status: str = '') -> None:
        """Lists of a suite, always: it may have moved on"""
        if self.suite:
            self.configure(status)
            jobs.step('APT', place.build / f'apt-{self.suite}.log',
                      f'package lists of {self.suite} fetched', self.get('update'),
                      'cannot fetch package lists', NOT_HERE)

    def __enter__(self) -> 'Archive':
        return self

    def __exit__(self, *_) -> None:
        """A suite's lists are large, and old tomorrow"""
        if self.suite:
            shutil.rmtree(self.dir, ignore_errors=True)

    def show(self, *names: str) -> list[dict[str, str]]:
        """The records of packages, newest first"""
        if not names:
            return []
        text = jobs.output(self.argv('apt-cache', 'show', *names), check=False)
        return [dict(re.findall(r'^([A-Za-z0-9-]+): (.*)$', record, re.M))
                for record in text.split('\n\n') if record.strip()]

    def search(self, pattern: str) -> list[str]:
        listing = jobs.output(self.argv('apt-cache', '--names-only', 'search', pattern),
                              check=False)
        return [line.split()[0] for line in listing.splitlines() if line]

    def ask(self, package: str, version: str = '', file: str = '') -> tuple[str, str, str] | None:
        """What apt would fetch: URI, name, SHA256; with file, that one of a source package

        A name that apt does not know is a pattern for it, so see what it found."""
        wanted = f'{package}={version}' if version else package
        if file:
            argv = self.get('source', '--download-only', '--print-uris', wanted)
        else:
            argv = self.get('download', '--print-uris', wanted)
        for uri, name, sha in re.findall(r"^'(\S*)' (\S+) .*SHA256:([0-9a-f]{64})",
                                         jobs.output(argv, check=False), re.M):
            if name == file or (not file and name.startswith(f'{package}_')):
                return uri, name, sha
        return None

    # ---- files ----

    def fetch(self, package: str, version: str = '', file: str = '') -> Path:
        """A package, or a file of a source package, in build/dl; Fatal 3 if it cannot be had"""
        offer = self.ask(package, version, file)
        if not offer:
            raise Fatal(f'{self.suite or "apt"} has no '
                        f'{file or package}{" " + version if version else ""}', NOT_HERE)
        uri, name, sha = offer
        to, tmp = place.downloads / name, place.downloads / f'tmp-{name}'
        if to.exists() and not has_sum(to, sha):
            say('APT', f'{rel(to)} is damaged (SHA256 differs): fetched again')
            to.unlink()
        if not to.exists():
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir(parents=True)
            try:
                if file:	# the other files of a source package may be gone
                    argv = self.argv(shutil.which('apt-helper') or '/usr/lib/apt/apt-helper',
                                     'download-file', uri, f'{tmp}/{name}')
                else:
                    argv = self.get('download', f'{package}={version}' if version else package)
                jobs.step('APT', place.build / f'fetch-{package}.log', f'{name} fetched', argv,
                          f'cannot fetch {file or package}', NOT_HERE, cwd=tmp)
                if not (tmp / name).exists() or not has_sum(tmp / name, sha):
                    raise Fatal(f'{name} as fetched is not what apt promised (SHA256 differs): try '
                                'again later')
                (tmp / name).replace(to)
            finally:
                shutil.rmtree(tmp, ignore_errors=True)
        put(to.with_name(f'{name}.sha256'), f'{sha}\n')
        return to

    def have(self, package: str, version: str, file: str = '', sha256: str = '') -> Path:
        """The same: what is in build/dl, see at_hand(), else it is fetched, by new lists"""
        kept = at_hand(file or package, version, sha256)
        if kept:
            return kept
        with self:
            self.update()
            return self.fetch(package, version, file)


def at_hand(package: str, version: str, sha256: str) -> Path | None:
    """Without apt: an archive in build/dl of that version that was checked, or has that SHA256"""
    for f in (*sorted(place.downloads.glob(f'{package}_{version or "*"}_*.deb')),
              place.downloads / package):
        known = read(f.with_name(f'{f.name}.sha256')).strip() or sha256
        if f.exists() and known and has_sum(f, known):
            return f
    return None


def unpack(deb: Path, to: Path, *patterns: str) -> None:
    """Its files, or those that match, if any, below to"""
    wanted = [f'--exclude=./usr/share/{unneeded}'
              for unneeded in ('doc', 'man', 'locale', 'info', 'icons')]
    wanted += ['--wildcards', *patterns] if patterns else []
    p = jobs.start(['dpkg-deb', '--fsys-tarfile', deb], stdout=jobs.subprocess.PIPE,
                   stderr=jobs.subprocess.DEVNULL)
    tar = jobs.start(['tar', '-x', '-C', to, *wanted], stdin=p.stdout,
                     stdout=jobs.subprocess.DEVNULL, stderr=jobs.subprocess.PIPE, text=True)
    p.stdout.close()
    err = ''.join(line for line in tar.stderr
                  if 'Not found in archive' not in line and 'previous errors' not in line)
    rc = jobs.finish(tar)
    if jobs.finish(p) not in (0, -13) or (rc and (err or not patterns)):
        raise Fatal(f'cannot unpack {deb.name}: '
                    f'{err.strip().splitlines()[0] if err.strip() else "damaged?"}')


def version_of(deb: Path) -> str:
    return jobs.output(['dpkg-deb', '-f', deb, 'Version']).strip()


def root(suite: str, name: str, packages: list[str]) -> Path:
    """build/roots/<name>: these packages of a suite and all that they need, unpacked, for
    programs that do not run on the machine's own release; see inside()"""
    to = place.build / 'roots' / name
    wanted = ' '.join(packages)
    if read(to / 'packages') == wanted:
        return to
    with new_directory(to) as tmp, Archive(suite, [suite.removesuffix('-backports')]) as apt:
        apt.update()
        jobs.step('APT', place.build / f'root-{name}.log',
                  f'{", ".join(packages[:2])} of {suite} fetched, and what they need',
                  apt.get('install', '--no-install-recommends', '--download-only', '-o',
                          'APT::Install-Recommends=0', *packages),
                  f'cannot fetch {packages[0]} of {suite}', NOT_HERE)
        debs = (apt.dir / 'cache/archives').glob('*.deb')
        for deb in sorted(debs, key=lambda deb: not deb.name.startswith('base-files')):
            unpack(deb, tmp)
        if (tmp / 'usr/bin/mawk').exists():
            (tmp / 'usr/bin/awk').symlink_to('mawk')	# what its postinst does
        put(tmp / 'packages', wanted)
    return to


def inside(where: Path) -> list[str]:
    """What runs a program of a root, which sees build/ as well"""
    (where / str(place.build).lstrip('/')).mkdir(parents=True, exist_ok=True)
    return ['bwrap', '--die-with-parent', '--ro-bind', str(where), '/', '--dev', '/dev', '--proc',
            '/proc', '--tmpfs', '/tmp', '--bind', str(place.build), str(place.build), '--setenv',
            'PATH', '/usr/bin:/bin', '--']
