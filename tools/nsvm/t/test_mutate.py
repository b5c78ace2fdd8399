# SPDX-License-Identifier: GPL-2.0
"""Mutants: ways to break a statement, and names that last"""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from proof import mutants, mutate
from proof.mutants import Result

C = '''\
#define NOT_THIS(x) do { \\
	x = true; } while (0)
	/* a comment;
	 * of two lines */ a = b ? c : d;
	if (one(x) &&
	    (two || !three)) /* why */
		return false;
	bool known = true;
	if (CC(!kvm_pat_valid(gpat)))
		return false;
'''
VARIANTS = {
    'a = b ? c : d;': ['a = c;', 'a = d;', ';'],
    'if (one(x) && (two || !three))': [
        'if (!(one(x) && (two || !three)))', 'if ((two || !three))', 'if (one(x))',
        'if (one(x) || ((two || !three)))', 'if (one(x) && (two || three))'],
    'return a || b && c;': ['return b && c;', 'return a;', 'return a && (b && c);', ';'],
    'bool known = true;': ['bool known = false;'],
    'if (!a != b) {': ['if (!a == b) {', 'if (a != b) {'],
    'vmcb_set_gpat(svm->vmcb01.ptr, vcpu->arch.pat);': [
        ';', 'vmcb_set_gpat(svm->vmcb01.ptr, to_svm(vcpu)->nested.gpat);',
        'vmcb_set_gpat(svm->nested.vmcb02.ptr, vcpu->arch.pat);']}


def mutants_of(touched: set[int]) -> list[mutate.Mutant]:
    return list(mutate.of_file('arch/x86/kvm/svm/nested.c', C, touched))


class Test(unittest.TestCase):
    def test_statements(self) -> None:
        self.assertEqual([s for s in mutate.statements(C)],
                         [(4, 4, 'a = b ? c : d;'), (5, 6, 'if (one(x) && (two || !three))'),
                          (7, 7, 'return false;'), (8, 8, 'bool known = true;'),
                          (9, 9, 'if (CC(!kvm_pat_valid(gpat)))'), (10, 10, 'return false;')])

    def test_variants(self) -> None:
        for code, want in VARIANTS.items():
            self.assertEqual([new for _, new in mutate.variants(code)], want)

    def test_assertion(self) -> None:
        """Without it, the program is the same"""
        text = 'BUILD_BUG_ON(sizeof(x) != 128);\nx = true;\n'
        self.assertEqual({m.code
                          for m in mutate.of_file('a/nested.c', text, {1, 2})}, {'x = true;'})

    def test_names_last(self) -> None:
        """patches/*/equivalent has them"""
        self.assertEqual([(m.name, m.change) for m in mutants_of({9})],
                         [('nested.c:26cfa2ed', 'negated'), ('nested.c:76b38aba', '"!" to ""')])
        first, second = ([m for m in mutants_of({7, 10}) if m.first == n] for n in (7, 10))
        self.assertEqual([m.new for m in first], [m.new for m in second])
        self.assertFalse({m.name for m in first} & {m.name for m in second})

    def test_apply(self) -> None:
        text = mutate.apply(C, mutants_of({6})[0]).split('\n')
        self.assertEqual(text[4:7], ['if (!(one(x) && (two || !three)))', '', '\t\treturn false;'])
        self.assertEqual(text[:4] + text[6:], C.split('\n')[:4] + C.split('\n')[6:])

    def test_likely_killer_first(self) -> None:
        every, tests = mutants_of(set(range(1, 11))), ['a', 'b', 'c']
        last, near, far = every[-1], every[-2], every[0]
        for known, want in (({}, 'abc'), ({far.name: 'b'}, 'bac'), (
                {far.name: 'b', near.name: 'c'}, 'cab'), ({near.name: 'c', last.name: 'b'}, 'bac'),
                            ({last.name: 'gone', far.name: 'c'}, 'cab')):
            results = {name: Result('killed', by=by) for name, by in known.items()}
            self.assertEqual(''.join(mutants.in_order(last, tests, every, results)), want)
