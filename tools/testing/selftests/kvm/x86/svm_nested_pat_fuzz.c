// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hostile userspace: a fuzzer of KVM_SET_NESTED_STATE and of what userspace can
 * mix with it.
 *
 *   svm_nested_pat_fuzz SEED TIME [STEPS]
 *
 * It works in rounds of STEPS (2000) calls on a VM of its own.  The seed of the
 * first round is SEED, of the next one SEED + 1, and so on until TIME seconds are
 * over; with TIME 0 there is one round, and each step is printed.  A failure
 * names the seed of its round and the step, "SEED 0 STEP" repeats it: what is
 * called depends on the seed alone.  (In every fourth round the guest is let
 * run with registers that make no sense, until a timer stops it; what it did
 * until then may differ.)
 *
 * Calls start from valid state: L2 with and without nested NPT, legacy L2, L1,
 * SMM over L2.  A model knows hPAT and, where one can, gPAT, and holds against
 * it what KVM returns after each call:
 *
 *  - a call that fails changes nothing: nested state and IA32_PAT always, all
 *    registers and events every fourth time
 *  - the header has a gPAT only in guest mode with nested NPT, and a valid one;
 *    without one there, the state is legacy state; else the header is zero
 *  - state comes back as it was set, and once more after it was set again
 *  - IA32_PAT is what the host or L1 wrote, so is vmcb01.g_pat in the payload
 *  - legacy state ends only when L2 writes IA32_PAT, by leaving guest mode or by
 *    other nested state; until then gPAT is hPAT, and #VMEXIT leaves vmcb12 alone
 *  - guest mode is left if SVME is cleared or SMM toggled
 *  - L1 and L2, once restored, read and write the PATs of the model
 *  - nothing is leaked (kmemleak, if the kernel has it)
 *
 * Where KVM has KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT, it is disabled; in every fourth
 * round a thread does that while the vCPU runs L2, with whatever is in vmcb12.g_pat.
 * What the guests make of it is undefined and not looked at.
 *
 * On a KVM that doesn't put a gPAT into nested state, L1 and L2 share a PAT, as without
 * nested NPT.
 *
 * That the kernel itself doesn't complain is for the one who boots it to see.
 */
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "svm_nested_pat.h"

#define STEPS_IN_ROUND	2000
#define RUN_LIMIT_US	5000	/* of a guest that runs wild */
#define RFLAGS_TF	0x100ull
#define BLOB_SIZE	(sizeof(struct kvm_nested_state) + KVM_STATE_NESTED_SVM_VMCB_SIZE)

/* ---- Random numbers, from the seed alone ---- */

static uint64_t rnd_state;

static void rnd_seed(uint64_t seed)
{
	/* splitmix64: seeds in a row are not alike, and none leads to zero */
	seed += 0x9e3779b97f4a7c15ull;
	seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9ull;
	seed = (seed ^ (seed >> 27)) * 0x94d049bb133111ebull;
	rnd_state = (seed ^ (seed >> 31)) | 1;
}

static uint64_t rnd64(void)
{
	rnd_state ^= rnd_state >> 12;
	rnd_state ^= rnd_state << 25;
	rnd_state ^= rnd_state >> 27;

	return rnd_state * 0x2545f4914f6cdd1dull;
}

static unsigned int rnd(unsigned int n)
{
	return (rnd64() >> 33) % n;
}

static bool one_in(unsigned int n)
{
	return !rnd(n);
}

static uint64_t pick(const uint64_t *from, size_t n)
{
	return from[rnd(n)];
}

/* ---- State ---- */

union blob {
	struct kvm_nested_state nested;
	uint8_t bytes[BLOB_SIZE];
};

/*
 * Pages that L1, L2 and KVM write: both stacks, the registers that run_guest()
 * keeps for L1, vmcb12, the host save area, the state save area of SMM.
 */
enum { L1_STACK, L1_STACK_2, L2_STACK, GUEST_REGS, VMCB12, HSAVE, SMRAM, NR_PAGES };
static void *page[NR_PAGES];

/* What userspace saves of a vCPU, as far as it matters here */
struct state {
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	union blob blob;
	uint64_t hsave;
	uint8_t memory[NR_PAGES][PAGE_SIZE];
};

enum { IN_L1, IN_L2, IN_L2_NO_NPT, IN_SMM, IN_LEGACY_L2, NR_STATES };
static struct state saved[NR_STATES];

static struct {
	uint64_t hpat;
	uint64_t gpat;
	bool knows_gpat;
	bool legacy;
	/* The guests are where restore() or run_until_report() left them, in: */
	int sane;
	bool spoilt;	/* memory was written that restore() doesn't restore */
} model;

static bool has_quirk;		/* disabled, which makes a gpat without tag count */
static bool shares_pat;		/* KVM doesn't save a gPAT: L2 has L1's PAT */
static union blob last;		/* what KVM_GET_NESTED_STATE returned last */
static uint64_t spare_gpa;	/* a page of the guest that nobody uses */
static void *edge;		/* a page with nothing mapped behind it */

static uint64_t seed, round_steps = STEPS_IN_ROUND;
static unsigned int step;
static bool verbose, finished;

/* Shared with the process that a round is */
static struct {
	uint64_t calls, sets, accepted, failed, runs, guest_ops, rounds, dead, switches;
} *count;

/* ---- What went wrong, where ---- */

static char history[16][160];
static unsigned int nr_history;

static void __printf(1, 2) note(const char *fmt, ...)
{
	char *s = history[nr_history++ % ARRAY_SIZE(history)];
	int n = snprintf(s, sizeof(history[0]), "%u: ", step);
	va_list args;

	va_start(args, fmt);
	vsnprintf(s + n, sizeof(history[0]) - n, fmt, args);
	va_end(args);
	if (verbose)
		printf("# %s\n", s);
}

static void at_exit(void)
{
	unsigned int i = 0;

	if (finished)
		return;

	if (!verbose)
		printf("\n# the last calls:\n");
	if (nr_history > ARRAY_SIZE(history))
		i = nr_history - ARRAY_SIZE(history);
	for (; !verbose && i < nr_history; i++)
		printf("#   %s\n", history[i % ARRAY_SIZE(history)]);
	printf("# nsvm: fuzz failed seed=%lu step=%u calls=%lu\n", seed, step, count->calls);
	fflush(stdout);
}

