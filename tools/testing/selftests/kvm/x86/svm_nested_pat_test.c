// SPDX-License-Identifier: GPL-2.0-only
/*
 * IA32_PAT of L1 (hPAT) and of L2 (gPAT) in nested SVM.
 *
 * Without nested NPT:
 *  - L1 and L2 share hPAT, vmcb12.g_pat is neither checked, used, nor changed
 *
 * With nested NPT:
 *  - VMRUN loads gPAT from vmcb12.g_pat, and fails if that is no valid PAT
 *  - RDMSR and WRMSR of IA32_PAT access gPAT in L2, and hPAT in L1
 *  - #VMEXIT saves gPAT to vmcb12.g_pat
 *  - an SMI in L2 is a #VMEXIT, the RSM that returns to L2 is a VMRUN
 *  - KVM_{GET,SET}_MSRS always access hPAT
 *  - KVM_{GET,SET}_NESTED_STATE save and restore gPAT, in any order with MSRs
 *
 * Nested state without a valid gPAT is from a KVM that has only hPAT, or from a
 * VMM that doesn't know gPAT.  Until L2 writes IA32_PAT or exits to L1:
 *  - L2 runs with hPAT, also after the host changes it
 *  - nested state is saved without gPAT again
 *  - #VMEXIT doesn't change vmcb12.g_pat, the next VMRUN loads it
 */
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"

/* Field 0 is WB in each PAT, i.e. the memory of the guests remains cacheable. */
#define HPAT		0x0006010500070406ull	/* L1 writes it at first */
#define HPAT_NEW	0x0406000100050406ull	/* L1 or the host writes it later on */
#define GPAT		0x0001040500010406ull	/* L1 puts it into vmcb12 */
#define GPAT_NEW	0x0705040100060006ull	/* L2 writes it */
#define INVALID_PAT	0x0007040600070206ull	/* type 2, in field 1, is reserved */

#define SMRAM_GPA	0x1000000	/* SMBASE, above all other memory of the VM */
#define SMRAM_SLOT	((1 << 16) | 1)	/* slot 1 of the address space of SMM */
#define SMI_ENTRY	0x8000		/* offset from SMBASE */
#define SMM_PORT	0x0e		/* the SMI handler reads it, to exit to the host */

enum { DONE, STAGE_1, STAGE_2, STAGE_3 };

/* Values that are invalid in each field of a PAT: types 2 and 3, reserved bits. */
static const uint8_t invalid_fields[] = { 2, 3, 0x0e, 0x16, 0x26, 0x46, 0x86 };

static unsigned long l2_stack[256] __aligned(16);
static vm_paddr_t nested_cr3;		/* 0: L1 doesn't use NPT */
static struct vmcb *vmcb12;		/* as L1 and L2 see it */

static void l1_setup(struct svm_test_data *svm, void *l2_guest_code)
{
	generic_svm_setup(svm, l2_guest_code, &l2_stack[ARRAY_SIZE(l2_stack) - 1]);
	wrmsr(MSR_IA32_CR_PAT, HPAT);

	vmcb12 = svm->vmcb;
	vmcb12->save.g_pat = GPAT;
	if (nested_cr3) {
		vmcb12->control.nested_ctl = SVM_NESTED_CTL_NP_ENABLE;
		vmcb12->control.nested_cr3 = nested_cr3;
	}
}

/* Run L2 until it executes VMMCALL.  The next time, it continues after that. */
static void l1_run_l2(struct svm_test_data *svm)
{
	run_guest(vmcb12, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb12->control.exit_code, SVM_EXIT_VMMCALL);
	vmcb12->save.rip += 3;
}

static void l1_assert_pats(uint64_t hpat, uint64_t g_pat)
{
	GUEST_ASSERT_EQ(rdmsr(MSR_IA32_CR_PAT), hpat);
	GUEST_ASSERT_EQ(vmcb12->save.g_pat, g_pat);
}

static void l2_assert_pat(uint64_t pat)
{
	GUEST_ASSERT_EQ(rdmsr(MSR_IA32_CR_PAT), pat);
}

