#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""make remote, to a real sshd: emulated AMD machines with Debian's kernel and dropbear

stock has Debian's kvm_amd, and ours beside it; none has a CPU without SVM.  What make remote said
is in build/<base>/results/remote-test.txt.
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

SSHD = '''for m in failover net_failover virtio_net; do insmod /tests/$m.ko || exit 1; done
ifconfig eth0 10.0.2.15
own=/lib/modules/$(uname -r)
mkdir -p /lib64 /etc /usr /root/.ssh /home/user/.ssh "$own"
ln -s /bin /usr/bin
ln -s /tests/*.so.* /lib
ln -s /tests/ld-linux-x86-64.so.2 /lib64
printf '%s:*:%s::%s:/bin/sh\\n' root 0:0 /root user 1000:1000 /home/user >/etc/passwd
for home in /root /home/user; do cp /tests/key.pub $home/.ssh/authorized_keys; done
chmod -R go= /root /home/user
chown -R 1000:1000 /home/user
[ ! -f /job/kvm-amd.ko ] || cp /job/kvm-amd.ko "$own"
echo kvm-amd.ko: >"$own/modules.dep"
/tests/dropbear -s -r /tests/host.key -P /tmp/pid || exit 1
echo listens
until [ -f /tmp/stop ]; do sleep 0.1; done'''
STATE = 'cd /sys/module/kvm_amd && cat taint srcversion parameters/*; ls -d /tmp/tmp.*'
SHORT = 'TESTS=svm_nested_pat_vmrun_test'
# it takes longer than that
CUT = ['TESTS=svm_nested_pat_state_test', 'TEST_TIMEOUT=3', 'MODULES=1']
LIMIT = 300

from_arguments(sys.argv[1:])
base = Base()
lab, results = toy.lab, base.results
kernel, series = {'stock': Kernel(base.b / 'kernel-stock',
                                  'stock')}, Kernel(base.b / 'kernel', 'series')
dropbear = shutil.which('dropbear', path='/usr/sbin:/usr/bin')
if not dropbear or not all(k.id and (k.dir / 'vmlinux').exists()
                           for k in (kernel['stock'], series)):
    print(
        '1..0 # SKIP no dropbear (Debian: dropbear-bin), or no packaged kernel of base and series')
    sys.exit(0)
tmp = Path(tempfile.mkdtemp(prefix='remote-', suffix='.tmp', dir=base.b))
atexit.register(shutil.rmtree, tmp)
base.results = tmp / 'results'		# of the machines


