// SPDX-License-Identifier: GPL-2.0-only
/*
 * What nested SVM and IA32_PAT cost: ticks of the TSC for one operation, each
 * measured alone.
 *
 *   svm_nested_pat_bench [-n SAMPLES] [-q MASK] [-r ROW]
 *
 *   -n SAMPLES	of each operation, 1000 if not given
 *   -q MASK	disables these quirks (KVM_CAP_DISABLE_QUIRKS2)
 *   -r ROW	only rows whose name begins with ROW
 *
 * Output is KTAP, with the figures in a comment before the row's result:
 *
 *   # ROW min MIN median MEDIAN, N of SAMPLES are the median
 *
 * A tick is whatever the TSC counts.  On hardware that is cycles of its nominal
 * frequency, and the minimum is the figure that repeats best; measure on an idle
 * machine.  Under QEMU's "-icount shift=0" a tick is one instruction of L0, L1 or
 * L2, and every figure repeats exactly.
 *
 * VMRUN is measured by L1 around the instruction itself, with an L2 that has
 * nothing to do but VMMCALL: that is VMRUN, #VMEXIT, and what KVM does for both.
 * Accesses of IA32_PAT are measured by the guest that makes them, ioctls by the
 * host.  The first samples of a row, which fill caches and page tables, are not
 * counted.
 *
 * Fails if an operation does not do what it should, never because of a figure.
 */
#include <getopt.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "svm_nested_pat.h"

#define WARM_UP		16
#define MAX_SAMPLES	4080
#define BENCH_PORT	0x0f

static uint64_t ticks[WARM_UP + MAX_SAMPLES];
static int samples = 1000;

/* What changes from one sample to the next */
enum {
	TWO_VMCB12S	= BIT(0),	/* L1 runs one vmcb12, then the other one */
	NEW_GPAT	= BIT(1),	/* vmcb12.g_pat is another one than last time */
	L2_WRITES	= BIT(2),	/* L2 writes a new PAT before it leaves */
	NEW_PAT		= BIT(3),	/* WRMSR and ioctl: not the value of last time */
};

static const uint64_t pats[] = { GPAT, GPAT_2 };

/* ---- Guests ---- */

static int flags;
static struct svm_test_data *svm_of[2];

/* They touch no register but those that L1 gives them, and no stack. */
static __attribute__((naked)) void l2_leaves(void)
{
	asm volatile("vmmcall\n\tud2");
}

static __attribute__((naked)) void l2_writes_pat(void)
{
	asm volatile("wrmsr\n\tvmmcall\n\tud2");
}

/* Runs in L1. */
static uint64_t op_bench_vmrun(uint64_t unused)
{
	for (int i = 0; i < WARM_UP + samples; i++) {
		struct svm_test_data *svm = svm_of[flags & TWO_VMCB12S ? i % 2 : 0];
		uint64_t rip = (uint64_t)(flags & L2_WRITES ? l2_writes_pat : l2_leaves);
		uint64_t pat = pats[flags & TWO_VMCB12S ? i / 2 % 2 : i % 2];
		uint64_t start;

		svm->vmcb->save.rip = rip;
		svm->vmcb->save.rax = (uint32_t)pat;
		if (flags & NEW_GPAT)
			svm->vmcb->save.g_pat = pat;

		/* L2's RAX comes from the VMCB, its other registers are L1's. */
		start = rdtsc();
		asm volatile("vmrun %%rax"
			     : : "a" (svm->vmcb_gpa), "c" (MSR_IA32_CR_PAT), "d" (pat >> 32)
			     : "memory", "cc");
		ticks[i] = rdtsc() - start;

		GUEST_ASSERT(svm->vmcb->control.exit_code == SVM_EXIT_VMMCALL);
	}

	return 0;
}

static uint64_t op_bench_rdmsr(uint64_t unused)
{
	for (int i = 0; i < WARM_UP + samples; i++) {
		uint64_t start = rdtsc();

		rdmsr(MSR_IA32_CR_PAT);
		ticks[i] = rdtsc() - start;
	}

	return 0;
}

static uint64_t op_bench_wrmsr(uint64_t unused)
{
	for (int i = 0; i < WARM_UP + samples; i++) {
		uint64_t pat = pats[flags & NEW_PAT ? i % 2 : 0];
		uint64_t start = rdtsc();

		wrmsr(MSR_IA32_CR_PAT, pat);
		ticks[i] = rdtsc() - start;
	}

	return 0;
}

