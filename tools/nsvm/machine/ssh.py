# SPDX-License-Identifier: GPL-2.0
"""An AMD host over SSH: files and a script go there by one connection, which also brings the log
back

The script is machine/remote, for any POSIX shell.  The host needs nothing but sh, tar, head,
mktemp, setsid and timeout, and the user who logs in to be root or to have sudo without a password.
Settings of the connection (port, key, jump host) are those of ~/.ssh/config.
"""
import contextlib
import io
import re
import shlex
import subprocess
import tarfile
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


def pack(files: list[Path], variables: dict[str, str]) -> bytes:
    """Return a tar archive; remote comes last: if the connection breaks before, nothing is done"""
    content = {f.name: f.read_bytes() for f in files}
    content['variables'] = ''.join(f'{k}={shlex.quote(v)}\n' for k, v in variables.items()).encode()
    content['remote'] = (place.lab / 'machine/remote').read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.USTAR_FORMAT) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def run(ssh: list[str], host: str, files: list[Path], variables: dict[str, str], log: Path,
        live: Callable[[str], object]) -> str:
    """Run remote on a host, with files and variables, and return what it prints.

    Args:
        ssh: the command that connects.
        log: gets what remote prints; what ssh prints is in another file beside it.
        live: gets each line of what remote prints.

    Raises:
        Fatal: the host refuses, or the connection broke before the end.
    """
    data, lines, errors = pack(files, variables), [], log.with_suffix('.ssh')
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(errors, 'w') as err, open(log, 'w', buffering=1) as out:
        p = jobs.start([*ssh, *OPTIONS, '--', host,
                        f'sh -c {shlex.quote(UNPACK.format(size=len(data)))}'],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err)
        try:
            with contextlib.suppress(OSError):	# ssh has ended, and says why
                p.stdin.write(data)
                p.stdin.flush()		# and stays open: to close it is the end
            for raw in p.stdout:
                line = raw.decode(errors='replace').replace('\r', '')
                out.write(line)
                lines.append(line)
                live(line)
                if line == '# nsvm: done\n':
                    break
        finally:
            with contextlib.suppress(OSError):
                p.stdin.close()
            jobs.finish(p, 5)
            p.stdout.close()
    text, reason = ''.join(lines), jobs.last_line(errors.read_text())
    refused = re.search('^# nsvm: refused (.*)', text, re.M)
    if refused:
        raise Fatal(f'{host}: {refused[1]}')
    if '# nsvm: kernel ' not in text:
        reason = reason or jobs.last_line(text) or 'ssh says nothing'
        raise Fatal(f'{host}: {reason} (log: {rel(errors)})')
    if '# nsvm: done\n' not in lines:
        raise Fatal(f'{host}: the connection broke before the end: {reason or "no reason given"}; '
                    f'what was begun there is undone by the host (log: {rel(log)})')
    return text
