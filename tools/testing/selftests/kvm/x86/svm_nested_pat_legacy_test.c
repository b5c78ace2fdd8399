// SPDX-License-Identifier: GPL-2.0-only
/*
 * The end of legacy state, i.e. of nested state that was restored without gPAT:
 *
 *  - while it lasts, gPAT is hPAT and follows what the host writes to hPAT
 *  - it ends when guest mode is left or entered anew; from then on the host's
 *    hPAT has no way to L2
 *  - nested state with the other NPT setting takes L2's PAT along
 *
 * Each case starts with a legacy L2 that did not run yet, hPAT is HPAT_2.
 */
#include "svm_nested_pat.h"

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
	restore_legacy_state(variant->msrs_last);
	legacy = vcpu_save_state(vcpu);
	TEST_ASSERT(!legacy->nested.hdr.svm.flags, "State is not legacy state");
}

FIXTURE_TEARDOWN(legacy)
{
	kvm_x86_state_cleanup(legacy);
	kvm_vm_free(vm);
}

static void set_gpat(struct kvm_x86_state *state, uint64_t gpat)
{
	state->nested.hdr.svm.gpat = gpat;
	state->nested.hdr.svm.flags = KVM_STATE_SVM_VALID_GPAT;
}

static void set_state_npt(struct kvm_x86_state *state, bool on)
{
	if (on)
		saved_vmcb(state)->control.nested_ctl |= SVM_NESTED_CTL_NP_ENABLE;
	else
		saved_vmcb(state)->control.nested_ctl &= ~SVM_NESTED_CTL_NP_ENABLE;
}

static void set_state_outside_guest_mode(void)
{
	struct kvm_nested_state none = {
		.flags = KVM_STATE_NESTED_GIF_SET,
		.format = KVM_STATE_NESTED_FORMAT_SVM,
		.size = sizeof(none),
	};

	vcpu_nested_state_set(vcpu, &none);
}

static void host_writes_hpat(uint64_t pat)
{
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, pat);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), pat);
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

TEST_F(legacy, host_write_reaches_l2)
{
	host_writes_hpat(GPAT_2);
	host_writes_hpat(HPAT);
	assert_no_gpat_saved();
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	assert_gpat_is_independent(HPAT);
}

TEST_F(legacy, set_legacy_state_again)
{
	host_writes_hpat(GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_no_gpat_saved();
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
}

TEST_F(legacy, rejected_state_changes_nothing)
{
	set_gpat(legacy, INVALID_PAT);
	TEST_ASSERT_EQ(set_nested_state(legacy), EINVAL);
	assert_no_gpat_saved();
	host_writes_hpat(HPAT);
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
}

TEST_F(legacy, ends_with_state_that_has_gpat)
{
	set_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_gpat_is_independent(GPAT_2);
}

TEST_F(legacy, ends_with_state_outside_guest_mode)
{
	set_state_outside_guest_mode();
	assert_no_gpat_saved();
	host_writes_hpat(GPAT);

	set_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_gpat_is_independent(GPAT_2);
}

static void set_svme(bool on)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.efer = on ? sregs.efer | EFER_SVME : sregs.efer & ~EFER_SVME;
	vcpu_sregs_set(vcpu, &sregs);
}

/* Clearing SVME frees vmcb02, the host's write has to do without. */
TEST_F(legacy, ends_when_svme_is_cleared)
{
	set_svme(false);
	host_writes_hpat(HPAT);
	host_writes_hpat(HPAT_2);
	assert_no_gpat_saved();

	set_svme(true);
	host_writes_hpat(GPAT);
	set_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_gpat_is_independent(GPAT_2);
}

static void enter_smm(struct kvm_vcpu_events *events)
{
	events->flags |= KVM_VCPUEVENT_VALID_SMM;
	events->smi.smm = 1;
}

static void leave_smm(struct kvm_vcpu_events *events)
{
	events->flags |= KVM_VCPUEVENT_VALID_SMM;
	events->smi.smm = 0;
}

TEST_F(legacy, ends_when_smm_is_toggled)
{
	change_events(enter_smm);
	assert_no_gpat_saved();
	host_writes_hpat(HPAT);
	change_events(leave_smm);
	host_writes_hpat(GPAT);

	set_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	assert_gpat_is_independent(GPAT_2);
}

TEST_F(legacy, ends_when_init_resets_the_vcpu)
{
	struct kvm_mp_state mp_state;

	change_events(pend_init);
	vcpu_mp_state_get(vcpu, &mp_state);	/* lets KVM accept INIT */

	assert_no_gpat_saved();
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_2);
	host_writes_hpat(HPAT);
	assert_no_gpat_saved();
}

TEST_F(legacy, ends_when_init_exits_to_l1)
{
	struct kvm_mp_state mp_state;

	saved_vmcb(legacy)->control.intercept |= BIT_ULL(INTERCEPT_INIT);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	change_events(pend_init);
	vcpu_mp_state_get(vcpu, &mp_state);	/* lets KVM accept INIT */

	assert_no_gpat_saved();
	TEST_ASSERT_EQ(vmcb12->control.exit_code, SVM_EXIT_INIT);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, HPAT_2);
	host_writes_hpat(HPAT);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, HPAT_2);
}

/* Without NPT there is one PAT, whatever vmcb02.g_pat was until now. */
TEST_F(legacy, ends_with_state_without_npt)
{
	set_state_npt(legacy, false);
	set_gpat(legacy, GPAT_2);
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
	set_gpat(legacy, GPAT_2);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	vcpu_run_complete_io(vcpu);

	set_state_npt(legacy, false);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	vcpu_run_complete_io(vcpu);

	set_state_npt(legacy, true);
	TEST_ASSERT_EQ(set_nested_state(legacy), 0);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	assert_gpat_is_independent(GPAT_2);
}

/* ---- Without legacy state ---- */

static void assert_hdr_is_zero(void)
{
	static const uint8_t zero[sizeof(((struct kvm_nested_state *)0)->hdr)];
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	if (state->nested.flags & KVM_STATE_NESTED_GUEST_MODE)
		state->nested.hdr.svm.vmcb_pa = 0;
	TEST_ASSERT(!memcmp(&state->nested.hdr, zero, sizeof(zero)),
		    "There is something in the header");
	kvm_x86_state_cleanup(state);
}

TEST_F(restore, shared_pat_survives_without_npt)
{
	set_npt(false);
	enter_l2();
	write_pat(L2, HPAT_2);
	assert_hdr_is_zero();
	save_and_restore(variant->msrs_last);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	exit_l2();
	assert_hdr_is_zero();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

TEST_F(npt_off, header_gpat_is_neither_saved_nor_used)
{
	struct kvm_x86_state *state;

	enter_l2();
	assert_no_gpat_saved();

	state = vcpu_save_state(vcpu);
	state->nested.hdr.svm.gpat = INVALID_PAT;
	state->nested.hdr.svm.flags = KVM_STATE_SVM_VALID_GPAT;
	TEST_ASSERT_EQ(set_nested_state(state), 0);
	state->nested.hdr.svm.gpat = GPAT;
	TEST_ASSERT_EQ(set_nested_state(state), 0);
	kvm_x86_state_cleanup(state);

	assert_no_gpat_saved();
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
}

