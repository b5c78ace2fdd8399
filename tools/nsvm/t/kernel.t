#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""What happens when the distribution's kernel cannot be had, or the series does not compile

First with toy packages, then with the kernel of BASE, as in build/.
"""
import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import toy
import toyapt
from toy import b, git, is_, top, tree
from toyapt import DEB, archive, bins, case, deb, downloads, failure, nested, source
from kernel import kernels, module
from lib import settings
from lib.base import Base, put

newer = DEB.replace('9.9.9', '9.9.10')
unpacked = r'Linux 9\.9\.9-cloud-amd64 of Debian unpacked'


def packages(version: str, cc: str = 'gcc-9') -> None:
    """Image and headers, and no other ones, in the archive"""
    for old in (*archive.glob('linux-headers*'), *archive.glob('linux-image*')):
        old.unlink()
    release = f'{version}-cloud-amd64'
    d = f'usr/src/linux-headers-{release}'
    makefile = b'modules:\n\tcp /bin/true $(M)/kvm-amd.ko\n'
    deb(f'linux-headers-{release}', version,
        {f'{d}/Makefile': makefile, f'{d}/.kernelvariables': cc.encode()}, 'amd64')
    deb(f'linux-image-{release}-unsigned', version,
        {f'boot/vmlinuz-{release}': b'x', f'lib/modules/{release}/kvm/kvm-amd.ko': b'x'}, 'amd64')


def clean(fetched: bool = True) -> None:
    """Nothing is made of packages, nor, but for sources, fetched"""
    for d in (top / 'build/distro', b / 'kernel'):
        shutil.rmtree(d, ignore_errors=True)
    for f in downloads.glob('linux-[hi]*') if fetched else []:
        f.unlink()


def whole(name: str, why: str) -> None:
    """It takes a whole kernel, says why; the toy is too small for one"""
    clean()
    case(1, name, f' a whole kernel, as {re.escape(why)}.* cannot configure kernel: ', 'kernels')


toyapt.make()
toy.script(bins / 'gcc-9', '')
packages('9.9.8')
case(0, 'source', 'applied', 'tree', 'series')
whole('apt has another version', 'apt knows no linux-headers-*-cloud-amd64 of version 9.9.9-1')
packages('9.9.9', 'gcc-0')
whole('the compiler is missing',
      'the headers of 9.9.9-cloud-amd64 want gcc-0, which is not installed')
clean()
packages('9.9.9')
case(0, 'those of that version are taken', unpacked, 'kernels')

# ---- the archive has moved on ----

clean(fetched=False)
packages('9.9.10')
case(0, 'packages have left the archive, but are in build/dl', unpacked, 'kernels')
(archive / DEB).unlink()
source('9.9.10', 'twenty')
was = git(tree, 'rev-parse', 'HEAD', 'base'), (tree / '.git/nsvm-base').read_text()
whole('packages and source have left the archive',
      'apt knows no linux-headers-*-cloud-amd64 of version 9.9.9-1')
is_((git(tree, 'rev-parse', 'HEAD', 'base'), (tree / '.git/nsvm-base').read_text()), was,
    'a kernel never moves src')
is_('SUBLEVEL = 9\n' in (b / 'whole/Makefile').read_text(), True,
    'and the whole kernel is of the same version')
shutil.rmtree(b)
(archive / newer).unlink()
source('9.9.10')
case(
    0, 'a new tree is of the newest release, its kernel as well',
    r'Linux 9\.9\.10 .*the series was made on 9\.9\.9\n'
    r'.* 2 patches .* applied.*9\.9\.10-cloud-amd64 of Debian unpacked.*'
    r'kvm-amd\.ko of kernel built',
    'kernels')
shutil.rmtree(b)
for f in (*downloads.glob('linux-source*'), archive / newer):
    f.unlink()
source('9.9.10', 'twenty')
case(0, 'none that the series applies to: make test of another base skips it',
     'SKIP +source, kernels and tests: '
     r'linux-source-9.9 9\.9\.10-1: 0002-patch-2.patch does not apply: .*for toy; LINUX=', 'test',
     'short', 'VIEW=n')

# ---- the compiler ----

settings.from_arguments(sys.argv[1:])
real = Base()
# Nobody's settings of make and compiler count
os.environ.update(PATH=toyapt.PATH, CC='false', KCFLAGS='-Dint=x', MAKEFLAGS='n', LLVM='1',
                  ARCH='arm64', O='/none')
if not real.commit() or not kernels.is_packaged(real):
    print(f"ok {toy.count + 1} compile error # SKIP no kernel of the distribution (make "
          f"kernel)\n1..{toy.count + 1}")
    sys.exit(0)
tmp = Path(tempfile.mkdtemp(prefix='compile-', suffix='.tmp', dir=real.b))
atexit.register(shutil.rmtree, tmp)
real.logs, good, env = tmp / 'logs', real.git('rev-parse',
                                              'HEAD^{tree}'), {'GIT_INDEX_FILE': f'{tmp}/index'}
text = real.git('show', f'{good}:{nested}') + '\n'
old = kernels.Kernel(tmp / 'kernel', 'old')


def compile_with(line: str) -> str:
    """With one more line at the end of nested.c"""
    real.git('read-tree', good, env=env)
    blob = real.git('hash-object', '-w', '--stdin', input=text + line)
    real.git('update-index', '--cacheinfo', f'100644,{blob},{nested}', env=env)
    broken = real.git('write-tree', env=env)
    return failure(lambda: module.build(real, broken, tmp / 'obj', old.dir, 'toy', quiet=True))


line = len(text.splitlines()) + 1
for name, code, says in (('a compile error', '#error nsvm\n', '#error nsvm'),
                         ('a warning of W=1', 'static void __used f(void) { int x; x = 1; }\n',
                          '.*set but not used.*')):
    for file in ('id', 'modules/order'):
        put(old.dir / file, 'kvm-amd\n')
    old.need()
    said = compile_with(code)
    good_line = (rf'toy does not build: .*nested\.c:{line}:[0-9]+: error: {says} .*'
                 r'\(log: .*build-toy\.log\)')
    is_(bool(re.fullmatch(good_line, said)), True, f'{name} is named with file and line', said)
    is_(failure(old.need).startswith('no kernel in'), True, 'and no old kernel is tested')
is_((compile_with(''), all(m.exists() for m in old.need().modules)), ('None', True),
    'the next run goes on')
print(f'1..{toy.count}')
