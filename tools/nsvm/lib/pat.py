# SPDX-License-Identifier: GPL-2.0
"""PATs, as 16 hexadecimal digits: who has which, and the memory types in them

svm_nested_pat_types.c has the same table (t/test_types.py compares them).
"""
TYPES = {0: 'UC', 1: 'WC', 4: 'WT', 5: 'WP', 6: 'WB', 7: 'UC-'}	# APM volume 2, "PAT Register"
RESET = '0007040600070406'
LINUX = '0407050600070106'		# arch/x86/mm/pat/memtype.c
NAMES = {
    '0001050600070406': 'FreeBSD',		# sys/amd64/amd64/pmap.c, pmap_init_pat()
    '0007010600070106': 'Windows',		# Windows Research Kernel, base/ntos/ke/i386/pat.c
    RESET: 'reset',
    '0006060606060606': 'VirtualBox',		# for its guests: src/VBox/VMM/VMMR0/HMSVMR0.cpp
    LINUX: 'Linux',
}


def fields(pat: str) -> list[str]:
    """The memory types, from field 0 on"""
    return [TYPES[b] for b in reversed(bytes.fromhex(pat))]


def combined(pat: str, mtrr: str) -> str:
    """Memory type of an access, for MTRR types WB and UC (APM, "Combining Memory Types")"""
    if pat in ('UC', 'UC-'):
        return 'UC'
    return pat if pat == 'WC' or mtrr == 'WB' else mtrr
