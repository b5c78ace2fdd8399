/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guests and helpers for tests of the two PATs of nested SVM.  There is one VM
 * with one vCPU.  L1 and L2 do nothing on their own, they call what the host
 * asks for.
 */
#ifndef SELFTEST_KVM_SVM_NESTED_PAT_H
#define SELFTEST_KVM_SVM_NESTED_PAT_H

#include <errno.h>
#include <string.h>

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

static inline void guest_serve(int level)
{
	uint64_t ret = 0;

	for (;;) {
		GUEST_SYNC2(level, ret);
		ret = READ_ONCE(guest_op)(READ_ONCE(guest_arg));
	}
}

static inline void l2_guest(void)
{
	guest_serve(L2);
}

static inline void l1_guest(struct svm_test_data *svm)
{
	generic_svm_setup(svm, NULL, NULL);
	guest_serve(L1);
}

static inline uint64_t op_read_pat(uint64_t unused)
{
	return rdmsr(MSR_IA32_CR_PAT);
}

/* Returns the vector of the exception, 0 if there was none. */
static inline uint64_t op_write_pat(uint64_t pat)
{
	return wrmsr_safe(MSR_IA32_CR_PAT, pat);
}

/* Runs L2 from its start, returns the exit code. */
static inline uint64_t op_vmrun(uint64_t arg)
{
	struct svm_test_data *svm = (void *)arg;

	svm->vmcb->save.rip = (uint64_t)l2_guest;
	svm->vmcb->save.rsp = (uint64_t)l2_stack + sizeof(l2_stack) - 8;
	run_guest(svm->vmcb, svm->vmcb_gpa);

	return svm->vmcb->control.exit_code;
}

/* Leaves L2 for good. */
static inline uint64_t op_vmmcall(uint64_t unused)
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
static inline uint64_t run_until_report(int level)
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
		vcpu_dump(stderr, vcpu, 2);
		TEST_FAIL("Unexpected exit: %s",
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

/* Tells the guest that runs what to call next. */
static inline void set_guest_op(guest_op_t op, uint64_t arg)
{
	guest_op = op;
	guest_arg = arg;
	sync_global_to_guest(vm, guest_op);
	sync_global_to_guest(vm, guest_arg);
}

/* Has the guest that runs call @op; after it, @level reports what it returned. */
static inline uint64_t guest_call(int level, guest_op_t op, uint64_t arg)
{
	set_guest_op(op, arg);

	return run_until_report(level);
}

static inline uint64_t read_pat(int level)
{
	return guest_call(level, op_read_pat, 0);
}

static inline void write_pat(int level, uint64_t pat)
{
	TEST_ASSERT_EQ(guest_call(level, op_write_pat, pat), 0);
}

static inline void host_writes_hpat(uint64_t pat)
{
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, pat);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), pat);
}

static inline void enter_l2(void)
{
	guest_call(L2, op_vmrun, l1_svm);
}

static inline void exit_l2(void)
{
	TEST_ASSERT_EQ(guest_call(L1, op_vmmcall, 0), SVM_EXIT_VMMCALL);
}

static inline void set_npt(struct vmcb *vmcb, bool on)
{
	if (on)
		vmcb->control.nested_ctl |= SVM_NESTED_CTL_NP_ENABLE;
	else
		vmcb->control.nested_ctl &= ~SVM_NESTED_CTL_NP_ENABLE;
}

/* Nested page tables that map the first GiB one to one, with 2 MiB pages. */
static inline vm_paddr_t create_npt(void)
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

/*
 * Where KVM leaves it to userspace, L2 has a PAT of its own only on request.
 * Built with the headers of another KVM, a test knows nothing of that.
 */
#ifdef KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT
#define SHARED_PAT_QUIRK	KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT
#else
#define SHARED_PAT_QUIRK	0
#endif

static bool keep_quirks;

/* Returns the quirk if there is one that was disabled. */
static inline uint64_t disable_shared_pat(void)
{
	uint64_t quirk = kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & SHARED_PAT_QUIRK;

	if (!quirk || keep_quirks)
		return 0;
	vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, quirk);

	return quirk;
}

/* A VM whose L1 is ready to run L2; hPAT is HPAT, vmcb12.g_pat is GPAT. */
static inline void create_vm(bool npt)
{
	vm = vm_create_with_one_vcpu(&vcpu, l1_guest);
	disable_shared_pat();
	vmcb12 = vcpu_alloc_svm(vm, &l1_svm)->vmcb_hva;
	vcpu_args_set(vcpu, 1, l1_svm);
	run_until_report(L1);

	set_npt(vmcb12, npt);
	vmcb12->control.nested_cr3 = create_npt();
	vmcb12->save.g_pat = GPAT;
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
}

/*
 * All ways in which one field of a PAT can be invalid: encodings 2 and 3, and
 * each reserved bit.  Returns 0 after the last one.
 */
