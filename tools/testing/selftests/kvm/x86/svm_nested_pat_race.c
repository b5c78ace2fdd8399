// SPDX-License-Identifier: GPL-2.0-only
/*
 * L1 changes vmcb12.g_pat on one CPU while another one executes VMRUN.
 *
 *   svm_nested_pat_race TIME
 *
 * One vCPU flips vmcb12.g_pat between values of which half are valid.  The other
 * one runs that vmcb12 in a loop, for TIME seconds (or, on a busy machine, for up
 * to ten times as long, until each outcome was seen often enough):
 *
 *  - either L2 runs, with one of the valid values, and keeps it until #VMEXIT
 *  - or VMRUN fails with VMEXIT_INVALID, and L2 did not execute an instruction
 *
 * KVM has to read g_pat once.  If it validates one reading and uses another, an
 * invalid PAT gets through, or one that was valid is not what L2 reads.  What
 * the CPU is given in vmcb02 is for the VMRUN view to judge.
 *
 * Needs two CPUs, else the race is none.  Both outcomes have to occur often and
 * in turns, and L2 has to see each of the valid values: otherwise there was no
 * race, which is a failure as well.
 */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "svm_nested_pat.h"

#define MIN_OUTCOMES	200	/* of each kind, and turns from one to the other */
#define MIN_OF_A_VALUE	20	/* L2 with one of the valid values */

static const uint64_t valid[] = { GPAT, GPAT_2, HPAT_2, 0x0606060606060606ull };
static const uint64_t invalid[] = {
	INVALID_PAT, 0x0207040600070406ull, 0x8007040600070406ull, ~0ull,
};

/* ---- Guests ---- */

/* How often what happened, as L1 counts */
static struct {
	uint64_t ran[ARRAY_SIZE(valid)];
	uint64_t refused;
	uint64_t turns;		/* one kind of outcome after the other */
} seen;
static bool stop;

static uint64_t l2_ran;		/* how often L2 executed its first instruction */
static uint64_t l2_pat[2];	/* what it read from IA32_PAT, twice */

static void l2_reader(void)
{
	WRITE_ONCE(l2_ran, l2_ran + 1);
	l2_pat[0] = rdmsr(MSR_IA32_CR_PAT);
	l2_pat[1] = rdmsr(MSR_IA32_CR_PAT);
	vmmcall();
}

static int which_valid(uint64_t pat)
{
	for (int i = 0; i < ARRAY_SIZE(valid); i++)
		if (valid[i] == pat)
			return i;

	return -1;
}

/* Runs in L1: VMRUN until the host says stop. */
static uint64_t op_vmrun_loop(uint64_t arg)
{
	struct svm_test_data *svm = (void *)arg;
	int last = -1, i;
	uint64_t ran;

	while (!READ_ONCE(stop)) {
		ran = l2_ran;
		svm->vmcb->save.rip = (uint64_t)l2_reader;
		svm->vmcb->save.rsp = (uint64_t)l2_stack + sizeof(l2_stack) - 8;
		run_guest(svm->vmcb, svm->vmcb_gpa);

		if (svm->vmcb->control.exit_code == SVM_EXIT_VMMCALL) {
			i = which_valid(l2_pat[0]);
			__GUEST_ASSERT(i >= 0, "L2 ran with an invalid PAT, 0x%lx", l2_pat[0]);
			__GUEST_ASSERT(l2_pat[0] == l2_pat[1], "L2's PAT was 0x%lx, then 0x%lx",
				       l2_pat[0], l2_pat[1]);
			GUEST_ASSERT_EQ(l2_ran, ran + 1);
			seen.ran[i]++;
			i = 1;
		} else {
			__GUEST_ASSERT(svm->vmcb->control.exit_code == (uint32_t)SVM_EXIT_ERR,
				       "Exit code 0x%x", svm->vmcb->control.exit_code);
			GUEST_ASSERT_EQ(l2_ran, ran);
			seen.refused++;
			i = 0;
		}
		GUEST_ASSERT_EQ(rdmsr(MSR_IA32_CR_PAT), HPAT);
		seen.turns += last != i;
		last = i;
	}

	return 0;
}

/* The other vCPU of L1: nothing but that. */
static void l1_flipper(struct svm_test_data *svm)
{
	struct vmcb *vmcb = svm->vmcb;
	uint64_t x = 1;

	while (!READ_ONCE(stop)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		vmcb->save.g_pat = x & 4 ? valid[x & 3] : invalid[x & 3];
		barrier();
	}
	GUEST_DONE();
}

/* ---- Host ---- */

static void *run_flipper(void *arg)
{
	struct kvm_vcpu *flipper = arg;
	struct ucall uc;

	vcpu_run(flipper);
	switch (get_ucall(flipper, &uc)) {
	case UCALL_DONE:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		vcpu_dump(stderr, flipper, 2);
		TEST_FAIL("Unexpected exit of the second vCPU: %s",
			  exit_reason_str(flipper->run->exit_reason));
	}

	return NULL;
}

static uint64_t all_ran(void)
{
	uint64_t n = 0;

	for (int i = 0; i < ARRAY_SIZE(valid); i++)
		n += seen.ran[i];

	return n;
}

static bool seen_enough(void)
{
	sync_global_from_guest(vm, seen);
	for (int i = 0; i < ARRAY_SIZE(valid); i++)
		if (seen.ran[i] < MIN_OF_A_VALUE)
			return false;

	return all_ran() >= MIN_OUTCOMES && seen.refused >= MIN_OUTCOMES &&
	       seen.turns >= MIN_OUTCOMES;
}

static void *stop_after(void *arg)
{
	long seconds = (long)arg;

	for (long i = 0; i < seconds || (i < 10 * seconds && !seen_enough()); i++)
		sleep(1);
	stop = true;
	sync_global_to_guest(vm, stop);

	return NULL;
}

int main(int argc, char *argv[])
{
	pthread_t flips, timer;
	struct kvm_vcpu *flipper;
	bool enough;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_NPT));
	TEST_REQUIRE(sysconf(_SC_NPROCESSORS_ONLN) >= 2);
	TEST_ASSERT(argc == 2 && atoi(argv[1]) > 0, "usage: %s TIME", argv[0]);

	printf("1..1\n");
	create_vm(true);
	vcpu_run_complete_io(vcpu);

	flipper = vm_vcpu_add(vm, 1, l1_flipper);
	vcpu_args_set(flipper, 1, l1_svm);

	pthread_create(&timer, NULL, stop_after, (void *)(long)atoi(argv[1]));
	pthread_create(&flips, NULL, run_flipper, flipper);
	guest_call(L1, op_vmrun_loop, l1_svm);
	pthread_join(flips, NULL);
	pthread_join(timer, NULL);

	enough = seen_enough();
	printf("# nsvm: race ran=%lu refused=%lu turns=%lu\n", all_ran(), seen.refused, seen.turns);
	TEST_ASSERT(enough,
		    "No race to speak of: L2 ran %lu times and was refused %lu times, in %lu turns",
		    all_ran(), seen.refused, seen.turns);
	kvm_vm_free(vm);
	printf("ok 1 race\n");

	return 0;
}