#define CHECK(cond, fmt, ...)						\
	TEST_ASSERT(cond, "seed %lu, step %u: " fmt, seed, step, ##__VA_ARGS__)

/* ---- Calls ---- */

/* Returns what the call does, or the negative errno. */
static int call(unsigned long cmd, void *arg)
{
	int ret;

	count->calls++;
	ret = ioctl(vcpu->fd, cmd, arg);
	if (ret >= 0)
		return ret;

	/*
	 * KVM gives a VM up if an SMI finds no memory at VM_HSAVE_PA.  If it was
	 * a bug in KVM, there is a warning as well.
	 */
	if (errno == EIO) {
		note("the VM is dead");
		count->dead++;
		finished = true;
		exit(0);
	}

	return -errno;
}

static int msr(bool write, uint32_t index, uint64_t *data)
{
	struct {
		struct kvm_msrs hdr;
		struct kvm_msr_entry entry;
	} msrs = {
		.hdr.nmsrs = 1,
		.entry = { .index = index, .data = *data },
	};
	int ret = call(write ? KVM_SET_MSRS : KVM_GET_MSRS, &msrs);

	*data = msrs.entry.data;

	return ret == 1 ? 0 : -EINVAL;
}

static int set_msr(uint32_t index, uint64_t data)
{
	return msr(true, index, &data);
}

static uint64_t get_msr(uint32_t index)
{
	uint64_t data = 0;

	CHECK(!msr(false, index, &data), "cannot read MSR 0x%x", index);

	return data;
}

static void get_blob(union blob *blob)
{
	int ret;

	memset(blob, 0, sizeof(*blob));
	blob->nested.size = sizeof(*blob);
	ret = call(KVM_GET_NESTED_STATE, blob);
	CHECK(!ret, "KVM_GET_NESTED_STATE: %d", ret);
}

static int set_blob(union blob *blob)
{
	return call(KVM_SET_NESTED_STATE, blob);
}

static struct vmcb *blob_vmcb(union blob *blob)
{
	return (struct vmcb *)blob->nested.data.svm;
}

static bool blob_has_l2(const union blob *blob)
{
	return blob->nested.flags & KVM_STATE_NESTED_GUEST_MODE;
}

static bool blob_has_npt(union blob *blob)
{
	return blob_has_l2(blob) && !shares_pat &&
	       (blob_vmcb(blob)->control.nested_ctl & SVM_NESTED_CTL_NP_ENABLE);
}

static bool blob_has_gpat(const union blob *blob)
{
	const struct kvm_svm_nested_state_hdr *hdr = &blob->nested.hdr.svm;

	if (!hdr->flags && !hdr->reserved)
		return hdr->gpat && has_quirk;

	return hdr->flags == KVM_STATE_SVM_VALID_GPAT && !hdr->reserved;
}

static bool pat_is_valid(uint64_t pat)
{
	for (int i = 0; i < 8; i++, pat >>= 8)
		if ((pat & 0xff) > 7 || (pat & 0xff) == 2 || (pat & 0xff) == 3)
			return false;

	return true;
}

static uint64_t valid_pat(void)
{
	static const uint8_t types[] = { 0, 1, 4, 5, 6, 7 };
	uint64_t pat = 0;

	/* Field 0 is WB, as in every PAT here */
	for (int i = 0; i < 7; i++)
		pat = pat << 8 | types[rnd(ARRAY_SIZE(types))];

	return pat << 8 | 6;
}

static uint64_t invalid_pat(void)
{
	static const uint8_t bad[] = { 2, 3, 0x0e, 0x16, 0x26, 0x46, 0x86, 0xff };
	int shift = 8 * rnd(8);

	return (valid_pat() & ~(0xffull << shift)) | (uint64_t)bad[rnd(ARRAY_SIZE(bad))] << shift;
}

static uint64_t any_pat(void)
{
	switch (rnd(6)) {
	case 0:
		return invalid_pat();
	case 1:
		return rnd64();
	case 2:
		return one_in(2) ? 0 : ~0ull;
	default:
		return valid_pat();
	}
}

static const uint64_t cr0_bits[] = {
	X86_CR0_PG, X86_CR0_PE, X86_CR0_NW, X86_CR0_CD, 1ull << 32,
};

static const uint64_t efer_bits[] = {
	EFER_SVME, EFER_LME, EFER_LMA, EFER_NX, 1ull << 20,
};

/* ---- What must be true ---- */

/* All that can be read without a side effect; nested state and PAT are in @last. */
struct rest {
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	uint64_t hsave, vm_cr, smbase;
};

static void get_rest(struct rest *rest)
{
	memset(rest, 0, sizeof(*rest));
	call(KVM_GET_VCPU_EVENTS, &rest->events);
	call(KVM_GET_SREGS, &rest->sregs);
	call(KVM_GET_REGS, &rest->regs);
	rest->hsave = get_msr(MSR_VM_HSAVE_PA);
	rest->vm_cr = get_msr(MSR_VM_CR);
	rest->smbase = get_msr(MSR_IA32_SMBASE);
}

enum effect {
	CHANGED,	/* the call may have changed what it is there to change */
	FAILED,		/* it must not have changed anything */
	RAN_GUEST,	/* KVM_RUN */
};

/*
 * Looks at the vCPU after a call and holds the model against it.  The model has
 * what the call must have done already.
 */
static void observe(enum effect effect)
{
	static union blob now;
	struct kvm_svm_nested_state_hdr *hdr = &now.nested.hdr.svm;
	static const uint8_t zero[sizeof(now.nested.hdr)];
	uint64_t pat;
	bool tag;

	get_blob(&now);
	pat = get_msr(MSR_IA32_CR_PAT);

	if (effect == FAILED)
		CHECK(!memcmp(&now, &last, sizeof(now)), "a call failed and changed nested state");

	/* hPAT */
	if (effect == RAN_GUEST && !model.sane)
		model.hpat = pat;
	CHECK(pat_is_valid(pat), "IA32_PAT is 0x%lx, which is invalid", pat);
	CHECK(pat == model.hpat, "IA32_PAT is 0x%lx, not 0x%lx", pat, model.hpat);

	/* The header */
	CHECK(now.nested.format == KVM_STATE_NESTED_FORMAT_SVM, "format %u", now.nested.format);
	CHECK(now.nested.size == (blob_has_l2(&now) ? BLOB_SIZE : sizeof(now.nested)),
	      "size is %u with flags 0x%x", now.nested.size, now.nested.flags);
	CHECK(hdr->flags == 0 || hdr->flags == KVM_STATE_SVM_VALID_GPAT,
	      "header flags 0x%x", hdr->flags);
	CHECK(!memcmp(&hdr->reserved, zero,
		      sizeof(now.nested.hdr) - offsetof(typeof(*hdr), reserved)),
	      "something is in the reserved part of the header");
	tag = hdr->flags;
	if (tag) {
		CHECK(blob_has_npt(&now), "the header has a gPAT without nested NPT");
		CHECK(pat_is_valid(hdr->gpat), "gPAT is 0x%llx, which is invalid", hdr->gpat);
	} else {
		CHECK(!hdr->gpat, "gPAT 0x%llx without a tag", hdr->gpat);
	}
	if (!blob_has_l2(&now))
		CHECK(!memcmp(&now.nested.hdr, zero, sizeof(zero)),
		      "a header outside of guest mode");
	else
		CHECK(blob_vmcb(&now)->save.g_pat == model.hpat,
		      "vmcb01.g_pat is 0x%lx, hPAT is 0x%lx",
		      blob_vmcb(&now)->save.g_pat, model.hpat);

	/* gPAT and legacy state */
	if (!blob_has_npt(&now)) {
		model.legacy = false;
		model.knows_gpat = false;
	} else if (!tag) {
		CHECK(model.legacy, "the state is legacy state, and nobody has set such");
	} else {
		CHECK(!model.legacy || (effect == RAN_GUEST && !model.sane),
		      "legacy state ended by itself");
		model.legacy = false;
		if (model.knows_gpat && (effect != RAN_GUEST || model.sane))
			CHECK(hdr->gpat == model.gpat,
			      "gPAT is 0x%llx, not 0x%lx", hdr->gpat, model.gpat);
		model.gpat = hdr->gpat;
		model.knows_gpat = true;
	}

	last = now;
}

/* ---- Steps ---- */

static void changed(int ret)
{
	if (ret >= 0) {
		model.sane = 0;
		observe(CHANGED);
	} else {
		count->failed++;
		observe(FAILED);
	}
}

/* attempt(): makes a call and checks that all is the same if it fails */
static int attempt(unsigned long cmd, void *arg)
{
	struct rest before, after;
	bool full = one_in(4);
	int ret;

	if (full)
		get_rest(&before);
	ret = call(cmd, arg);
	if (full && ret < 0) {
		get_rest(&after);
		CHECK(!memcmp(&before.sregs, &after.sregs, sizeof(before.sregs)),
		      "a call failed and changed sregs");
		CHECK(!memcmp(&before.regs, &after.regs, sizeof(before.regs)),
		      "a call failed and changed registers");
		CHECK(!memcmp(&before, &after, sizeof(before)),
		      "a call failed and changed events or MSRs");
	}

	return ret;
}

static void flip_bits(void *p, size_t size)
{
	for (int n = 1 + rnd(3); n; n--)
		((uint8_t *)p)[rnd(size)] ^= 1 << rnd(8);
}

static uint64_t any_gpa(void)
{
	static const uint64_t bad[] = {
		0, 1, 0xfff, ~0ull, ~0xfffull, 1ull << 52, 1ull << 45, 0xfee00000,
	};

	switch (rnd(4)) {
	case 0:
		return pick(bad, ARRAY_SIZE(bad));
	case 1:
		return rnd64();
	case 2:
		return (uint64_t)rnd(1u << 20) << 32;	/* nothing is there */
	default:
		return spare_gpa;
	}
}

static void mutate_header(union blob *blob)
{
	static const uint64_t sizes[] = {
		0, 8, 127, 128, 129, BLOB_SIZE - 1, BLOB_SIZE, BLOB_SIZE + 1, ~0u,
	};
	static const uint64_t known_flags[] = { 0, 1, 8 };
	static const uint64_t tags[] = { 0, 1, 1, 2, 3, 0x100, 0x80000001, 0xffff0001, ~0u };
	struct kvm_svm_nested_state_hdr *hdr = &blob->nested.hdr.svm;

	switch (rnd(10)) {
	case 0:
	case 1:
	case 2:
		hdr->flags = KVM_STATE_SVM_VALID_GPAT;
		hdr->gpat = any_pat();
		break;
	case 3:
		hdr->gpat = any_pat();
		break;
	case 4:
		hdr->flags = pick(tags, ARRAY_SIZE(tags));
		break;
	case 5:
		hdr->reserved = one_in(2) ? 1u << rnd(32) : rnd64();
		break;
	case 6:
		hdr->vmcb_pa = any_gpa();
		break;
	case 7:
		blob->nested.flags ^= 1 << (one_in(4) ? rnd(16) :
					    pick(known_flags, ARRAY_SIZE(known_flags)));
		break;
	case 8:
		blob->nested.size = pick(sizes, ARRAY_SIZE(sizes));
		break;
	case 9:
		if (one_in(4))
			blob->nested.format = rnd(4);
		else
			flip_bits(&blob->nested.hdr, sizeof(blob->nested.hdr));
		break;
	}
}

static void mutate_control(struct vmcb_control_area *ctl)
{
	switch (rnd(9)) {
	case 0:
	case 1:
		ctl->nested_ctl ^= SVM_NESTED_CTL_NP_ENABLE;
		break;
	case 2:
		ctl->nested_ctl = one_in(2) ? rnd64() : rnd(4);
		break;
	case 3:
		ctl->nested_cr3 = any_gpa();
		break;
	case 4:
		ctl->intercept ^= BIT_ULL(rnd(64));
		break;
	case 5:
		ctl->intercept = rnd64() | BIT_ULL(INTERCEPT_VMRUN);
		ctl->intercept_exceptions = rnd64();
		ctl->intercept_cr = rnd64();
		break;
	case 6:
		ctl->asid = rnd(3);
		ctl->int_ctl = rnd64();
		ctl->tlb_ctl = rnd(8);
		break;
	case 7:
		ctl->event_inj = SVM_EVTINJ_VALID | (rnd64() & 0xfff);
		ctl->msrpm_base_pa = any_gpa();
		ctl->iopm_base_pa = any_gpa();
		break;
	case 8:
		flip_bits(ctl, sizeof(*ctl));
		break;
	}
}

static void mutate_save(struct vmcb_save_area *save)
{
	switch (rnd(7)) {
	case 0:
		save->g_pat = any_pat();
		break;
	case 1:
		save->cr0 ^= pick(cr0_bits, ARRAY_SIZE(cr0_bits));
		break;
	case 2:
		save->efer ^= pick(efer_bits, ARRAY_SIZE(efer_bits));
		break;
	case 3:
		save->cr4 ^= BIT_ULL(rnd(64));
		break;
	case 4:
		save->cr3 = any_gpa();
		break;
	case 5:
		save->dr6 ^= BIT_ULL(rnd(64));
		save->dr7 ^= BIT_ULL(rnd(64));
		break;
	case 6:
		flip_bits(save, sizeof(*save));
		break;
	}

	/*
	 * L1's TF makes #VMEXIT queue a #DB, and KVM warns if it does that for
	 * an SMI, with or without the series.
	 */
	save->rflags &= ~RFLAGS_TF;
}

/* What v7.0 and later drop, if it is reserved or not in the guest's CPUID */
#define NESTED_CTL_GMET_ENABLE	BIT_ULL(3)
#define INTERCEPTS_BY_CPUID	(BIT_ULL(INTERCEPT_SKINIT) | BIT_ULL(INTERCEPT_RDTSCP) | \
				 BIT_ULL(INTERCEPT_XSETBV) | BIT_ULL(INTERCEPT_RDPRU))
