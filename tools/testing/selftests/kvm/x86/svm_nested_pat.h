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
#define main	__maybe_unused uncalled_main
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

#endif /* SELFTEST_KVM_SVM_NESTED_PAT_H */