/* 1 GiB, in 2 MiB pages.  The library has no page tables for NPT. */
static vm_paddr_t tdp_identity_map_default_memslots(struct kvm_vm *vm)
{
	const uint64_t rwu = PTE_PRESENT_MASK | PTE_WRITABLE_MASK | PTE_USER_MASK;
	vm_paddr_t pml4 = vm_alloc_page_table(vm);
	vm_paddr_t pdpt = vm_alloc_page_table(vm);
	vm_paddr_t pd = vm_alloc_page_table(vm);
	uint64_t *pde = addr_gpa2hva(vm, pd);

	*(uint64_t *)addr_gpa2hva(vm, pml4) = pdpt | rwu;
	*(uint64_t *)addr_gpa2hva(vm, pdpt) = pd | rwu;
	for (uint64_t i = 0; i < 512; i++)
		pde[i] = i << 21 | PTE_LARGE_MASK | rwu;

	return pml4;
}

static void init_svm(struct kvm_vcpu *vcpu, vm_paddr_t npt)
{
	vm_vaddr_t svm_gva;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);

	nested_cr3 = npt;
	sync_global_to_guest(vcpu->vm, nested_cr3);
}

/* Run L1 and L2 until one of them is at @stage. */
static void run_until(struct kvm_vcpu *vcpu, uint64_t stage)
{
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT_EQ(uc.args[1], stage);
		break;
	case UCALL_DONE:
		TEST_ASSERT_EQ(DONE, stage);
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
	}
}

static void assert_saved_gpat(struct kvm_vcpu *vcpu, uint64_t gpat, uint32_t flags)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	TEST_ASSERT_EQ(state->nested.hdr.svm.gpat, gpat);
	TEST_ASSERT_EQ(state->nested.hdr.svm.flags, flags);
	TEST_ASSERT_EQ(state->nested.hdr.svm.reserved, 0);
	kvm_x86_state_cleanup(state);
}

KVM_ONE_VCPU_TEST_SUITE(npt_off);

FIXTURE(npt_on) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(npt_on)
{
	if (!kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	vm_create_with_one_vcpu(&self->vcpu, NULL);
	init_svm(self->vcpu, tdp_identity_map_default_memslots(self->vcpu->vm));
}

FIXTURE_TEARDOWN(npt_on)
{
	kvm_vm_free(self->vcpu->vm);
}

static void l2_shares_pat(void)
{
	l2_assert_pat(HPAT);
	GUEST_ASSERT_EQ(wrmsr_safe(MSR_IA32_CR_PAT, INVALID_PAT), GP_VECTOR);
	wrmsr(MSR_IA32_CR_PAT, GPAT_NEW);
	l2_assert_pat(GPAT_NEW);
	vmmcall();

	GUEST_SYNC(STAGE_1);
	l2_assert_pat(HPAT_NEW);
	vmmcall();
}

static void l1_shares_pat(struct svm_test_data *svm)
{
	l1_setup(svm, l2_shares_pat);
	vmcb12->save.g_pat = INVALID_PAT;
	l1_run_l2(svm);
	l1_assert_pats(GPAT_NEW, INVALID_PAT);
	l1_run_l2(svm);
	l1_assert_pats(HPAT_NEW, INVALID_PAT);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST(npt_off, l1_and_l2_share_hpat, l1_shares_pat)
{
	init_svm(vcpu, 0);
	run_until(vcpu, STAGE_1);
	assert_saved_gpat(vcpu, 0, 0);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), GPAT_NEW);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT_NEW);
	run_until(vcpu, DONE);
}

static void l2_reads_gpat(void)
{
	l2_assert_pat(GPAT);
	vmmcall();
	l2_assert_pat(GPAT_NEW);
	vmmcall();
}

