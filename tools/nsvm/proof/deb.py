# SPDX-License-Identifier: GPL-2.0
"""deb [check] - make the series as a Debian package for DKMS, in build/<base>/deb

check: test the package.  Nothing is installed: the package and Debian's image are unpacked in
build/<base>/deb/check, and "dkms add, build, install" and depmod run there.  Debian's kernel then
boots with that /lib/modules: modprobe must find our module, and after "dkms remove" Debian's.  The
PAT tests tell which one was loaded.

Results: build/<base>/results/deb.ktap, deb-installed.log, deb-removed.log (and .console).
Exit status: 0; 1 if something is wrong; 3 if the base has no packaged kernel, or a program is
missing.
"""
import os
import shutil
from pathlib import Path

from kernel import distro, dkms, module, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, digest, put, read
from lib.say import Fatal, need_match, say
from lib.settings import place, rel
from machine import boot, qemu
from proof import expected
from source import debian, release, tree

# The first test that the machine runs; $1: the version that kvm_amd has to have
LOAD = '''#!/bin/sh
tar -C / -xf /tests/modules.tar
. /job/variables
modprobe kvm force_emulation_prefix=1 && modprobe kvm_amd $PARAMETERS || exit 1
version=$(cat /sys/module/kvm_amd/version 2>/dev/null)
echo "kvm_amd ${version:-without a version}"
[ "$version" = "$1" ]
'''
PATH = f'{os.environ["PATH"]}:/usr/sbin:/sbin'	# not everybody's has all of it
EXCLUDED = 77		# exit status of dkms


class Host:
    """A user's machine, as a directory: with Debian's kernel, and the package unpacked"""

    def __init__(self, base: Base, deb: Path) -> None:
        self.base, self.d, self.version = base, deb.parent / 'check', deb.name.split('_')[1]
        self.release, self.headers, source = (distro.info(base, key)
                                              for key in ('release', 'headers', 'version'))
        self.modules = self.d / 'lib/modules' / self.release
        # The key that DKMS makes, and signs with
        self.env = {'PATH': PATH, 'sign_file': f'{self.headers}/scripts/sign-file',
                    'mok_signing_key': f'{self.d}/mok.key', 'mok_certificate': f'{self.d}/mok.pub'}
        for name in ('var', 'usr/lib'):
            (self.d / name).mkdir(parents=True)
        (self.d / 'lib').symlink_to('usr/lib')	# modules may be in either
        # Up to 3.0.10 it looks into /lib/modules to see whether modules are compressed
        script = read(Path(shutil.which('dkms', path=PATH)))
        put(self.d / 'dkms',
            script.replace(' /lib/modules/$kernel_test', ' $install_tree/$kernel_test'))
        image = next(place.downloads.glob(f'linux-image-{self.release}*_{source}_*.deb'), None)
        debian.unpack(image or distro.fetch_all(source, release.of_src(base)[1])[1][0], self.d,
                      '*lib/modules/*')
        debian.unpack(deb, self.d)
        self.depmod()

    def depmod(self) -> None:
        jobs.output(['depmod', '-b', self.d, self.release], env=self.env)

    def dkms(self, action: str, release: str = '') -> int | None:
        """Its exit status; what it prints is in logs/dkms-<action>.log"""
        argv = ['unshare', '-r'] if os.getuid() else []
        argv += ['bash', self.d / 'dkms', action, '--no-depmod', '--kernelsourcedir', self.headers,
                 '--dkmstree', self.d / 'var', '--sourcetree', self.d / 'usr/src', '--installtree',
                 self.d / 'lib/modules']
        argv += ['-m', dkms.NAME, '-v', self.version] if action != 'autoinstall' else []
        argv += ['-k', release or self.release] if action != 'add' else []
        return jobs.call(argv, self.base.logs / f'dkms-{action}.log', env=self.env)

    def must(self, *actions: str) -> None:
        for action in actions:
            if self.dkms(action):
                log = self.base.logs / f'dkms-{action}.log'
                raise Fatal(f'dkms {action} fails: {jobs.first_error(log)} (log: {rel(log)})')
        self.depmod()

    def files(self) -> str:
        """Names what is in /lib/modules"""
        return digest(*(part for f in sorted(self.modules.rglob('*')) if f.is_file()
                        for part in (str(f), f)))

    def prepare(self, label: str) -> None:
        """What boot() needs: a kernel, no module of KVM, the tests, /lib/modules as it is now"""
        to, debians = self.d / label, distro.place_of(self.base)
        order = [m for m in read(debians / 'modules/order').split() if not m.startswith('kvm')]
        put(to / 'modules/order', '\n'.join(order))
        put(to / 'load', LOAD)
        put(to / 'id', label)
        for name in ('vmlinux', *(f'modules/{m}.ko' for m in order)):
            (to / name).symlink_to(debians / name)
        for t in selftests.pat_tests(self.base):
            (to / t).symlink_to(self.base.b / 'selftests' / t)
        # What modprobe comes to
        needed = need_match(r'^(\S+/kvm-amd\.ko.*)$', read(self.modules / 'modules.dep'),
                            'depmod found no kvm-amd.ko')
        files = [*self.modules.glob('modules.*'),
                 *(self.modules / f for f in needed.replace(':', '').split())]
        jobs.output(['tar', '-C', self.d, '-cf', to / 'modules.tar',
                     *(f.relative_to(self.d) for f in files)])

    def boot(self, label: str, version: str) -> list[ktap.Case]:
        d, tests = self.d / label, selftests.pat_tests(self.base)
        return ktap.cases(boot.run(Kernel(d, label), label, [f'load:{version}', *tests],
                                   base=self.base, tests_dir=d, files=[d / 'modules.tar'],
                                   view=False).text())


