# SPDX-License-Identifier: GPL-2.0
"""carry [patches|unit|machine]... - QEMU with the series of the VMM in patches/ carries all of nested state

patches  they apply to the release, are what is in src, and QEMU's checkpatch has no remark but
         for Signed-off-by, which the sender adds
unit     QEMU builds with them, its unit test of the vmstate passes
machine  on the emulated machine, with our KVM and the distribution's, QEMUs with and without
         the series save an L1 with a running L2, and restore what they saved of each other:
         the PAT that L2 has then, of what it wrote and never left.  The other QEMUs are the
         packaged ones.  What L1 and L2 do is in machine/l1.S.
Without an argument, all.  With "patches" only, and without the source, it is skipped: make test
fetches and builds no QEMU.

Results: build/<base>/results/carry.ktap, carry-*.log.  Exit status: 0 all right, 1 not.
"""
import shutil
import tarfile
from pathlib import Path

from kernel import kernels
from lib import jobs, ktap
from lib.base import Base, names, put
from lib.say import Fatal
from lib.settings import place, settings
from machine import boot, levels, qemu
from proof.test import series_items
from source import debian, tree, vmm

PC = 'pc-i440fx-'
LINK = ['-Wl,-Ttext=0xf0000', '-Wl,--oformat=binary', '-Wl,--build-id=none']
PROPERTY = 'x-migrate-svm-nested-header'
# As machine/l1.S has them: what L2 wrote; L1's
L2, L1 = '0007010600070106', '0007040500070405'


# ---- patches, unit test ----

def checkpatch(base: Base, patch: str) -> str:
    said = jobs.output(['scripts/checkpatch.pl', '--strict', '--terse', '--no-summary', '--color=never',
                        base.dir / patch], check=False, cwd=base.src)
    remarks = [line for line in said.splitlines() if line and not line.startswith('total:')]
    if not any('Missing Signed-off-by' in line for line in remarks):
        return 'has a Signed-off-by; the one who sends it adds that'
    return next((line for line in remarks if 'Missing Signed-off-by' not in line), '')


def patches(base: Base, report: ktap.Report) -> None:
    report.add(series_items(base))
    for p in base.series():
        wrong = checkpatch(base, p)
        report.item(not wrong, f'checkpatch {p.removesuffix(".patch")}', wrong)


def unit(base: Base, report: ktap.Report) -> None:
    """What the series adds to QEMU's unit tests"""
    for path in base.git('diff', '--name-only', '--diff-filter=A', 'base', 'HEAD', '--', 'tests/unit/*.c').split():
        program = path.removesuffix('.c')
        said = jobs.output([vmm.build(vmm.BINARY, program) / program, '--tap', '-k'], check=False)
        report.add(ktap.parse('\n'.join(line for line in said.splitlines() if line[:1] != '#'), program))


# ---- on the machine ----

def pack(root: Path, to: Path) -> None:
    """QEMU as it is in that root, with its libraries"""
    with tarfile.open(to, 'w', dereference=True) as archive:
        for f in levels.vmm(root):
            archive.add(f, f.name)


def packaged() -> dict[str, Path]:
    """Version -> root, of the machine's own QEMU and of the one of backports"""
    roots = {place.build / 'qemu' / qemu.DEFAULT: place.build / 'qemu/root',
             Path('/usr/bin') / qemu.DEFAULT: Path('/')}
    return {qemu.version(str(binary)): root for binary, root in roots.items() if binary.exists()}


def of_series(release: str, others: list[str]) -> list[str]:
    """For machine/carry, on the KVM of the series: the machine type of this release, an older one, the property"""
    now, before = PC + release, f'{PC}9.2'
    todo = [f'save all new host {now} 1', f'restore all new {now} {L2}',
            f'save older new host {before} 0', f'restore older new {before} {L1}',
            f'save older-on new host,{PROPERTY}=on {before} 1', f'restore older-on new {before} {L2}']
    for other in others:
        newest = other.startswith(f'{release}.')
        machine = now if newest else PC + '.'.join(other.split('.')[:2])
        todo += [f'save by-{other} {other} host {machine} 0', f'restore by-{other} new {machine} {L1}',
                 f'restore by-{other} {other} {machine} {L1}']
        if newest:
            todo += [f'restore all {other} {now} refused', f'restore older {other} {before} {L1}',
                     f'save all-off new host,{PROPERTY}=off {now} 0', f'restore all-off {other} {now} {L1}']
        else:
            todo += [f'save for-{other} new host {machine} 0', f'restore for-{other} {other} {machine} {L1}']
    return todo


def of_base(release: str, others: list[str]) -> list[str]:
    """On a KVM with one PAT there is nothing to carry, and any QEMU restores what any other saved"""
    now = PC + release
    todo = [f'save all new host {now} 0', f'restore all new {now} {L2}']
    for other in others:
        if other.startswith(f'{release}.'):
            todo += [f'restore all {other} {now} {L2}', f'save by-{other} {other} host {now} 0',
                     f'restore by-{other} new {now} {L2}']
    return todo


def machine(base: Base, vm: Base, report: ktap.Report) -> None:
    tree.make(base)
    qemu.ensure()
    vmm.build()
    settings.set(MEMORY='2048')
    release, others, d = '.'.join(vm.key('kernel').split('.')[:2]), packaged(), base.b / 'carry'
    if not any(version.startswith(f'{release}.') for version in others):
        report.item('skip', f'QEMU {release} without the series', 'there is no package of it here')
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir()
    for version, root in {'new': vm.b / 'root', **others}.items():
        pack(root, d / f'{version}.tar')
    jobs.step('CARRY', base.logs / 'l1.log', 'L1 and L2', ['gcc', '-nostdlib', '-static', *LINK, '-o', d / 'l1.bin',
              place.lab / 'machine/l1.S'], 'l1.S does not build', quiet=True)
    for label, kernel, todo in (('series', kernels.series_kernel(base), of_series),
                                ('base', kernels.base_kernel(base), of_base)):
        put(d / 'jobs', ''.join(f'{line}\n' for line in todo(release, list(others))))
        done = boot.run(kernel, f'carry-{label}', ['carry:jobs'], base=base, files=[*d.iterdir()], view=False,
                        tests_dir=place.lab / 'machine', timeout=900, test_timeout=900)
        for c in ktap.cases(done.text()):
            if c.case or c.verdict != 'ok':
                report.item(c.verdict, f'{label}: {(c.case or c.test).replace("_", " ")}', c.reason)
    shutil.rmtree(d)


def main(args: list[str]) -> int:
    parts = args or ['patches', 'unit', 'machine']
    if not set(parts) <= {'patches', 'unit', 'machine'}:
        raise Fatal('usage: carry [patches|unit|machine]...')
    base, vm = Base(), Base(names(vmm=True)[-1])
    report = ktap.Report(base.results / 'carry.ktap')
    try:
        if args == ['patches'] and not debian.at_hand(vm.key('file'), '', vm.key('sha256')):
            raise Fatal('its source was not fetched yet: tools/nsvm/nsvm carry', debian.NOT_HERE)
        tree.make(vm)
    except Fatal as e:
        if e.status != debian.NOT_HERE:
            raise
        report.item('skip', vm.name, str(e))
        return ktap.finish(report)
    if 'patches' in parts:
        patches(vm, report)
    if 'unit' in parts:
        unit(vm, report)
    if 'machine' in parts:
        machine(base.lock(), vm, report)
    return ktap.finish(report)
