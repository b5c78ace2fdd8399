// SPDX-License-Identifier: GPL-2.0-only
/*
 * Both PATs across an SMI over L2, which is a #VMEXIT, and RSM to L2, which is a
 * VMRUN; also when the vCPU moves to another VM in between.
 */
#include "kvm_test_harness.h"
#include "svm_nested_pat.h"

/* ---- SMM ---- */

FIXTURE(smm) { };

FIXTURE_VARIANT(smm)
{
	bool npt;
};

FIXTURE_VARIANT_ADD(smm, npt_off) { .npt = false };
FIXTURE_VARIANT_ADD(smm, npt_on) { .npt = true };

FIXTURE_SETUP(smm)
{
	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "no SMM (CONFIG_KVM_SMM)");
	if (variant->npt && !kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	create_vm_with_smm(variant->npt);
}

FIXTURE_TEARDOWN(smm)
{
	kvm_vm_free(vm);
}

/* Has L2 write a PAT and checks where it went, from SMM, from L2 and from L1. */
static void test_smi_and_rsm(bool npt, void (*in_smm)(void))
{
	uint64_t hpat = npt ? HPAT : GPAT_2, gpat = npt ? GPAT_2 : GPAT;

	enter_l2();
	write_pat(L2, GPAT_2);

	TEST_ASSERT_EQ(smi(), hpat);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, gpat);
	assert_no_gpat_saved();
	in_smm();
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), hpat);

	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, gpat);
	TEST_ASSERT_EQ(read_pat(L1), hpat);
}

static void do_nothing(void)
{
}

static void save_and_restore_msrs_first(void)
{
	save_and_restore(false);
}

static void save_and_restore_msrs_last(void)
{
	save_and_restore(true);
}

TEST_F(smm, smi_and_rsm_keep_pats)
{
	test_smi_and_rsm(variant->npt, do_nothing);
}

TEST_F(smm, restore_in_smm_msrs_first)
{
	test_smi_and_rsm(variant->npt, save_and_restore_msrs_first);
}

TEST_F(smm, restore_in_smm_msrs_last)
{
	test_smi_and_rsm(variant->npt, save_and_restore_msrs_last);
}

TEST_F(smm, rsm_loads_g_pat_again)
{
	enter_l2();
	smi();
	vmcb12->save.g_pat = HPAT_2;
	TEST_ASSERT_EQ(read_pat(L2), variant->npt ? HPAT_2 : HPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, HPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

/* A failed RSM is a shutdown; without NPT an invalid g_pat is no failure. */
TEST_F(smm, rsm_does_not_run_invalid_g_pat)
{
	enter_l2();
	smi();
	vmcb12->save.g_pat = INVALID_PAT;

	if (!variant->npt) {
		TEST_ASSERT_EQ(read_pat(L2), HPAT);
		return;
	}

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, INVALID_PAT);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT);
}

TEST_F(smm, state_without_gpat)
{
	enter_l2();
	save_and_restore_vmcb_pa_only(false);
	TEST_ASSERT_EQ(smi(), HPAT);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L2), variant->npt ? GPAT : HPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	return test_harness_run(argc, argv);
}
