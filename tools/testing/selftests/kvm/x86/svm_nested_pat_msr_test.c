// SPDX-License-Identifier: GPL-2.0-only
/*
 * What L1, L2, the host and an MSR filter of the host read from IA32_PAT, and
 * where it goes what they write.
 */
#include "svm_nested_pat_fixtures.h"

/* ---- Without nested NPT ---- */

TEST_F(npt_off, l1_and_l2_share_one_pat)
{
	write_pat(L1, HPAT_2);
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);

	write_pat(L2, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(read_pat(L1), GPAT_2);
}

TEST_F(npt_off, vmcb12_g_pat_is_ignored)
{
	vmcb12->save.g_pat = INVALID_PAT;
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, INVALID_PAT);
}

static void test_invalid_write_from_l2(void)
{
	uint64_t pat, before;
	int n = 0;

	enter_l2();
	before = read_pat(L2);
	while ((pat = next_invalid_pat(&n))) {
		TEST_ASSERT_EQ(guest_call(L2, op_write_pat, pat), GP_VECTOR);
		TEST_ASSERT_EQ(read_pat(L2), before);
	}
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(npt_off, invalid_write_from_l2_faults)
{
	test_invalid_write_from_l2();
}

TEST_F(npt_off, host_write_reaches_l2)
{
	enter_l2();
	host_writes_hpat(HPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

/* ---- With nested NPT ---- */

TEST_F(npt_on, vmrun_rejects_invalid_g_pat)
{
	uint64_t pat;
	int n = 0;

	while ((pat = next_invalid_pat(&n))) {
		vmcb12->save.g_pat = pat;
		TEST_ASSERT_EQ(guest_call(L1, op_vmrun, l1_svm), (uint32_t)SVM_EXIT_ERR);
		TEST_ASSERT_EQ(vmcb12->save.g_pat, pat);
		TEST_ASSERT_EQ(read_pat(L1), HPAT);
	}

	vmcb12->save.g_pat = GPAT;
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
}

TEST_F(npt_on, l2_reads_g_pat_and_l1_does_not)
{
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(npt_on, l2_write_is_saved_at_vmexit)
{
	enter_l2();
	write_pat(L2, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

/* Zero makes all of L2's memory uncacheable, an L1 may want that. */
TEST_F(npt_on, g_pat_of_zero_is_a_value)
{
	vmcb12->save.g_pat = 0;
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), 0);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, 0);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);

	vmcb12->save.g_pat = GPAT;
	enter_l2();
	write_pat(L2, 0);
	TEST_ASSERT_EQ(read_pat(L2), 0);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, 0);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(npt_on, npt_switched_off_and_on)
{
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();

	set_npt(vmcb12, false);
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	write_pat(L2, HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);

	set_npt(vmcb12, true);
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

TEST_F(npt_on, invalid_write_from_l2_faults)
{
	test_invalid_write_from_l2();
}

TEST_F(npt_on, host_accesses_hpat)
{
	enter_l2();
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT);
	write_pat(L2, GPAT_2);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT);

	host_writes_hpat(HPAT_2);
	TEST_ASSERT_EQ(_vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, INVALID_PAT), 0);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

/* To userspace that gets L2's accesses, KVM_{GET,SET}_MSRS are of no use. */
TEST_F(npt_on, msr_filter_leaves_gpat_alone)
{
	uint64_t deny_all = 0;		/* KVM copies whole longs */
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = {
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = MSR_IA32_CR_PAT,
			.nmsrs = 1,
			.bitmap = (uint8_t *)&deny_all,
		},
	}, no_filter = {};

	vm_enable_cap(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER);
	enter_l2();
	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);

	set_guest_op(op_read_pat, 0);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_X86_RDMSR);
	TEST_ASSERT_EQ(vcpu->run->msr.index, MSR_IA32_CR_PAT);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT);
	vcpu->run->msr.data = GPAT;
	TEST_ASSERT_EQ(run_until_report(L2), GPAT);

	set_guest_op(op_write_pat, HPAT_2);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_X86_WRMSR);
	TEST_ASSERT_EQ(vcpu->run->msr.index, MSR_IA32_CR_PAT);
	TEST_ASSERT_EQ(vcpu->run->msr.data, HPAT_2);
	host_writes_hpat(HPAT_2);
	vcpu->run->msr.error = 1;
	TEST_ASSERT_EQ(run_until_report(L2), GP_VECTOR);
	assert_gpat_saved(GPAT);

	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &no_filter);
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	return test_harness_run(argc, argv);
}