#define EVTINJ_RESERVED		GENMASK(30, 12)

static bool has_changed(uint64_t was, uint64_t is, uint64_t droppable)
{
	return (was ^ is) & ~(shares_pat ? was & droppable : 0);
}

/* State that was set must come back. */
static void check_round_trip(union blob *set)
{
	struct vmcb *was = blob_vmcb(set), *is = blob_vmcb(&last);
	static union blob again;
	int ret;

	CHECK(set->nested.flags == last.nested.flags, "flags 0x%x became 0x%x",
	      set->nested.flags, last.nested.flags);
	if (!blob_has_l2(set))
		return;

	CHECK(set->nested.hdr.svm.vmcb_pa == last.nested.hdr.svm.vmcb_pa, "vmcb_pa changed");
	CHECK(was->control.nested_cr3 == is->control.nested_cr3, "nCR3 changed");
	CHECK(!has_changed(was->control.nested_ctl, is->control.nested_ctl, NESTED_CTL_GMET_ENABLE),
	      "nested_ctl changed");
	CHECK(!has_changed(was->control.intercept, is->control.intercept, INTERCEPTS_BY_CPUID),
	      "intercepts changed");
	CHECK(!has_changed(was->control.event_inj, is->control.event_inj, EVTINJ_RESERVED),
	      "event_inj changed");
	CHECK(was->control.intercept_exceptions == is->control.intercept_exceptions,
	      "intercepted exceptions changed");
	CHECK(was->control.tsc_offset == is->control.tsc_offset, "tsc_offset changed");
	CHECK(was->save.rip == is->save.rip && was->save.rsp == is->save.rsp &&
	      was->save.rax == is->save.rax && was->save.cr3 == is->save.cr3 &&
	      was->save.cr0 == is->save.cr0 && was->save.cr4 == is->save.cr4 &&
	      was->save.efer == is->save.efer, "L1's registers changed");

	if (!one_in(8))
		return;

	again = last;
	ret = set_blob(&again);
	CHECK(!ret, "state that KVM returned is refused: %d", ret);
	/* It is legacy state or has a gPAT as before, the model stays the same */
	observe(CHANGED);
	CHECK(!memcmp(&again, &last, sizeof(last)), "state changed when it was set again");
}

