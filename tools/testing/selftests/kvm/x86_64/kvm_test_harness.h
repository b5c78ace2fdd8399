/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What svm_nested_pat_test.c takes from the selftest library and a library
 * before v6.9 does not have, put where the test looks for it first.  Remove
 * together with the difference.
 */
#ifndef SELFTEST_KVM_TEST_HARNESS_H
#define SELFTEST_KVM_TEST_HARNESS_H

#include <stdio.h>
#include <unistd.h>

#include "kselftest.h"

/* KVM's test_util.h has another ASSERT_EQ(). */
#undef ASSERT_EQ

/* The harness loses the name of a case that is skipped. */
#define ksft_test_result_skip(fmt, reason)				\
do {									\
	ksft_cnt.ksft_xskip++;						\
	printf("ok %u %s%s%s.%s # SKIP " fmt, ksft_test_num(), f->name,	\
	       variant->name[0] ? "." : "", variant->name, t->name,	\
	       reason);							\
} while (0)
#include "kselftest_harness.h"
#undef ksft_test_result_skip

#undef ASSERT_EQ

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

/*
 * A SKIP() in FIXTURE_SETUP() ends the case.  In this harness it goes on with
 * the test as if setup were complete, therefore end the process; 255 is how it
 * tells its parent that it was skipped.
 */
#undef SKIP
#define SKIP(statement, fmt, ...)					\
do {									\
	snprintf(_metadata->results->reason,				\
		 sizeof(_metadata->results->reason), fmt, ##__VA_ARGS__); \
	_exit(255);							\
	statement;							\
} while (0)

#define TEST_ASSERT_EQ(a, b)						\
do {									\
	typeof(a) __a = (a);						\
	typeof(b) __b = (b);						\
									\
	test_assert(__a == __b, #a " == " #b, __FILE__, __LINE__,	\
		    "%#lx != %#lx (%s != %s)",				\
		    (unsigned long)(__a), (unsigned long)(__b), #a, #b);\
} while (0)

static inline void TEST_ASSERT_KVM_EXIT_REASON(struct kvm_vcpu *vcpu,
					       uint32_t expected)
{
	uint32_t got = vcpu->run->exit_reason;

	TEST_ASSERT(got == expected, "Wanted exit reason %u (%s), got %u (%s)",
		    expected, exit_reason_str(expected), got, exit_reason_str(got));
}

/* Variable arguments are taken as 64 bits each, so pass 64 bits. */
#define GUEST_SYNC2(arg0, arg1)						\
	ucall(UCALL_SYNC, 2, (uint64_t)(arg0), (uint64_t)(arg1))

/* Exceptions in the guest have handlers from the start. */
static inline struct kvm_vm *
vm_create_with_handlers(struct kvm_vcpu **vcpu, void *guest_code)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, guest_code);

	vm_init_descriptor_tables(vm);
	vcpu_init_descriptor_tables(*vcpu);

	return vm;
}

#define vm_create_with_one_vcpu vm_create_with_handlers

/* KVM emulates the instruction behind this prefix. */
#define KVM_FEP "ud2; .byte 'k', 'v', 'm';"

#define KVM_ASM_SAFE_FEP(insn)						\
	"mov $" __stringify(KVM_EXCEPTION_MAGIC) ", %%r9\n\t"		\
	"lea 1f(%%rip), %%r10\n\t"					\
	"lea 2f(%%rip), %%r11\n\t"					\
	KVM_FEP "1: " insn "\n\t"					\
	"xor %%r9, %%r9\n\t"						\
	"2:\n\t"							\
	"mov %%r9b, %[vector]\n\t"

/* There is no error code to be had. */
static inline void no_error_code(uint64_t *error_code)
{
	*error_code = 0;
}

#define kvm_asm_safe_ec_fep(insn, error_code, inputs...)		\
({									\
	uint8_t vector;							\
									\
	no_error_code(&(error_code));					\
	asm volatile(KVM_ASM_SAFE_FEP(insn)				\
		     : KVM_ASM_SAFE_OUTPUTS(vector)			\
		     : inputs						\
		     : KVM_ASM_SAFE_CLOBBERS);				\
	vector;								\
})

static inline uint8_t rdmsr_safe_fep(uint32_t msr, uint64_t *val)
{
	uint8_t vector;
	uint32_t a, d;

	asm volatile(KVM_ASM_SAFE_FEP("rdmsr")
		     : "=a"(a), "=d"(d), KVM_ASM_SAFE_OUTPUTS(vector)
		     : "c"(msr)
		     : KVM_ASM_SAFE_CLOBBERS);
	*val = (uint64_t)d << 32 | a;

	return vector;
}

static inline bool kvm_is_forced_emulation_enabled(void)
{
	FILE *f = fopen("/sys/module/kvm/parameters/force_emulation_prefix", "r");
	int on = 0;

	if (!f)
		return false;
	if (fscanf(f, "%d", &on) != 1)
		on = 0;
	fclose(f);

	return on;
}

#endif /* SELFTEST_KVM_TEST_HARNESS_H */
