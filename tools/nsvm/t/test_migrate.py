# SPDX-License-Identifier: GPL-2.0
"""The table of proof/migrations: rules, jobs, what a log says, what people see"""
import sys
import textwrap
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.say import Fatal
from proof import migrate

ALL = tuple(migrate.PATS)
LOG = '''\
#  RUN           l2.stock.series.msrs-first ...
# saw l2=L2 hpat=L2 g_pat=g_pat next=g_pat
ok 1 l2.stock.series.msrs-first
#  RUN           l2.stock.series.msrs-last ...
# saw l2=L1 hpat=L2 g_pat=g_pat next=L1
not ok 2 l2.stock.series.msrs-last
#  RUN           smm.on.stock.msrs-first ...
# saw l2=refused
ok 3 smm.on.stock.msrs-first
#  RUN           l1.off.off.msrs-first ...
'''


class Test(unittest.TestCase):
    def test_rules(self) -> None:
        kernels = ','.join(ALL)
        rules = migrate.read_rules([f'l2 {kernels} {kernels} L2 L2 g_pat g_pat'])
        self.assertEqual(rules['l2', 'on', 'series'], ['L2', 'L2', 'g_pat', 'g_pat'])
        for text, error in ((['l2 on on L2 L2 L2 L2'] * 2, 'twice'), (['l2 on on L2'], 'four'),
                            (['l2 on on L2 L2 L2 L2'], 'to each kernel')):
            with self.assertRaisesRegex(Fatal, error):
                migrate.read_rules(text)

    def test_jobs(self) -> None:
        rules = migrate.read_rules(migrate.lines(migrate.RULES))
        jobs = list(migrate.restore_jobs(rules, ['stock', 'series'], 'off'))
        self.assertEqual(len(jobs), 2 * (5 + 7) + 2 * 2)
        self.assertIn('l2-qemu.series.off.msrs-last /tests/series l2-back.series msrs-last known '
                      'unquirked 0 L1 0 0', jobs)
        self.assertIn('l2-gpat.off.asked.msrs-last /tests/off l2.off msrs-last gpat unquirked L2 '
                      'L1 L2 L2', list(migrate.restore_jobs(rules, ALL, 'asked')))
        self.assertIn('l2-again.asked.msrs-first /tmp/keep/again again /tests/asked l2.asked '
                      'msrs-first known', list(migrate.again_jobs(ALL)))

    def test_matrix(self) -> None:
        text = migrate.matrix(migrate.read_log(LOG)).split('\n')
        self.assertEqual([line for line in text if line.startswith('  ')
                          and 'restored' not in line][1:],
                         ['  stock                        hPAT,vmcb12/L1!',
                          '  off                                                    ?!',
                          '  on              refused'])

    def test_design_page(self) -> None:
        """It has the tables; of the second one the states in which it matters whether a VMM asked
        """
        asked = ('l2', 'l2-known', 'l2-qemu', 'l2-gpat', 'l1')
        page = (migrate.place.top / 'Documentation/virt/kvm/x86/nested-svm-pat.rst').read_text()
        for every, shown in ((migrate.ALWAYS_ON, migrate.STATES), (ALL, asked)):
            table = migrate.matrix((r for r in migrate.expected(every) if r.state in shown), every)
            self.assertIn(textwrap.indent(table, '    '), page)
