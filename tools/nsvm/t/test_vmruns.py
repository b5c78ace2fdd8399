# SPDX-License-Identifier: GPL-2.0
"""The checker of VMRUN logs: a log that is right, and what it says after something in it changed"""
import re
import sys
import unittest
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from proof import vmruns

# vmcb01 is at a000, vmcb02 at b000: L1 runs L2 (VMRUN 3), which reads its PAT (3), writes it (4),
# and fails to write it (5); its nCR3 changes (7), VMCB_NPT is dirty for nothing, L1 intercepts (8)
LOG = '''T # nsvm: begin svm_nested_pat_test
T #  RUN           npt_on.l2_writes ...
V 1 0 a000 0007040600070406 0 1 36e000 1 402e50 0000000000000000 a000 0007040600070406 180000
V 2 0 a000 0007040600070406 80000df7 1 36e000 1 402e58 0000000000000000 a000 0007040600070406 180000
A 2 0 a000 402e60 c000
V 3 0 b000 0006010500070406 0 1 3ac000 2 403000 0000000000000000 a000 0007040600070406 180000
M 3 0 b000 r 403010 0000000000000000
V 4 0 b000 0006010500070406 80000df7 1 3ac000 2 403012 0006010500070406 a000 0007040600070406 180000
M 4 0 b000 w 403020 0001040500010406
V 5 0 b000 0001040500010406 80000de7 1 3ac000 2 403022 0001040500010406 a000 0007040600070406 180000
M 5 0 b000 w 403030 0202020202020202
V 6 0 b000 0001040500010406 80000df7 1 3ac000 2 403030 0202020202020202 a000 0007040600070406 180000
V 7 0 b000 0001040500010406 80000de7 1 3ad000 2 404000 0202020202020202 a000 0007040600070406 180000
V 8 0 b000 0001040500010406 80000de7 1 3ad000 2 404010 0202020202020202 a000 0007040600070406 180000
M 8 0 b000 r 404010 0303030303030303
V 9 0 a000 0007040600070406 80000df7 1 36e000 1 402e70 0000000000000000 a000 0007040600070406 180000
T not ok 1 npt_on.l2_writes
E 9 end
'''
RIGHT = 'x: 9 VMRUNs, 4 accesses of IA32_PAT seen and 3 compared, VMCB_NPT dirty for nothing in 1'
CASE = 'svm_nested_pat_test npt_on.l2_writes'


def check(log: str) -> vmruns.Check:
    return vmruns.check(log.splitlines(), 'x')


class Test(unittest.TestCase):
    def test_right(self) -> None:
        self.assertTrue(check(LOG).ok)
        self.assertEqual(check(LOG).text(), RIGHT)
        all_dirty = LOG.replace('6 80000df7 1 36e000', '6 0 1 36e000')
        self.assertEqual(check(all_dirty).text(), RIGHT)

    def test_without_npt(self) -> None:
        log = re.sub(r'^(V . . .{4}) \S+ (\S+) 1 \S+', r'\1 0007040600070406 \2 0 0', LOG,
                     flags=re.M)
        self.assertEqual(check(log).text(),
                         'x: 9 VMRUNs without NPT, VMCB_NPT dirty for nothing in 3')
        log = re.sub('(?<=^V [78] 0 b000 )[^ ]*', '0006010500070406', log, flags=re.M)
        self.assertEqual([e.vmrun for e in check(log).errors], [7])	# the first of the two

    def test_no_access(self) -> None:
        log = re.sub('^M.*', '', LOG, flags=re.M)
        self.assertFalse(check(log).ok)
        self.assertTrue(check(log.replace('svm_nested_pat_test', 'smm_test')).ok)

    def test_spoilt(self) -> None:
        results = vmruns.selftest(LOG.splitlines())
        self.assertEqual([verdict for verdict, _, _ in results], ['ok'] * 12)
        self.assertEqual([detail.partition(':')[0] for _, _, detail in results], [
            'VMRUN 5', 'VMRUN 7', 'VMRUN 2', 'VMRUN 4', 'VMRUN 5', 'VMRUN 1', 'VMRUN 3', 'VMRUN 1',
            'the log has no end', 'the log has reached its limit',
            'no access of IA32_PAT was compared', 'no VMRUN was seen'])
        no_write = vmruns.selftest(LOG.replace(' w ', ' r ').splitlines())
        self.assertEqual([name for verdict, name, _ in no_write if verdict != 'ok'],
                         ['write of L2 lost'])

    def test_what_no_spoilt_log_has(self) -> None:
        for old, new, message in (
                ('403012 0006010500070406', '403012 0007040600070406',
                 '4: RDMSR returned 0007040600070406, but g_pat was 0006010500070406 at VMRUN 3'),
                ('V 4 0 b000 0006010500070406 80000df7', 'V 4 0 b000 0007040600070406 0',
                 '4: RDMSR returned 0006010500070406, but g_pat is 0007040600070406'),
                ('V 6 0 b000 0001040500010406 80000df7', 'V 6 0 b000 0007040600070406 0',
                 '6: g_pat is 0007040600070406, was 0001040500010406 before an access of IA32_PAT '
                 'that failed'),
                ('V 2 0', 'V 2 1', '2: VMCB_NPT is clean, but g_pat was , is 0007040600070406 '
                 'NP_ENABLE was , is 1 nCR3 was , is 36e000 in VMCB a000')):
            self.assertIn(old, LOG)
            self.assertEqual(check(LOG.replace(old, new)).text().split('\n')[0],
                             f'x: {CASE}: VMRUN {message}')

    def test_errors_are_counted_and_one_shown_for_each_of_ten_cases(self) -> None:
        test = LOG[:LOG.index('E 9')].replace('80000de7', 'f7')
        log = ''.join(test.replace('svm_nested', c) for c in 'abcdefghijklab') + 'E 9 end\n'
        result = check(log)
        self.assertEqual([e.case[0] for e in result.errors[::2]], list('abcdefghijklab'))
        shown = result.text().split('\n')
        self.assertEqual([line[3] for line in shown[:-1] if 'VMRUN 5:' in line], list('abcdefghij'))
        self.assertEqual(len(result.text(all=True).split('\n')), 29)
        self.assertTrue(shown[-1].endswith('; 28 errors in 12 cases'), shown[-1])
        with patch.object(vmruns, 'KEPT', 3):
            kept = check(log)
        self.assertEqual((len(kept.errors), kept.text()), (13, result.text()))

    def test_boots(self) -> None:
        other = LOG.replace('a000', 'b000').replace('b000', 'a000', 1)
        self.assertFalse(check(LOG + other).ok)
        # It would be compared at the first VMRUN there
        not_compared = LOG.replace('E 9', 'M 9 0 a000 r 402e4e 0\nE 9')
        self.assertTrue(check(not_compared + 'B\n' + LOG).ok)
        cut_off = check(LOG.replace('E 9 end\n', 'V 10 0 a0') + '\nB\n' + LOG)
        self.assertFalse(cut_off.ok)
        self.assertEqual(cut_off.text(), f'x: the log has no end\n{RIGHT}')
