# SPDX-License-Identifier: GPL-2.0
"""KVM's modules of a tree: which change of a header goes with them"""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kernel import module

HEADER = '''\
struct kvm_arch {
	u64 disabled_quirks;
};
#define KVM_X86_VALID_QUIRKS			\\
	(KVM_X86_QUIRK_LINT0_REENABLED |	\\
	 KVM_X86_QUIRK_STUFF_FEATURE_MSRS)
#define KVM_X86_CONDITIONAL_QUIRKS 0
#endif
'''


class Test(unittest.TestCase):
    def test_quirks(self) -> None:
        for old, new, same in (('\t(KVM', '\t(QUIRK | \\\n\t KVM', True),
                               ('QUIRKS 0', 'QUIRKS 1', True), ('u64', 'u32', False),
                               ('};', 'int a;\n};', False), ('#endif', '#define A\n', False)):
            self.assertIn(old, HEADER)
            self.assertEqual(module.differs_in_quirks(HEADER, HEADER.replace(old, new)), same, old)
