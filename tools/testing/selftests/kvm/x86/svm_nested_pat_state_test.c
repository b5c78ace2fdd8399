// SPDX-License-Identifier: GPL-2.0-only
/*
 * Both PATs in nested state.
 *
 * State without gPAT, from a KVM that has but one PAT or a VMM that keeps only
 * the part of the header that it knows, is legacy state.  Until L2 writes
 * IA32_PAT, or is left, or other state is set:
 *  - gPAT is hPAT, whichever way the host writes it, and isn't saved
 *  - #VMEXIT leaves vmcb12.g_pat alone, so that the next VMRUN is right again
 */
#include "svm_nested_pat_fixtures.h"

/* ---- The header ---- */

TEST_F(npt_off, header_gpat_is_neither_saved_nor_used)
{
	struct kvm_x86_state *state;

	enter_l2();
	assert_no_gpat_saved();

	state = vcpu_save_state(vcpu);
	set_hdr_gpat(state, INVALID_PAT);
	TEST_ASSERT_EQ(set_nested_state(state), 0);
	set_hdr_gpat(state, GPAT);
	TEST_ASSERT_EQ(set_nested_state(state), 0);
	kvm_x86_state_cleanup(state);

	assert_no_gpat_saved();
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
}

TEST_F(npt_on, invalid_gpat_in_header_changes_nothing)
{
	struct kvm_x86_state *state;
	uint64_t pat;
	int n = 0;

	enter_l2();
	write_pat(L2, GPAT_2);
	state = vcpu_save_state(vcpu);
	while ((pat = next_invalid_pat(&n))) {
		state->nested.hdr.svm.gpat = pat;
		TEST_ASSERT_EQ(set_nested_state(state), EINVAL);
		assert_gpat_saved(GPAT_2);
	}
	kvm_x86_state_cleanup(state);

	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(npt_on, garbage_in_header_is_legacy_state)
{
	const struct kvm_svm_nested_state_hdr garbage[] = {
		{ .gpat = 0 },
		{ .gpat = GPAT, .flags = ~0u },
		{ .gpat = GPAT, .flags = KVM_STATE_SVM_VALID_GPAT | BIT(31) },
		{ .gpat = GPAT, .flags = KVM_STATE_SVM_VALID_GPAT << 1 },
		{ .gpat = GPAT, .flags = KVM_STATE_SVM_VALID_GPAT, .reserved = 1 },
		{ .gpat = GPAT, .reserved = KVM_STATE_SVM_VALID_GPAT },
		{ .gpat = INVALID_PAT, .flags = ~0u, .reserved = ~0u },
	};

	for (int i = 0; i < ARRAY_SIZE(garbage); i++) {
		struct kvm_x86_state *state;

		enter_l2();
		state = vcpu_save_state(vcpu);
		state->nested.hdr.svm.gpat = garbage[i].gpat;
		state->nested.hdr.svm.flags = garbage[i].flags;
		state->nested.hdr.svm.reserved = garbage[i].reserved;
		TEST_ASSERT_EQ(set_nested_state(state), 0);
		kvm_x86_state_cleanup(state);

		assert_no_gpat_saved();
		TEST_ASSERT_EQ(read_pat(L2), HPAT);
		exit_l2();
	}
}

/* ---- Save and restore ---- */

FIXTURE(restore) { };

FIXTURE_VARIANT(restore)
{
	bool msrs_last;
};

FIXTURE_VARIANT_ADD(restore, msrs_first) { .msrs_last = false };
FIXTURE_VARIANT_ADD(restore, msrs_last) { .msrs_last = true };

FIXTURE_SETUP(restore)
{
	if (!kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	create_vm(true);
	write_pat(L1, HPAT_2);
}

FIXTURE_TEARDOWN(restore)
{
	kvm_vm_free(vm);
}

#define LARGER_SIZE	8320	/* header, and room for VMX: cloud-hypervisor's buffer */

/* KVM uses half of the buffer, and says so in its size.  Or the VMM says its own. */
static void save_and_restore_in_larger_buffer(bool msrs_last, bool own_size)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	struct kvm_nested_state *nested = &state->nested;
	uint32_t size = nested->size;

	memset(nested, 0, LARGER_SIZE);
	nested->size = LARGER_SIZE;
	vcpu_nested_state_get(vcpu, nested);
	TEST_ASSERT_EQ(nested->size, size);
	for (int i = size; i < LARGER_SIZE; i++)
		TEST_ASSERT_EQ(((uint8_t *)nested)[i], 0);

	if (own_size)
		nested->size = LARGER_SIZE;
	recreate_and_load(state, msrs_last);
	kvm_x86_state_cleanup(state);
}

TEST_F(restore, both_pats_survive)
{
	assert_no_gpat_saved();

	enter_l2();
	assert_gpat_saved(GPAT);
	save_and_restore(variant->msrs_last);
	assert_gpat_saved(GPAT);
	TEST_ASSERT_EQ(read_pat(L2), GPAT);

	write_pat(L2, GPAT_2);
	save_and_restore(variant->msrs_last);
	save_and_restore(variant->msrs_last);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);

	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	assert_no_gpat_saved();
	save_and_restore(variant->msrs_last);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);

	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
}

