# SPDX-License-Identifier: GPL-2.0
"""Results of make run as JSON and JUnit: complete, well-formed, whatever a machine says"""
import json
import sys
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from lib import ktap
from lib.ktap import Case
from proof import report, vmruns
from test_vmruns import LOG

TEST, SEEN = 'svm_nested_pat_test', 'npt_on.l2_writes'
FOUND = {'stock': [Case(TEST, SEEN, 'not ok', 'x'), Case(TEST, 'b', 'ok'),
                  Case(TEST, '', 'not ok', '', 20)],
         'series': [Case(TEST, SEEN, 'ok'), Case(TEST, 'b', 'not ok', '<i>&"\x1b[0m\0'),
                    Case(TEST, 'new', 'skip', 'no'), Case(TEST, '', 'not ok', '1 not ok', 30),
                    Case('alone', '', 'not ok', 'dies', 5)]}


def made() -> dict:
    check = vmruns.check(LOG.splitlines(), 'series')
    return report.as_json('toy', False, FOUND, {'stock': None, 'series': check},
                          {'source': '<a>'})


class Test(unittest.TestCase):
    def test_json(self) -> None:
        run = made()
        self.assertEqual(json.loads(json.dumps(run)), run)
        self.assertEqual([(c['case'] or c['test'], c['stock'], c['series']) for c in run['cases']],
                         [(SEEN, 'not ok', 'ok'), ('b', 'ok', 'not ok'), ('new', None, 'skip'),
                          ('alone', None, 'not ok')])
        self.assertEqual(run['summary'],
                         {'ok': 1, 'not ok': 2, 'skip': 1, 'fixed': 1, 'held': 0, 'broken': 1})
        self.assertEqual((run['milliseconds']['series'], run['vmruns']['series']),
                         ({TEST: 30, 'alone': 5}, {'seen': 9, 'accesses': 4, 'errors': 0}))

    def test_junit(self) -> None:
        suites = ET.fromstring(report.as_junit(made(), 'series: VMRUN 3'))
        self.assertEqual([[s.get(a) for a in ('name', 'tests', 'failures', 'skipped', 'time')]
                          for s in suites], [[TEST, '3', '1', '1', '0.030'], [
                              'alone', '1', '1', '0', '0.005'], ['VMRUNs', '1', '1', '0', '0.000']])
        self.assertEqual([f.get('message') for f in suites.iter('failure')],
                         ['<i>&"?[0m?', 'dies', 'series: VMRUN 3'])
        self.assertEqual(len([*ET.fromstring(report.as_junit(made(), '')).iter('testcase')]), 4)

    def test_rows(self) -> None:
        """A test that failed after its cases had passed; what only the stock kernel had"""
        killed = [Case('t', 'a', 'ok'), Case('t', '', 'not ok', 'killed')]
        rows = ktap.rows([Case('t', 'gone', 'ok'), Case('u', '', 'ok')],
                         [*killed, Case('u', '', 'ok')])
        self.assertEqual([(r.test, r.case, r.series.reason) for r in rows],
                         [('t', 'gone', 'was not run'), ('u', '', ''), ('t', 'a', '')])
        rows = ktap.rows([], killed)
        self.assertEqual([(r.case, r.stock, r.series.reason) for r in rows], [('a', '', ''),
                                                                             ('', '', 'killed')])