static void set_model_gpat(union blob *set)
{
	model.legacy = blob_has_npt(set) && !blob_has_gpat(set);
	model.knows_gpat = blob_has_npt(set);
	model.gpat = model.legacy ? model.hpat : set->nested.hdr.svm.gpat;
}

/* @set was set successfully. */
static void after_set(union blob *set)
{
	count->accepted++;
	CHECK(!blob_has_npt(set) || !blob_has_gpat(set) || pat_is_valid(set->nested.hdr.svm.gpat),
	      "gPAT 0x%llx was accepted", set->nested.hdr.svm.gpat);
	set_model_gpat(set);
	observe(CHANGED);
	check_round_trip(set);
}

/*
 * Where an accepted vmcb_pa leads, #VMEXIT writes: to a page that is meant for
 * it.  Without memory there, KVM queues a #GP where it may not, and warns, with
 * or without the series.
 */
static void tame_vmcb_pa(__u64 *pa)
{
	if (!(*pa & (PAGE_SIZE - 1)) && !(*pa >> vm->pa_bits) &&
	    *pa != addr_hva2gpa(vm, vmcb12))
		*pa = spare_gpa;
}

static void step_set_nested(void)
{
	static union blob blob;
	void *arg = &blob;
	int n = rnd(4), ret;
	bool only_pat;

	/* Of what is set, what keeps the guest as it is: another gPAT or tag */
	only_pat = model.sane && blob_has_npt(&last) && one_in(3);
	if (only_pat) {
		blob = last;
		blob.nested.hdr.svm.flags = one_in(4) ? rnd64() : KVM_STATE_SVM_VALID_GPAT;
		blob.nested.hdr.svm.reserved = one_in(4);
		blob.nested.hdr.svm.gpat = any_pat();
	} else {
		blob = one_in(4) ? last : saved[rnd(NR_STATES)].blob;
		for (; n; n--) {
			switch (rnd(5)) {
			case 0:
				mutate_control(&blob_vmcb(&blob)->control);
				break;
			case 1:
				mutate_save(&blob_vmcb(&blob)->save);
				break;
			default:
				mutate_header(&blob);
				break;
			}
		}
		tame_vmcb_pa(&blob.nested.hdr.svm.vmcb_pa);

		/* In reach of @edge only what fits, sometimes a bit more */
		if (one_in(16)) {
			static const uint64_t room[] = { 8, 127, 128, 129, 1024, 4223, 4096 };
			size_t fits = pick(room, ARRAY_SIZE(room));

			arg = edge + getpagesize() - fits % getpagesize();
			memcpy(arg, &blob, fits % getpagesize());
		}
	}

	note("SET_NESTED_STATE flags %x size %u hdr %llx %llx %x %x ctl %lx%s", blob.nested.flags,
	     blob.nested.size, blob.nested.hdr.svm.vmcb_pa, blob.nested.hdr.svm.gpat,
	     blob.nested.hdr.svm.flags, blob.nested.hdr.svm.reserved,
	     blob_vmcb(&blob)->control.nested_ctl, arg == &blob ? "" : " at the edge");
	count->sets++;
	ret = attempt(KVM_SET_NESTED_STATE, arg);
	if (verbose)
		printf("#    = %d\n", ret);
	if (ret < 0) {
		changed(ret);
		return;
	}

	if (!only_pat)
		model.sane = 0;
	after_set(&blob);
}

static void step_set_pat(void)
{
	uint64_t pat = any_pat();
	int ret;

	note("SET_MSRS IA32_PAT %lx", pat);
	ret = set_msr(MSR_IA32_CR_PAT, pat);
	CHECK((ret == 0) == pat_is_valid(pat), "host write of 0x%lx to IA32_PAT: %d", pat, ret);
	if (ret) {
		changed(ret);
		return;
	}

	model.hpat = pat;
	if (model.legacy)
		model.gpat = pat;
	observe(CHANGED);
}

static void step_get_nested(void)
{
	struct kvm_nested_state *nested;
	size_t fits = rnd(getpagesize());
	uint32_t size = one_in(2) ? rnd(BLOB_SIZE + 16) : BLOB_SIZE;
	int ret;

	nested = edge + getpagesize() - fits;
	if (fits >= sizeof(nested->flags) + sizeof(nested->format) + sizeof(nested->size))
		nested->size = size;
	note("GET_NESTED_STATE size %u, room %lu", size, fits);
	ret = attempt(KVM_GET_NESTED_STATE, nested);
	CHECK(!ret || ret == -EFAULT || ret == -E2BIG, "KVM_GET_NESTED_STATE: %d", ret);
	observe(FAILED);
}