TEST_F(restore, g_pat_of_zero_survives)
{
	enter_l2();
	write_pat(L2, 0);
	assert_gpat_saved(0);
	save_and_restore(variant->msrs_last);
	assert_gpat_saved(0);
	TEST_ASSERT_EQ(read_pat(L2), 0);
	host_writes_hpat(HPAT);
	TEST_ASSERT_EQ(read_pat(L2), 0);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, 0);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);

	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), 0);
	assert_gpat_saved(0);
}

TEST_F(restore, both_pats_survive_in_larger_buffer)
{
	enter_l2();
	write_pat(L2, GPAT_2);
	save_and_restore_in_larger_buffer(variant->msrs_last, false);
	assert_gpat_saved(GPAT_2);
	save_and_restore_in_larger_buffer(variant->msrs_last, true);
	assert_gpat_saved(GPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

TEST_F(restore, shared_pat_survives_without_npt)
{
	set_npt(vmcb12, false);
	enter_l2();
	write_pat(L2, GPAT_2);
	assert_no_gpat_saved();
	save_and_restore(variant->msrs_last);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	assert_no_gpat_saved();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), GPAT_2);
}

/* What L2 wrote before its last #VMEXIT is only away for a while. */
TEST_F(restore, vmm_that_keeps_vmcb_pa_only)
{
	enter_l2();
	write_pat(L2, GPAT_2);
	exit_l2();

	enter_l2();
	write_pat(L2, HPAT);
	save_and_restore_vmcb_pa_only(variant->msrs_last);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);

	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	assert_gpat_saved(GPAT_2);
}

/* ---- Legacy state: L2 did not run yet, hPAT is HPAT_2, vmcb12.g_pat is GPAT ---- */

static struct kvm_x86_state *legacy;

FIXTURE(legacy) { };

FIXTURE_VARIANT(legacy)
{
	bool msrs_last;
};

FIXTURE_VARIANT_ADD(legacy, msrs_first) { .msrs_last = false };
FIXTURE_VARIANT_ADD(legacy, msrs_last) { .msrs_last = true };

