# SPDX-License-Identifier: GPL-2.0
"""Which release of a base is used: decided here, once, from what can be had and what takes the
patches

A base is a line of kernels.  In this order, each the newest one:

  1. of the machine's own suites, or the first of "suite:" in BASE, one that takes the patches
     strictly
  2. of those, one that takes them with git am -C1
  3. of the other suites in BASE, and of what is in build/dl, one that takes them, strictly or
     else with -C1

What is not the first choice is said in one line, with patch, file and line.  A base with "file:"
in BASE has one release.
"""
import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path
from typing import Iterator

from lib import jobs
from lib.base import Base, read
from lib.say import Fatal, say
from lib.settings import place, rel
from source import apply, debian, package, setup
from source.debian import NOT_HERE


@dataclass
class Release:
    """One that can be had; when it was tried, also what git am made of the patches"""
    version: str		# of the package
    archive: debian.Archive | None = None		# that has it; None: build/dl has it
    tree: Path = Path()
    kernel: str = ''
    applied: apply.Applied | None = None
    refusal: str = ''		# why nothing was applied

    def is_strict(self) -> bool:
        return self.applied is not None and not self.applied.loose

    def __str__(self) -> str:
        if not self.archive:
            return f'{self.version}, in {rel(place.downloads)}'
        return f'{self.version} of {self.archive.suite}' if self.archive.suite else self.version


def suites(base: Base) -> list[str]:
    """Where to look, in order; "" is the machine's own archive"""
    return list(dict.fromkeys(debian.Archive(suite).suite for suite in base.keys('suite') or ['']))


def newest_first(versions: set[str]) -> list[str]:
    def compare(a: str, b: str) -> int:
        return -1 if jobs.call(['dpkg', '--compare-versions', a, 'gt', b]) == 0 else 1
    return sorted(versions, key=cmp_to_key(compare))


def upstream_part(version: str) -> str:
    """6.12.117 of 6.12.117-1~deb12u1: Debian's revisions of it have the same KVM"""
    return version.rpartition('-')[0] or version


def is_broken(base: Base, tried: Release) -> bool:
    """Is it the series?  Not even the release that it was made on takes it"""
    return not tried.applied and tried.kernel == base.key('kernel')


def versions_in(apt: debian.Archive, name: str) -> list[str]:
    """Of a package, newest first"""
    return newest_first({r['Version'] for r in apt.show(name) if r.get('Package') == name
                         and 'Version' in r})


def versions_of_own(apt: debian.Archive, name: str) -> list[str]:
    """Of the machine's own archive, whose lists may be missing, or promise what is gone"""
    try:
        versions = versions_in(apt, name)
        apt.fetch(name, versions[0] if versions else '')
        return versions
    except Fatal as e:
        if e.status != NOT_HERE:
            raise
        reason = str(e)
    try:
        setup.update_lists()
    except Fatal as e:
        raise Fatal(f'{reason}; {e}', NOT_HERE) from None
    return versions_in(apt, name)


def kept(name: str) -> list[str]:
    """Versions of a package that were fetched once, newest first"""
    return newest_first({f.name.split('_')[1] for f in place.downloads.glob(f'{name}_*.deb')})


def offers(base: Base, reasons: list[str]) -> Iterator[Release]:
    """In the order in which they are tried; reasons: why a suite has none"""
    if base.key('file'):
        yield Release(base.need_key('version'), debian.Archive(base.need_key('suite'), source=True))
        return
    name = base.need_key('package')
    for suite in suites(base):
        with debian.Archive(suite) as apt:
            try:
                apt.update()
                versions = versions_in(apt, name) if suite else versions_of_own(apt, name)
            except Fatal as e:
                if e.status != NOT_HERE:
                    raise
                reasons.append(str(e))
                continue
            if not versions:
                reasons.append(f'{suite or "apt"} has no {name}')
            yield from (Release(version, apt) for version in versions)
    yield from (Release(version) for version in kept(name))


def archive_of(base: Base, version: str, apt: debian.Archive) -> Path:
    """The package or tarball of that version, in build/dl.  Fatal 3 if it cannot be had"""
    return apt.have(base.key('source') or base.need_key('package'), version, base.key('file'),
                    base.key('sha256'))


