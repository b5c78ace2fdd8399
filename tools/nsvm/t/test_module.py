# SPDX-License-Identifier: GPL-2.0
"""KVM's modules of a tree: which change of a header goes with them"""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kernel import module

HEADER = '''\
#ifndef _ASM_X86_KVM_HOST_H
#define MAX_VCPUS 1024	/* of a VM */
#define MAX_IDS (4 * MAX_VCPUS)
struct kvm_arch {
	u64 disabled_quirks;
	u32 ids[MAX_IDS];
};
#define VALID_QUIRKS \\
	(QUIRK_A | \\
	 QUIRK_B)
#define ALL_QUIRKS (VALID_QUIRKS | \\
		    QUIRK_C)
#endif
'''


def changed(old: str, new: str) -> set[str] | None:
    """What the header with new in place of old differs in"""
    assert old in HEADER
    return module.changed_macros(HEADER, HEADER.replace(old, new))


class Test(unittest.TestCase):
    def test_split(self) -> None:
        macros, rest = module.split_header(HEADER)
        self.assertEqual(set(macros), {'MAX_VCPUS', 'MAX_IDS', 'VALID_QUIRKS', 'ALL_QUIRKS'})
        self.assertEqual(rest, '#ifndef _ASM_X86_KVM_HOST_H struct kvm_arch { u64 disabled_quirks; '
                         'u32 ids[MAX_IDS]; }; #endif')

    def test_macros(self) -> None:
        self.assertEqual(changed('QUIRK_B)', 'QUIRK_B | \\\n\t QUIRK_D)'),
                         {'VALID_QUIRKS', 'ALL_QUIRKS'})
        self.assertEqual(changed('#endif', '#define NEW 1\n#endif'), {'NEW'})
        self.assertEqual(changed('/* of a VM */', '/* of\n * one VM */'), set())

    def test_layout(self) -> None:
        self.assertIsNone(changed('u64 disabled', 'u32 disabled'), 'a struct')
        self.assertIsNone(changed('};', '\tu64 more;\n};'), 'a member')
        self.assertIsNone(changed('(4 *', '(8 *'), 'the size of an array')
        self.assertIsNone(changed('1024', '2048'), 'the size of an array, by another macro')
        self.assertIsNone(changed('struct kvm_arch', '#define disabled_quirks x\nstruct kvm_arch'),
                          'the name of a member')
        self.assertIsNone(changed('#endif', 'int f(void);\n#endif'), 'a function')


if __name__ == '__main__':
    unittest.main()