/* Goes to the host for each sample, and once more for the first KVM_RUN. */
static uint64_t op_bench_io(uint64_t unused)
{
	for (int i = 0; i <= WARM_UP + samples; i++)
		asm volatile("outb %%al, %0" : : "i" (BENCH_PORT));

	return 0;
}

/* ---- What is measured ---- */

struct op {
	const char *name;
	int level;			/* who runs, L1 or L2 */
	bool nested;			/* NPT makes a difference: without and with */
	void (*measure)(const struct op *op);
	int flags;
};

static void in_guest(guest_op_t fn, const struct op *op)
{
	guest_call(op->level, fn, 0);
	sync_global_from_guest(vm, ticks);
}

static void vmrun(const struct op *op)
{
	in_guest(op_bench_vmrun, op);
}

static void rdmsr_pat(const struct op *op)
{
	in_guest(op_bench_rdmsr, op);
}

static void wrmsr_pat(const struct op *op)
{
	in_guest(op_bench_wrmsr, op);
}

static void timed_ioctl(int i, unsigned long cmd, void *arg, int ret)
{
	uint64_t start = rdtsc();
	int got = ioctl(vcpu->fd, cmd, arg);

	ticks[i] = rdtsc() - start;
	TEST_ASSERT(got == ret, "ioctl 0x%lx returned %d, errno %d", cmd, got, errno);
}

static void bench_get_nested_state(const struct op *op)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	uint32_t size = state->nested.size;

	for (int i = 0; i < WARM_UP + samples; i++) {
		state->nested.size = size;
		timed_ioctl(i, KVM_GET_NESTED_STATE, &state->nested, 0);
	}
	kvm_x86_state_cleanup(state);
}

static void bench_set_nested_state(const struct op *op)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	for (int i = 0; i < WARM_UP + samples; i++)
		timed_ioctl(i, KVM_SET_NESTED_STATE, &state->nested, 0);
	kvm_x86_state_cleanup(state);
}

static void ioctl_msrs(unsigned long cmd)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msr = {
		.header.nmsrs = 1,
		.entry.index = MSR_IA32_CR_PAT,
	};

	for (int i = 0; i < WARM_UP + samples; i++) {
		msr.entry.data = pats[flags & NEW_PAT ? i % 2 : 0];
		timed_ioctl(i, cmd, &msr, 1);
	}
}

static void get_msrs(const struct op *op)
{
	ioctl_msrs(KVM_GET_MSRS);
}

static void set_msrs(const struct op *op)
{
	ioctl_msrs(KVM_SET_MSRS);
}

/* KVM_RUN, of which the guest uses one instruction. */
static void run(const struct op *op)
{
	guest_op = op_bench_io;
	sync_global_to_guest(vm, guest_op);
	vcpu_run(vcpu);
	for (int i = 0; i < WARM_UP + samples; i++) {
		timed_ioctl(i, KVM_RUN, NULL, 0);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
		TEST_ASSERT_EQ(vcpu->run->io.port, BENCH_PORT);
	}
}

static const struct op ops[] = {
	{ "vmrun", L1, true, vmrun },
	{ "vmrun_two_vmcb12s", L1, true, vmrun, TWO_VMCB12S },
	{ "vmrun_new_g_pat", L1, true, vmrun, NEW_GPAT },
	{ "vmrun_two_vmcb12s_new_g_pat", L1, true, vmrun, TWO_VMCB12S | NEW_GPAT },
	{ "vmrun_l2_writes_pat", L1, true, vmrun, L2_WRITES },
	{ "l2_rdmsr", L2, true, rdmsr_pat },
	{ "l2_wrmsr_same", L2, true, wrmsr_pat },
	{ "l2_wrmsr_new", L2, true, wrmsr_pat, NEW_PAT },
	{ "l1_rdmsr", L1, false, rdmsr_pat },
	{ "l1_wrmsr_same", L1, false, wrmsr_pat },
	{ "l1_wrmsr_new", L1, false, wrmsr_pat, NEW_PAT },
	{ "get_nested_state_in_l1", L1, false, bench_get_nested_state },
	{ "get_nested_state_in_l2", L2, true, bench_get_nested_state },
	{ "set_nested_state_in_l1", L1, false, bench_set_nested_state },
	{ "set_nested_state_in_l2", L2, true, bench_set_nested_state },
	{ "get_msrs_in_l1", L1, false, get_msrs },
	{ "get_msrs_in_l2", L2, true, get_msrs },
	{ "set_msrs_same_in_l1", L1, false, set_msrs },
	{ "set_msrs_same_in_l2", L2, true, set_msrs },
	{ "set_msrs_new_in_l1", L1, false, set_msrs, NEW_PAT },
	{ "set_msrs_new_in_l2", L2, true, set_msrs, NEW_PAT },
	{ "kvm_run_in_l1", L1, false, run },
	{ "kvm_run_in_l2", L2, true, run },
};

