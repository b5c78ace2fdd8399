// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every reason for a #VMEXIT saves gPAT (APM volume 2, "Nested Paging and
 * VMRUN/#VMEXIT").
 */
#include "apic.h"
#include "kvm_test_harness.h"
#include "svm_nested_pat.h"

#define VECTOR		0x30

static uint64_t op_ud2(uint64_t unused)
{
	asm volatile("ud2");

	return 0;
}

/* No IDT: #UD becomes #DF becomes shutdown. */
static uint64_t op_shutdown(uint64_t unused)
{
	struct desc_ptr no_idt = {};

	asm volatile("lidt %0; ud2" : : "m"(no_idt));

	return 0;
}

static uint64_t op_self_ipi(uint64_t unused)
{
	wrmsr(MSR_IA32_APICBASE, rdmsr(MSR_IA32_APICBASE) | X2APIC_ENABLE);
	x2apic_write_reg(APIC_SPIV, APIC_SPIV_APIC_ENABLED);
	x2apic_write_reg(APIC_ICR, APIC_DEST_SELF | APIC_INT_ASSERT |
				   APIC_DM_FIXED | VECTOR);
	asm volatile("sti; nop; nop");

	return 0;
}

static uint64_t op_cpuid(uint64_t unused)
{
	uint32_t eax, ebx, ecx, edx;

	cpuid(0, &eax, &ebx, &ecx, &edx);

	return eax;
}

static void host_nmi(void)
{
	vcpu_ioctl(vcpu, KVM_NMI, NULL);
}

static void host_smi(void)
{
	change_events(pend_smi);
}

static void host_init(void)
{
	change_events(pend_init);
}

struct l2_exit {
	uint64_t intercept;		/* what L1 intercepts for this */
	uint32_t intercept_exceptions;
	void (*host)(void);		/* what the host does, if anything */
	guest_op_t op;			/* what L2 does */
	uint32_t code;
};

FIXTURE(exits) { };

FIXTURE_VARIANT(exits)
{
	struct l2_exit exit;
};

FIXTURE_VARIANT_ADD(exits, vmmcall) {
	.exit.op = op_vmmcall,
	.exit.code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(exits, cpuid) {
	.exit.intercept = BIT_ULL(INTERCEPT_CPUID),
	.exit.op = op_cpuid,
	.exit.code = SVM_EXIT_CPUID,
};

FIXTURE_VARIANT_ADD(exits, exception) {
	.exit.intercept_exceptions = BIT(UD_VECTOR),
	.exit.op = op_ud2,
	.exit.code = SVM_EXIT_EXCP_BASE + UD_VECTOR,
};

FIXTURE_VARIANT_ADD(exits, shutdown) {
	.exit.intercept = BIT_ULL(INTERCEPT_SHUTDOWN),
	.exit.op = op_shutdown,
	.exit.code = SVM_EXIT_SHUTDOWN,
};

FIXTURE_VARIANT_ADD(exits, interrupt) {
	.exit.intercept = BIT_ULL(INTERCEPT_INTR),
	.exit.op = op_self_ipi,
	.exit.code = SVM_EXIT_INTR,
};

FIXTURE_VARIANT_ADD(exits, nmi) {
	.exit.intercept = BIT_ULL(INTERCEPT_NMI),
	.exit.host = host_nmi,
	.exit.op = op_read_pat,
	.exit.code = SVM_EXIT_NMI,
};

FIXTURE_VARIANT_ADD(exits, smi) {
	.exit.intercept = BIT_ULL(INTERCEPT_SMI),
	.exit.host = host_smi,
	.exit.op = op_read_pat,
	.exit.code = SVM_EXIT_SMI,
};

FIXTURE_VARIANT_ADD(exits, init) {
	.exit.intercept = BIT_ULL(INTERCEPT_INIT),
	.exit.host = host_init,
	.exit.op = op_read_pat,
	.exit.code = SVM_EXIT_INIT,
};

FIXTURE_SETUP(exits)
{
}

FIXTURE_TEARDOWN(exits)
{
	kvm_vm_free(vm);
}

static void test_exit(const struct l2_exit *exit)
{
	vmcb12->control.intercept |= exit->intercept;
	vmcb12->control.intercept_exceptions |= exit->intercept_exceptions;

	enter_l2();
	write_pat(L2, GPAT_2);
	if (exit->host)
		exit->host();
	TEST_ASSERT_EQ(guest_call(L1, exit->op, 0), exit->code);
}

TEST_F(exits, save_gpat)
{
	if (!kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "nested NPT is off (kvm_amd.npt=0)");

	create_vm(true);
	test_exit(&variant->exit);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT_2);
	TEST_ASSERT_EQ(read_pat(L1), HPAT);
	assert_no_gpat_saved();
}

TEST_F(exits, without_npt_leave_g_pat_alone)
{
	create_vm(false);
	test_exit(&variant->exit);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, GPAT);
	TEST_ASSERT_EQ(read_pat(L1), GPAT_2);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	return test_harness_run(argc, argv);
}