static void step_set_sregs(void)
{
	struct kvm_sregs sregs;
	int ret;

	if (one_in(2))
		call(KVM_GET_SREGS, &sregs);
	else
		sregs = saved[rnd(NR_STATES)].sregs;

	switch (rnd(8)) {
	case 0:
	case 1:
		sregs.efer &= ~EFER_SVME;
		break;
	case 2:
		sregs.efer |= EFER_SVME;
		break;
	case 3:
		sregs.efer ^= BIT_ULL(rnd(64));
		break;
	case 4:
		sregs.cr0 ^= pick(cr0_bits, ARRAY_SIZE(cr0_bits));
		break;
	case 5:
		sregs.cr4 ^= BIT_ULL(rnd(32));
		break;
	case 6:
		sregs.cr3 = any_gpa();
		break;
	}

	note("SET_SREGS efer %llx cr0 %llx cr3 %llx cr4 %llx",
	     sregs.efer, sregs.cr0, sregs.cr3, sregs.cr4);
	ret = attempt(KVM_SET_SREGS, &sregs);
	if (verbose)
		printf("#    = %d\n", ret);
	changed(ret);
	if (!ret && !(sregs.efer & EFER_SVME))
		CHECK(!blob_has_l2(&last), "in guest mode with SVME clear");
}

static void step_set_msr(void)
{
	uint64_t efer;
	int ret;

	if (one_in(3)) {
		uint64_t gpa = one_in(8) ? any_gpa() : spare_gpa;

		note("SET_MSRS VM_HSAVE_PA %lx", gpa);
		changed(set_msr(MSR_VM_HSAVE_PA, gpa));
		return;
	}

	efer = get_msr(MSR_EFER);
	efer ^= one_in(4) ? BIT_ULL(rnd(64)) : EFER_SVME;
	note("SET_MSRS EFER %lx", efer);
	ret = set_msr(MSR_EFER, efer);
	changed(ret);
	if (!ret && !(efer & EFER_SVME))
		CHECK(!blob_has_l2(&last), "in guest mode with SVME clear");
}

static void step_set_events(void)
{
	struct kvm_vcpu_events events;
	bool smm;
	int ret;

	call(KVM_GET_VCPU_EVENTS, &events);
	smm = events.smi.smm;
	events.flags &= ~KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	switch (rnd(8)) {
	case 0:
	case 1:
		events.flags |= KVM_VCPUEVENT_VALID_SMM;
		events.smi.smm ^= 1;
		break;
	case 2:
		events.flags |= KVM_VCPUEVENT_VALID_SMM;
		events.smi.pending ^= 1;
		break;
	case 3:
		events.flags |= KVM_VCPUEVENT_VALID_SMM;
		events.smi.latched_init ^= 1;
		break;
	case 4:
		events.exception.injected = one_in(2);
		events.exception.nr = rnd(40);
		break;
	case 5:
		/*
		 * None pending: KVM may single-step to where it can inject an
		 * NMI.  That is TF again, see mutate_save().
		 */
		events.nmi.injected = one_in(2);
		events.nmi.masked = one_in(2);
		break;
	case 6:
		events.interrupt.injected = one_in(2);
		events.interrupt.nr = rnd(256);
		events.interrupt.shadow = rnd(4);
		events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
		break;
	case 7:
		events.flags = rnd64();
		events.flags &= ~KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		break;
	}

	note("SET_VCPU_EVENTS flags %x smm %u pending %u init %u", events.flags, events.smi.smm,
	     events.smi.pending, events.smi.latched_init);
	ret = attempt(KVM_SET_VCPU_EVENTS, &events);
	if (verbose)
		printf("#    = %d\n", ret);
	changed(ret);
	if (!ret && (events.flags & KVM_VCPUEVENT_VALID_SMM) && !!events.smi.smm != smm)
		CHECK(!blob_has_l2(&last), "in guest mode after SMM was toggled");
}

/* KVM_GET_MP_STATE makes KVM take events: INIT, SIPI, #VMEXIT for INIT. */
static void step_mp_state(void)
{
	struct kvm_mp_state mp_state;

	if (one_in(2)) {
		note("GET_MP_STATE");
		call(KVM_GET_MP_STATE, &mp_state);
		model.sane = 0;
		observe(CHANGED);
		return;
	}

	/*
	 * KVM warns if what waits for SIPI gets to where INIT is blocked, such as
	 * GIF clear, with or without the series.
	 */
	do
		mp_state.mp_state = rnd(10);
	while (mp_state.mp_state == KVM_MP_STATE_INIT_RECEIVED ||
	       mp_state.mp_state == KVM_MP_STATE_SIPI_RECEIVED);
	note("SET_MP_STATE %u", mp_state.mp_state);
	changed(attempt(KVM_SET_MP_STATE, &mp_state));
}

static void step_set_regs(void)
{
	struct kvm_regs regs;

	call(KVM_GET_REGS, &regs);
	flip_bits(&regs, sizeof(regs));
	regs.rflags &= ~RFLAGS_TF;	/* see mutate_save() */
	note("SET_REGS");
	changed(attempt(KVM_SET_REGS, &regs));
}

static void step_run_immediate_exit(void)
{
	int ret;

	note("RUN, immediate exit");
	vcpu->run->immediate_exit = 1;
	ret = call(KVM_RUN, NULL);
	vcpu->run->immediate_exit = 0;
	count->runs++;
	CHECK(ret == -EINTR || !model.sane, "KVM_RUN with immediate_exit: %d", ret);
	/* Legacy state must not end */
	if (!model.sane)
		observe(CHANGED);
	else
		observe(FAILED);
}

/*
 * Runs, but for a signal that is pending from the start: KVM takes events and
 * requests and goes as far as one can without a guest instruction.
 */
static int run_no_instruction(void)
{
	static const struct timespec no_time;
	sigset_t alarm;
	int ret;

	count->runs++;
	raise(SIGALRM);
	ret = call(KVM_RUN, NULL);
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigtimedwait(&alarm, NULL, &no_time);

	return ret;
}

static void step_run_no_instruction(void)
{
	note("RUN, no instruction");
	run_no_instruction();
	model.sane = 0;
	observe(CHANGED);
}

/* KVM_RUN that sets registers and events on its way. */
static void step_run_sync_regs(void)
{
	struct kvm_sync_regs *sync = &vcpu->run->s.regs;

	call(KVM_GET_SREGS, &sync->sregs);
	call(KVM_GET_VCPU_EVENTS, &sync->events);
	vcpu->run->kvm_dirty_regs = one_in(2) ? KVM_SYNC_X86_SREGS : KVM_SYNC_X86_EVENTS;
	if (one_in(2))
		sync->sregs.efer ^= EFER_SVME;
	sync->events.flags &= ~KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	sync->events.flags |= KVM_VCPUEVENT_VALID_SMM;
	if (one_in(2))
		sync->events.smi.smm ^= 1;
	else
		sync->events.smi.pending ^= 1;
	note("RUN, dirty regs %llx", vcpu->run->kvm_dirty_regs);
	run_no_instruction();
	vcpu->run->kvm_dirty_regs = 0;
	model.sane = 0;
	observe(CHANGED);
}