def check(base: Base, deb: Path) -> int:
    report, log = ktap.Report(base.results / 'deb.ktap'), base.logs / 'lintian.log'
    lintian = jobs.call(['lintian', '--allow-root', '--fail-on', 'error', deb], log)
    report.item(lintian == 0, 'lintian finds no error', read(log).strip().replace('\n', '; '))
    host = Host(base, deb)
    before, other = host.files(), f'{host.release}x'
    host.must('add', 'build', 'install')
    made = sorted((host.modules / 'updates/dkms').glob('*.ko*'))
    names = {ko.name.split('.')[0] for ko in made}
    report.item(names == set(module.changed_modules(base, base.worktree())),
                'dkms add, build, install',
                ', '.join(str(ko.relative_to(host.d)) for ko in made) or 'no module')
    signer = jobs.output(['modinfo', '-F', 'signer', *made], check=False,
                         env=host.env).split('\n')[0]
    report.item(signer != '', 'the module is signed with the key of this DKMS', signer)
    report.item(host.dkms('build', other) == EXCLUDED, f'dkms build refuses Linux {other}')
    report.item(host.dkms('autoinstall', other) == 0,
                'dkms autoinstall does nothing when that is installed')
    host.prepare('deb-installed')
    host.must('remove')
    report.item(host.files() == before, 'dkms remove: /lib/modules is as it was')
    host.prepare('deb-removed')
    both = jobs.together(lambda: host.boot('deb-installed', host.version),
                         lambda: host.boot('deb-removed', ''))
    # The kernel's own has nothing of a series before this one either
    stock = base.before[0] if base.before else base
    both[1] = [c for c in both[1] if not c.case or (c.test, c.case) in expected.load(stock)]
    of_which = ((f'kvm_amd {host.version}', base, len(base.series())), ("Debian's kvm_amd", stock,
                                                                        stock.unpatched()))
    for cases, (which, of, n) in zip(both, of_which):
        load = next((c for c in cases if c.test == 'load'),
                    ktap.Case('load', '', 'not ok', 'modprobe was not run'))
        report.item(load.verdict, f'modprobe loads {which}', load.reason)
        good, text = expected.compare(of, cases, n)
        report.item(good, f'PAT tests on {which}', text)
    shutil.rmtree(host.d)
    return ktap.finish(report)


def main(args: list[str]) -> int:
    if args not in ([], ['check']):
        raise Fatal('usage: deb [check]')
    for program in ('dh_dkms', 'dkms', 'lintian', 'depmod'):
        if not shutil.which(program, path=PATH):
            raise Fatal(f'{program} is not installed: tools/nsvm/nsvm setup deb', debian.NOT_HERE)
    base = tree.make(Base())
    deb = dkms.build(base)
    say('DEB', f'for an AMD host with Linux {distro.info(base, "release")}; '
        'tools/nsvm/Documentation/lab.rst says how to install it')
    if not args:
        return 0
    module.compiler(base)
    if distro.runner(base):
        raise Fatal(f'{distro.info(base, "release")} is of a newer Debian: it can be checked there',
                    debian.NOT_HERE)
    qemu.ensure()
    selftests.build(base)
    return check(base, deb)
