// SPDX-License-Identifier: GPL-2.0-only
/*
 * More of what svm_nested_pat_test.c tests: series of VMRUNs, clean bits, two CPUs
 * of L1, entries that fail, RSM among them, an L1 that intercepts IA32_PAT, and
 * accesses that KVM emulates.
 */
#include "svm_nested_pat_fixtures.h"

#define VMCB_CLEAN_NPT	BIT(4)		/* covers NP_ENABLE, nCR3 and G_PAT */
#define RFLAGS_VM	BIT(17)

TEST_F(npt_on, many_vmruns)
{
	const uint64_t pats[] = { GPAT, GPAT_2, HPAT, HPAT_2 };

	for (int i = 0; i < 64; i++) {
		uint64_t load = pats[i % 4], store = pats[i / 4 % 4];

		vmcb12->save.g_pat = load;
		enter_l2();
		TEST_ASSERT_EQ(read_pat(L2), load);
		write_pat(L2, store);
		exit_l2();
		TEST_ASSERT_EQ(vmcb12->save.g_pat, store);
		TEST_ASSERT_EQ(read_pat(L1), HPAT);
	}
}

static void assert_vmrun_rejects_invalid_g_pat(void)
{
	vmcb12->save.g_pat = INVALID_PAT;
	TEST_ASSERT_EQ(guest_call(L1, op_vmrun, l1_svm), (uint32_t)SVM_EXIT_ERR);
	vmcb12->save.g_pat = GPAT;
}

/* Whatever KVM may remember of the L2 that ran before, with hPAT or with gPAT. */
TEST_F(npt_on, vmrun_rejects_invalid_g_pat_after_l2_ran)
{
	set_npt(vmcb12, false);
	enter_l2();
	exit_l2();
	set_npt(vmcb12, true);
	assert_vmrun_rejects_invalid_g_pat();

	enter_l2();
	exit_l2();
	assert_vmrun_rejects_invalid_g_pat();
}

static uint64_t op_read_cr3(uint64_t unused)
{
	return get_cr3();
}

static uint64_t op_load_cr3(uint64_t cr3)
{
	asm volatile("mov %0, %%cr3" : : "r" (cr3) : "memory");

	return 0;
}

/* What loads nCR3 loads CR3 without NPT, only a CPU sees the clean bit for it. */
TEST_F(npt_off, l1_loads_another_cr3)
{
	uint64_t cr3 = guest_call(L1, op_read_cr3, 0);
	vm_paddr_t other = vm_alloc_page_table(vm);

	memcpy(addr_gpa2hva(vm, other), addr_gpa2hva(vm, cr3), PAGE_SIZE);
	guest_call(L1, op_load_cr3, other);
	TEST_ASSERT_EQ(guest_call(L1, op_read_cr3, 0), other);
	enter_l2();
	exit_l2();
	guest_call(L1, op_load_cr3, cr3);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

static void l2_leaves(void)
{
	vmmcall();
}

/* Two VMRUNs with nothing in between that KVM leaves to the host. */
static uint64_t op_vmrun_twice(uint64_t arg)
{
	struct svm_test_data *svm = (void *)arg;

	svm->vmcb->save.rip = (uint64_t)l2_leaves;
	svm->vmcb->save.rsp = (uint64_t)l2_stack + sizeof(l2_stack) - 8;
	run_guest(svm->vmcb, svm->vmcb_gpa);

	return op_vmrun(arg);
}

TEST_F(npt_on, vmrun_right_after_vmexit)
{
	guest_call(L2, op_vmrun_twice, l1_svm);
	assert_gpat_saved(GPAT);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT_2);
	assert_gpat_saved(GPAT);
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

static struct svm_test_data *l1_data;

/*
 * What clearing EFER.SVME does to an L2 is undefined (APM, "Enabling SVM").  KVM
 * makes it go on as L1: at its next instruction, or, if the CPU saves the next RIP
 * at #VMEXIT, at the one after L1's VMRUN.  Both come here.
 */
static void run_l2_again(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	op_vmrun((uint64_t)l1_data);
}

static void l2_clears_svme(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVME);
	run_l2_again();
}

static uint64_t op_vmrun_after_svme_cleared(uint64_t arg)
{
	l1_data = (void *)arg;
	l1_data->vmcb->save.rip = (uint64_t)l2_clears_svme;
	l1_data->vmcb->save.rsp = (uint64_t)l2_stack + sizeof(l2_stack) / 2 - 8;
	asm volatile("vmrun %%rax\n\t"
		     "call %P1"
		     : : "a" (l1_data->vmcb_gpa), "i" (run_l2_again) : "memory");

	return 0;
}