static void run_for_some_time(void)
{
	static const struct timespec no_time;
	struct itimerval timer = { .it_value.tv_usec = RUN_LIMIT_US };
	sigset_t alarm;
	int ret;

	count->runs++;
	setitimer(ITIMER_REAL, &timer, NULL);
	ret = call(KVM_RUN, NULL);
	timer.it_value.tv_usec = 0;
	setitimer(ITIMER_REAL, &timer, NULL);
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigtimedwait(&alarm, NULL, &no_time);
	if (verbose)
		printf("#    = %d, exit %u\n", ret, vcpu->run->exit_reason);
}

/* Of a guest that may run wild nothing is known but hPAT and what is saved. */
static void run_until_timer(void)
{
	run_for_some_time();
	model.sane = 0;
	observe(RAN_GUEST);
}

static void step_run_wild(void)
{
	struct kvm_sregs sregs;

	/*
	 * From a guest that has set LME, but not PAE, QEMU's CPU does not come back
	 * to the host's CR0, with or without the series: the machine hangs.
	 */
	call(KVM_GET_SREGS, &sregs);
	if ((sregs.efer & EFER_LME) && !(sregs.cr4 & X86_CR4_PAE))
		return;

	note("RUN");
	model.spoilt = true;
	run_until_timer();
}

static void step_write_vmcb12(void)
{
	bool only_pat = one_in(2);

	note("vmcb12 in memory changes%s", only_pat ? ", g_pat" : "");
	if (only_pat)
		vmcb12->save.g_pat = any_pat();
	else if (one_in(2))
		mutate_control(&vmcb12->control);
	else
		mutate_save(&vmcb12->save);
	observe(FAILED);
	/* L2 would go on, but not what comes after its #VMEXIT */
	if (!only_pat)
		model.sane = 0;
}

static void step_smi(void)
{
	note("SMI");
	changed(call(KVM_SMI, NULL));
}

/* ---- Back to something that works, and what the guests say ---- */

static void save(int which)
{
	struct state *s = &saved[which];

	vcpu_run_complete_io(vcpu);
	vcpu_events_get(vcpu, &s->events);
	vcpu_mp_state_get(vcpu, &s->mp_state);
	vcpu_regs_get(vcpu, &s->regs);
	vcpu_sregs_get(vcpu, &s->sregs);
	s->hsave = vcpu_get_msr(vcpu, MSR_VM_HSAVE_PA);
	memset(&s->blob, 0, sizeof(s->blob));
	s->blob.nested.size = sizeof(s->blob);
	vcpu_nested_state_get(vcpu, &s->blob.nested);
	for (int i = 0; i < NR_PAGES; i++)
		memcpy(s->memory[i], page[i], PAGE_SIZE);
}

static void *page_of(vm_vaddr_t gva)
{
	return addr_gva2hva(vm, gva & ~(PAGE_SIZE - 1ull));
}

static void find_pages(void)
{
	struct svm_test_data *svm = addr_gva2hva(vm, l1_svm);
	vm_vaddr_t guest_regs;
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	page[L1_STACK] = page_of(regs.rsp);
	page[L1_STACK_2] = page_of(regs.rsp - PAGE_SIZE);
	page[L2_STACK] = page_of((vm_vaddr_t)l2_stack);
	asm("lea guest_regs(%%rip), %0" : "=r"(guest_regs));
	page[GUEST_REGS] = page_of(guest_regs);
	page[VMCB12] = vmcb12;
	page[HSAVE] = svm->save_area_hva;
	page[SMRAM] = addr_gpa2hva(vm, SMRAM_GPA + 0xf000);
}

/* Puts the vCPU into a saved state, MSRs before or after nested state. */
static void restore(int which)
{
	struct kvm_nested_state none = {
		.flags = KVM_STATE_NESTED_GIF_SET,
		.format = KVM_STATE_NESTED_FORMAT_SVM,
		.size = sizeof(none),
	};
	struct state *s = &saved[which];
	struct kvm_vcpu_events events;
	bool msrs_last = one_in(2);
	static union blob blob;
	uint64_t pat = valid_pat();
	int ret;

	note("back to state %d, hPAT %lx, MSRs %s", which, pat, msrs_last ? "last" : "first");
	vcpu->run->immediate_exit = 1;
	call(KVM_RUN, NULL);
	vcpu->run->immediate_exit = 0;

	for (int i = 0; i < NR_PAGES; i++)
		memcpy(page[i], s->memory[i], PAGE_SIZE);
	vmcb12->save.g_pat = valid_pat();
	blob = s->blob;
	if (which == IN_L2) {
		blob.nested.hdr.svm.gpat = valid_pat();
		blob.nested.hdr.svm.flags = KVM_STATE_SVM_VALID_GPAT;
	} else if (which == IN_LEGACY_L2 && one_in(2)) {
		blob.nested.hdr.svm.gpat = any_pat();
		blob.nested.hdr.svm.reserved = 1;
		blob.nested.hdr.svm.flags = rnd64();
	}

	/* An SMI that is not pending yet becomes so; it is dropped below */
	call(KVM_GET_VCPU_EVENTS, &events);

	/* INIT_RECEIVED forbids SMM: runnable first */
	call(KVM_SET_MP_STATE, &s->mp_state);
	ret = call(KVM_SET_NESTED_STATE, &none);
	CHECK(!ret, "nested state outside of guest mode is refused: %d", ret);
	ret = call(KVM_SET_VCPU_EVENTS, &s->events);
	CHECK(!ret, "KVM_SET_VCPU_EVENTS: %d", ret);
	ret = call(KVM_SET_SREGS, &s->sregs);
	CHECK(!ret, "KVM_SET_SREGS: %d", ret);
	ret = call(KVM_SET_REGS, &s->regs);
	CHECK(!ret, "KVM_SET_REGS: %d", ret);
	ret = call(KVM_SET_VCPU_EVENTS, &s->events);
	CHECK(!ret, "KVM_SET_VCPU_EVENTS: %d", ret);
	ret = call(KVM_SET_MP_STATE, &s->mp_state);
	CHECK(!ret, "KVM_SET_MP_STATE: %d", ret);

	for (int i = 0; i < 2; i++) {
		if (msrs_last == i) {
			CHECK(!set_msr(MSR_VM_HSAVE_PA, s->hsave), "VM_HSAVE_PA");
			CHECK(!set_msr(MSR_IA32_CR_PAT, pat), "IA32_PAT");
			model.hpat = pat;
			if (model.legacy)
				model.gpat = pat;
		} else {
			ret = set_blob(&blob);
			CHECK(!ret, "saved state is refused: %d", ret);
			set_model_gpat(&blob);
		}
		if (!i) {
			model.sane = 0;
			observe(CHANGED);
		}
	}
	observe(CHANGED);
	check_round_trip(&blob);
	model.sane = which + 1;
}

