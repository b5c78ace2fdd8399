# SPDX-License-Identifier: GPL-2.0
"""lava [check] - the PAT tests with the kernel of the series, as jobs for LAVA

In build/<base>/lava: vmlinuz, ramdisk (modules and tests are in it: no disk and no network is
needed once it is there), qemu.yaml, amd.yaml (a bare AMD machine that boots by iPXE), SHA256SUMS.
Each case is a test case of LAVA, as is each test: of these "pass" means that it ended well.

  URL=     where LAVA finds the files; else where they are here, for a worker on this machine
  DEVICE=  LAVA's device type of the AMD machine (x86)

The jobs have to be valid by the schema of Debian's lava-common.  check: lava-run of Debian's
lava-dispatcher, unpacked in build/roots/lava (900 MB), runs the first one, and has to find what the
last make run found.

Results: build/<base>/results/lava.ktap, lava.log.
Exit status: 0; 1 if something is wrong; 3 without lava-common or a packaged kernel.
"""
import gzip
import hashlib
import os
import shutil
from pathlib import Path

from kernel import kernels, selftests
from lib import jobs, ktap
from lib.base import Base, put, read
from lib.say import Fatal, say
from lib.settings import rel, settings
from machine import boot
from source import debian, tree
from source.debian import NOT_HERE

NAME = 'svm_nested_pat'
PACKAGES = ['lava-dispatcher', 'qemu-system-x86', 'base-files', 'bash', 'coreutils']
# Kernel messages would be in the middle of results; those of a panic are still seen
APPEND = 'console=ttyS0,115200 out=/dev/console panic=-1 mitigations=off loglevel=1'
START, END = '# nsvm: kernel ', '# nsvm: done'
# The result is what is in the line, of "ok 1 x # SKIP y" the "o": a name may be used once only
PATTERN = (
    r'(?:^|\n)(?=(?:(?:not )?ok \d+|# nsvm: end) (?P<test_case_id>\S+)[^\n]*\n)'
    r'(?:# nsvm: end \S+ )?'
    r'(?P<result>not ok|o(?=k \d+ \S+ +# SKIP)|ok|rc=0(?= )|rc=4(?= )|rc=)')
VERDICT = {'ok': 'pass', 'not ok': 'fail', 'o': 'skip', 'rc=0': 'pass', 'rc=4': 'skip',
           'rc=': 'fail'}


