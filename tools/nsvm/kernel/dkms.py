# SPDX-License-Identifier: GPL-2.0
"""The series as a Debian package, nsvm-pat-dkms: DKMS builds its modules on a user's machine

It is the sources as module.py makes them, and the files of dkms/.  debhelper and dh_dkms make
it: without them, what they put into maintainer scripts would have to be written here.
"""
import re
import shutil
import textwrap
from pathlib import Path

from kernel import distro, module
from lib import jobs
from lib.base import Base, put, read
from lib.kind import is_opt_in
from lib.say import Fatal, need_match
from lib.settings import place, rel
from source import release
from source import tree as source_tree

NAME = 'nsvm-pat'
KVM = 'arch/x86/kvm'
# What a description says of a series that adds the quirk
ON_REQUEST = '''\
 .
 It does so only for VMs whose virtual machine monitor asks for it: as on
 Linux 7.2 and later, it disables KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT.  All
 other VMs see no difference.  This is for hosts whose VMs may not change with
 an update: their guest hypervisors are not known, or they came from another
 host while they ran.'''
ALWAYS = '''\
 .
 It does so for all VMs, when they start or arrive.'''


def version(base: Base) -> str:
    """The kernel's source, the series, and what names commits and edits that are not in patches/"""
    series = re.search(r'^v([0-9]+):',
                       read((base.before[-1] if is_opt_in(base) else base).dir / 'changes'), re.M)
    optin = '+optin' * is_opt_in(base)
    own = '' if source_tree.is_ours(base) else f'+{base.worktree()[:8]}'
    return f'{release.of_src(base)[0]}+v{series[1] if series else 1}{optin}{own}'


def values(release: str, version: str, modules: list[str]) -> dict[str, str]:
    """What the files of dkms/ have in @...@"""
    abi = release.removesuffix(f'-{distro.FLAVOUR}')
    # Of that release, the flavours that have the same KVM: -rt-amd64 has another
    releases = abi.replace('.', '[.]').replace('+', '[+]') + '-(cloud-)?amd64'
    conf = [
        f'BUILT_MODULE_NAME[{i}]="{m}"\nBUILT_MODULE_LOCATION[{i}]="{KVM}"\n'
        f'DEST_MODULE_LOCATION[{i}]="/updates"'
        for i, m in enumerate(modules)
    ]
    return {'ABI': abi, 'RELEASES': releases, 'TESTED': release, 'VERSION': version,
            'MODULES': '\n'.join(conf)}


def fill(name: str, values: dict[str, str]) -> str:
    return re.sub('@([A-Z]+)@', lambda m: values[m[1]], read(place.lab / 'kernel/dkms' / name))


def changelog(base: Base, version: str, maintainer: str) -> str:
    subjects = base.git('log', '--reverse', '--format=%s', f'{base.root()}..HEAD').splitlines()
    items = [textwrap.fill(s, 76, initial_indent='  * ', subsequent_indent='    ')
             for s in subjects]
    return '\n'.join([f'{NAME} ({version}) UNRELEASED; urgency=medium\n', *items,
                      f'\n -- {maintainer}  {base.git("log", "-1", "--format=%aD")}\n'])


def write(base: Base, to: Path, version: str) -> None:
    """The package's source: usr/ as it is installed, debian/"""
    tree, src = base.worktree(), to / f'usr/src/{NAME}-{version}'
    modules = module.changed_modules(base, tree)
    if not modules:
        raise Fatal(f'{rel(base.src)} changes no module of KVM')
    module.write_sources(base, tree, src, modules)
    for hidden in src.rglob('.*'):
        hidden.unlink()
    for m in modules:
        # A module without a version is to DKMS the same as the kernel's own, and not installed
        put(src / KVM / f'{m}-version.c', '// SPDX-License-Identifier: GPL-2.0\n#include '
            f'<linux/module.h>\nMODULE_VERSION("{version}");\n')
        put(src / KVM / 'Kbuild', read(src / KVM / 'Kbuild') + f'{m}-y += {m}-version.o\n')
    filled = values(distro.info(base, 'release'), version, modules)
    filled['MAINTAINER'] = maintainer = need_match(r'^M:\s*(.*)$', read(place.top / 'MAINTAINERS'),
                                                   'MAINTAINERS has no "M:"')
    filled['FOR'] = ON_REQUEST if is_opt_in(base) else ALWAYS
    filled['SOURCE'] = f'{base.key("package")} {release.of_src(base)[0]}'
    for f in (place.lab / 'kernel/dkms').iterdir():
        put(to / 'debian' / f.name, fill(f.name, filled))
    put(to / 'debian/install', 'usr\n')
    put(to / 'debian/changelog', changelog(base, version, maintainer))
    (to / 'debian/rules').chmod(0o755)


def build(base: Base) -> Path:
    """build/<base>/deb/<package>, made anew; Fatal 3 if the base has no packaged kernel"""
    distro.get(base)
    d, package_version = base.b / 'deb', version(base)
    deb = d / f'{NAME}-dkms_{package_version}_all.deb'
    shutil.rmtree(d, ignore_errors=True)
    write(base, d / 'source', package_version)
    jobs.step('DEB', base.logs / 'deb.log', rel(deb), ['dpkg-buildpackage', '-b', '-us', '-uc'],
              'the package does not build', cwd=d / 'source')
    return deb
