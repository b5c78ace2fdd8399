# SPDX-License-Identifier: GPL-2.0
"""How many things at a time, how a program ends, and what is done alone"""
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import jobs
from lib.base import alone
from lib.settings import settings


def with_settings(**values: str):
    return mock.patch.object(settings, 'given', {'JOBS': '0', 'MEMORY': '1024', **values})


class Workers(unittest.TestCase):
    def workers(self, cpus: int, mib: int, machines: int = 1, **values: str) -> int:
        with tempfile.NamedTemporaryFile('w') as f, with_settings(**values), \
                mock.patch.object(jobs, 'MEMINFO', Path(f.name)), \
                mock.patch.object(jobs.os, 'sched_getaffinity', lambda _: range(cpus)):
            print(f'MemTotal: 99999999 kB\nMemAvailable: {mib * 1024} kB\nSwapFree: 1 kB', file=f,
                  flush=True)
            return jobs.workers(machines)

    def test_all_cpus_if_there_is_memory(self) -> None:
        for want, cpus, mib, machines in ((32, 32, 64 << 10, 1), (25, 32, 32 << 10, 1),
                                          (12, 32, 32 << 10, 2), (2, 2, 5120, 2), (1, 8, 100, 1)):
            self.assertEqual(self.workers(cpus, mib, machines), want)
        self.assertEqual(self.workers(32, 32 << 10, MEMORY='7936'), 4)

    def test_as_told(self) -> None:
        self.assertEqual(self.workers(2, 100, JOBS='7'), 7)


class Groups(unittest.TestCase):
    def test_a_group_is_killed_while_its_leader_has_the_number(self) -> None:
        states: list[str] = []

        def killpg(pid: int, _: int) -> None:
            states.append(Path(f'/proc/{pid}/stat').read_text().split(') ')[1][0]
                          if Path(f'/proc/{pid}').exists() else 'gone')
        for argv, timeout, status in ((['true'], None, 0), (['false'], 5, 1)):
            with mock.patch.object(jobs.os, 'killpg', killpg):
                self.assertEqual(jobs.finish(jobs.start(argv), timeout), status)
        self.assertEqual(states, ['Z', 'Z'])

    def test_what_was_reaped_is_not_killed(self) -> None:
        p = jobs.start(['true'])
        p.wait()
        with mock.patch.object(jobs.os, 'killpg') as killpg:
            self.assertEqual(jobs.finish(p), 0)
        killpg.assert_not_called()

    def test_the_time_limit(self) -> None:
        self.assertIsNone(jobs.finish(jobs.start(['sleep', '9']), 0.1))

    def test_what_a_leader_leaves_ends(self) -> None:
        with tempfile.TemporaryDirectory() as d:
            self.assertEqual(jobs.call(['sh', '-c', f'sleep 60 & echo $! >{d}/pid']), 0)
            state = Path(f'/proc/{Path(d, "pid").read_text().strip()}/stat')
            limit = time.monotonic() + 10
            while state.exists() and ') Z' not in state.read_text() and time.monotonic() < limit:
                time.sleep(0.02)
            self.assertLess(time.monotonic(), limit)


class Alone(unittest.TestCase):
    def test_threads(self) -> None:
        inside: list[int] = []

        def work() -> tuple[int, None]:
            with alone(Path(d) / 'new/lock'):
                inside.append(1)
                time.sleep(0.01)
                return len(inside), inside.clear()
        with tempfile.TemporaryDirectory() as d:
            self.assertEqual(jobs.together(*[work] * 4), [(1, None)] * 4)
