# SPDX-License-Identifier: GPL-2.0
"""deb [check] - make the series as a Debian package for DKMS, in build/<base>/deb

check: also install it, in a Debian that mmdebstrap makes, with Debian's kernel, its headers and
dkms; remove it again.  Debian's kernel boots with /lib/modules as it was in between, and as it is
then: modprobe must find our module, and Debian's.  The PAT tests tell which one was loaded.

Results: build/<base>/results/deb.ktap, deb-installed.log, deb-removed.log (and .console).
Exit status: 0; 1 if something is wrong; 3 if the base has no packaged kernel, a program is
missing, or such a Debian cannot be had: that takes root.
"""
import shutil
from pathlib import Path

from kernel import distro, dkms, module, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, put, read
from lib.say import Fatal, say
from lib.settings import rel
from machine import boot, qemu
from proof import expected
from source import chroot, debian, release, tree

# The first test that the machine runs; $1: the version that kvm_amd has to have
LOAD = '''#!/bin/sh
tar -C / -xf /tests/modules.tar
. /job/variables
modprobe kvm force_emulation_prefix=1 && modprobe kvm_amd $PARAMETERS || exit 1
version=$(cat /sys/module/kvm_amd/version 2>/dev/null)
echo "kvm_amd ${version:-without a version}"
[ "$version" = "$1" ]
'''
INSTALL = 'apt-get -q -y install "$0" || { cat /var/lib/dkms/*/*/build/make.log; false; }'
EXCLUDED = 77		# exit status of dkms


class Host:
    """A user's machine: in root, a Debian with Debian's kernel, its headers, and dkms"""

    def __init__(self, base: Base, root: Path) -> None:
        self.base, self.root, self.release = base, root, distro.info(base, 'release')
        self.modules = root / 'lib/modules' / self.release
        # Another kernel with headers: dkms comes to it as well
        self.other = self.modules.with_name(f'{self.release}x')
        self.other.mkdir()
        (self.other / 'build').symlink_to(f'/usr/src/linux-headers-{self.release}')

    def run(self, name: str, *command: str) -> int | None:
        """Exit status of a command there; what it prints is in logs/deb-<name>.log"""
        return jobs.call(chroot.argv(self.root, *command), self.base.logs / f'deb-{name}.log')

    def output(self, *command: str) -> list[str]:
        return jobs.output(chroot.argv(self.root, *command)).splitlines()

    def files(self) -> set[str]:
        """All of /lib/modules, each with its sum"""
        return set(self.output('sh', '-c', 'find /lib/modules/ -type f | xargs sha256sum'))

    def keep(self, to: Path) -> None:
        """For boot_with(): modules.tar with what modprobe comes to, and the test LOAD"""
        loaded = self.output('modprobe', '-S', self.release, '--show-depends', 'kvm_amd')
        files = [line.split()[1].lstrip('/') for line in loaded if line.startswith('insmod ')]
        files += [str(f.relative_to(self.root)) for f in self.modules.glob('modules.*')]
        put(to / 'load', LOAD)
        (to / 'load').chmod(0o755)
        jobs.output(['tar', '-C', self.root, '-cf', to / 'modules.tar', *files])


