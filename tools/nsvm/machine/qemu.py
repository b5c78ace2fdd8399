# SPDX-License-Identifier: GPL-2.0
"""qemu - QEMU: which one, and the plugin that shows VMRUNs

A QEMU that can load the plugin (9.1 or later) is the installed one, or if that is too old
the one of the release's backports, unpacked in build/qemu with what it needs beyond what
is installed; nothing is installed.
"""
import contextlib
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lib import jobs
from lib.base import put, read
from lib.say import Fatal, elapsed, say
from lib.settings import place, rel, settings
from source import debian

DEFAULT = 'qemu-system-x86_64'
PACKAGE = 'qemu-system-x86'


@dataclass
class Qemu:
    binary: str
    version: str
    plugin: Path | None	# None: it cannot load one


chosen: dict[str, Qemu] = {}		# by the value of QEMU=
choosing = threading.Lock()


def version(binary: str) -> str:
    if not shutil.which(binary):
        raise Fatal(f'no QEMU: {binary} is not installed (make setup)')
    m = re.search(r'^QEMU emulator version ([0-9.]+)',
                  jobs.output([binary, '--version'], check=False), re.M)
    if not m:
        raise Fatal(f'{binary} --version names no version: is it QEMU?')
    return m[1]


def build_plugin() -> Path:
    source, so = place.lab / 'machine/vmrun.c', place.build / 'qemu/vmrun.so'
    log = so.with_name('plugin.log')
    newest = max(f.stat().st_mtime for f in (source, source.with_name('qemu-plugin.h')))
    if not so.exists() or so.stat().st_mtime < newest:
        tmp = so.with_suffix('.tmp')
        if jobs.call(['gcc', '-O2', '-Wall', '-Wextra', '-Wno-unused-parameter', '-Werror', '-fPIC',
                      '-shared', '-fvisibility=hidden', '-Wl,-z,now', '-o', tmp, source], log):
            raise Fatal(f'vmrun.c does not build: {jobs.first_error(log)}')
        tmp.replace(so)
    return so


def can_load(binary: str, so: Path) -> bool:
    """Whether it is there, and loads the plugin: API version and symbols are checked then"""
    if not shutil.which(binary):
        return False
    p = jobs.start([binary, '-accel', 'tcg', '-machine', 'none', '-nodefaults', '-display', 'none',
                    '-monitor', 'stdio', '-plugin', f'{so},log=/dev/null'],
                   stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   text=True)
    with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
        p.communicate('quit\n', timeout=10)
    return jobs.finish(p, 0) == 0


def find() -> Qemu:
    """Return the one to use: with the plugin if VIEW wants it and it can be had"""
    with choosing:
        if settings.QEMU not in chosen:
            so = build_plugin() if settings.VIEW == 'y' else None
            # The one that was fetched first: it is there because the other one cannot
            fetched = [str(place.build / 'qemu' / DEFAULT)] if settings.QEMU == DEFAULT else []
            able = (b for b in [*fetched, settings.QEMU] if so and can_load(b, so))
            binary = next(able, None)
            chosen[settings.QEMU] = Qemu(binary or settings.QEMU, version(binary or settings.QEMU),
                                         so if binary else None)
    return chosen[settings.QEMU]


# ---- the one of the backports ----

def fetch(d: Path) -> None:
    """Unpack it in d/root, and write a script that starts it from there"""
    status = '\n\n'.join(r for r in read(Path('/var/lib/dpkg/status')).split('\n\n')
                         if not r.startswith('Package: qemu-'))
    suite = f'{debian.codename()}-backports'
    begin = time.monotonic()
    with debian.Archive(suite, debian.own_suites()) as apt:
        apt.update(status)
        jobs.step('QEMU', place.build / 'qemu.log', f'{PACKAGE} of {suite} fetched',
                  apt.get('install', '--no-install-recommends', '--download-only', '-t', suite,
                          PACKAGE), 'cannot be fetched from backports', quiet=True)
        root = d / 'root.tmp'
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for deb in sorted((apt.dir / 'cache/archives').glob('*.deb')):
            debian.unpack(deb, root)
    shutil.rmtree(d / 'root', ignore_errors=True)
    root.rename(d / 'root')
    libs = [str(f) for f in [*(d / 'root').glob('lib/*-linux-gnu'),
                             *(d / 'root').glob('usr/lib/*-linux-gnu')]]
    put(d / DEFAULT, f"#!/bin/sh\n# {PACKAGE} of {suite}, as unpacked in {d}/root\n"
        f"LD_LIBRARY_PATH='{':'.join(libs)}' QEMU_MODULE_DIR='{libs[-1]}/qemu' \\\n"
        f"exec '{d}/root/usr/bin/{DEFAULT}' -L '{d}/root/usr/share/qemu' -L "
        f"'{d}/root/usr/share/seabios' \"$@\"\n")
    (d / DEFAULT).chmod(0o755)
    say('QEMU', f'{PACKAGE} of {suite}, unpacked in {rel(d)} ({elapsed(begin)})')


def ensure() -> None:
    """Have the plugin and a QEMU for it, or say in one line that there is none"""
    d = place.build / 'qemu'
    d.mkdir(parents=True, exist_ok=True)
    if settings.VIEW != 'y' or find().plugin:
        return
    none = f'VMRUNs are not watched: {settings.QEMU} cannot load a plugin (9.1 or later can)'
    if settings.QEMU != DEFAULT:
        say('QEMU', none)
        return
    try:
        fetch(d)
        chosen.clear()
        if not find().plugin:
            say('QEMU', f'{none}, nor can that of backports')
    except Fatal as e:
        say('QEMU', f'{none}, and there is no other: {e}')


def main(args: list[str]) -> int:
    if args:
        raise Fatal('usage: qemu')
    ensure()
    return 0
