// SPDX-License-Identifier: GPL-2.0-only
/*
 * The two PATs of nested SVM (APM volume 2, "Nested Paging and VMRUN/#VMEXIT").
 *
 * Without nested NPT, L1 and L2 share one PAT, hPAT:
 *  - what one writes the other reads, vmcb12.g_pat plays no role
 *
 * With nested NPT, L2 has a PAT of its own, gPAT:
 *  - VMRUN loads gPAT from vmcb12.g_pat, and fails if that is not a valid PAT
 *  - RDMSR and WRMSR of IA32_PAT access gPAT in L2 and hPAT in L1
 *  - #VMEXIT saves gPAT to vmcb12.g_pat
 *  - KVM_{GET,SET}_MSRS always access hPAT
 *  - KVM_{GET,SET}_NESTED_STATE save and restore gPAT; for state without gPAT,
 *    from a KVM that had but one PAT, gPAT is hPAT
 *
 * L1 and L2 do nothing on their own, they call what the host asks for.
 */
#include <errno.h>
#include <string.h>

#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"

/* Valid PATs.  Field 0 is WB in each, the guests' own accesses stay cached. */
#define HPAT		0x0007040600070406ull	/* L1's, the value after reset */
#define HPAT_2		0x0006010500070406ull
#define GPAT		0x0001040500010406ull	/* L2's */
#define GPAT_2		0x0705040100060006ull
#define INVALID_PAT	0x0007040600070206ull	/* 2 in field 1 is reserved */

enum { L1 = 1, L2 = 2 };

/* ---- L1 and L2 ---- */

typedef uint64_t (*guest_op_t)(uint64_t arg);

static guest_op_t guest_op;
static uint64_t guest_arg;
static uint8_t l2_stack[PAGE_SIZE] __aligned(PAGE_SIZE);

static void guest_serve(int level)
{
	uint64_t ret = 0;

	for (;;) {
		GUEST_SYNC2(level, ret);
		ret = READ_ONCE(guest_op)(READ_ONCE(guest_arg));
	}
}

static void l2_guest(void)
{
	guest_serve(L2);
}

static void l1_guest(struct svm_test_data *svm)
{
	generic_svm_setup(svm, NULL, NULL);
	guest_serve(L1);
}

static uint64_t op_read_pat(uint64_t unused)
{
	return rdmsr(MSR_IA32_CR_PAT);
}

/* Returns the vector of the exception, 0 if there was none. */
static uint64_t op_write_pat(uint64_t pat)
{
	return wrmsr_safe(MSR_IA32_CR_PAT, pat);
}

/* Runs L2 from its start, returns the exit code. */
static uint64_t op_vmrun(uint64_t arg)
{
	struct svm_test_data *svm = (void *)arg;

	svm->vmcb->save.rip = (uint64_t)l2_guest;
	svm->vmcb->save.rsp = (uint64_t)l2_stack + sizeof(l2_stack) - 8;
	run_guest(svm->vmcb, svm->vmcb_gpa);

	return svm->vmcb->control.exit_code;
}

/* Leaves L2 for good. */
static uint64_t op_vmmcall(uint64_t unused)
{
	vmmcall();

	return 0;
}

/* ---- Host ---- */

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpu;
static struct vmcb *vmcb12;
static vm_vaddr_t l1_svm;	/* struct svm_test_data, as L1 sees it */

/* Runs the vCPU until a guest reports in, which has to be @level's. */
static uint64_t run_until_report(int level)
{
	struct ucall uc;

	vcpu_run(vcpu);

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT(uc.args[0] == level, "L%lu runs instead of L%d, returned 0x%lx",
			    uc.args[0], level, uc.args[1]);
		return uc.args[1];
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit: %s",
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

/* Has the guest that runs call @op; after it, @level reports what it returned. */
static uint64_t guest_call(int level, guest_op_t op, uint64_t arg)
{
	guest_op = op;
	guest_arg = arg;
	sync_global_to_guest(vm, guest_op);
	sync_global_to_guest(vm, guest_arg);

	return run_until_report(level);
}

static uint64_t read_pat(int level)
{
	return guest_call(level, op_read_pat, 0);
}

static void write_pat(int level, uint64_t pat)
{
	TEST_ASSERT_EQ(guest_call(level, op_write_pat, pat), 0);
}

static void enter_l2(void)
{
	guest_call(L2, op_vmrun, l1_svm);
}

static void exit_l2(void)
{
	TEST_ASSERT_EQ(guest_call(L1, op_vmmcall, 0), SVM_EXIT_VMMCALL);
}

static void set_npt(bool on)
{
	if (on)
		vmcb12->control.nested_ctl |= SVM_NESTED_CTL_NP_ENABLE;
	else
		vmcb12->control.nested_ctl &= ~SVM_NESTED_CTL_NP_ENABLE;
}

/* Nested page tables that map the first GiB one to one, with 2 MiB pages. */
static vm_paddr_t create_npt(void)
{
	const uint64_t rwu = PTE_PRESENT_MASK | PTE_WRITABLE_MASK | PTE_USER_MASK;
	vm_paddr_t pml4 = vm_alloc_page_table(vm);
	vm_paddr_t pdpt = vm_alloc_page_table(vm);
	vm_paddr_t pd = vm_alloc_page_table(vm);
	uint64_t *pde = addr_gpa2hva(vm, pd);

	*(uint64_t *)addr_gpa2hva(vm, pml4) = pdpt | rwu;
	*(uint64_t *)addr_gpa2hva(vm, pdpt) = pd | rwu;
	for (uint64_t i = 0; i < 512; i++)
		pde[i] = (i << 21) | PTE_LARGE_MASK | rwu;

	return pml4;
}

/* A VM whose L1 is ready to run L2; hPAT is HPAT, vmcb12.g_pat is GPAT. */
static void create_vm(bool npt)
{
	vm = vm_create_with_one_vcpu(&vcpu, l1_guest);
	vmcb12 = vcpu_alloc_svm(vm, &l1_svm)->vmcb_hva;
	vcpu_args_set(vcpu, 1, l1_svm);
	run_until_report(L1);

	set_npt(npt);
	vmcb12->control.nested_cr3 = create_npt();
	vmcb12->save.g_pat = GPAT;
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

static int set_nested_state(struct kvm_x86_state *state)
{
	return __vcpu_nested_state_set(vcpu, &state->nested) ? errno : 0;
}

static void recreate_and_load(struct kvm_x86_state *state, bool msrs_last)
{
	uint32_t nested_size = state->nested.size;

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);

	if (msrs_last) {
		vcpu_sregs_set(vcpu, &state->sregs);
		vcpu_nested_state_set(vcpu, &state->nested);
		state->nested.size = 0;
	}
	vcpu_load_state(vcpu, state);
	state->nested.size = nested_size;
}

static void save_and_restore(bool msrs_last)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	recreate_and_load(state, msrs_last);
	kvm_x86_state_cleanup(state);
}