def make_files() -> list[Path]:
    """For /tests: dropbear and its libraries, modules of a network card, keys"""
    for deb in distro.fetch_all(*release.of_src(base)[:2])[1]:
        if re.match('linux-(image|modules|binary)-', deb.name):
            debian.unpack(deb, tmp, '*/virtio_net.ko*', '*/net_failover.ko*', '*/failover.ko*')
    files = [Path(dropbear), *map(Path, re.findall(r'(/\S+) \(0x', jobs.output(['ldd', dropbear])))]
    for name in 'failover', 'net_failover', 'virtio_net':
        files.append(tmp / f'{name}.ko')
        files[-1].write_bytes(distro.decompress(next((tmp / 'lib').rglob(f'{name}.ko*'))))
    jobs.output(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', tmp / 'key'])
    public = jobs.output(['dropbearkey', '-t', 'ed25519', '-f', tmp / 'host.key'])
    put(tmp / 'known', f'* {re.search(r"^ssh-ed25519 .*", public, re.M)[0]}\n')
    script(tmp / 'sshd', SSHD)
    return [*files, tmp / 'key.pub', tmp / 'host.key', series.dir / 'modules/kvm-amd.ko']


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def without_svm() -> Kernel:
    k = Kernel(shutil.copytree(kernel['stock'].dir, tmp / 'none', symlinks=True), 'none')
    put(k.dir / 'modules/order', read(k.dir / 'modules/order').replace('kvm-amd\n', ''))
    return k


def there(host: str, command: str) -> str:
    """What that prints there"""
    r = subprocess.run(['ssh', '-nF', tmp / 'config', host, command], text=True,
                       capture_output=True)
    return r.stdout + r.stderr.replace('No such file', '')


def wait_for(host: str) -> None:
    limit = time.monotonic() + 60
    while 'listens' not in read(base.results / f'remote-{host}.log') and time.monotonic() < limit:
        time.sleep(0.1)


def argv(host: str, *args: str, ssh: str = 'ssh') -> list:
    return [lab / 'nsvm', 'remote', f'HOST={host}', f'SSH={ssh} -F {tmp}/config',
            *settings.arguments(), f'LOCKED={base.b}', *args]


def run_remote(host: str, *args: str) -> tuple[int, str]:
    r = subprocess.run(argv(host, *args), text=True, capture_output=True, stdin=subprocess.DEVNULL)
    with open(results / 'remote-test.txt', 'a') as f:
        f.write(f'make remote HOST={host} {" ".join(args)}: status '
                f'{r.returncode}\n{r.stdout}{r.stderr}\n')
    return r.returncode, r.stdout + r.stderr


def refuses(name: str, reason: str, host: str, *args: str) -> None:
    rc, text = run_remote(host, SHORT, *args)
    is_((rc, reason in text), (1, True), name, text)


def verdicts(text: str, test: str = '') -> list[tuple[str, str]]:
    return [(c.case, c.verdict) for c in ktap.cases(text) if test in c.test]


def cut(host: str) -> None:
    """ssh is killed while the tests run with the module of the series"""
    log = results / f'remote-{host}.log'
    log.unlink(missing_ok=True)
    script(tmp / 'ssh', f'echo $$ >{tmp}/pid; exec ssh "$@"')
    p = subprocess.Popen(argv(host, *CUT, ssh=f'{tmp}/ssh'), stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    while p.poll() is None and not re.search('run series\n.*begin', read(log), re.S):
        time.sleep(0.05)
    during = there(host, STATE)
    os.kill(int(read(tmp / 'pid')), signal.SIGKILL)
    error = p.communicate()[1]
    seen = during != own and 'tmp.' in during, p.returncode, 'the connection broke' in error
    is_(seen, (True, 1, True), 'ssh is killed', error)
    limit = time.monotonic() + 15
    while (after := there(host, STATE)) != own and time.monotonic() < limit:
        time.sleep(0.2)
    is_(after, own, "the host's own module is back, and nothing else is left")


complaints: list[str] = []


def machine(name: str) -> None:
    try:
        boot.run(kernel[name], f'remote-{name}', ['sshd'], base=base, files=files, tests_dir=tmp,
                 net=ports[name], view=False, timeout=LIMIT, test_timeout=LIMIT,
                 cpu=f'{settings.CPU},svm=off' if name == 'none' else '')
    except Fatal as e:
        complaints.append(str(e))


(results / 'remote-test.txt').unlink(missing_ok=True)
files = make_files()
kernel['none'] = without_svm()
ports = {name: free_port() for name in (*kernel, 'nowhere')}
ports['user'] = ports['stock']
put(tmp / 'config',
    ''.join(f'Host {name}\nPort {port}\nUser {"user" if name == "user" else "root"}\n'
            for name, port in ports.items()) +
    f'Host *\nHostName 127.0.0.1\nIdentityFile {tmp}/key\nUserKnownHostsFile {tmp}/known\n')
machines = [threading.Thread(target=machine, args=(name,)) for name in kernel]
settings.set(ACCEL='tcg')
for m in machines:
    m.start()
try:
    refuses('a host that is not reachable', 'Connection refused', 'nowhere')
    wait_for('stock')
    own = there('stock', STATE)
    is_(re.match('[A-Z]*\n', own) is not None and 'O' not in own.split('\n')[0], True,
        'a machine with dropbear', own)
    refuses('a user who is not root', 'user is not root there, and cannot use sudo', 'user')

    n = len(base.series())
    rc, text = run_remote('stock', 'MODULES=1')
    log = remote.sections(read(results / 'remote-stock.log'))
    for label, patches in ('stock', 0), ('series', n):
        good, why = expected.compare(base, ktap.cases(log.get(label, '')), patches)
        is_(good, True, f'MODULES=1: {label}', why)
    is_((rc, 'the series does what it should' in text), (0, True), 'and its verdict', text)
    is_(there('stock', STATE), own, "the host's own module is back, and nothing else is left")
    rc, text = run_remote('stock', SHORT)
    again = verdicts(remote.sections(read(results / 'remote-stock.log'))['host'])
    is_((rc, again), (1, verdicts(log['stock'], SHORT[6:])),
        'with it, the tests fail as on the stock kernel', text)

    there('stock', 'rmmod kvm_amd; insmod /tests/kvm-amd.ko')
    rc, text = run_remote('stock', SHORT)
    is_((rc, "its KVM does what it should" in text), (0, True), 'a host with the series: all pass',
        text)
    there('stock', 'rmmod kvm_amd; modprobe kvm_amd')

    wait_for('none')
    rc, text = run_remote('none')
    is_((rc, 'nothing was tested' in text, ' 0 ok, 0 not ok, ' in text), (4, True, True),
        'a host without SVM', text)

    held = subprocess.Popen(['ssh', '-F', tmp / 'config', 'stock', 'exec 3<>/dev/kvm; echo; cat'],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    held.stdout.readline()
    refuses('a host with /dev/kvm in use', 'a VM is running, or a program has /dev/kvm open',
            'stock', 'MODULES=1')
    held.communicate()
    cut('stock')
    there('stock', 'echo 1 >/sys/module/module/parameters/sig_enforce')
    refuses('a host with signed modules only', 'modules must be signed (module.sig_enforce)',
            'stock', 'MODULES=1')
    is_(there('stock', STATE), own, 'and that has its own module')
finally:
    for name in kernel:
        there(name, 'touch /tmp/stop')
    for m in machines:
        m.join(10)
    jobs.stop_all()
is_(complaints, [], 'the machines and their kernels have nothing to say')
print(f'1..{toy.count}')