static inline uint64_t next_invalid_pat(int *n)
{
	static const uint8_t invalid[] = { 2, 3, 0x0e, 0x16, 0x26, 0x46, 0x86 };
	int shift = *n / ARRAY_SIZE(invalid) * 8;
	uint8_t field = invalid[*n % ARRAY_SIZE(invalid)];

	if ((*n)++ == 8 * ARRAY_SIZE(invalid))
		return 0;

	return (GPAT & ~(0xffull << shift)) | (uint64_t)field << shift;
}

/* Changes the vCPU's events by what @change does to them. */
static inline void change_events(void (*change)(struct kvm_vcpu_events *events))
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	change(&events);
	vcpu_events_set(vcpu, &events);
}

static inline void pend_smi(struct kvm_vcpu_events *events)
{
	events->smi.pending = 1;
}

static inline void pend_init(struct kvm_vcpu_events *events)
{
	events->smi.latched_init = 1;
}

static inline void unpend_init(struct kvm_vcpu_events *events)
{
	events->smi.latched_init = 0;
}

/* ---- Nested state ---- */

/* The VMCB in nested state: L2's controls, L1's save area. */
static inline struct vmcb *saved_vmcb(struct kvm_x86_state *state)
{
	return (struct vmcb *)state->nested.data.svm;
}

/* Returns 0 or errno. */
static inline int set_nested_state(struct kvm_x86_state *state)
{
	return __vcpu_nested_state_set(vcpu, &state->nested) ? errno : 0;
}

static inline void set_hdr_gpat(struct kvm_x86_state *state, uint64_t gpat)
{
	state->nested.hdr.svm.gpat = gpat;
	state->nested.hdr.svm.flags = KVM_STATE_SVM_VALID_GPAT;
}

/* What a VMM does that knows only this field, or a KVM that has no other. */
static inline void keep_vmcb_pa_only(struct kvm_x86_state *state)
{
	memset(&state->nested.hdr.svm.gpat, 0,
	       sizeof(state->nested.hdr) - sizeof(state->nested.hdr.svm.vmcb_pa));
}

/* Another VM takes over, with @state. */
static inline void recreate_and_load(struct kvm_x86_state *state, bool msrs_last)
{
	uint32_t nested_size = state->nested.size;

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);
	disable_shared_pat();

	if (msrs_last) {
		vcpu_sregs_set(vcpu, &state->sregs);
		vcpu_nested_state_set(vcpu, &state->nested);
		state->nested.size = 0;
	}
	vcpu_load_state(vcpu, state);
	state->nested.size = nested_size;
}

static inline void save_and_restore(bool msrs_last)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	recreate_and_load(state, msrs_last);
	kvm_x86_state_cleanup(state);
}

static inline void save_and_restore_vmcb_pa_only(bool msrs_last)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	keep_vmcb_pa_only(state);
	recreate_and_load(state, msrs_last);
	kvm_x86_state_cleanup(state);
}

static inline void assert_saved_hdr(uint64_t gpat, uint32_t flags)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	TEST_ASSERT_EQ(state->nested.hdr.svm.gpat, gpat);
	TEST_ASSERT_EQ(state->nested.hdr.svm.flags, flags);
	TEST_ASSERT_EQ(state->nested.hdr.svm.reserved, 0);
	kvm_x86_state_cleanup(state);
}

static inline void assert_gpat_saved(uint64_t gpat)
{
	assert_saved_hdr(gpat, KVM_STATE_SVM_VALID_GPAT);
}

static inline void assert_no_gpat_saved(void)
{
	assert_saved_hdr(0, 0);
}

/* ---- SMM ---- */

#define SMRAM_GPA	0x1000000
#define SMRAM_PAGES	16
#define SMRAM_SLOT	((1 << 16) | 1)
#define SMM_PORT	0x0e

/* Has SMIs run @handler, @size bytes of real mode code. */
static inline void install_smi_handler(const uint8_t *handler, size_t size)
{
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_PAGES, 0);
	vm_phy_pages_alloc(vm, SMRAM_PAGES, SMRAM_GPA, SMRAM_SLOT);
	memcpy(addr_gpa2hva(vm, SMRAM_GPA + 0x8000), handler, size);
	vcpu_set_msr(vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
}

/* As create_vm(), and what smi() needs. */
static inline void create_vm_with_smm(bool npt)
{
	static const uint8_t handler[] = {
		0x66, 0xb9, 0x77, 0x02, 0x00, 0x00,	/* mov $0x277, %ecx */
		0x0f, 0x32,				/* rdmsr */
		0xe6, SMM_PORT,				/* out %al, $SMM_PORT */
		0x0f, 0xaa,				/* rsm */
	};

	create_vm(npt);
	install_smi_handler(handler, sizeof(handler));
}

/* Returns what SMM reads from IA32_PAT.  RSM is what the vCPU does next. */
static inline uint64_t smi(void)
{
	struct kvm_regs regs;

	change_events(pend_smi);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SMM_PORT);
	vcpu_regs_get(vcpu, &regs);

	return regs.rdx << 32 | (uint32_t)regs.rax;
}

#endif /* SELFTEST_KVM_SVM_NESTED_PAT_H */