TEST_F(npt_on, vmrun_after_svme_was_cleared)
{
	guest_call(L2, op_vmrun_after_svme_cleared, l1_svm);
	assert_gpat_saved(GPAT);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT_2);
	assert_gpat_saved(GPAT);
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
}

TEST_F(npt_on, two_vmcb12s_in_turn)
{
	struct svm_test_data *svm;
	struct vmcb *other;
	vm_vaddr_t gva;

	svm = vcpu_alloc_svm(vm, &gva);
	other = svm->vmcb_hva;
	*other = *vmcb12;
	other->save.g_pat = HPAT_2;

	enter_l2();
	write_pat(L2, GPAT_2);
	exit_l2();

	guest_call(L2, op_vmrun, gva);
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(other->save.g_pat, HPAT_2);

	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(npt_on, l1_changes_its_pat_in_between)
{
	enter_l2();
	exit_l2();
	write_pat(L1, HPAT_2);
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT_2);
}

/*
 * With the NPT clean bit clear, a new g_pat must be loaded.  With the bit set,
 * the APM leaves it open whether the old or the new one is, but not that L2
 * reads one and #VMEXIT saves the other.
 */
TEST_F(npt_on, g_pat_and_clean_bit)
{
	uint64_t pat;

	enter_l2();
	exit_l2();

	vmcb12->control.clean = VMCB_CLEAN_NPT;
	vmcb12->save.g_pat = GPAT_2;
	enter_l2();
	pat = read_pat(L2);
	TEST_ASSERT(pat == GPAT || pat == GPAT_2, "L2 has PAT 0x%lx", pat);
	assert_gpat_saved(pat);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, pat);

	vmcb12->control.clean = 0;
	vmcb12->save.g_pat = HPAT_2;
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), HPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, HPAT_2);
}

/* BitVisor does that with the VMCB of its guest. */
TEST_F(npt_on, np_flipped_on_one_vmcb)
{
	const uint64_t pats[] = { INVALID_PAT, 0, GPAT, INVALID_PAT, GPAT_2, 0 };

	for (int i = 0; i < ARRAY_SIZE(pats); i++) {
		vmcb12->save.g_pat = pats[i];
		set_npt(vmcb12, false);
		enter_l2();
		TEST_ASSERT_EQ(read_pat(L2), HPAT);
		exit_l2();
		TEST_ASSERT_EQ(vmcb12->save.g_pat, pats[i]);

		set_npt(vmcb12, true);
		if (pats[i] == INVALID_PAT) {
			TEST_ASSERT_EQ(guest_call(L1, op_vmrun, l1_svm),
				       (uint32_t)SVM_EXIT_ERR);
		} else {
			enter_l2();
			TEST_ASSERT_EQ(read_pat(L2), pats[i]);
			exit_l2();
		}
		TEST_ASSERT_EQ(vmcb12->save.g_pat, pats[i]);
		TEST_ASSERT_EQ(read_pat(L1), HPAT);
	}
}

/* Another CPU cannot have anything of the VMCB cached, whatever the clean bits say. */
TEST_F(npt_on, l2_moves_between_two_cpus_of_l1)
{
	const uint64_t pats[] = { GPAT, GPAT_2, HPAT, 0, HPAT_2 };
	struct kvm_vcpu *cpus[] = { vcpu, vm_vcpu_add(vm, 1, l1_guest) };
	vm_vaddr_t gva;

	vcpu = cpus[1];
	vcpu_alloc_svm(vm, &gva);
	vcpu_args_set(vcpu, 1, gva);
	run_until_report(L1);

	for (int i = 0; i < 4 * ARRAY_SIZE(pats); i++) {
		uint64_t pat = pats[i % ARRAY_SIZE(pats)];

		vcpu = cpus[i % 2];
		vmcb12->control.clean = ~0;
		vmcb12->save.g_pat = pat;
		enter_l2();
		TEST_ASSERT_EQ(read_pat(L2), pat);
		assert_gpat_saved(pat);
		exit_l2();
		TEST_ASSERT_EQ(vmcb12->save.g_pat, pat);
		TEST_ASSERT_EQ(read_pat(L1), HPAT);
	}
}

static void test_intercepted_access(void)
{
	struct svm_test_data *svm = addr_gva2hva(vm, l1_svm);
	const int bit = 2 * MSR_IA32_CR_PAT;	/* read, the next one is write */
	uint8_t *msrpm = svm->msr_hva;

	msrpm[bit / 8] |= 3 << bit % 8;
	vmcb12->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);

	enter_l2();
	TEST_ASSERT_EQ(guest_call(L1, op_read_pat, 0), SVM_EXIT_MSR);
	TEST_ASSERT_EQ(vmcb12->control.exit_info_1, 0);

	enter_l2();
	TEST_ASSERT_EQ(guest_call(L1, op_write_pat, GPAT_2), SVM_EXIT_MSR);
	TEST_ASSERT_EQ(vmcb12->control.exit_info_1, 1);

	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