def check_package(host: Host, deb: Path, report: ktap.Report) -> None:
    """Install it, ask dkms, remove it"""
    base, other, before = host.base, host.other.name, host.files()
    shutil.copy(deb, host.root / 'tmp')
    status = host.run('install', 'sh', '-c', INSTALL, f'/tmp/{deb.name}')
    made = sorted(ko.name.split('.')[0] for ko in (host.modules / 'updates/dkms').glob('*.ko*'))
    report.item(status == 0 and made == module.changed_modules(base, base.worktree()),
                'dkms add, build, install', f'{", ".join(made) or "no module"} in updates/dkms '
                f'(log: {rel(base.logs)}/deb-install.log)')
    signers = [host.output('modinfo', '-k', host.release, '-F', 'signer', m) for m in made]
    report.item(signers != [] and all(signers), 'the module is signed with the key of this DKMS',
                ' '.join(signers[0]) if signers else '')
    status = host.run('build', 'dkms', 'build', f'{dkms.NAME}/{dkms.version(base)}', '-k', other)
    report.item(status == EXCLUDED, f'dkms build refuses Linux {other}')
    status = host.run('autoinstall', '/etc/kernel/postinst.d/dkms', other)
    report.item(status == 0 and not any(host.other.rglob('*.ko*')),
                'dkms autoinstall does nothing when that is installed')
    host.keep(deb.parent / 'deb-installed')
    status = host.run('remove', 'apt-get', '-q', '-y', 'remove', f'{dkms.NAME}-dkms')
    differ = sorted(line.split()[-1] for line in host.files() ^ before)
    report.item(status == 0 and not differ, 'dkms remove: /lib/modules is as it was',
                ', '.join(differ[:3]))
    host.keep(deb.parent / 'deb-removed')


def boot_with(base: Base, d: Path, version: str) -> list[ktap.Case]:
    """What the tests say on Debian's kernel with the modules in d, and no other module of KVM"""
    debians = distro.place_of(base)
    order = [m for m in read(debians / 'modules/order').split() if not m.startswith('kvm')]
    put(d / 'modules/order', '\n'.join(order))
    put(d / 'id', d.name)
    for name in ('vmlinux', *(f'modules/{m}.ko' for m in order)):
        (d / name).symlink_to(debians / name)
    tests = [f'load:{version}', *selftests.pat_tests(base)]
    return ktap.cases(boot.run(Kernel(d, d.name), d.name, tests, base=base,
                               files=[d / 'load', d / 'modules.tar'], view=False).text())


def check_modules(base: Base, d: Path, report: ktap.Report) -> None:
    """Which ones are loaded while the package is installed, and after that"""
    version = dkms.version(base)
    installed, removed = jobs.together(lambda: boot_with(base, d / 'deb-installed', version),
                                       lambda: boot_with(base, d / 'deb-removed', ''))
    # The kernel's own has nothing of a series before this one either
    stock = base.before[0] if base.before else base
    removed = [c for c in removed if not c.case or (c.test, c.case) in expected.load(stock)]
    for cases, which, of, n in ((installed, f'kvm_amd {version}', base, len(base.series())),
                                (removed, "Debian's kvm_amd", stock, stock.unpatched())):
        report.item(cases[0].verdict, f'modprobe loads {which}', cases[0].reason)
        good, text = expected.compare(of, cases, n)
        report.item(good, f'PAT tests on {which}', text)


def main(args: list[str]) -> int:
    if args not in ([], ['check']):
        raise Fatal('usage: deb [check]')
    for program in ('dh_dkms', 'lintian'):
        if not shutil.which(program):
            raise Fatal(f'{program} is not installed: tools/nsvm/nsvm setup deb', debian.NOT_HERE)
    base = tree.make(Base())
    deb = dkms.build(base)
    say('DEB', f'for an AMD host with Linux {distro.info(base, "release")}; '
        'tools/nsvm/Documentation/lab.rst says how to install it')
    if not args:
        return 0
    report, log = ktap.Report(base.results / 'deb.ktap'), base.logs / 'deb-lintian.log'
    root, (version, suite, _) = deb.parent / 'root', release.of_src(base)
    with chroot.installed(root, debian.Archive(suite).suite,
                          ['dkms', *distro.fetch_all(version, suite)[1]],
                          base.logs / 'deb-debian.log'):
        status = jobs.call(['lintian', '--allow-root', '--fail-on', 'error', deb], log)
        report.item(status == 0, 'lintian finds no error', read(log).strip().replace('\n', '; '))
        check_package(Host(base, root), deb, report)
    qemu.ensure()
    selftests.build(base)
    check_modules(base, deb.parent, report)
    return ktap.finish(report)
