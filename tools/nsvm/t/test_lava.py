# SPDX-License-Identifier: GPL-2.0
"""What LAVA finds in the output of a machine, by the expressions of the job"""
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import lava

LOG = '''# nsvm: kernel Linux
# nsvm: begin a_test
TAP version 13
1..4
# ok 7 a.comment
ok 1 x.good
# assertion
not ok 2 x.bad
ok 3 x.skipped # SKIP no NPT
ok 4 x.last
# nsvm: end a_test rc=1 ms=10
# nsvm: begin b_test

# nsvm: end b_test rc=4 ms=20
# nsvm: end c_test rc=0 ms=20
# nsvm: done
'''
WANT = {'x.good': 'pass', 'x.bad': 'fail', 'x.skipped': 'skip', 'x.last': 'pass',
        'a_test': 'fail', 'b_test': 'skip', 'c_test': 'pass'}
FILES = {what: {'url': f'http://host/{what}', 'sha256sum': '0'} for what in ('kernel', 'ramdisk')}


class Jobs(unittest.TestCase):
    def setUp(self) -> None:
        self.jobs = lava.make_jobs('x', FILES)
        self.monitor = self.jobs['amd']['actions'][2]['test']['monitors'][0]

    def test_as_it_comes(self) -> None:
        """LAVA looks each time that something has come: half a line is no result"""
        for newline in '\n', '\r\n':
            have, buffer = {}, ''
            for c in LOG.replace('\n', newline):
                buffer += c
                m = re.compile(self.monitor['pattern'], re.S).search(buffer)
                if m:
                    have[m['test_case_id']] = self.monitor['fixupdict'][m['result']]
                    buffer = buffer[m.end():]
            self.assertEqual(have, WANT)

    def test_schema(self) -> None:
        try:
            import lava_common.schemas	# noqa: F401
        except ImportError:
            self.skipTest('no lava-common')
        self.assertEqual([lava.objection(job) for job in self.jobs.values()], ['', ''])
        del self.jobs['qemu']['actions'][1]['boot']['method']
        self.assertNotEqual(lava.objection(self.jobs['qemu']), '')
