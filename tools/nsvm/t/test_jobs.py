# SPDX-License-Identifier: GPL-2.0
"""How many things at a time, which of them in a shard, and what is done alone"""
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import jobs
from lib.base import alone
from lib.say import Fatal
from lib.settings import settings
from proof import model


def with_settings(**values: str):
    return mock.patch.object(settings, 'given', {'JOBS': '0', 'MEMORY': '1024', **values})


class Workers(unittest.TestCase):
    def workers(self, cpus: int, mib: int, machines: int = 1, **values: str) -> int:
        with tempfile.NamedTemporaryFile('w') as f, with_settings(**values), \
                mock.patch.object(jobs, 'MEMINFO', Path(f.name)), \
                mock.patch.object(jobs.os, 'sched_getaffinity', lambda _: range(cpus)):
            print(f'MemTotal: 99999999 kB\nMemAvailable: {mib * 1024} kB\nSwapFree: 1 kB', file=f, flush=True)
            return jobs.workers(machines)

    def test_all_cpus_if_there_is_memory(self) -> None:
        for want, cpus, mib, machines in ((32, 32, 64 << 10, 1), (25, 32, 32 << 10, 1), (12, 32, 32 << 10, 2),
                                          (2, 2, 5120, 2), (1, 8, 100, 1)):
            self.assertEqual(self.workers(cpus, mib, machines), want)
        self.assertEqual(self.workers(32, 32 << 10, MEMORY='7936'), 4)

    def test_as_told(self) -> None:
        self.assertEqual(self.workers(2, 100, JOBS='7'), 7)


class Shards(unittest.TestCase):
    def test_each_in_one(self) -> None:
        items = list(range(17))
        for of in (1, 2, 3, 8, 17, 20):
            parts = []
            for i in range(1, of + 1):
                with with_settings(SHARD=f'{i}/{of}'):
                    parts.append(jobs.mine(items))
            self.assertEqual(sorted(n for part in parts for n in part), items)
            self.assertLessEqual(max(map(len, parts)) - min(map(len, parts)), 1)

    def test_each_beginning_in_one_machine(self) -> None:
        """As svm_nested_pat_model.c divides them; shards have machines of their own number"""
        for machines in ([1], [3], [1, 2, 5], [2, 2]):
            done: list[int] = []
            for i, n in enumerate(machines, 1):
                with with_settings(SHARD=f'{i}/{len(machines)}'):
                    shares = [tuple(map(int, s.split('/'))) for s in model.machine_shares(n)]
                done += [b for share, of in shares for b in range(100) if b % of == share]
            self.assertEqual(sorted(done), list(range(100)))

    def test_not_one(self) -> None:
        for bad in ('0/3', '4/3', '3', '1/0', '-1/3', 'a/b', ''):
            with with_settings(SHARD=bad), self.assertRaisesRegex(Fatal, 'is not like 2/3'):
                jobs.shard()


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
