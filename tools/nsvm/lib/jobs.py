# SPDX-License-Identifier: GPL-2.0
"""Programs that the lab starts, one or many at a time

Each is a process group of its own that ends when the lab does, however that
ends.  None has the lab's standard input, nor anything that a make above it left in
the environment, nor the settings of somebody's git or compiler.
"""
import concurrent.futures
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, TypeVar

from lib.say import Fatal, Ticker, elapsed, need_match, say
from lib.settings import place, rel, settings

# What programs get of the environment: nothing that changes what git, make or a compiler does
PASSED_ON = re.compile(
    r'PATH|HOME|USER|LOGNAME|SHELL|TERM|TMPDIR|TZ|COLUMNS|LINES|EMAIL|SSH_AUTH_SOCK|GNUPGHOME|'
    r'XDG_\w+|(https?|ftp|no|all)_proxy|(HTTPS?|FTP|NO|ALL)_PROXY|NSVM_AS_ROOT|FAKE_APT')

MEMINFO = Path('/proc/meminfo')
QEMU_ITSELF = 256		# MiB, beside the memory of its machine

T = TypeVar('T')
R = TypeVar('R')
running: set[subprocess.Popen] = set()
lock = threading.Lock()
stopping = held = False
came = 0	# the signal that did


class Terminated(Exception):
    pass


def on_signal(number: int, _) -> None:
    """Not in the middle of start(): what has just begun would not be known, and go on"""
    global came
    came = number
    if not held:
        interrupt()


def interrupt() -> None:
    raise KeyboardInterrupt if came == signal.SIGINT else Terminated()


def stop_all() -> None:
    """End what still runs; what is a program of the lab itself ends its own"""
    global stopping
    stopping = True
    with lock:
        left = [p for p in running if not has_ended(p)]
    for p in left:
        kill(p, signal.SIGTERM)
    limit = time.monotonic() + 3
    for p in left:
        has_ended(p, max(0, limit - time.monotonic()))
        kill(p)


def kill(p: subprocess.Popen, sig: int = signal.SIGKILL) -> None:
    """Signal the group of that process, unless it was reaped: its number may be another's"""
    if p.returncode is None:
        try:
            os.killpg(p.pid, sig)
        except ProcessLookupError:
            pass


def has_ended(p: subprocess.Popen, timeout: float | None = 0) -> bool:
    """Has it, at the latest at the time limit, in seconds?  It is not reaped by that"""
    if p.returncode is not None:
        return True
    try:
        fd = os.pidfd_open(p.pid)
    except ProcessLookupError:
        return True
    try:
        end = select.poll()
        end.register(fd, select.POLLIN)
        return bool(end.poll(None if timeout is None else 1000 * timeout))
    finally:
        os.close(fd)


def environment(**more: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if PASSED_ON.fullmatch(k)}
    env.update(LC_ALL='C', **more)
    return env


def start(argv: list, **popen) -> subprocess.Popen:
    """As Popen; to be waited for by finish()"""
    global held
    popen.setdefault('stdin', subprocess.DEVNULL)
    popen['env'] = environment(**popen.pop('env', {}))
    with lock:
        if stopping:
            raise Terminated()
        held = True
        try:
            p = subprocess.Popen([str(a) for a in argv], **{'start_new_session': True, **popen})
            running.add(p)
        finally:
            held = False
    if came:
        interrupt()
    return p


def finish(p: subprocess.Popen, timeout: float | None = None) -> int | None:
    """End its group, and take the exit status: negative for a signal, None if it was killed at the
    time limit.

    The group is killed while the process that leads it is not reaped: until then, nobody else gets
    its number.
    """
    try:
        ended = has_ended(p, timeout)
    finally:
        kill(p)
        p.wait()
        with lock:
            running.discard(p)
    return p.returncode if ended else None


def call(argv: list, log: Path | None = None, timeout: float | None = None, **popen) -> int | None:
    """Run it, with its output in log (or nowhere); see finish()"""
    if log is None:
        return finish(start(argv, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, **popen),
                      timeout)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'w') as f:
        if settings.V != '1':
            return finish(start(argv, stdout=f, stderr=subprocess.STDOUT, **popen), timeout)
        p = start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                  errors='replace', **popen)
        for line in p.stdout:
            f.write(line)
            sys.stdout.write(line)
        return finish(p, timeout)


def output(argv: list, check: bool = True, **popen) -> str:
    """What it prints; Fatal with its last words if it fails and check is set"""
    data = popen.pop('input', None)
    if data is not None:
        popen['stdin'] = subprocess.PIPE
    p = start(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace',
              **popen)
    try:
        out, err = p.communicate(data)
    finally:
        rc = finish(p)
    if rc and check:
        raise Fatal(
            f'{Path(str(argv[0])).name}: {last_line(err) or last_line(out) or f"exit status {rc}"}')
    return out


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ''


ERRORS = [re.compile(pattern, re.M) for pattern in (
    r'No space left on device',
    r'^.*:[0-9]+(:[0-9]+)?: (fatal )?error:.*|^.*: undefined reference.*|^(fatal|error):.*|^E: .*',
    r'(?i)^.*(error|\*\*\*|cannot|unable|not found).*')]


def first_error(log: Path, rc: int | None = 1) -> str:
    """The line of a log that says what went wrong"""
    text = log.read_text(errors='replace') if log.exists() else ''
    for pattern in ERRORS:
        m = pattern.search(text)
        if m:
            return m[0].strip()
    if os.statvfs(place.build).f_bavail < 256:
        return 'No space left on device'	# for the log neither
    return last_line(text) or ('time limit' if rc is None else f'exit status {rc}')


def step(tag: str, log: Path, text: str, argv: list, fail: str = '', status: int = 1,
         quiet: bool = False, **popen) -> None:
    """A step of its own: say it and how long it took, or end with its first error

    fail: how the message begins, such as "cannot unpack x"."""
    begin = time.monotonic()
    with Ticker(tag, text):
        rc = call(argv, log, **popen)
    if rc != 0:
        error = first_error(log, rc).replace(f'{place.top}/', '')
        raise Fatal(f'{fail or text + " failed"}: {error} (log: {rel(log)})', status)
    if not quiet:
        say(tag, f'{text} ({elapsed(begin)})')


def workers(machines: int = 1) -> int:
    """How many things to do at a time: JOBS=, or one a CPU as far as memory for machines goes"""
    available = need_match('^MemAvailable: *([0-9]+)', MEMINFO.read_text(),
                           f'{MEMINFO} has no MemAvailable')
    fitting = int(available) // 1024 // (machines * (settings.number('MEMORY') + QEMU_ITSELF))
    return settings.number('JOBS') or max(1, min(len(os.sched_getaffinity(0)), fitting))


def each(fn: Callable[[T], R], items: Iterable[T],
         at_once: int | None = None) -> Iterator[tuple[T, R]]:
    """fn of each item, some at once, as they are done; after the first Fatal nothing is begun"""
    pool = concurrent.futures.ThreadPoolExecutor(at_once or workers())
    futures = {pool.submit(fn, item): item for item in items}
    try:
        for f in concurrent.futures.as_completed(futures):
            yield futures[f], f.result()
    except Exception:
        pool.shutdown(cancel_futures=True)	# what has begun ends: others may need it
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        stop_all()
        raise
    pool.shutdown()


def together(*fns: Callable[[], R]) -> list[R]:
    """What they return, in that order"""
    done = dict(each(lambda i: fns[i](), range(len(fns)), len(fns)))
    return [done[i] for i in range(len(fns))]