/* ---- Host ---- */

static uint64_t quirks_off;

static vm_vaddr_t second_vmcb12(void)
{
	vm_vaddr_t gva;

	memcpy(vcpu_alloc_svm(vm, &gva)->vmcb_hva, vmcb12, sizeof(*vmcb12));

	return gva;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_figures(const char *row)
{
	uint64_t *sample = ticks + WARM_UP, median;
	int n = 0;

	qsort(sample, samples, sizeof(*sample), by_value);
	median = sample[samples / 2];
	for (int i = 0; i < samples; i++)
		n += sample[i] == median;

	printf("# %s min %lu median %lu, %d of %d are the median\n", row, sample[0],
	       median, n, samples);
}

static void measure(const struct op *op, bool npt, const char *row)
{
	create_vm(npt);
	if (quirks_off)
		vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, quirks_off);

	flags = op->flags;
	svm_of[0] = (void *)l1_svm;
	svm_of[1] = (void *)second_vmcb12();
	sync_global_to_guest(vm, samples);
	sync_global_to_guest(vm, flags);
	sync_global_to_guest(vm, svm_of);

	if (op->level == L2)
		enter_l2();

	printf("#  RUN           %s ...\n", row);
	op->measure(op);
	print_figures(row);
	kvm_vm_free(vm);
}

struct row {
	char name[64];
	const struct op *op;
	bool npt;
};

static void do_row(int n, const struct row *row)
{
	if (row->npt && !kvm_cpu_has(X86_FEATURE_NPT)) {
		printf("ok %d %s # SKIP nested NPT is off (kvm_amd.npt=0)\n", n, row->name);
		return;
	}

	measure(row->op, row->npt, row->name);
	printf("ok %d %s\n", n, row->name);
}

/* Those whose name begins with @wanted.  Returns how many there are. */
static int list_rows(struct row *rows, const char *wanted)
{
	int n = 0;

	for (int i = 0; i < ARRAY_SIZE(ops); i++) {
		for (int npt = 0; npt <= ops[i].nested; npt++) {
			struct row *row = &rows[n];

			snprintf(row->name, sizeof(row->name), "%s%s", ops[i].name,
				 !ops[i].nested ? "" : npt ? ".npt_on" : ".npt_off");
			row->op = &ops[i];
			row->npt = npt;
			n += !strncmp(row->name, wanted, strlen(wanted));
		}
	}

	return n;
}

int main(int argc, char *argv[])
{
	static struct row rows[2 * ARRAY_SIZE(ops) + 1];
	const char *wanted = "";
	int opt, n;

	while ((opt = getopt(argc, argv, "n:q:r:")) != -1) {
		switch (opt) {
		case 'n':
			samples = atoi(optarg);
			break;
		case 'q':
			quirks_off = strtoull(optarg, NULL, 0);
			break;
		case 'r':
			wanted = optarg;
			break;
		default:
			TEST_FAIL("usage: %s [-n SAMPLES] [-q MASK] [-r ROW]", argv[0]);
		}
	}

	TEST_ASSERT(samples > 0 && samples <= MAX_SAMPLES,
		    "1 to %d samples", MAX_SAMPLES);
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));
	TEST_ASSERT(!quirks_off ||
		    (kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & quirks_off) == quirks_off,
		    "KVM does not have all of these quirks: 0x%lx", quirks_off);

	n = list_rows(rows, wanted);
	TEST_ASSERT(n, "No row begins with %s", wanted);

	printf("TAP version 13\n1..%d\n", n);
	for (int i = 0; i < n; i++)
		do_row(i + 1, &rows[i]);

	return 0;
}