static void step_restore(void)
{
	restore(rnd(NR_STATES));
}

static int level(void)
{
	return blob_has_l2(&last) ? L2 : L1;
}

/* RSM to L2 with any L1 in the host save area, and what the two do then */
static void step_rsm_wild(void)
{
	struct vmcb *hsave = page[HSAVE];

	restore(IN_SMM);
	mutate_save(&hsave->save);
	note("RSM, L1 efer %lx cr0 %lx cr3 %lx cr4 %lx", hsave->save.efer, hsave->save.cr0,
	     hsave->save.cr3, hsave->save.cr4);
	set_guest_op(op_read_pat, 0);
	model.spoilt = true;
	run_until_timer();
}

/* The guest is where it should be: it does something, and must be right. */
static void step_guest(void)
{
	uint64_t pat, ret, was;
	bool npt = blob_has_npt(&last);

	if (!model.sane || model.spoilt)
		restore(one_in(2) ? IN_L2 : rnd(NR_STATES));
	if (model.spoilt)
		return;
	/* In SMM: the handler's RSM goes to L2, with the g_pat of vmcb12 */
	if (model.sane == IN_SMM + 1) {
		pat = shares_pat ? model.hpat : vmcb12->save.g_pat;
		if (!pat_is_valid(pat))
			return;
		note("RSM, L2 reads IA32_PAT");
		count->runs++;
		ret = read_pat(L2);
		vcpu_run_complete_io(vcpu);
		model.knows_gpat = true;
		model.gpat = pat;
		CHECK(ret == pat, "after RSM, L2 reads 0x%lx, vmcb12.g_pat was 0x%lx", ret, pat);
		model.sane = IN_L2 + 1;
		observe(RAN_GUEST);
		count->guest_ops++;
		return;
	}

	npt = blob_has_npt(&last);
	count->guest_ops++;
	count->runs++;
	switch (rnd(4)) {
	case 0:
		note("L%d reads IA32_PAT", level());
		was = npt ? model.gpat : model.hpat;
		ret = read_pat(level());
		CHECK(ret == was, "L%d reads 0x%lx, not 0x%lx", level(), ret, was);
		break;
	case 1:
		pat = any_pat();
		note("L%d writes %lx to IA32_PAT", level(), pat);
		ret = guest_call(level(), op_write_pat, pat);
		CHECK(ret == (pat_is_valid(pat) ? 0 : GP_VECTOR),
		      "L%d writes 0x%lx: %lu", level(), pat, ret);
		if (ret)
			break;
		if (npt)
			model.gpat = pat;
		else
			model.hpat = pat;
		model.legacy = false;
		break;
	default:
		if (level() == L2) {
			note("L2 exits");
			was = npt && !model.legacy ? model.gpat : vmcb12->save.g_pat;
			ret = guest_call(L1, op_vmmcall, 0);
			CHECK(ret == SVM_EXIT_VMMCALL, "L2's exit code is 0x%lx", ret);
			CHECK(vmcb12->save.g_pat == was, "vmcb12.g_pat is 0x%lx, not 0x%lx",
			      vmcb12->save.g_pat, was);
			model.sane = IN_L1 + 1;
			break;
		}
		npt = one_in(4) ? false : true;
		set_npt(vmcb12, npt);
		pat = any_pat();
		vmcb12->save.g_pat = pat;
		note("L1 runs L2, NPT %d, g_pat %lx", npt, pat);
		npt = npt && !shares_pat;
		if (npt && !pat_is_valid(pat)) {
			ret = guest_call(L1, op_vmrun, l1_svm);
			CHECK(ret == (uint32_t)SVM_EXIT_ERR,
			      "VMRUN with g_pat 0x%lx: 0x%lx", pat, ret);
			CHECK(vmcb12->save.g_pat == pat, "VMRUN changed a g_pat that it rejected");
			break;
		}
		guest_call(L2, op_vmrun, l1_svm);
		model.gpat = pat;
		model.knows_gpat = npt;
		model.sane = npt ? IN_L2 + 1 : IN_L2_NO_NPT + 1;
		break;
	}
	vcpu_run_complete_io(vcpu);
	observe(RAN_GUEST);
}

static const struct {
	void (*fn)(void);
	unsigned int weight;
	bool wild;
} menu[] = {
	{ step_set_nested, 40 },
	{ step_set_pat, 10 },
	{ step_get_nested, 4 },
	{ step_set_sregs, 8 },
	{ step_set_msr, 4 },
	{ step_set_events, 6 },
	{ step_mp_state, 4 },
	{ step_set_regs, 2 },
	{ step_run_immediate_exit, 5 },
	{ step_run_no_instruction, 5 },
	{ step_run_sync_regs, 2 },
	{ step_write_vmcb12, 2 },
	{ step_smi, 1 },
	{ step_restore, 3 },
	{ step_guest, 4 },
	{ step_run_wild, 3, .wild = true },
	{ step_rsm_wild, 1, .wild = true },
};

static void one_step(bool wild)
{
	unsigned int n, sum = 0;

	for (int i = 0; i < ARRAY_SIZE(menu); i++)
		sum += menu[i].wild && !wild ? 0 : menu[i].weight;
	n = rnd(sum);
	for (int i = 0; i < ARRAY_SIZE(menu); i++) {
		if (menu[i].wild && !wild)
			continue;
		if (n < menu[i].weight) {
			menu[i].fn();
			return;
		}
		n -= menu[i].weight;
	}
}

/* ---- Rounds ---- */

static void set_signal_mask(void)
{
	struct {
		struct kvm_signal_mask hdr;
		uint64_t sigset;
	} mask = { .hdr.len = sizeof(mask.sigset) };

	TEST_ASSERT(!ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask), "KVM_SET_SIGNAL_MASK");
}

/* ---- The quirk, disabled while L2 runs ---- */

static void l2_writes_pat(void)
{
	for (;;) {
		wrmsr_safe(MSR_IA32_CR_PAT, GPAT_2);
		rdmsr(MSR_IA32_CR_PAT);
		vmmcall();
	}
}

static uint64_t op_run_l2_forever(uint64_t arg)
{
	struct svm_test_data *svm = (void *)arg;

	for (uint64_t n = 0;; n++) {
		svm->vmcb->save.rip = (uint64_t)l2_writes_pat;
		svm->vmcb->save.rsp = (uint64_t)l2_stack + sizeof(l2_stack) - 8;
		if (n % 4)
			svm->vmcb->save.g_pat = n % 4 == 1 ? INVALID_PAT : GPAT;
		run_guest(svm->vmcb, svm->vmcb_gpa);
	}

	return 0;
}