/* Makes state what a KVM without gPAT would have saved. */
static void drop_gpat(struct kvm_x86_state *state)
{
	memset(&state->nested.hdr.svm.gpat, 0,
	       sizeof(state->nested.hdr) - sizeof(state->nested.hdr.svm.vmcb_pa));
}

static void assert_saved_hdr(uint64_t gpat, uint32_t flags)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	TEST_ASSERT_EQ(state->nested.hdr.svm.gpat, gpat);
	TEST_ASSERT_EQ(state->nested.hdr.svm.flags, flags);
	TEST_ASSERT_EQ(state->nested.hdr.svm.reserved, 0);
	kvm_x86_state_cleanup(state);
}

static void assert_gpat_saved(uint64_t gpat)
{
	assert_saved_hdr(gpat, KVM_STATE_SVM_VALID_GPAT);
}

static void assert_no_gpat_saved(void)
{
	assert_saved_hdr(0, 0);
}

/*
 * All ways in which one field of a PAT can be invalid: encodings 2 and 3, and
 * each reserved bit.  Returns 0 after the last one.
 */
static uint64_t next_invalid_pat(int *n)
{
	static const uint8_t invalid[] = { 2, 3, 0x0e, 0x16, 0x26, 0x46, 0x86 };
	int shift = *n / ARRAY_SIZE(invalid) * 8;
	uint8_t field = invalid[*n % ARRAY_SIZE(invalid)];

	if ((*n)++ == 8 * ARRAY_SIZE(invalid))
		return 0;

	return (GPAT & ~(0xffull << shift)) | (uint64_t)field << shift;
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

/* ---- Without nested NPT ---- */

FIXTURE(npt_off) { };

FIXTURE_SETUP(npt_off)
{
	create_vm(false);
}

FIXTURE_TEARDOWN(npt_off)
{
	kvm_vm_free(vm);
}

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

TEST_F(npt_off, invalid_write_from_l2_faults)
{
	test_invalid_write_from_l2();
}

TEST_F(npt_off, host_write_reaches_l2)
{
	enter_l2();
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT_2);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

/* ---- With nested NPT ---- */

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

TEST_F(npt_on, npt_switched_off_and_on)
{
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();

	set_npt(false);
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	write_pat(L2, HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);

	set_npt(true);
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

	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT_2);
	TEST_ASSERT_EQ(_vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, INVALID_PAT), 0);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
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
		{ .gpat = GPAT },
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
		vmcb12->save.g_pat = GPAT;
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
}

FIXTURE_TEARDOWN(restore)
{
	kvm_vm_free(vm);
}

TEST_F(restore, both_pats_survive)
{
	write_pat(L1, HPAT_2);
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

/* Restores an L2 whose gPAT was not saved, while hPAT was HPAT_2. */
static void restore_legacy_state(bool msrs_last)
{
	struct kvm_x86_state *state;

	write_pat(L1, HPAT_2);
	enter_l2();
	state = vcpu_save_state(vcpu);
	drop_gpat(state);
	recreate_and_load(state, msrs_last);
	kvm_x86_state_cleanup(state);
}

TEST_F(restore, legacy_l2_gets_hpat_and_then_its_own)
{
	restore_legacy_state(variant->msrs_last);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	assert_gpat_saved(HPAT_2);

	write_pat(L2, GPAT_2);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_2);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(restore, legacy_state_saved_again_is_legacy)
{
	restore_legacy_state(variant->msrs_last);
	assert_no_gpat_saved();
	save_and_restore(variant->msrs_last);
	assert_no_gpat_saved();
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
}

TEST_F(restore, legacy_state_ends_when_the_vcpu_runs)
{
	restore_legacy_state(variant->msrs_last);

	/* Does not run the guest, thus restore may still be under way. */
	vcpu_run_complete_io(vcpu);
	assert_no_gpat_saved();
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, GPAT);
	assert_no_gpat_saved();

	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	assert_gpat_saved(GPAT);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT);
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	return test_harness_run(argc, argv);
}
