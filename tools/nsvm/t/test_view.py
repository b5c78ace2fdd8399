# SPDX-License-Identifier: GPL-2.0
"""Story and picture of a case, from the VMRUN log of test_vmruns"""
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from proof import view
from test_vmruns import LOG

LINES = LOG.splitlines()
NAMES = {'0006010500070406': 'L2_PAT'}
TEXT = '''svm_nested_pat_test npt_on.l2_writes: not ok
      VMRUN
          1  L1 runs with g_pat 0007040600070406
          2  L1 executes VMRUN, vmcb12 at c000
          3  L2 runs with g_pat 0006010500070406 (L2_PAT), L1 keeps 0007040600070406
          3  L2 reads IA32_PAT:   0006010500070406 (L2_PAT)
          4  L2 writes IA32_PAT:  0001040500010406
          5  L2 runs with g_pat 0001040500010406, L1 keeps 0007040600070406
          5  L2 writes IA32_PAT:  0202020202020202, and faults
          8  L2 accesses IA32_PAT, which L1 intercepts
          9  L1 runs with g_pat 0007040600070406'''


class Test(unittest.TestCase):
    def test_text(self) -> None:
        self.assertEqual([view.text(s, NAMES) for s in view.stories(LINES, 'l2_writes')], [TEXT])

    def test_names_of_test_and_header(self) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            test = Path(tmp) / 'a_test.c'
            test.write_text('#include "kvm_util.h"\n#include "a.h"\n'
                            '#define GPAT\t0x0001040500010406uLL /* */\n')
            (test.parent / 'a.h').write_text('#define HPAT\t0x0007040600070406ull\t/* L1\'s */\n')
            self.assertEqual(view.pat_names(test),
                             {'0001040500010406': 'GPAT', '0007040600070406': 'HPAT'})

    def test_wanted(self) -> None:
        vmrun = LINES[2]		# after a result, or the end of a test, it is of no case
        log = LINES + [vmrun, 'T #  RUN  npt_off.l2_reads ...', 'T ok 2 npt_off.l2_reads # SKIP',
                       vmrun, 'T #  RUN  npt_on.dies ...', vmrun, 'T # nsvm: end', vmrun]
        for want in '', 'svm_nested_pat_test':
            self.assertEqual([(s.case, s.verdict, s.vmruns) for s in view.stories(log, want)],
                             [('npt_on.l2_writes', 'not ok', 9), ('npt_off.l2_reads', 'ok', 0),
                              ('npt_on.dies', '', 1)])
        self.assertEqual([s.case for s in view.stories(log, 'npt_off.l2_reads')],
                         ['npt_off.l2_reads'])
        self.assertEqual(view.stories(log, 'writes'), [])

    def test_boot_begins_anew(self) -> None:
        # the RDMSR is of the boot before
        log = LINES[:7] + ['B'] + LINES[1:2] + LINES[7:]
        kinds = [e.kind for s in view.stories(log) for e in s.events]
        self.assertEqual((kinds.count('writes'), kinds.count('reads')), (1, 0))

    def test_svg(self) -> None:
        # "A" before all else
        told = view.stories(LINES[:2] + LINES[4:5] + LINES[2:], 'l2_writes')[0]
        root = ET.fromstring(view.svg({'stock': told, 'a < b': told}, NAMES))
        texts = [e.text for e in root.iter('{http://www.w3.org/2000/svg}text')]
        self.assertLessEqual({'stock', 'a < b', 'case: not ok', 'VMRUN', 'reads L2_PAT',
                              'writes 00010406', '9', 'writes 02020202: #GP', 'access: to L1',
                              '0006010500070406 L2_PAT'}, set(texts))
        self.assertFalse({'c000', '0303030303030303'} & set(texts))
        # vmcb01.g_pat is solid while L1 runs, pale while L2 does; vmcb02.g_pat is there while L2
        # runs
        for y, expected in (60, [(1, 2, None), (3, 6, '0.28'), (9, 1, None)]), (96, [(3, 3, None),
                                                                                     (6, 3, None)]):
            boxes = [e for e in root.iter('{http://www.w3.org/2000/svg}rect')
                     if e.get('y') == str(view.TOP + y)]
            self.assertEqual([((int(e.get('x')) - view.LEFT) / view.WIDE,
                               int(e.get('width')) / view.WIDE, e.get('opacity'))
                              for e in boxes], expected)

    def test_too_long(self) -> None:
        log = LINES[:3] + LINES[3:6] * 40
        self.assertEqual(view.svg({'x': view.stories(log, 'l2_writes')[0]}, NAMES), '')
