# SPDX-License-Identifier: GPL-2.0
"""Mainline's test without the quirk that it disables"""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kernel.selftests import QUIRK, without_quirk
from lib.say import Fatal

C = '''\
	if (again)
		enable(vm, KVM_CAP_X,
		       {quirk});
	run(vcpu);
	REQUIRE(check(KVM_CAP_X) &
		{quirk});
'''


class Test(unittest.TestCase):
    def test_statements_are_gone(self) -> None:
        self.assertEqual(without_quirk(C.format(quirk=QUIRK)),
                         '\tif (again)\n\t\t;\n\trun(vcpu);\n\t;\n')

    def test_edit_does_not_fit(self) -> None:
        for source in C.format(
                quirk='QUIRK'
        ), f'{C.format(quirk=QUIRK)}#define OTHER {QUIRK}\n', f'\tlong quirk = {QUIRK};\n':
            with self.assertRaisesRegex(Fatal, 'not as the edit expects'):
                without_quirk(source)


if __name__ == '__main__':
    unittest.main()
