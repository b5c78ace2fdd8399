# SPDX-License-Identifier: GPL-2.0
"""Figures of the benchmark: what it prints, layouts taken together, tables"""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from proof import bench

LOG = '''# nsvm: begin svm_nested_pat_bench
1..3
#  RUN           vmrun.npt_on ...
# vmrun.npt_on min 11424 median 11425, 34 of 40 are the median
ok 1 vmrun.npt_on
# l1_rdmsr min 3402 median 3402, 40 of 40 are the median
ok 2 l1_rdmsr
ok 3 kvm_run_in_l1 # SKIP no such thing
'''


def subject(label: str, *runs: dict[str, int]) -> bench.Subject:
    """A kernel that has these medians, one run for each layout"""
    figures = [{row: (median, median, 40) for row, median in run.items()} for run in runs]
    return bench.Subject(label, None, figures)


class Bench(unittest.TestCase):
    def table(self, *subjects: bench.Subject) -> list[list[str]]:
        return [line.split() for line in bench.table(list(subjects))]

    def test_what_the_program_prints(self) -> None:
        self.assertEqual(bench.parse(LOG),
                         {'vmrun.npt_on': (11424, 11425, 34), 'l1_rdmsr': (3402, 3402, 40)})

    def test_columns_are_differences(self) -> None:
        a, b, c, d = (subject(label, {'r': r, 's': s}) for label, r, s in
                      (('stock', 100, 7), ('1', 103, 7), ('2', 102, 7), ('series', 101, 5)))
        self.assertEqual(self.table(a, b, c, d), [['instructions', 'stock', '1', '2', 'series'], [
            'r', '100', '+3', '-1', '+1'], ['s', '7', '.', '.', '-2']])
        self.assertEqual(self.table(a, d)[1], ['r', '100', '+1'])
        self.assertEqual(self.table(a)[1], ['r', '100'])

    def test_least_layout_counts_and_others_are_marked(self) -> None:
        a, b = subject('stock', {'r': 101}, {'r': 100}), subject('series', {'r': 100}, {'r': 102})
        self.assertEqual(self.table(a, b)[1], ['r', '100~', '.~'])
