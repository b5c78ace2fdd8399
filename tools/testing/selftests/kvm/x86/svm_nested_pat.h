/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guests and the helpers of svm_nested_pat_test.c for tests beside it, but
 * not its cases: those become functions that nobody calls.
 */
#ifndef SELFTEST_KVM_SVM_NESTED_PAT_H
#define SELFTEST_KVM_SVM_NESTED_PAT_H

#include <linux/compiler.h>

#include "kvm_test_harness.h"

#pragma push_macro("TEST_F")
#undef TEST_F
#define TEST_F(fixture, name)						\
	static __maybe_unused void uncalled_##fixture##_##name(		\
		struct __test_metadata *_metadata,			\
		struct _test_data_##fixture *self,			\
		const struct _fixture_variant_##fixture *variant)

/* A program that has a main() of its own says so. */
#ifdef SVM_NESTED_PAT_OWN_MAIN
#define main	uncalled_main
#endif

#include "svm_nested_pat_test.c"

#undef main
#pragma pop_macro("TEST_F")

/* Changes the vCPU's events by what @change does to them. */
static inline void change_events(void (*change)(struct kvm_vcpu_events *events))
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	change(&events);
	vcpu_events_set(vcpu, &events);
}

static inline void pend_smi(struct kvm_vcpu_events *events)
{
	events->flags |= KVM_VCPUEVENT_VALID_SMM;
	events->smi.pending = 1;
}

static inline void pend_init(struct kvm_vcpu_events *events)
{
	events->flags |= KVM_VCPUEVENT_VALID_SMM;
	events->smi.latched_init = 1;
}

/* The VMCB in nested state: L2's controls, L1's save area. */
static inline struct vmcb *saved_vmcb(struct kvm_x86_state *state)
{
	return (struct vmcb *)state->nested.data.svm;
}

/* ---- SMM ---- */

#define SMRAM_GPA	0x1000000
#define SMRAM_PAGES	16
#define SMRAM_SLOT	((1 << 16) | 1)
#define SMM_PORT	0x0e

/* In real mode: EDX:EAX = IA32_PAT, tell the host, go back. */
static const uint8_t smi_handler[] = {
	0x66, 0xb9, 0x77, 0x02, 0x00, 0x00,	/* mov $0x277, %ecx */
	0x0f, 0x32,				/* rdmsr */
	0xe6, SMM_PORT,				/* out %al, $SMM_PORT */
	0x0f, 0xaa,				/* rsm */
};

/* As create_vm(), and with a handler for SMIs. */
static inline void create_vm_with_smram(bool npt)
{
	create_vm(npt);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_PAGES, 0);
	vm_phy_pages_alloc(vm, SMRAM_PAGES, SMRAM_GPA, SMRAM_SLOT);
	memcpy(addr_gpa2hva(vm, SMRAM_GPA + 0x8000), smi_handler,
	       sizeof(smi_handler));
	vcpu_set_msr(vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
}

/* Returns what SMM reads from IA32_PAT. */
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