static void l1_loads_gpat(struct svm_test_data *svm)
{
	l1_setup(svm, l2_reads_gpat);
	l1_run_l2(svm);
	l1_assert_pats(HPAT, GPAT);

	wrmsr(MSR_IA32_CR_PAT, HPAT_NEW);
	vmcb12->save.g_pat = GPAT_NEW;
	l1_run_l2(svm);
	l1_assert_pats(HPAT_NEW, GPAT_NEW);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST(npt_on, vmrun_loads_gpat, l1_loads_gpat)
{
	run_until(vcpu, DONE);
}

static void l1_loads_invalid_gpat(struct svm_test_data *svm)
{
	l1_setup(svm, l2_reads_gpat);

	for (int shift = 0; shift < 64; shift += 8) {
		for (int i = 0; i < ARRAY_SIZE(invalid_fields); i++) {
			uint64_t pat = (GPAT & ~(0xffull << shift)) |
				       (uint64_t)invalid_fields[i] << shift;

			vmcb12->save.g_pat = pat;
			run_guest(vmcb12, svm->vmcb_gpa);
			GUEST_ASSERT_EQ(vmcb12->control.exit_code, (uint32_t)SVM_EXIT_ERR);
			l1_assert_pats(HPAT, pat);
		}
	}

	vmcb12->save.g_pat = GPAT;
	l1_run_l2(svm);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST(npt_on, vmrun_rejects_invalid_gpat, l1_loads_invalid_gpat)
{
	run_until(vcpu, DONE);
}

static void l2_writes_gpat(void)
{
	l2_assert_pat(GPAT);
	wrmsr(MSR_IA32_CR_PAT, GPAT_NEW);
	GUEST_ASSERT_EQ(wrmsr_safe(MSR_IA32_CR_PAT, INVALID_PAT), GP_VECTOR);
	l2_assert_pat(GPAT_NEW);
	GUEST_SYNC(STAGE_1);
	l2_assert_pat(GPAT_NEW);
	vmmcall();
}

static void l1_saves_gpat(struct svm_test_data *svm)
{
	l1_setup(svm, l2_writes_gpat);
	l1_run_l2(svm);
	l1_assert_pats(HPAT, GPAT_NEW);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST(npt_on, l2_writes_gpat_and_host_hpat, l1_saves_gpat)
{
	run_until(vcpu, STAGE_1);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT_NEW);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_NEW);
	assert_saved_gpat(vcpu, GPAT_NEW, KVM_STATE_SVM_VALID_GPAT);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT);
	run_until(vcpu, DONE);
}

KVM_ONE_VCPU_TEST(npt_on, invalid_gpat_in_header_is_rejected, l1_saves_gpat)
{
	struct kvm_x86_state *state;

	run_until(vcpu, STAGE_1);
	state = vcpu_save_state(vcpu);
	state->nested.hdr.svm.gpat = INVALID_PAT;
	TEST_ASSERT_EQ(__vcpu_nested_state_set(vcpu, &state->nested), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	kvm_x86_state_cleanup(state);

	assert_saved_gpat(vcpu, GPAT_NEW, KVM_STATE_SVM_VALID_GPAT);
	run_until(vcpu, DONE);
}

static void l2_loses_gpat(void)
{
	l2_assert_pat(GPAT);
	GUEST_SYNC(STAGE_1);
	l2_assert_pat(HPAT);
	GUEST_SYNC(STAGE_2);
	l2_assert_pat(HPAT_NEW);
	vmmcall();

	l2_assert_pat(GPAT);
	GUEST_SYNC(STAGE_3);
	l2_assert_pat(HPAT_NEW);
	wrmsr(MSR_IA32_CR_PAT, GPAT_NEW);
	vmmcall();
}

static void l1_keeps_gpat(struct svm_test_data *svm)
{
	l1_setup(svm, l2_loses_gpat);
	l1_run_l2(svm);
	l1_assert_pats(HPAT_NEW, GPAT);
	l1_run_l2(svm);
	l1_assert_pats(HPAT_NEW, GPAT_NEW);
	GUEST_DONE();
}

/* KVM never checked these bytes.  Only one value of flags and reserved counts. */
KVM_ONE_VCPU_TEST(npt_on, garbage_in_header_is_no_gpat, l1_keeps_gpat)
{
	struct kvm_svm_nested_state_hdr garbage[] = {
		{ .gpat = GPAT },
		{ .gpat = GPAT, .flags = KVM_STATE_SVM_VALID_GPAT | BIT(31) },
		{ .gpat = GPAT, .flags = KVM_STATE_SVM_VALID_GPAT, .reserved = 1 },
		{ .gpat = INVALID_PAT, .flags = ~0u, .reserved = ~0u },
	};

	run_until(vcpu, STAGE_1);
	for (int i = 0; i < ARRAY_SIZE(garbage); i++) {
		struct kvm_x86_state *state = vcpu_save_state(vcpu);

		garbage[i].vmcb_pa = state->nested.hdr.svm.vmcb_pa;
		state->nested.hdr.svm = garbage[i];
		vcpu_nested_state_set(vcpu, &state->nested);
		kvm_x86_state_cleanup(state);
		assert_saved_gpat(vcpu, 0, 0);
	}

	run_until(vcpu, STAGE_2);
}

/* Without gPAT, hPAT goes to vmcb02 as well.  Clearing SVME frees that. */
KVM_ONE_VCPU_TEST(npt_on, host_writes_hpat_after_clearing_svme, l1_keeps_gpat)
{
	struct kvm_x86_state *state;
	struct kvm_sregs sregs;

	run_until(vcpu, STAGE_1);
	state = vcpu_save_state(vcpu);
	state->nested.hdr.svm.flags = 0;
	vcpu_nested_state_set(vcpu, &state->nested);
	kvm_x86_state_cleanup(state);

	vcpu_sregs_get(vcpu, &sregs);
	sregs.efer &= ~EFER_SVME;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT_NEW);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT_NEW);
	assert_saved_gpat(vcpu, 0, 0);
}