def job(name: str, device: str, context: dict, deploy: dict, boot: dict) -> dict:
    minutes = {'minutes': -(-settings.number('TIMEOUT') // 60) + 2}
    # No prompts: LAVA would wait for a first message of the kernel, which is not seen
    monitor = {'name': NAME, 'start': START, 'end': END, 'pattern': PATTERN, 'fixupdict': VERDICT}
    return {'job_name': name, 'device_type': device, 'visibility': 'public', 'priority': 'medium',
            'context': context, 'timeouts': {'job': {'minutes': 30}, 'action': {'minutes': 10},
                                             'connection': {'minutes': 2}},
            'actions': [{'deploy': deploy}, {'boot': {**boot, 'timeout': minutes}},
                        {'test': {'monitors': [monitor], 'timeout': minutes}}]}


def make_jobs(name: str, files: dict[str, dict]) -> dict[str, dict]:
    """files: of kernel and ramdisk URL and checksum"""
    images = {'kernel': {**files['kernel'], 'image_arg': f'-kernel {{kernel}} -append "{APPEND}"'},
              'ramdisk': {**files['ramdisk'], 'image_arg': '-initrd {ramdisk}'}}
    context = {'arch': 'amd64', 'machine': 'q35', 'cpu': settings.CPU,
               'memory': settings.number('MEMORY'), 'no_kvm': 'true'}
    ramdisk = {**files['ramdisk'], 'compression': 'gz', 'install_modules': False,
               'install_overlay': False}
    return {'qemu': job(f'{name}, QEMU', 'qemu', context, {'to': 'tmpfs', 'images': images},
                        {'method': 'qemu', 'media': 'tmpfs'}),
            'amd': job(f'{name}, AMD', settings.given.get('DEVICE', 'x86'),
                       {'extra_kernel_args': APPEND},
                       {'to': 'tftp', 'kernel': files['kernel'], 'ramdisk': ramdisk},
                       {'method': 'ipxe', 'commands': 'ramdisk'})}


def make(base: Base, d: Path) -> dict[str, dict]:
    """The files, and the jobs"""
    import yaml
    kernel, tests = kernels.series_kernel(base), selftests.wanted(base)
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir(parents=True)
    shutil.copy(kernel.compressed, d / 'vmlinuz')
    boot.make_initrd(kernel, d / 'cpio', boot.make_job(kernel, selftests.build(base), tests, [],
                                                        limit=settings.number('TEST_TIMEOUT')))
    (d / 'ramdisk').write_bytes(gzip.compress((d / 'cpio').read_bytes(), 1, mtime=0))
    (d / 'cpio').unlink()
    where = settings.given.get('URL', f'file://{d}').rstrip('/')
    sums = {f: hashlib.sha256((d / f).read_bytes()).hexdigest() for f in ('vmlinuz', 'ramdisk')}
    put(d / 'SHA256SUMS', ''.join(f'{sha}  {f}\n' for f, sha in sums.items()))
    kernel_file, ramdisk = ({'url': f'{where}/{f}', 'sha256sum': sha} for f, sha in sums.items())
    made = make_jobs(f'{base.name}: {NAME}', {'kernel': kernel_file, 'ramdisk': ramdisk})
    for name, text in made.items():
        put(d / f'{name}.yaml', yaml.safe_dump(text, sort_keys=False))
    say('LAVA', f'{rel(d)}: {", ".join(sorted(f.name for f in d.iterdir()))}')
    return made


def objection(text: dict) -> str:
    """What the schema has against a job"""
    from lava_common import schemas
    from voluptuous import Invalid
    try:
        schemas.validate(text)
    except Invalid as e:
        return str(e)
    return ''


def device(context: dict) -> dict:
    """What a server of LAVA would make of its own qemu.jinja2 and the job's context"""
    options = ['-nographic', '-nodefaults', '-serial stdio', f'-machine {context["machine"]}',
               f'-cpu {context["cpu"]}', f'-m {context["memory"]}']
    command = {'command': 'qemu-system-x86_64', 'options': options, 'extra': []}
    return {'device_type': 'qemu', 'available_architectures': [context['arch']], 'parameters': {},
            'commands': {},
            'constants': {'failure_retry': 1, 'boot_retry': 1, 'spawn_maxread': '4092'},
            'timeouts': {'actions': {}, 'connections': {}},
            'actions': {'deploy': {'connections': {}, 'methods': {'image': {'parameters': {}}}},
                        'boot': {'connections': {'serial': None},
                                 'methods': {'qemu': {'parameters': command}}}}}


def lava_run(base: Base, d: Path, context: dict) -> dict[str, str]:
    """The job of QEMU, run: what LAVA found"""
    import yaml
    root, log, run = debian.root(debian.codename(), 'lava',
                                 PACKAGES), base.results / 'lava.log', d / 'run'
    (root / 'var/lib/lava').mkdir(parents=True, exist_ok=True)
    if not (root / 'usr/bin/qemu-system-amd64').exists():
        # whose version it asks for
        (root / 'usr/bin/qemu-system-amd64').symlink_to('qemu-system-x86_64')
    put(run / 'device.yaml', yaml.safe_dump(device(context)))
    put(run / 'dispatcher.yaml', 'dispatcher_ip: 127.0.0.1\n')
    argv = [*(['unshare', '-r'] if os.getuid() else []), *debian.inside(root)[:-1], '--tmpfs',
            '/var/lib/lava', '--']
    rc = jobs.call([*argv, 'lava-run', '--job-id', '1', '--output-dir', run, '--device',
                    run / 'device.yaml', '--dispatcher', run / 'dispatcher.yaml', d / 'qemu.yaml'],
                   log, settings.number('TIMEOUT'))
    lines = [yaml.safe_load(line) for line in read(log).splitlines() if '"lvl": "results"' in line]
    if rc:
        error = lines[-1]['msg'].get('error_msg') if lines else jobs.last_line(read(log))
        raise Fatal(f'lava-run ends with status {rc}: {error} (log: {rel(log)})')
    return {m['extra']['test_case_id']: m['result'] for line in lines
            if (m := line['msg'])['definition'] == NAME}


def differences(base: Base, have: dict[str, str]) -> str:
    """To the last make run"""
    word = {'ok': 'pass', 'not ok': 'fail', 'skip': 'skip'}
    want = {c.case or c.test: word[c.verdict]
            for c in ktap.cases(read(base.results / 'series.log'))}
    if not want:
        return 'no make run to compare with'
    return ', '.join(f'{name}: {have.get(name)}, and not {want.get(name)}'
                     for name in {**want, **have} if have.get(name) != want.get(name))


def main(args: list[str]) -> int:
    if settings.given.get('CHECK') == '1':
        args = ['check']
    if args not in ([], ['check']):
        raise Fatal('usage: lava [check]')
    try:
        import lava_common.schemas, yaml	# noqa: F401
    except ImportError as e:
        raise Fatal(f'no Python module {e.name}: tools/nsvm/nsvm setup lava', NOT_HERE) from None
    base = Base().lock()
    tree.make(base)
    if not kernels.is_packaged(base):
        raise Fatal(f'{base.name} has no packaged kernel', NOT_HERE)
    d, report = base.b / 'lava', ktap.Report(base.results / 'lava.ktap')
    made = make(base, d)
    for name, text in made.items():
        reason = objection(text)
        report.item(not reason, f'{name}.yaml is a job by the schema of LAVA', reason)
    if args:
        have = lava_run(base, d, made['qemu']['context'])
        wrong_ones = differences(base, have)
        report.item(bool(have) and not wrong_ones, 'lava-run finds what the last make run found',
                    wrong_ones or f'{len(have)} results')
    return ktap.finish(report)
