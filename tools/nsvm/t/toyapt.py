# SPDX-License-Identifier: GPL-2.0
"""For source.t, kernel.t, settings.t: a toy of a kernel in packages, an apt that has them, what
must fail
"""
import os
import re
import shutil
from pathlib import Path
from typing import Callable

from toy import b, git, is_, nsvm, patches, run, script, top
from kernel import module
from lib.say import Fatal
from source import debian, package

bins, archive, downloads, work = top / 'bin', top / 'archive', top / 'build/dl', top / 'work'
nested = 'arch/x86/kvm/svm/nested.c'
DEB, TAR = 'linux-source-9.9_9.9.9-1_all.deb', 'linux_9.9.9.orig.tar.xz'
PACKAGED = ('package: linux-source-9.9', 'version: 9.9.9-1')
PATH = os.environ['PATH']
os.environ.update(PATH=f'{bins}:{PATH}', NSVM_AS_ROOT='env')

# What is in the directory archive/<suite> is that suite's alone.  FAKE_APT is good; none: neither
# lists nor network; off: lists, but no network; missing: what the lists have is gone; truncated:
# what comes is damaged; INT: so is the lab, by that signal.
WHERE = '''A=ARCHIVE
for suite in ARCHIVE/*/; do
case $* in */apt/"$(basename "$suite")"-[0-9]*) A=${suite%/};; esac
done
for last; do :; done
no() { echo "E: Failed to fetch http://localhost/x  $*" >&2; exit 100; }
net() { case $FAKE_APT in off|none) no Could not connect;; missing) no 404 Not Found;; esac; }
'''
APT_GET = WHERE + '''name=${last%%=*} version=
case $last in *=*) version=${last#*=};; esac
deb() { ls $A/${name}_${version:-*}_*.deb | sort -V | tail -n 1; }
sum() {
[ -f "$1" ] || return
echo "'http://localhost/x' $(basename "$1") 1 SHA256:$(sha256sum <"$1" | head -c 64)"
}
case $FAKE_APT,$* in
*indextargets*) echo "http://localhost/debian CODENAME main";;
missing,*update*) ;;
*update*) net;;
none,*) exit 100;;
*' source '*print-uris*) sum $A/TAR;;
*print-uris*) sum "$(deb)";;
truncated,*download*) head -c 100000 "$(deb)" >"$(basename "$(deb)")";;
*download*) net; cp "$(deb)" .;;
esac'''
APT_HELPER = WHERE + '''net
head -c 100000 ARCHIVE/TAR >"$last"
case $FAKE_APT in
good) cp ARCHIVE/TAR "$last";;
INT) echo $$ >ARCHIVE/pid; sleep 0.5; kill -s INT $PPID; sleep 100;;
esac'''
APT_CACHE = WHERE + '''case $FAKE_APT,$* in
none,*) ;;
*search*) ls $A | sed -n 's/_.*deb$//p' | grep -E "$last";;
*) for p; do for f in $A/${p}_*.deb; do [ ! -f "$f" ] || dpkg-deb -f "$f"; echo; done; done;;
esac'''


def deb(name: str, version: str, files: dict[str, bytes], arch: str = 'all') -> None:
    d = top / 'deb'
    shutil.rmtree(d, ignore_errors=True)
    control = (f'Package: {name}\nVersion: {version}-1\nArchitecture: {arch}\n'
               'Maintainer: x <x@x>\nDescription: toy\n')
    for path, data in {**files, 'DEBIAN/control': control.encode()}.items():
        (d / path).parent.mkdir(parents=True, exist_ok=True)
        (d / path).write_bytes(data)
    assert run('dpkg-deb', '-Znone', '--build', '--root-owner-group', d, archive).returncode == 0


def commit(message: str, *edit: str) -> None:
    """In work; edit: pattern and text for nested.c"""
    if edit:
        (work / nested).write_text(re.sub(*edit, (work / nested).read_text(), flags=re.M))
    git(work, 'add', '-A')
    git(work, 'commit', '-q', '-m', message)


def source(version: str, line: str = '20', at: int = 20) -> None:
    """A kernel with what package.py and module.py look for, in work and as packages; lines of
    nested.c are their numbers, but for one, by default the twentieth"""
    numbers = dict(zip(('VERSION', 'PATCHLEVEL', 'SUBLEVEL'), version.split('.')))
    files = {re.sub(r'\[.*', 'kvm', p).replace('*', 'x'): b'' for p in package.PART}
    files |= {f: b'' for f in ('arch/x86/kvm/Makefile', 'virt/kvm/x', module.UAPI, module.HOST)}
    files |= {nested: ''.join(f'{n}\n' for n in range(1, 101)).replace(f'{at}\n', f'{line}\n',
                                                                       1).encode(),
              'Makefile': ''.join(f'{k} = {v}\n' for k, v in numbers.items()).encode(),
              'include/ballast': os.urandom(400000), 'scripts/extract-vmlinux': b'cat "$1"'}
    for directory in {str(d) for f in files for d in Path(f).parents}:
        files.pop(directory, None)
    for name, data in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    commit(version)
    in_package, tar = top / 'tar.xz', archive / f'linux_{version}.orig.tar.xz'
    for name, tarball in (('linux-source-9.9', in_package), (f'linux-{version}', tar)):
        run('sh', '-c', f'git archive --prefix={name}/ HEAD | xz -0 >{tarball}', where=work)
    deb('linux-source-9.9', version, {'usr/src/linux-source-9.9.tar.xz': in_package.read_bytes()})


def base(*more: str) -> None:
    """patches/toy/BASE: that package, or what more says"""
    (patches / 'BASE').write_text('\n'.join([*(more or PACKAGED), 'kernel: 9.9.9\n']))


def make() -> None:
    """An archive with 9.9.9, a series of two patches for it"""
    for d in (archive, patches, work):
        d.mkdir(parents=True)
    for name, text in (('apt-get', APT_GET), ('apt-helper', APT_HELPER), ('apt-cache', APT_CACHE)):
        text = text.replace('ARCHIVE', str(archive)).replace('TAR', TAR)
        script(bins / name, text.replace('CODENAME', debian.codename()))
    (top / '.gitconfig').write_text('[user]\nname = x\nemail = x@x\n')
    git(work, 'init', '-q')
    source('9.9.9')
    commit('patch 1', '^10$', 'patch 1')
    commit('patch 2', '^20$', 'patch 2')
    git(work, 'format-patch', '-q', '--no-numbered', '-o', str(patches), 'HEAD~2')
    (patches / 'series').write_text('0001-patch-1.patch\n0002-patch-2.patch\n')
    git(work, 'tag', 'made')
    base()


def half_made() -> list[str]:
    leftovers = [*(top / 'build').rglob('*.tmp'), *downloads.glob('tmp*'), *b.glob('candidate-*')]
    return [str(f) for f in leftovers if '.git' not in f.parts]


def case(status: int, name: str, pattern: str, *args: str, apt: str = 'good') -> str:
    """That program, or tree base, ends with that status, if it is not 0 with one line of error,
    says something that matches, and leaves nothing half-made; returns what it says"""
    os.environ['FAKE_APT'] = apt
    r = nsvm(*(args or ('tree', 'base')))
    output = (r.stdout + r.stderr).strip()
    is_((r.returncode, len(r.stderr.splitlines()), bool(re.search(pattern, output, re.S)),
         half_made()), (status, int(0 < status < 128), True, []), name, output)
    return output


def failure(fn: Callable[[], object]) -> str:
    try:
        return str(fn())
    except Fatal as e:
        return str(e)