TEST_F(npt_on, smi_saves_and_rsm_loads_gpat)
{
	/* in $SMM_PORT, %al; rsm */
	const uint8_t handler[] = { 0xe4, SMM_PORT, 0x0f, 0xaa };
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_vm *vm = vcpu->vm;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "no SMM (CONFIG_KVM_SMM)");

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, 16, 0);
	memcpy(addr_gpa2hva(vm, SMRAM_GPA + SMI_ENTRY), handler, sizeof(handler));
	vcpu_set_msr(vcpu, MSR_IA32_SMBASE, SMRAM_GPA);

	vcpu_arch_set_entry_point(vcpu, l1_saves_gpat);
	run_until(vcpu, STAGE_1);

	vcpu_ioctl(vcpu, KVM_SMI, NULL);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SMM_PORT);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), HPAT);
	sync_global_from_guest(vm, vmcb12);
	vmcb12 = addr_gva2hva(vm, (vm_vaddr_t)vmcb12);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_NEW);
	assert_saved_gpat(vcpu, 0, 0);

	run_until(vcpu, DONE);
}

/* Move the vCPU to a new VM, return the vCPU there. */
static struct kvm_vcpu *save_and_restore(struct kvm_vcpu *vcpu, bool gpat, bool msrs_last)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	struct kvm_vm *vm = vcpu->vm;

	if (!gpat)
		state->nested.hdr.svm.flags = 0;

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);

	if (msrs_last) {
		vcpu_sregs_set(vcpu, &state->sregs);
		vcpu_nested_state_set(vcpu, &state->nested);
		state->nested.size = 0;		/* not again in vcpu_load_state() */
	}
	vcpu_load_state(vcpu, state);
	kvm_x86_state_cleanup(state);

	return vcpu;
}

TEST_F(npt_on, restore_gpat)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_saves_gpat);
	run_until(self->vcpu, STAGE_1);

	for (int msrs_last = 0; msrs_last < 2; msrs_last++) {
		self->vcpu = save_and_restore(self->vcpu, true, msrs_last);
		assert_saved_gpat(self->vcpu, GPAT_NEW, KVM_STATE_SVM_VALID_GPAT);
		TEST_ASSERT_EQ(vcpu_get_msr(self->vcpu, MSR_IA32_CR_PAT), HPAT);
	}

	run_until(self->vcpu, DONE);
}

TEST_F(npt_on, restore_without_gpat)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_keeps_gpat);
	run_until(self->vcpu, STAGE_1);
	self->vcpu = save_and_restore(self->vcpu, false, false);
	assert_saved_gpat(self->vcpu, 0, 0);

	run_until(self->vcpu, STAGE_2);
	vcpu_set_msr(self->vcpu, MSR_IA32_CR_PAT, HPAT_NEW);

	run_until(self->vcpu, STAGE_3);
	self->vcpu = save_and_restore(self->vcpu, false, true);
	assert_saved_gpat(self->vcpu, 0, 0);
	run_until(self->vcpu, DONE);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	return test_harness_run(argc, argv);
}
