# SPDX-License-Identifier: GPL-2.0
"""What LAVA makes of the output of a machine, by the expressions of the job"""
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import lava

LOG = '''\
# nsvm: begin a_test
TAP version 13
1..4
# ok 7 a.comment
ok 1 x.good
not ok 2 x.bad
ok 3 x.skipped # SKIP no NPT
ok 4 x.last
# nsvm: end a_test rc=1 ms=10

# nsvm: end b_test rc=4 ms=20
# nsvm: end c_test rc=0 ms=20
'''
EXPECTED = {'x.good': 'pass', 'x.bad': 'fail', 'x.skipped': 'skip', 'x.last': 'pass',
            'a_test': 'fail', 'b_test': 'skip', 'c_test': 'pass'}


class Jobs(unittest.TestCase):
    def test_as_it_comes(self) -> None:
        """LAVA looks each time that something has come: half a line is no result"""
        for newline in '\n', '\r\n':
            results, buffer = {}, ''
            for character in LOG.replace('\n', newline):
                buffer += character
                if m := re.compile(lava.PATTERN, re.S).search(buffer):
                    results[m['test_case_id']] = lava.VERDICT[m['result']]
                    buffer = buffer[m.end():]
            self.assertEqual(results, EXPECTED)