FIXTURE_SETUP(legacy)
{
	if (!kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	create_vm(true);
	write_pat(L1, HPAT_2);
	enter_l2();
	save_and_restore_vmcb_pa_only(variant->msrs_last);
	legacy = vcpu_save_state(vcpu);
}

FIXTURE_TEARDOWN(legacy)
{
	kvm_x86_state_cleanup(legacy);
	kvm_vm_free(vm);
}

/* L2 has a gPAT of its own, out of the host's reach. */
static void assert_gpat_is_independent(uint64_t gpat)
{
	assert_gpat_saved(gpat);
	host_writes_hpat(HPAT);
	assert_gpat_saved(gpat);
	TEST_ASSERT_EQ(read_pat(L2), gpat);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, gpat);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(legacy, gpat_is_hpat)
{
	assert_no_gpat_saved();
	host_writes_hpat(GPAT_2);
	host_writes_hpat(HPAT);
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	assert_no_gpat_saved();
	host_writes_hpat(HPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	assert_no_gpat_saved();
}

TEST_F(legacy, saved_again_is_legacy)
{
	save_and_restore(variant->msrs_last);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	save_and_restore(variant->msrs_last);
	assert_no_gpat_saved();
	host_writes_hpat(HPAT);
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
}

TEST_F(legacy, rejected_state_changes_nothing)
{
	set_hdr_gpat(legacy, INVALID_PAT);
	TEST_ASSERT_EQ(set_nested_state(legacy), EINVAL);
	assert_no_gpat_saved();
	host_writes_hpat(HPAT);
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
}

TEST_F(legacy, ends_when_l2_writes)
{
	TEST_ASSERT_EQ(guest_call(L2, op_write_pat, INVALID_PAT), GP_VECTOR);
	assert_no_gpat_saved();
	write_pat(L2, GPAT_2);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_2);
	assert_gpat_is_independent(GPAT_2);
}

TEST_F(legacy, ends_with_state_that_has_gpat)
{
	set_hdr_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_gpat_is_independent(GPAT_2);
}

TEST_F(legacy, begins_anew_with_legacy_state)
{
	write_pat(L2, GPAT_2);
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_no_gpat_saved();
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
}

/* Without NPT there is one PAT, whatever vmcb02.g_pat was until now. */
TEST_F(legacy, ends_with_state_without_npt)
{
	set_npt(saved_vmcb(legacy), false);
	set_hdr_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_no_gpat_saved();

	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	host_writes_hpat(HPAT);
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	write_pat(L2, GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(read_pat(L1), GPAT_2);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
}

TEST_F(legacy, state_with_npt_on_off_and_on)
{
	set_hdr_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	vcpu_run_complete_io(vcpu);

	set_npt(saved_vmcb(legacy), false);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	vcpu_run_complete_io(vcpu);

	set_npt(saved_vmcb(legacy), true);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	assert_gpat_is_independent(GPAT_2);
}

/* ---- Ways out of L2: only #VMEXIT saves gPAT, all of them end legacy state ---- */

static void leave_by_vmexit(void)
{
	exit_l2();
}

/* L1 intercepts INIT, or INIT resets the vCPU. */
static void leave_by_init(void)
{
	struct kvm_mp_state mp_state;

	change_events(pend_init);
	vcpu_mp_state_get(vcpu, &mp_state);	/* lets KVM accept INIT */
	change_events(unpend_init);
}

static void set_svme(bool on)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.efer = on ? sregs.efer | EFER_SVME : sregs.efer & ~EFER_SVME;
	vcpu_sregs_set(vcpu, &sregs);
}

/* Clearing SVME frees vmcb02, what the host writes must not go there. */
static void leave_by_clearing_svme(void)
{
	set_svme(false);
	host_writes_hpat(HPAT);
	host_writes_hpat(HPAT_2);
	set_svme(true);
}

static void enter_smm(struct kvm_vcpu_events *events)
{
	events->smi.smm = 1;
}

static void leave_smm(struct kvm_vcpu_events *events)
{
	events->smi.smm = 0;
}

static void leave_by_toggling_smm(void)
{
	change_events(enter_smm);
	host_writes_hpat(HPAT);
	host_writes_hpat(HPAT_2);
	change_events(leave_smm);
}

static void leave_by_setting_state(void)
{
	struct kvm_nested_state outside = {
		.flags = KVM_STATE_NESTED_GIF_SET,
		.format = KVM_STATE_NESTED_FORMAT_SVM,
		.size = sizeof(outside),
	};

	vcpu_nested_state_set(vcpu, &outside);
}

/*
 * #VMEXIT cannot write vmcb12, as no memory is there.  Since 6.18.27, KVM leaves
 * guest mode nonetheless and shuts the vCPU down; before, L2 gets a #GP.
 */
static void leave_without_vmcb12(void)
{
	const uint64_t nowhere = BIT_ULL(32);
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	state->nested.hdr.svm.vmcb_pa = nowhere;
	TEST_ASSERT_EQ(set_nested_state(state), 0);
	kvm_x86_state_cleanup(state);

	set_guest_op(op_vmmcall, 0);
	TEST_ASSERT_EQ(__vcpu_run(vcpu), 0);

	state = vcpu_save_state(vcpu);
	if (state->nested.flags & KVM_STATE_NESTED_GUEST_MODE)
		leave_by_setting_state();
	else
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	kvm_x86_state_cleanup(state);
}

static struct kvm_sregs l1_sregs;
static uint8_t l1_stack[PAGE_SIZE] __aligned(PAGE_SIZE);

static void l1_guest_anew(void)
{
	guest_serve(L1);
}

/* Whoever ran before, now L1 does. */
static void restart_l1(void)
{
	struct kvm_regs regs = {
		.rip = (uint64_t)l1_guest_anew,
		.rsp = (uint64_t)l1_stack + sizeof(l1_stack) - 8,
		.rflags = X86_EFLAGS_FIXED,
	};

	vcpu_sregs_set(vcpu, &l1_sregs);
	vcpu_regs_set(vcpu, &regs);
	run_until_report(L1);
}

FIXTURE(leave) { };

FIXTURE_VARIANT(leave)
{
	void (*how)(void);
	bool is_vmexit;
	uint64_t intercept;
};

FIXTURE_VARIANT_ADD(leave, vmexit) {
	.how = leave_by_vmexit,
	.is_vmexit = true,
};

FIXTURE_VARIANT_ADD(leave, init_that_l1_intercepts) {
	.how = leave_by_init,
	.is_vmexit = true,
	.intercept = BIT_ULL(INTERCEPT_INIT),
};

FIXTURE_VARIANT_ADD(leave, init) { .how = leave_by_init };
FIXTURE_VARIANT_ADD(leave, svme_cleared) { .how = leave_by_clearing_svme };
FIXTURE_VARIANT_ADD(leave, smm_toggled) { .how = leave_by_toggling_smm };
FIXTURE_VARIANT_ADD(leave, vmexit_without_vmcb12) { .how = leave_without_vmcb12 };
FIXTURE_VARIANT_ADD(leave, state_outside_guest_mode) { .how = leave_by_setting_state };

FIXTURE_SETUP(leave)
{
	if (!kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	create_vm(true);
	write_pat(L1, HPAT_2);
	vcpu_sregs_get(vcpu, &l1_sregs);
	vmcb12->control.intercept |= variant->intercept;
	enter_l2();
}

FIXTURE_TEARDOWN(leave)
{
	kvm_vm_free(vm);
}

/* After it, vmcb12.g_pat has to be @g_pat, and what the next VMRUN loads. */
static void test_leave(void (*how)(void), uint64_t g_pat)
{
	how();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, g_pat);
	assert_no_gpat_saved();
	host_writes_hpat(HPAT);
	host_writes_hpat(HPAT_2);

	restart_l1();
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), g_pat);
	assert_gpat_is_independent(g_pat);
}

TEST_F(leave, with_gpat)
{
	write_pat(L2, GPAT_2);
	vcpu_run_complete_io(vcpu);
	test_leave(variant->how, variant->is_vmexit ? GPAT_2 : GPAT);
}

TEST_F(leave, with_legacy_state)
{
	save_and_restore_vmcb_pa_only(false);
	assert_no_gpat_saved();
	test_leave(variant->how, GPAT);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	return test_harness_run(argc, argv);
}
