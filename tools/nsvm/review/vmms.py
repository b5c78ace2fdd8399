# SPDX-License-Identifier: GPL-2.0
"""vmms [patches] - the series for QEMU: do they apply, build and pass QEMU's own tests?

For each release of QEMU in patches/: the patches are what is in src; QEMU's checkpatch has no
remark, except for Signed-off-by, which the sender adds; QEMU builds with each patch; the tests
that the patches add or change pass.  patches: builds nothing, and skips a release whose source
was not fetched, because make test fetches and builds no QEMU.

make stack VMM=patched shows what the patches do for VMs.

Results: build/<base>/results/vmms.ktap.  Exit status: 0 all right, 1 not.
"""
from pathlib import Path

from lib import jobs, ktap
from lib.base import Base, names
from lib.say import Fatal
from proof.test import series_items
from source import debian, tree, vmm

UNIT, QTEST = 'tests/unit/', 'tests/qtest/'
FIRMWARE = '/usr/share/qemu', '/usr/share/seabios', '/usr/lib/ipxe/qemu'
DATA = 'qemu-bundle/usr/local/share/qemu'	# where a QEMU that is not installed looks for it


def checkpatch(base: Base, patch: str) -> str:
    """The first remark of QEMU's checkpatch on a patch, or that it has a Signed-off-by."""
    text = jobs.output(['scripts/checkpatch.pl', '--strict', '--terse', '--no-summary',
                        '--color=never', base.dir / patch], check=False, cwd=base.src)
    remarks = [line for line in text.splitlines() if line and not line.startswith('total:')]
    if not any('Missing Signed-off-by' in line for line in remarks):
        return 'has a Signed-off-by; the one who sends it adds that'
    # The changelogs say why headers don't come from the script; MAINTAINERS has the directory
    expected = 'Missing Signed-off-by', 'imported from Linux', 'added, moved or deleted file(s):'
    return next((line for line in remarks if not any(words in line for words in expected)), '')


def check_patches(base: Base, report: ktap.Report) -> None:
    report.add(series_items(base))
    for p in base.series():
        remark = checkpatch(base, p)
        report.item(not remark, f'checkpatch {p.removesuffix(".patch")}', remark)


def link_firmware(data: Path) -> None:
    """The packaged one, for a QEMU that was built without any."""
    for f in (f for d in FIRMWARE for f in Path(d).glob('*.[br][io][nm]')):
        (data / f.name).unlink(missing_ok=True)
        (data / f.name).symlink_to(f)


def run_tests(base: Base, report: ktap.Report) -> None:
    """Those that the series adds or changes; of a qtest, those of its cases that it adds."""
    files = base.git('diff', '--name-only', 'base', 'HEAD', '--', f'{UNIT}*.c',
                     f'{QTEST}*.c').split()
    for program in (f.removesuffix('.c') for f in files):
        obj = vmm.build(vmm.BINARY, program, of=base.name)
        link_firmware(obj / DATA)
        only = [] if program.startswith(UNIT) else ['-p', '/x86_64/x86/svm-nested-pat']
        text = jobs.output([obj / program, '--tap', '-k', *only], check=False, cwd=obj,
                           env={'QTEST_QEMU_BINARY': f'./{vmm.BINARY}'})
        report.add(ktap.parse('\n'.join(line for line in text.splitlines() if line[:1] != '#'),
                              program))


def main(args: list[str]) -> int:
    if args not in ([], ['patches']):
        raise Fatal('usage: vmms [patches]')
    report = ktap.Report(Base().results / 'vmms.ktap')
    for base in map(Base, names(vmm=True)):
        report.group(base.name)
        try:
            if args and not debian.at_hand(base.key('file'), '', base.key('sha256')):
                raise Fatal('its source was not fetched yet: tools/nsvm/nsvm vmms', debian.NOT_HERE)
            tree.make(base)
            check_patches(base, report)
            if not args:
                run_tests(base, report)
        except Fatal as e:
            if e.status != debian.NOT_HERE:
                raise
            report.item('skip', base.name, str(e))
    return ktap.finish(report)
