# SPDX-License-Identifier: GPL-2.0
"""lava [check] - the PAT tests with the kernel of the series, as jobs for LAVA

In build/<base>/lava: vmlinuz, ramdisk (modules and tests are in it: no disk and no network is
needed once it is there), qemu.yaml, amd.yaml (a bare AMD machine that boots by iPXE).
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

missing: str | None = None
try:
    import voluptuous
    import yaml
    from lava_common import schemas
except ImportError as e:
    missing = e.name

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


def make_job(name: str, device: str, context: dict, deploy: dict, boot_action: dict) -> dict:
    """Return a job for a type of device"""
    minutes = {'minutes': -(-settings.number('TIMEOUT') // 60) + 2}
    # No prompts: LAVA would wait for a first message of the kernel, which is not seen
    monitor = {'name': NAME, 'start': START, 'end': END, 'pattern': PATTERN, 'fixupdict': VERDICT}
    return {'job_name': name, 'device_type': device, 'visibility': 'public', 'priority': 'medium',
            'context': context, 'timeouts': {'job': {'minutes': 30}, 'action': {'minutes': 10},
                                             'connection': {'minutes': 2}},
            'actions': [{'deploy': deploy}, {'boot': {**boot_action, 'timeout': minutes}},
                        {'test': {'monitors': [monitor], 'timeout': minutes}}]}


def make_jobs(name: str, kernel: dict, ramdisk: dict) -> dict[str, dict]:
    """Return both jobs; kernel and ramdisk have the URL and checksum of each"""
    images = {'kernel': {**kernel, 'image_arg': f'-kernel {{kernel}} -append "{APPEND}"'},
              'ramdisk': {**ramdisk, 'image_arg': '-initrd {ramdisk}'}}
    context = {'arch': 'amd64', 'machine': 'q35', 'cpu': settings.CPU,
               'memory': settings.number('MEMORY'), 'no_kvm': 'true'}
    as_it_is = {'compression': 'gz', 'install_modules': False, 'install_overlay': False}
    return {'qemu': make_job(f'{name}, QEMU', 'qemu', context, {'to': 'tmpfs', 'images': images},
                        {'method': 'qemu', 'media': 'tmpfs'}),
            'amd': make_job(f'{name}, AMD', settings.given.get('DEVICE', 'x86'),
                       {'extra_kernel_args': APPEND},
                       {'to': 'tftp', 'kernel': kernel, 'ramdisk': {**ramdisk, **as_it_is}},
                       {'method': 'ipxe', 'commands': 'ramdisk'})}


def make(base: Base, d: Path) -> dict[str, dict]:
    """Write the files and the jobs to a directory, and return the jobs"""
    kernel, tests = kernels.series_kernel(base), selftests.wanted(base)
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir(parents=True)
    shutil.copy(kernel.compressed, d / 'vmlinuz')
    archive = boot.make_initrd(kernel, d / 'ramdisk', boot.make_job(
        kernel, selftests.build(base), tests, [], limit=settings.number('TEST_TIMEOUT')))
    archive.write_bytes(gzip.compress(archive.read_bytes(), 1, mtime=0))
    where = settings.given.get('URL', f'file://{d}').rstrip('/')
    files = [{'url': f'{where}/{f}', 'sha256sum': hashlib.sha256((d / f).read_bytes()).hexdigest()}
             for f in ('vmlinuz', 'ramdisk')]
    made = make_jobs(f'{base.name}: {NAME}', *files)
    for name, text in made.items():
        put(d / f'{name}.yaml', yaml.safe_dump(text, sort_keys=False))
    say('LAVA', f'{rel(d)}: {", ".join(sorted(f.name for f in d.iterdir()))}')
    return made


def find_objection(text: dict) -> str:
    """Return what the schema has against a job, if anything"""
    try:
        schemas.validate(text)
    except voluptuous.Invalid as e:
        return str(e)
    return ''


def make_device(context: dict) -> dict:
    """Return what a server of LAVA would make of its own qemu.jinja2 and the job's context"""
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


def run_job(base: Base, d: Path, context: dict) -> dict[str, str]:
    """Run the job of QEMU, and return the result that LAVA has of each case"""
    root = debian.root(debian.codename(), 'lava', PACKAGES)
    log, run = base.results / 'lava.log', d / 'run'
    (root / 'var/lib/lava').mkdir(parents=True, exist_ok=True)
    if not (root / 'usr/bin/qemu-system-amd64').exists():
        # whose version it asks for
        (root / 'usr/bin/qemu-system-amd64').symlink_to('qemu-system-x86_64')
    put(run / 'device.yaml', yaml.safe_dump(make_device(context)))
    put(run / 'dispatcher.yaml', 'dispatcher_ip: 127.0.0.1\n')
    argv = [*(['unshare', '-r'] if os.getuid() else []), *debian.inside(root)[:-1], '--tmpfs',
            '/var/lib/lava', '--', 'lava-run', '--job-id', '1', '--output-dir', run,
            '--device', run / 'device.yaml', '--dispatcher', run / 'dispatcher.yaml',
            d / 'qemu.yaml']
    status = jobs.call(argv, log, settings.number('TIMEOUT'))
    messages = [yaml.safe_load(line)['msg'] for line in read(log).splitlines()
                if '"lvl": "results"' in line]
    if status:
        error = messages[-1].get('error_msg') if messages else jobs.last_line(read(log))
        raise Fatal(f'lava-run ends with status {status}: {error} (log: {rel(log)})')
    return {m['extra']['test_case_id']: m['result'] for m in messages if m['definition'] == NAME}


def find_differences(base: Base, results: dict[str, str]) -> str:
    """Return how results differ from the last make run"""
    word = {'ok': 'pass', 'not ok': 'fail', 'skip': 'skip'}
    expected = {c.case or c.test: word[c.verdict]
                for c in ktap.cases(read(base.results / 'series.log'))}
    if not expected:
        return 'no make run to compare with'
    return ', '.join(f'{name}: {results.get(name)}, and not {expected.get(name)}'
                     for name in {**expected, **results}
                     if results.get(name) != expected.get(name))


def main(args: list[str]) -> int:
    if settings.given.get('CHECK') == '1':
        args = ['check']
    if args not in ([], ['check']):
        raise Fatal('usage: lava [check]')
    if missing:
        raise Fatal(f'no Python module {missing}: tools/nsvm/nsvm setup lava', NOT_HERE)
    base = Base().lock()
    tree.make(base)
    if not kernels.is_packaged(base):
        raise Fatal(f'{base.name} has no packaged kernel', NOT_HERE)
    d, report = base.b / 'lava', ktap.Report(base.results / 'lava.ktap')
    made = make(base, d)
    for name, text in made.items():
        reason = find_objection(text)
        report.item(not reason, f'{name}.yaml is a job by the schema of LAVA', reason)
    if args:
        results = run_job(base, d, made['qemu']['context'])
        difference = find_differences(base, results)
        report.item(bool(results) and not difference, 'lava-run finds what the last make run found',
                    difference or f'{len(results)} results')
    return ktap.finish(report)