TEST_F(npt_off, intercepted_access_exits_to_l1)
{
	test_intercepted_access();
}

TEST_F(npt_on, intercepted_access_exits_to_l1)
{
	test_intercepted_access();
}

/*
 * An entry that fails after the consistency checks, here for an MSR bitmap in
 * memory that is not there, is a #VMEXIT as well.
 */
TEST_F(npt_on, failed_entry_leaves_both_pats_alone)
{
	uint64_t msrpm = vmcb12->control.msrpm_base_pa;

	vmcb12->control.msrpm_base_pa = 1ull << 32;
	vmcb12->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
	TEST_ASSERT_EQ(guest_call(L1, op_vmrun, l1_svm), (uint32_t)SVM_EXIT_ERR);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);

	vmcb12->control.msrpm_base_pa = msrpm;
	enter_l2();
	TEST_ASSERT_EQ(read_pat(L2), GPAT);
}

static int set_state_with_l1(uint64_t cr0, uint64_t efer, uint64_t rflags)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	struct vmcb_save_area *l1 = &saved_vmcb(state)->save;
	int err;

	l1->cr0 &= cr0;
	l1->efer &= efer;
	l1->rflags |= rflags;
	err = set_nested_state(state);
	kvm_x86_state_cleanup(state);

	return err;
}

/* What is checked of nested state along with its PAT. */
TEST_F(npt_off, state_with_impossible_l1_is_refused)
{
	const uint64_t no_lme = ~(uint64_t)(EFER_LME | EFER_LMA);

	enter_l2();
	TEST_ASSERT_EQ(set_state_with_l1(~X86_CR0_PG, ~0ull, 0), EINVAL);
	TEST_ASSERT_EQ(set_state_with_l1(~X86_CR0_PE, no_lme, 0), EINVAL);
	TEST_ASSERT_EQ(set_state_with_l1(~0ull, ~0ull, RFLAGS_VM), EINVAL);
	TEST_ASSERT_EQ(set_state_with_l1(~0ull, ~0ull, 0), 0);
	TEST_ASSERT_EQ(read_pat(L2), HPAT);
	exit_l2();
}

static uint64_t op_read_pat_emulated(uint64_t unused)
{
	uint64_t pat;

	GUEST_ASSERT_EQ(rdmsr_safe_fep(MSR_IA32_CR_PAT, &pat), 0);

	return pat;
}

static uint64_t op_write_pat_emulated(uint64_t pat)
{
	uint64_t error_code;

	return kvm_asm_safe_ec_fep("wrmsr", error_code, "a"((uint32_t)pat),
				   "d"(pat >> 32), "c"(MSR_IA32_CR_PAT));
}

static void test_emulated_accesses(bool npt)
{
	enter_l2();
	TEST_ASSERT_EQ(guest_call(L2, op_read_pat_emulated, 0), npt ? GPAT : HPAT);
	TEST_ASSERT_EQ(guest_call(L2, op_write_pat_emulated, INVALID_PAT), GP_VECTOR);
	TEST_ASSERT_EQ(guest_call(L2, op_write_pat_emulated, GPAT_2), 0);
	TEST_ASSERT_EQ(guest_call(L2, op_read_pat_emulated, 0), GPAT_2);
	TEST_ASSERT_EQ(read_pat(L2), GPAT_2);
	exit_l2();
	TEST_ASSERT_EQ(vmcb12->save.g_pat, npt ? GPAT_2 : GPAT);
	TEST_ASSERT_EQ(guest_call(L1, op_read_pat_emulated, 0), npt ? HPAT : GPAT_2);
}

TEST_F(npt_on, emulated_accesses_from_l2)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "no forced emulation (kvm.force_emulation_prefix=1)");

	test_emulated_accesses(true);
}

TEST_F(npt_off, emulated_accesses_from_l2)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "no forced emulation (kvm.force_emulation_prefix=1)");

	test_emulated_accesses(false);
}

/* RSM to L2 makes the checks of VMRUN, an address space of 0 is none. */
FIXTURE(rsm) { };

FIXTURE_SETUP(rsm)
{
	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "no SMM (CONFIG_KVM_SMM)");
	if (!kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	create_vm_with_smm(true);
}

FIXTURE_TEARDOWN(rsm)
{
	kvm_vm_free(vm);
}

TEST_F(rsm, does_not_run_invalid_controls)
{
	enter_l2();
	smi();
	vmcb12->control.asid = 0;
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	return test_harness_run(argc, argv);
}
