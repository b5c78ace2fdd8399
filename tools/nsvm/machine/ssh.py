# SPDX-License-Identifier: GPL-2.0
"""An AMD host over SSH: files and a script go there by one connection, which also brings the log
back

The script is machine/remote, for any POSIX shell.  The host needs nothing but sh, tar, head,
mktemp, setsid and timeout, and the user who logs in to be root or to have sudo without a password.
Settings of the connection (port, key, jump host) are those of ~/.ssh/config.
"""
import contextlib
import io
import shlex
import tarfile
import threading
from pathlib import Path
from typing import Callable

from lib import jobs
from lib.say import Fatal
from lib.settings import place, rel

OPTIONS = ['-T', '-oBatchMode=yes', '-oConnectTimeout=10', '-oServerAliveInterval=5',
           '-oServerAliveCountMax=3']
# Of standard input the archive is the first part, and the script watches the rest of it
UNPACK = (
    'root=; [ "$(id -u)" = 0 ] || root="sudo -n"; $root true || {{ echo "# nsvm: refused $(id -un) '
    'is not root there, and cannot use sudo without a password"; exit 1; }}; d=$(mktemp -d) && '
    'head -c {size} | tar -C "$d" -xf - && $root sh "$d/remote" "$d"; rm -rf "$d"')


def archive(files: list[Path], variables: dict[str, str]) -> bytes:
    """remote comes last: without it, if the connection breaks, nothing is done"""
    out = io.BytesIO()
    content = {f.name: f.read_bytes() for f in files}
    content['variables'] = ''.join(f'{k}={shlex.quote(v)}\n' for k, v in variables.items()).encode()
    content['remote'] = (place.lab / 'machine/remote').read_bytes()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.USTAR_FORMAT) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def run(ssh: list[str], host: str, files: list[Path], variables: dict[str, str], log: Path,
        live: Callable[[str], object]) -> str:
    """What remote says, also line by line to live, and into log; Fatal if it has no end"""
    data, said, errors = archive(files, variables), [], log.with_suffix('.ssh')
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(errors, 'w') as err, open(log, 'w', buffering=1) as out:
        p = jobs.start([*ssh, *OPTIONS, '--', host,
                        f'sh -c {shlex.quote(UNPACK.format(size=len(data)))}'],
                       stdin=jobs.subprocess.PIPE, stdout=jobs.subprocess.PIPE, stderr=err)

        def send() -> None:
            try:
                p.stdin.write(data)
                p.stdin.flush()		# and stays open: to close it is the end
            except OSError:
                pass			# ssh has ended, and says why

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for raw in p.stdout:
                line = raw.decode(errors='replace').replace('\r', '')
                out.write(line)
                said.append(line)
                live(line)
                if line == '# nsvm: done\n':
                    p.stdin.close()
                    break
        except BaseException:
            jobs.kill(p)
            raise
        finally:
            jobs.finish(p, 5)
            sender.join()
            for pipe in p.stdin, p.stdout:
                with contextlib.suppress(OSError):
                    pipe.close()
    text = ''.join(said)
    refused = [line.partition('refused ')[2] for line in text.splitlines()
               if line.startswith('# nsvm: refused ')]
    if refused:
        raise Fatal(f'{host}: {refused[0]}')
    why = jobs.last_line(errors.read_text())
    if '# nsvm: kernel ' not in text:
        reason = why or jobs.last_line(text) or 'ssh says nothing'
        raise Fatal(f'{host}: {reason} (log: {rel(errors)})')
    if '# nsvm: done\n' not in said:
        raise Fatal(f'{host}: the connection broke before the end: {why or "no reason given"}; '
                    f'what was begun there is undone by the host (log: {rel(log)})')
    return text