static void *disable_quirk_soon(void *us)
{
	usleep((uint64_t)us);
	keep_quirks = false;
	disable_shared_pat();

	return NULL;
}

static void play_switch(void)
{
	uint64_t us = rnd(4 * RUN_LIMIT_US);
	static union blob blob;
	pthread_t thread;

	keep_quirks = true;
	create_vm(true);
	spare_gpa = addr_gva2gpa(vm, vm_vaddr_alloc_page(vm));
	set_signal_mask();
	set_guest_op(op_run_l2_forever, l1_svm);
	note("the quirk is disabled after %lu us", us);
	TEST_ASSERT(!pthread_create(&thread, NULL, disable_quirk_soon, (void *)us), "A thread");

	for (int i = 0; i < 40; i++) {
		uint64_t pat = any_pat();

		run_for_some_time();
		blob.nested.size = sizeof(blob);
		call(KVM_GET_NESTED_STATE, &blob);
		if (one_in(2))
			msr(true, MSR_IA32_CR_PAT, &pat);
		if (one_in(2))
			mutate_header(&blob);
		tame_vmcb_pa(&blob.nested.hdr.svm.vmcb_pa);
		if (one_in(2))
			call(KVM_SET_NESTED_STATE, &blob);
	}
	pthread_join(thread, NULL);
	kvm_vm_free(vm);
	count->switches++;
}

/* A VM, its saved states in all places that L1 and L2 can be in */
static void begin_round(void)
{
	static const uint8_t smi_handler[] = {
		0xe6, SMM_PORT,		/* out %al, $SMM_PORT */
		0x0f, 0xaa,		/* rsm */
	};

	create_vm(true);
	/* So that restore() takes back a triple fault, of an L1 that makes no sense */
	vm_enable_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);
	install_smi_handler(smi_handler, sizeof(smi_handler));
	spare_gpa = addr_gva2gpa(vm, vm_vaddr_alloc_page(vm));

	find_pages();

	save(IN_L1);
	enter_l2();
	save(IN_L2);
	shares_pat = !saved[IN_L2].blob.nested.hdr.svm.flags;
	saved[IN_LEGACY_L2] = saved[IN_L2];
	memset(&saved[IN_LEGACY_L2].blob.nested.hdr.svm.gpat, 0,
	       sizeof(saved[0].blob.nested.hdr) - sizeof(saved[0].blob.nested.hdr.svm.vmcb_pa));
	change_events(pend_smi);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SMM_PORT);
	save(IN_SMM);
	exit_l2();
	set_npt(vmcb12, false);
	enter_l2();
	save(IN_L2_NO_NPT);
	exit_l2();
	set_npt(vmcb12, true);
	vcpu_run_complete_io(vcpu);

	set_signal_mask();
	memset(&model, 0, sizeof(model));
	model.hpat = HPAT;
	model.sane = IN_L1 + 1;
	observe(CHANGED);
}

static void play_round(void)
{
	bool wild = seed % 4 == 3;

	rnd_seed(seed);
	printf("# nsvm: fuzz seed=%lu step=0 calls=%lu\n", seed, count->calls);
	fflush(stdout);
	if (has_quirk && seed % 4 == 1)
		play_switch();
	keep_quirks = false;
	begin_round();
	for (step = 1; step <= round_steps; step++) {
		if (step % 500 == 0) {
			printf("# nsvm: fuzz seed=%lu step=%u calls=%lu\n",
			       seed, step, count->calls);
			fflush(stdout);
		}
		one_step(wild);
	}
	finished = true;
	exit(0);
}

/* In a process of its own: what becomes of a VM that is dead is for the kernel. */
static void one_round(void)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork()");
	if (!pid)
		play_round();

	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid()");
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("not ok 1 fuzz\n");
		finished = true;
		exit(1);
	}
	count->rounds++;
}

/* ---- Leaks ---- */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

#define KMEMLEAK	"/sys/kernel/debug/kmemleak"

static bool write_kmemleak(const char *what)
{
	int fd = open(KMEMLEAK, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, what, strlen(what)) > 0;
	close(fd);

	return ok;
}

/* What was allocated before is not ours: a round has warmed things up. */
static bool leaks_begin(void)
{
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);

	return write_kmemleak("clear");
}

static void leaks_end(bool watched)
{
	uint64_t start = now_ms();
	char line[200];
	FILE *f;

	if (!watched) {
		printf("# leaks: not looked for, the kernel has no kmemleak\n");
		return;
	}

	/* It reports what is older than five seconds */
	sleep(6);
	write_kmemleak("scan");
	write_kmemleak("scan");
	f = fopen(KMEMLEAK, "r");
	TEST_ASSERT(f, "cannot read " KMEMLEAK);
	if (fgets(line, sizeof(line), f)) {
		do
			printf("# %s", line);
		while (fgets(line, sizeof(line), f));
		TEST_FAIL("Memory was leaked by the rounds up to seed %lu", seed);
	}
	fclose(f);
	printf("# leaks: none, %lu ms to see that\n", now_ms() - start);
}

int main(int argc, char *argv[])
{
	uint64_t first, start, limit, ms;
	sigset_t alarm;
	bool watched;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_NPT));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));
	TEST_ASSERT(argc >= 3, "usage: %s SEED TIME [STEPS]", argv[0]);
	first = strtoull(argv[1], NULL, 0);
	seed = first;
	limit = strtoull(argv[2], NULL, 0) * 1000;
	if (argc > 3)
		round_steps = strtoull(argv[3], NULL, 0);
	verbose = !limit;
	has_quirk = kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & SHARED_PAT_QUIRK;

	setvbuf(stdout, NULL, _IOLBF, 4096);
	printf("1..1\n");
	atexit(at_exit);

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigprocmask(SIG_BLOCK, &alarm, NULL);
	edge = mmap(NULL, 2 * getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(edge != MAP_FAILED, "mmap()");
	mprotect(edge + getpagesize(), getpagesize(), PROT_NONE);

	count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(count != MAP_FAILED, "mmap()");

	watched = leaks_begin();
	start = now_ms();
	do {
		one_round();
		seed++;
	} while (now_ms() - start < limit);
	seed--;
	ms = now_ms() - start;

	leaks_end(watched);
	printf("# nsvm: fuzz done seeds=%lu-%lu rounds=%lu calls=%lu ms=%lu sets=%lu accepted=%lu ",
	       first, seed, count->rounds, count->calls, ms, count->sets, count->accepted);
	printf("failed=%lu runs=%lu guest=%lu dead=%lu switches=%lu\n", count->failed,
	       count->runs, count->guest_ops, count->dead, count->switches);
	TEST_ASSERT(count->accepted && count->failed && count->guest_ops, "Nothing was tried");
	finished = true;
	printf("ok 1 fuzz\n");

	return 0;
}