def attempt(base: Base, offer: Release) -> None:
    """Fetch it, unpack it, apply the patches.  Fatal 3 if it cannot be had"""
    apt = offer.archive or debian.Archive(suites(base)[0])
    if offer.archive and not base.key('file'):
        archive = apt.fetch(base.key('package'), offer.version)
    else:
        archive = archive_of(base, offer.version, apt)
    offer.tree = base.b / f'candidate-{offer.version}'
    package.make_tree(base, archive, offer.tree, package.part_of(base), apt.suite)
    offer.kernel = package.release(offer.tree)
    try:
        offer.applied = apply.apply_in(base, offer.tree, apply.patches(*base.before, base))
    except Fatal as e:
        offer.refusal = str(e)


def search(base: Base, reasons: list[str]) -> list[Release]:
    """Releases up to the one that is used; reasons: why others could not be had"""
    tried: list[Release] = []
    with closing(offers(base, reasons)) as all_offers:
        for offer in all_offers:
            if upstream_part(offer.version) in [upstream_part(r.version) for r in tried]:
                continue
            is_first = offer.archive is not None and offer.archive.suite == suites(base)[0]
            if not is_first and any(r.applied for r in tried):
                break		# one of the first suite takes them with -C1
            try:
                attempt(base, offer)
            except Fatal as e:
                if e.status != NOT_HERE:
                    raise
                reasons.append(str(e))
                continue
            tried.append(offer)
            if offer.is_strict() or is_broken(base, offer):
                break
    return tried


def take(base: Base, tried: list[Release], reasons: list[str]) -> None:
    """The first that takes the patches strictly becomes src, else the first that takes them"""
    if tried and is_broken(base, tried[-1]):
        raise Fatal(f'{tried[-1].refusal} (on {tried[-1].kernel}, the release {rel(base.dir)} '
                    'was made on)')
    usable = sorted((r for r in tried if r.applied), key=lambda r: not r.is_strict())
    if not usable:
        name = base.key('package') or base.key('file')
        why = f'{name} {tried[0]}: {tried[0].refusal}' if tried else reasons[0]
        more = '; nor does an older one that can be had' if len(tried) > 1 else ''
        raise Fatal(f'{why}{more} (for {base.name}; LINUX= takes a tree of yours)', NOT_HERE)
    newest, used, made_on = tried[0], usable[0], base.key('kernel')
    shutil.rmtree(base.src, ignore_errors=True)
    used.tree.replace(base.src)
    purpose = 'the series was made on' if base.series() else f'{rel(base.dir)} was made for'
    same = f', the release {purpose}' if used.kernel == made_on else f'; {purpose} {made_on}'
    say('TREE', f'{base.project()} {used.kernel} ({used}){same}')
    if newest is not used:
        why = newest.refusal or f'takes {newest.applied.loose[0]} only with git am -C1'
        say('TREE', f'{newest} is not used: {why}')


def choose(base: Base) -> None:
    """build/<base>/src becomes the release that is used.

    Raises:
        Fatal: status 3 if no release that takes the patches can be had; names version, patch, file
            and line, and LINUX=.
    """
    place.downloads.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    try:
        take(base, search(base, reasons), reasons)
    finally:
        for leftover in base.b.glob('candidate-*'):
            shutil.rmtree(leftover, ignore_errors=True)


def of_src(base: Base) -> tuple[str, str, str]:
    """Version, suite and archive of the package that src is from.  Fatal 3 if it is from none"""
    m = re.match(r'source \S+ (\S+)\nsuite (\S+)\nsha256 \S* (\S+)',
                 read(base.src / '.git/nsvm-source'))
    if not m:
        raise Fatal(f"{rel(base.src)} is from no package of Debian's", NOT_HERE)
    return m[1], m[2], m[3]


def archive_of_src(base: Base) -> Path:
    """The package or tarball that src is from, fetched again if need be.  Fatal 3 if it is gone"""
    version, suite, file = of_src(base)
    try:
        return archive_of(base, version, debian.Archive(suite, source=bool(base.key('file'))))
    except Fatal as e:
        raise Fatal(f'{rel(base.src)} is of {file}, which is gone: {e}', NOT_HERE) from None
