/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The VM of svm_nested_pat.h, with and without nested NPT, as fixtures.
 */
#ifndef SELFTEST_KVM_SVM_NESTED_PAT_FIXTURES_H
#define SELFTEST_KVM_SVM_NESTED_PAT_FIXTURES_H

#include "kvm_test_harness.h"
#include "svm_nested_pat.h"

FIXTURE(npt_off) { };

FIXTURE_SETUP(npt_off)
{
	create_vm(false);
}

FIXTURE_TEARDOWN(npt_off)
{
	kvm_vm_free(vm);
}

FIXTURE(npt_on) { };

FIXTURE_SETUP(npt_on)
{
	if (!kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	create_vm(true);
}

FIXTURE_TEARDOWN(npt_on)
{
	kvm_vm_free(vm);
}

#endif /* SELFTEST_KVM_SVM_NESTED_PAT_FIXTURES_H */
