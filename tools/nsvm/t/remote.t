#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""make remote, to a real sshd: an emulated AMD machine with Debian's kernel and dropbear

The machine has Debian's kvm_amd.  What make remote printed is in
build/<base>/results/remote-test.txt.  What needs no KVM is in test_remote.py.
"""
import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import toy
from toy import is_, script
from kernel import distro
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, put, read
from lib.say import Fatal
from lib.settings import from_arguments, settings
from machine import boot
from proof import expected, remote
from source import debian, release

MODULES = 'failover', 'net_failover', 'virtio_net'
SSHD = '''for m in failover net_failover virtio_net; do insmod /tests/$m.ko || exit 1; done
ifconfig eth0 10.0.2.15
own=/lib/modules/$(uname -r)
mkdir -p /lib64 /etc /usr /root/.ssh "$own"
ln -s /bin /usr/bin
ln -s /tests/*.so.* /lib
ln -s /tests/ld-linux-x86-64.so.2 /lib64
echo 'root:*:0:0::/root:/bin/sh' >/etc/passwd
cp /tests/key.pub /root/.ssh/authorized_keys
chmod -R go= /root
cp /job/kvm-amd.ko "$own"
echo kvm-amd.ko: >"$own/modules.dep"
/tests/dropbear -s -r /tests/host.key -P /tmp/pid || exit 1
echo listens
until [ -f /tmp/stop ]; do sleep 0.1; done'''
STATE = 'cd /sys/module/kvm_amd && cat taint srcversion parameters/*; ls -d /tmp/tmp.*'
SHORT = 'TESTS=svm_nested_pat_vmrun_test'
# It takes longer than that
CUT = ['TESTS=svm_nested_pat_state_test', 'TEST_TIMEOUT=3', 'MODULES=1']
LIMIT = 300

from_arguments(sys.argv[1:])
base = Base()
results, log = base.results, base.results / 'remote-host.log'
stock, series = Kernel(base.b / 'kernel-stock', 'stock'), Kernel(base.b / 'kernel', 'series')
dropbear = shutil.which('dropbear', path='/usr/sbin:/usr/bin')
if not dropbear or not all(k.id and (k.dir / 'vmlinux').exists() for k in (stock, series)):
    print(
        '1..0 # SKIP no dropbear (Debian: dropbear-bin), or no packaged kernel of base and series')
    sys.exit(0)
tmp = Path(tempfile.mkdtemp(prefix='remote-', suffix='.tmp', dir=base.b))
atexit.register(shutil.rmtree, tmp)
base.results = tmp / 'results'		# of the machine


def make_files() -> list[Path]:
    """For /tests: dropbear and its libraries, modules of a network card, keys"""
    for deb in distro.fetch_all(*release.of_src(base)[:2])[1]:
        if re.match('linux-(image|modules|binary)-', deb.name):
            debian.unpack(deb, tmp, *(f'*/{name}.ko*' for name in MODULES))
    files = [Path(dropbear), *map(Path, re.findall(r'(/\S+) \(0x', jobs.output(['ldd', dropbear])))]
    for name in MODULES:
        files.append(tmp / f'{name}.ko')
        files[-1].write_bytes(distro.decompress(next((tmp / 'lib').rglob(f'{name}.ko*'))))
    jobs.output(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', tmp / 'key'])
    public = jobs.output(['dropbearkey', '-t', 'ed25519', '-f', tmp / 'host.key'])
    put(tmp / 'known', f'* {re.search(r"^ssh-ed25519 .*", public, re.M)[0]}\n')
    script(tmp / 'sshd', SSHD)
    return [*files, tmp / 'key.pub', tmp / 'host.key']


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def on_host(command: str) -> str:
    """What that prints there"""
    r = subprocess.run(['ssh', '-nF', tmp / 'config', 'host', command], text=True,
                       capture_output=True)
    return r.stdout + r.stderr.replace('No such file', '')


def argv(*args: str, ssh: str = 'ssh') -> list:
    return [toy.lab / 'nsvm', 'remote', 'HOST=host', f'SSH={ssh} -F {tmp}/config',
            *settings.arguments(), f'LOCKED={base.b}', *args]


def run_remote(*args: str) -> tuple[int, str]:
    r = subprocess.run(argv(*args), text=True, capture_output=True, stdin=subprocess.DEVNULL)
    with open(results / 'remote-test.txt', 'a') as f:
        f.write(f'make remote {" ".join(args)}: status {r.returncode}\n{r.stdout}{r.stderr}\n')
    return r.returncode, r.stdout + r.stderr


def is_refused(name: str, reason: str) -> None:
    status, text = run_remote(SHORT, 'MODULES=1')
    is_((status, reason in text), (1, True), name, text)


def has_own_module() -> None:
    is_(on_host(STATE), own, "the host's own module is back, and nothing else is left")


def verdicts(text: str) -> list[tuple[str, str]]:
    return [(c.case, c.verdict) for c in ktap.cases(text) if SHORT.endswith(f'={c.test}')]


def cut() -> None:
    """ssh is killed while the tests run with the module of the series"""
    log.unlink(missing_ok=True)
    script(tmp / 'ssh', f'echo $$ >{tmp}/pid; exec ssh "$@"')
    p = subprocess.Popen(argv(*CUT, ssh=f'{tmp}/ssh'), stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    while p.poll() is None and not re.search('run series\n.*begin', read(log), re.S):
        time.sleep(0.05)
    during = on_host(STATE)
    os.kill(int(read(tmp / 'pid')), signal.SIGKILL)
    error = p.communicate()[1]
    is_((during != own and 'tmp.' in during, p.returncode, 'the connection broke' in error),
        (True, 1, True), 'ssh is killed', error)
    limit = time.monotonic() + 15
    while on_host(STATE) != own and time.monotonic() < limit:
        time.sleep(0.2)
    has_own_module()


complaints: list[str] = []


def run_machine() -> None:
    try:
        boot.run(stock, 'remote-host', ['sshd'], base=base, files=files, tests_dir=tmp, net=port,
                 view=False, timeout=LIMIT, test_timeout=LIMIT)
    except Fatal as e:
        complaints.append(str(e))


(results / 'remote-test.txt').unlink(missing_ok=True)
files, port = make_files(), free_port()
put(tmp / 'config', f'Host host\nPort {port}\nUser root\nHostName 127.0.0.1\n'
    f'IdentityFile {tmp}/key\nUserKnownHostsFile {tmp}/known\n')
settings.set(ACCEL='tcg')
machine = threading.Thread(target=run_machine)
machine.start()
try:
    limit = time.monotonic() + 60
    while 'listens' not in read(base.results / 'remote-host.log') and time.monotonic() < limit:
        time.sleep(0.1)
    own = on_host(STATE)
    is_(re.match('[A-Z]*\n', own) is not None and 'O' not in own.split('\n')[0], True,
        'a machine with dropbear', own)

    status, text = run_remote('MODULES=1')
    sections = remote.sections(read(log))
    for label, patches in ('stock', 0), ('series', len(base.series())):
        good, reason = expected.compare(base, ktap.cases(sections.get(label, '')), patches)
        is_(good, True, f'MODULES=1: {label}', reason)
    is_((status, 'the series does what it should' in text), (0, True), 'and its verdict', text)
    has_own_module()
    status, text = run_remote(SHORT)
    is_((status, verdicts(remote.sections(read(log))['host'])), (1, verdicts(sections['stock'])),
        'with it, the tests fail as on the stock kernel', text)

    held = subprocess.Popen(['ssh', '-F', tmp / 'config', 'host', 'exec 3<>/dev/kvm; echo; cat'],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    held.stdout.readline()
    is_refused('a host with /dev/kvm in use', 'a VM is running, or a program has /dev/kvm open')
    held.communicate()
    cut()
    on_host('echo 1 >/sys/module/module/parameters/sig_enforce')
    is_refused('a host with signed modules only', 'modules must be signed (module.sig_enforce)')
    has_own_module()
finally:
    on_host('touch /tmp/stop')
    machine.join(10)
    jobs.stop_all()
is_(complaints, [], 'the machine and its kernel have nothing to say')
print(f'1..{toy.count}')
