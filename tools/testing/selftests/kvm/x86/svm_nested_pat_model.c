// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compares a vCPU with the model in svm_nested_pat_model.h after each step of
 * every sequence of operations.
 *
 *   -d DEPTH	all sequences of DEPTH operations
 *   -r COUNT	COUNT random sequences of 50 to 200 operations
 *   -s SEED	for -r; printed, 1 by default
 *   -x A.B.C	this one sequence, step by step
 *   -w I/N	the I-th of N shares of -d or -r, I from 0
 *   -m		with -d: of all beginnings that the model takes to the same
 *		state, only the first is followed
 *   -f A.B	with -d: only sequences that start so
 *   -q MASK	disables these quirks (KVM_CAP_DISABLE_QUIRKS2)
 *   -k		keeps KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT, which is disabled where
 *		there is one: L1 and L2 share one PAT
 *   -t		for a KVM that has gPAT in the header, but no tag
 *   -c		goes on after a difference, and only prints it
 *   -e A.B	without these operations
 *   -v		names each sequence in the output
 *   -n		names the operations and ends
 *
 * A sequence starts with a vCPU in L1 whose state was set anew, a new VM each
 * FRESH sequences.  After each step the host reads IA32_PAT, the header of nested
 * state and both vmcb12.g_pat; what the operation itself returned is compared,
 * too.  Each PAT that is written is one that was not used before in the sequence.
 * A sequence that fails is made as short as it can be, in new VMs, and printed
 * such that -x takes it.
 *
 * The guests have no state of their own: each operation starts with registers
 * set anew.
 */
#include <getopt.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "svm_nested_pat.h"
#include "svm_nested_pat_model.h"

#define PORT		0x0b
#define FRESH		256	/* sequences in one VM */
#define MAX_STEPS	256
#define SEQUENCE_LIMIT	10	/* seconds, after which it hangs */

#define RUN_A		.kind = VMRUN, .vmcb = 0
#define RUN_B		.kind = VMRUN, .vmcb = 1

static const struct op ops[] = {
	{ "run-a",		RUN_A, .npt = true },
	{ "run-a-clean",	RUN_A, .npt = true, .clean = true },
	{ "run-a-new",		RUN_A, .npt = true, .pat = NEW },
	{ "run-a-new-clean",	RUN_A, .npt = true, .pat = NEW, .clean = true },
	{ "run-a-bad",		RUN_A, .npt = true, .pat = BAD },
	{ "run-a-bad-clean",	RUN_A, .npt = true, .pat = BAD, .clean = true },
	{ "run-a-msr",		RUN_A, .npt = true, .msr_exits = true },
	{ "run-a-off",		RUN_A, .npt = false },
	{ "run-a-off-bad",	RUN_A, .npt = false, .pat = BAD },
	{ "run-b",		RUN_B, .npt = true },
	{ "run-b-new",		RUN_B, .npt = true, .pat = NEW },
	{ "run-b-off",		RUN_B, .npt = false },
	{ "vmmcall",		EXIT, .code = SVM_EXIT_VMMCALL },
	{ "cpuid",		EXIT, .code = SVM_EXIT_CPUID },
	{ "ud",			EXIT, .code = SVM_EXIT_EXCP_BASE + UD_VECTOR },
	{ "nmi",		EXIT, .code = SVM_EXIT_NMI },
	{ "read",		READ },
	{ "read-fep",		READ, .fep = true },
	{ "write",		WRITE, .pat = NEW },
	{ "write-fep",		WRITE, .pat = NEW, .fep = true },
	{ "write-bad",		WRITE, .pat = BAD },
	{ "host-write",		HOST_WRITE, .pat = NEW },
	{ "host-write-bad",	HOST_WRITE, .pat = BAD },
	{ "poke",		POKE, .pat = NEW },
	{ "poke-bad",		POKE, .pat = BAD },
	{ "set",		SET, .how = AS_IS },
	{ "set-no-tag",		SET, .how = NO_TAG },
	{ "set-garbage",	SET, .how = GARBAGE },
	{ "set-new-gpat",	SET, .how = NEW_GPAT, .pat = NEW },
	{ "set-bad-gpat",	SET, .how = BAD_GPAT, .pat = BAD },
	{ "set-gpat-only",	SET, .how = GPAT_ONLY, .pat = NEW },
	{ "set-bad-gpat-only",	SET, .how = BAD_GPAT_ONLY, .pat = BAD },
	{ "set-flip",		SET, .how = FLIP_NPT },
	{ "set-flip-gpat",	SET, .how = FLIP_NPT_GPAT, .pat = NEW },
	{ "set-outside",	SET, .how = OUTSIDE },
	{ "save",		SAVE },
	{ "load",		LOAD },
	{ "move",		MOVE },
	{ "move-msrs-last",	MOVE, .msrs_last = true },
	{ "move-no-tag",	MOVE, .how = NO_TAG },
	{ "move-no-tag-last",	MOVE, .how = NO_TAG, .msrs_last = true },
	{ "move-gpat-only",	MOVE, .how = GPAT_ONLY },
	{ "svme-off",		SVME, .on = false },
	{ "svme-on",		SVME, .on = true },
	{ "smi",		SMI },
	{ "rsm",		RSM },
	{ "smm-on",		SMM, .on = true },
	{ "smm-off",		SMM, .on = false },
	{ "init",		INIT },
	{ "no-run",		NO_RUN },
};

#define NR_OPS	((int)ARRAY_SIZE(ops))

/* ---- Guests ---- */

static uint8_t l1_stack[PAGE_SIZE] __aligned(PAGE_SIZE);

/* Ends an operation: the host finds @value in RAX and @vector in RBX. */
static void report(uint64_t value, uint64_t vector)
{
	asm volatile("out %%al, %[port]" : :
		     [port] "i" (PORT), "a" (value), "b" (vector));
}

static void guest_nothing(void)
{
	report(0, 0);
}

static void guest_read(void)
{
	report(rdmsr(MSR_IA32_CR_PAT), 0);
}

static void guest_read_fep(void)
{
	uint64_t pat;
	uint8_t vector = rdmsr_safe_fep(MSR_IA32_CR_PAT, &pat);

	report(pat, vector);
}

static void guest_write(uint64_t pat)
{
	report(0, wrmsr_safe(MSR_IA32_CR_PAT, pat));
}

static void guest_write_fep(uint64_t pat)
{
	uint64_t error_code;

	report(0, kvm_asm_safe_ec_fep("wrmsr", error_code, "a"((uint32_t)pat),
				      "d"(pat >> 32), "c"(MSR_IA32_CR_PAT)));
}

/* L2 reports from its own start; after #VMEXIT, L1 does. */
static void guest_vmrun(uint64_t gpa)
{
	asm volatile("vmrun %%rax\n\t"
		     "stgi\n\t"
		     "xor %%ebx, %%ebx\n\t"
		     "out %%al, %[port]" : :
		     [port] "i" (PORT), "a" (gpa) : "rbx", "memory");
}

static void guest_vmmcall(void)
{
	asm volatile("vmmcall");
}

static void guest_cpuid(void)
{
	asm volatile("cpuid" : : "a" (0), "c" (0) : "rbx", "rdx");
}

static void guest_ud(void)
{
	asm volatile("ud2");
}

static void guest_stgi(void)
{
	asm volatile("stgi");
	report(0, 0);
}

/* L1 takes the NMI that L2 exited for as soon as GIF is set. */
static void ignore_nmi(struct ex_regs *regs)
{
}

/* In SMM, i.e. real mode: offsets of what the host can start. */
enum { SMM_READ = 0x8010, SMM_WRITE = 0x8020, SMM_RSM = 0x8030 };
static const uint8_t smm_entry[] = { 0xe6, SMM_PORT };
static const uint8_t smm_read[] = { 0x0f, 0x32, 0xe6, SMM_PORT };
static const uint8_t smm_write[] = { 0x0f, 0x30, 0xe6, SMM_PORT };
static const uint8_t smm_rsm[] = { 0x0f, 0xaa };

/* ---- The machine ---- */

static struct vmcb *vmcbs[2];
static uint64_t vmcb_gpas[2];

/* At the start of a sequence */
static struct vmcb initial_vmcbs[2];
static struct kvm_sregs l1_sregs;
static struct kvm_regs l1_regs;
static struct kvm_vcpu_events l1_events;
static uint64_t hsave_pa;

/* For KVM_{GET,SET}_NESTED_STATE, and what SAVE keeps */
static union {
	struct kvm_nested_state state;
	uint8_t bytes[sizeof(struct kvm_nested_state) + 2 * PAGE_SIZE];
} nested, saved_nested;
static struct kvm_sregs saved_sregs;
static uint64_t quirks_off;
static bool no_tag;

/* ---- What went wrong ---- */

static char difference[256];

static bool differs(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(difference, sizeof(difference), fmt, ap);
	va_end(ap);

	return false;
}

static bool same(const char *what, uint64_t is, uint64_t must)
{
	return is == must || differs("%s is 0x%lx, must be 0x%lx", what, is, must);
}

/* ---- Doing it ---- */

/* PAT number @n of a sequence, field 0 is WB; all different, none is HPAT. */
static uint64_t new_pat(int n)
{
	static const uint8_t types[] = { 0, 1, 4, 5, 6, 7 };
	uint64_t digits = (n * 40009ull + 12345) % 279936, pat = 0;

	for (int i = 1; i < 8; i++, digits /= 6)
		pat |= (uint64_t)types[digits % 6] << (8 * i);

	return pat | 6;
}

static uint64_t bad_pat(int n)
{
	static const uint8_t invalid[] = { 2, 3, 0x0e, 0x16, 0x26, 0x46, 0x86 };
	int shift = n % 8 * 8;

	return (new_pat(n) & ~(0xffull << shift)) |
	       (uint64_t)invalid[n / 8 % ARRAY_SIZE(invalid)] << shift;
}

static uint64_t stack_top(void *stack)
{
	return (uint64_t)stack + PAGE_SIZE - 8;
}

/* Runs the vCPU from @rip, as whoever is active; false if it ends elsewhere. */
static bool run_at(const struct model *m, uint64_t rip, uint64_t arg, int port)
{
	struct kvm_regs *regs = &vcpu->run->s.regs.regs;

	*regs = (struct kvm_regs) {
		.rip = rip,
		.rsp = stack_top(m->nested.guest_mode ? l2_stack : l1_stack),
		.rflags = 2,
		.rdi = arg,
		.rcx = MSR_IA32_CR_PAT,		/* for SMM, as are these */
		.rax = (uint32_t)arg,
		.rdx = arg >> 32,
	};
	vcpu->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	if (__vcpu_run(vcpu))
		return differs("KVM_RUN: %s, RIP 0x%llx", errno == EINTR ? "no end" :
			       strerror(errno), regs->rip);
	if (vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == port)
		return true;
	if (vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN && !port)
		return true;

	return differs("KVM_RUN: exit reason %s (%u), RIP 0x%llx",
		       exit_reason_str(vcpu->run->exit_reason),
		       vcpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR ?
		       vcpu->run->internal.suberror : 0, regs->rip);
}

static bool run(const struct model *m, void *function, uint64_t arg)
{
	return run_at(m, (uint64_t)function, arg, PORT);
}

static bool in_smm_handler(const struct model *m)
{
	return m->smm && m->rsm;
}

static int get_nested(void)
{
	nested.state.size = sizeof(nested);

	return __vcpu_ioctl(vcpu, KVM_GET_NESTED_STATE, &nested.state) ? errno : 0;
}

static int set_nested(const struct kvm_nested_state *state)
{
	return __vcpu_nested_state_set(vcpu, (void *)state) ? errno : 0;
}

static const struct kvm_nested_state outside = {
	.flags = KVM_STATE_NESTED_GIF_SET,
	.format = KVM_STATE_NESTED_FORMAT_SVM,
	.size = sizeof(outside),
};

/* KVM_SET_NESTED_STATE of what KVM_GET_NESTED_STATE returns, but for... */
static int set_changed(enum how how, uint64_t pat)
{
	struct kvm_svm_nested_state_hdr *hdr = &nested.state.hdr.svm;
	struct vmcb *vmcb = (struct vmcb *)nested.state.data.svm;
	int err;

	if (how == OUTSIDE)
		return set_nested(&outside);

	err = get_nested();
	if (err)
		return err;
	switch (how) {
	case FLIP_NPT_GPAT:
	case FLIP_NPT:
		vmcb->control.nested_ctl ^= SVM_NESTED_CTL_NP_ENABLE;
		if (how == FLIP_NPT)
			break;
	case NEW_GPAT:
	case BAD_GPAT:
		hdr->gpat = pat;
		hdr->flags = KVM_STATE_SVM_VALID_GPAT;
		break;
	case GPAT_ONLY:
	case BAD_GPAT_ONLY:
		hdr->gpat = pat;
		hdr->flags = 0;
		break;
	case NO_TAG:
		hdr->gpat = 0;
		hdr->flags = 0;
		break;
	case GARBAGE:
		hdr->gpat ^= ~0ull;
		hdr->flags |= BIT(31);
		hdr->reserved = ~0u;
		break;
	default:
		break;
	}

	return set_nested(&nested.state);
}

static void disable_quirks(void)
{
	disable_shared_pat();
	if (quirks_off)
		vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, quirks_off);
}

static void move(enum how how, bool msrs_last)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	uint32_t nested_size = state->nested.size;

	if (how == NO_TAG)
		keep_vmcb_pa_only(state);
	else if (how == GPAT_ONLY)
		state->nested.hdr.svm.flags = 0;

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);
	disable_quirks();

	if (msrs_last) {
		vcpu_sregs_set(vcpu, &state->sregs);
		vcpu_nested_state_set(vcpu, &state->nested);
		state->nested.size = 0;
	}
	vcpu_load_state(vcpu, state);
	state->nested.size = nested_size;
	kvm_x86_state_cleanup(state);
}

static void boot_l1(bool svme)
{
	struct kvm_sregs sregs = l1_sregs;

	if (!svme)
		sregs.efer &= ~EFER_SVME;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_set(vcpu, &l1_regs);
}

/*
 * When userspace forces L2 off, KVM lets L1 run with the nCR3 that vmcb01 had last,
 * though the root is another one by now: L2's without nested NPT, or SMM's if L2
 * was entered by RSM.  A change of CR4 makes KVM load the right one.
 */
static void reload_root(const struct model *m)
{
	struct kvm_sregs sregs;

	if (!m->nested.guest_mode)
		return;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 ^= X86_CR4_PGE;
	vcpu_sregs_set(vcpu, &sregs);
	sregs.cr4 ^= X86_CR4_PGE;
	vcpu_sregs_set(vcpu, &sregs);
}

static void set_smm(bool on)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = on;
	events.nmi.masked = 0;		/* SMI masks NMI until RSM */
	vcpu_events_set(vcpu, &events);
}

static bool do_vmrun(const struct model *m, const struct op *op, uint64_t pat)
{
	struct vmcb *vmcb = vmcbs[op->vmcb];

	vmcb->save.rip = (uint64_t)guest_nothing;
	vmcb->save.rsp = stack_top(l2_stack);
	vmcb->save.rflags = 2;
	vmcb->control.clean = op->clean ? ~0u : 0;
	vmcb->control.exit_code = 0xdead;
	if (op->npt)
		vmcb->control.nested_ctl |= SVM_NESTED_CTL_NP_ENABLE;
	else
		vmcb->control.nested_ctl &= ~SVM_NESTED_CTL_NP_ENABLE;
	if (op->msr_exits)
		vmcb->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
	else
		vmcb->control.intercept &= ~BIT_ULL(INTERCEPT_MSR_PROT);
	if (op->pat != KEEP)
		vmcb->save.g_pat = pat;

	return run(m, guest_vmrun, vmcb_gpas[op->vmcb]);
}

static bool do_exit(const struct model *m, const struct op *op)
{
	switch (op->code) {
	case SVM_EXIT_VMMCALL:
		return run(m, guest_vmmcall, 0);
	case SVM_EXIT_CPUID:
		return run(m, guest_cpuid, 0);
	case SVM_EXIT_NMI:
		vcpu_ioctl(vcpu, KVM_NMI, NULL);
		return run(m, guest_nothing, 0);
	default:
		return run(m, guest_ud, 0);
	}
}

static bool do_access(const struct model *m, const struct op *op, uint64_t pat)
{
	if (in_smm_handler(m))
		return run_at(m, op->kind == READ ? SMM_READ : SMM_WRITE, pat, SMM_PORT);
	if (op->kind == READ)
		return run(m, op->fep ? guest_read_fep : guest_read, 0);

	return run(m, op->fep ? guest_write_fep : guest_write, pat);
}

static bool do_init(const struct model *m)
{
	struct kvm_mp_state mp_state;

	change_events(pend_init);
	vcpu_mp_state_get(vcpu, &mp_state);	/* lets KVM accept INIT */
	change_events(unpend_init);
	if (m->nested.guest_mode && m->nested.cur == 0) {
		struct model l1 = *m;

		l1.nested.guest_mode = false;
		return run(&l1, guest_stgi, 0);
	}
	boot_l1(true);

	return true;
}

/* Does @op to the vCPU; @m is the model before, @after what it has to be then. */
static bool do_op(const struct model *m, const struct model *after,
		  const struct op *op, uint64_t pat, struct result *r)
{
	struct kvm_regs *regs = &vcpu->run->s.regs.regs;
	struct kvm_sregs sregs;

	switch (op->kind) {
	case VMRUN:
		return do_vmrun(m, op, pat);
	case EXIT:
		return do_exit(m, op);
	case READ:
	case WRITE:
		if (!do_access(m, op, pat))
			return false;
		if (m->nested.guest_mode && m->nested.msr_exits)
			return true;
		if (op->kind == READ)
			r->value = in_smm_handler(m) ?
				   regs->rdx << 32 | (uint32_t)regs->rax : regs->rax;
		if (!in_smm_handler(m))
			r->vector = regs->rbx;
		return true;
	case HOST_WRITE:
		return same("MSRs that KVM_SET_MSRS sets",
			    _vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, pat), op->pat == NEW);
	case POKE:
		vmcbs[m->nested.cur]->save.g_pat = pat;
		return true;
	case SET:
		r->err = set_changed(op->how, pat);
		if (!after->nested.guest_mode)
			reload_root(m);
		return true;
	case SAVE:
		r->err = get_nested();
		saved_nested = nested;
		vcpu_sregs_get(vcpu, &saved_sregs);
		return true;
	case LOAD:
		if (!m->smm)
			vcpu_sregs_set(vcpu, &saved_sregs);
		r->err = set_nested(&saved_nested.state);
		if (!after->nested.guest_mode)
			reload_root(m);
		return true;
	case MOVE:
		move(op->how, op->msrs_last);
		return true;
	case SVME:
		vcpu_sregs_get(vcpu, &sregs);
		sregs.efer = op->on ? sregs.efer | EFER_SVME : sregs.efer & ~EFER_SVME;
		vcpu_sregs_set(vcpu, &sregs);
		if (!op->on)
			reload_root(m);
		return true;
	case SMI:
		change_events(pend_smi);
		return run_at(m, (uint64_t)guest_nothing, 0, SMM_PORT);
	case RSM:
		return run_at(m, SMM_RSM, 0, after->dead ? 0 : PORT);
	case SMM:
		set_smm(op->on);
		if (in_smm_handler(m))
			boot_l1(m->svme);
		/* v7.2 keeps GIF as the SMI over L2 left it, and takes no other one */
		if (in_smm_handler(m) && no_tag)
			set_nested(&outside);
		reload_root(m);
		return true;
	case INIT:
		return do_init(m);
	case NO_RUN:
		vcpu->run->immediate_exit = 1;
		r->err = __vcpu_run(vcpu) ? errno : 0;
		vcpu->run->immediate_exit = 0;
		if (r->err != EINTR)
			return differs("KVM_RUN with immediate_exit: %d", r->err);
		r->err = 0;
		return true;
	}

	return false;
}

/* ---- Comparing it ---- */

static bool same_state(const struct model *m)
{
	const struct kvm_svm_nested_state_hdr *hdr = &nested.state.hdr.svm;
	const struct nested_model *n = &m->nested;
	bool has_gpat = model_has_gpat(n);
	uint32_t flags = has_gpat ? KVM_STATE_SVM_VALID_GPAT : 0;

	if (!same("KVM_GET_NESTED_STATE", get_nested(), 0))
		return false;

	return same("guest mode", !!(nested.state.flags & KVM_STATE_NESTED_GUEST_MODE),
		    n->guest_mode) &&
	       same("hPAT", vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), m->hpat) &&
	       same("header gpat", hdr->gpat, has_gpat ? n->gpat : 0) &&
	       (no_tag || same("header flags", hdr->flags, flags)) &&
	       same("header reserved", hdr->reserved, 0) &&
	       same("vmcb12 A g_pat", vmcbs[0]->save.g_pat, m->vmcb12[0].g_pat) &&
	       same("vmcb12 B g_pat", vmcbs[1]->save.g_pat, m->vmcb12[1].g_pat);
}

/* Which of the guests reported in can be told from its stack. */
static bool same_level(const struct model *m)
{
	uint64_t rsp = vcpu->run->s.regs.regs.rsp;
	bool is_l2 = rsp > (uint64_t)l2_stack && rsp <= stack_top(l2_stack);

	return is_l2 == m->nested.guest_mode ||
	       differs("L%d runs, must be L%d", is_l2 + 1, m->nested.guest_mode + 1);
}

static bool step(struct model *m, const struct op *op, int n)
{
	uint64_t pat = op->pat == NEW ? new_pat(n) : op->pat == BAD ? bad_pat(n) : 0;
	struct model before = *m;
	struct result must = model_step(m, op, pat), is = {};

	if (!do_op(&before, m, op, pat, &is))
		return false;

	if (must.exit_code &&
	    !same("exit code", (uint32_t)vmcbs[m->nested.cur]->control.exit_code,
		  must.exit_code))
		return false;
	if (!same("errno", is.err, must.err) || !same("exception", is.vector, must.vector) ||
	    (op->kind == READ && !same("RDMSR", is.value, must.value)))
		return false;
	if ((op->kind == VMRUN || op->kind == READ || op->kind == WRITE) && !m->smm &&
	    !same_level(m))
		return false;

	return m->dead || same_state(m);
}

/* ---- Sequences ---- */

static const struct model initial_model = {
	.hpat = HPAT,
	.vmcb12 = { { .g_pat = GPAT }, { .g_pat = GPAT_2 } },
	.svme = true,
	.saved_svme = true,
};

static uint64_t op_setup(uint64_t svm)
{
	generic_svm_setup((void *)svm, NULL, NULL);

	return rdmsr(MSR_VM_HSAVE_PA);
}

static void create_machine(void)
{
	struct svm_test_data *svm[2];
	vm_vaddr_t gva;
	uint8_t *smram;

	create_vm(true);
	disable_quirks();
	svm[0] = addr_gva2hva(vm, l1_svm);
	svm[1] = vcpu_alloc_svm(vm, &gva);
	hsave_pa = guest_call(L1, op_setup, gva);

	for (int i = 0; i < 2; i++) {
		struct vmcb *vmcb = svm[i]->vmcb_hva;

		memset(svm[i]->msr_hva, 0xff, PAGE_SIZE);
		vmcb->control.intercept |= BIT_ULL(INTERCEPT_CPUID) |
					   BIT_ULL(INTERCEPT_NMI);
		vmcb->control.intercept_exceptions |= BIT(UD_VECTOR);
		vmcb->control.nested_cr3 = vmcb12->control.nested_cr3;
		vmcbs[i] = vmcb;
		vmcb_gpas[i] = svm[i]->vmcb_gpa;
	}
	vmcbs[0]->control.intercept |= BIT_ULL(INTERCEPT_INIT);
	vmcbs[0]->save.g_pat = GPAT;
	vmcbs[1]->save.g_pat = GPAT_2;
	initial_vmcbs[0] = *vmcbs[0];
	initial_vmcbs[1] = *vmcbs[1];

	vm_install_exception_handler(vm, NMI_VECTOR, ignore_nmi);
	install_smi_handler(smm_entry, sizeof(smm_entry));
	smram = addr_gpa2hva(vm, SMRAM_GPA);
	memcpy(smram + SMM_READ, smm_read, sizeof(smm_read));
	memcpy(smram + SMM_WRITE, smm_write, sizeof(smm_write));
	memcpy(smram + SMM_RSM, smm_rsm, sizeof(smm_rsm));

	vcpu_sregs_get(vcpu, &l1_sregs);
	vcpu_regs_get(vcpu, &l1_regs);
	vcpu_events_get(vcpu, &l1_events);
	l1_events.flags |= KVM_VCPUEVENT_VALID_SMM;
}

/* As at the start, but for what KVM might remember behind our backs. */
static void reset_machine(const struct model *m)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };

	vcpu_events_set(vcpu, &l1_events);
	vcpu_nested_state_set(vcpu, (void *)&outside);
	boot_l1(true);
	reload_root(m);
	vcpu_mp_state_set(vcpu, &runnable);
	vcpu_set_msr(vcpu, MSR_IA32_CR_PAT, HPAT);
	vcpu_set_msr(vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
	vcpu_set_msr(vcpu, MSR_VM_HSAVE_PA, hsave_pa);
	*vmcbs[0] = initial_vmcbs[0];
	*vmcbs[1] = initial_vmcbs[1];
	get_nested();
	saved_nested = nested;
	saved_sregs = l1_sregs;
}

#define RESET		0xff	/* starts a sequence */
#define MAX_HISTORY	(FRESH * (MAX_STEPS + 1))

/* What the process that drives the vCPU shares with the one that looks after it */
static struct shared {
	uint64_t sequences, steps, differences;
	int history_len;
	bool failed;
	char difference[sizeof(difference)];
	uint8_t history[MAX_HISTORY];	/* operations since the VM was created */
} *shared;

static const char *name_of(int op)
{
	return op == RESET ? "reset" : ops[op].name;
}

static void print_ops(const uint8_t *seq, int n)
{
	for (int i = 0; i < n; i++)
		printf("%s%s", i ? "." : "", name_of(seq[i]));
}

/* Does @seq from the current state on; RESET starts afresh, what can't be done is left out. */
static bool do_sequence(struct model *m, const uint8_t *seq, int n, bool verbose)
{
	int pats = 0;

	for (int i = 0; i < n; i++) {
		shared->history[shared->history_len++] = seq[i];
		if (seq[i] == RESET) {
			reset_machine(m);
			*m = initial_model;
			pats = 0;
			shared->sequences++;
			continue;
		}
		pats++;
		if (!model_can(m, &ops[seq[i]]))
			continue;
		shared->steps++;
		if (!step(m, &ops[seq[i]], pats)) {
			memcpy(shared->difference, difference, sizeof(difference));
			shared->differences++;
			return false;
		}
		if (verbose)
			printf("#   %-18s %s hPAT %016lx  %s %016lx%s\n", name_of(seq[i]),
			       m->smm ? "SMM" : m->nested.guest_mode ? "L2 " : "L1 ", m->hpat,
			       m->nested.guest_mode && m->nested.npt ? "gPAT" : "    ",
			       m->nested.guest_mode && m->nested.npt ? m->nested.gpat : 0,
			       m->nested.legacy ? "  legacy" : "");
	}

	return true;
}

/* Ends a KVM_RUN that would not end. */
static void ignore(int signal)
{
}

/* Runs @function in a process of its own; true if it found no difference. */
static bool in_child(void (*function)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	shared->failed = false;
	pid = fork();
	if (!pid) {
		sigaction(SIGALRM, &(struct sigaction) { .sa_handler = ignore }, NULL);
		alarm(SEQUENCE_LIMIT);
		function();
		fflush(NULL);
		_exit(0);
	}
	TEST_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid, "fork: %s", strerror(errno));
	if (!shared->failed && status) {
		snprintf(shared->difference, sizeof(shared->difference), WIFSIGNALED(status) ?
			 "killed by signal %d" : "an ioctl or a guest failed, see above (%d)",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		shared->failed = true;
	}

	return !shared->failed;
}

static uint8_t replayed[MAX_HISTORY];
static int replayed_len;
static bool replay_verbose;

static void replay(void)
{
	struct model m = initial_model;

	if (!replay_verbose)
		TEST_ASSERT(freopen("/dev/null", "w", stderr), "/dev/null");
	create_machine();
	reset_machine(&m);
	shared->history_len = 0;
	if (!do_sequence(&m, replayed, replayed_len, replay_verbose))
		shared->failed = true;
}

static bool still_fails(const uint8_t *seq, int n)
{
	memcpy(replayed, seq, n);
	replayed_len = n;

	return !in_child(replay);
}

/* Takes out of @seq what the failure can do without; returns what is left of @n. */
static int shrink(uint8_t *seq, int n)
{
	static uint8_t shorter[MAX_HISTORY];

	for (int chunk = n / 2; chunk; chunk /= 2) {
		for (int at = 0; at + chunk <= n;) {
			memcpy(shorter, seq, at);
			memcpy(shorter + at, seq + at + chunk, n - at - chunk);
			if (still_fails(shorter, n - chunk)) {
				n -= chunk;
				memcpy(seq, shorter, n);
			} else {
				at += chunk;
			}
		}
	}

	return n;
}

static void print_difference(void)
{
	int n = shared->history_len, start = n;

	while (start && shared->history[start - 1] != RESET)
		start--;
	printf("# differs: %s in ", shared->difference);
	print_ops(shared->history + start, n - start);
	printf("\n");
}

static void explain(void)
{
	static uint8_t seq[MAX_HISTORY];
	int n = shared->history_len, start = n;

	print_difference();
	memcpy(seq, shared->history, n);
	while (start && seq[start - 1] != RESET)
		start--;

	/* Alone, or with all that was done in this VM before it? */
	if (still_fails(seq + start, n - start)) {
		n -= start;
		memmove(seq, seq + start, n);
	} else if (!still_fails(seq, n)) {
		printf("# not seen again in a new VM\n");
		return;
	}
	n = shrink(seq, n);
	still_fails(seq, n);
	printf("# shortest: %s\n# replay: SEQ=", shared->difference);
	print_ops(seq, n);
	printf("\n");
}

/* ---- Which sequences ---- */

static struct model now;
static int depth, random_count, share, shares = 1;
static uint64_t seed = 1;
static bool go_on, merge, verbose, left_out[256];
static uint8_t sequence[MAX_STEPS + 1] = { RESET };
static uint8_t prefix[MAX_STEPS];
static int prefix_len, in_vm;

static uint64_t xorshift(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;

	return *x;
}

/* What a sequence begins with, for who looks at the output. */
static void print_start(int n)
{
	printf("# RUN ");
	print_ops(sequence + 1, n);
	printf("%s\n", n ? ".*" : "*");
	fflush(stdout);
}

/* sequence[] has @n operations behind RESET: do them, in a new VM from time to time. */
static bool try_sequence(int n)
{
	if (verbose)
		print_start(n);
	if (in_vm++ == FRESH) {
		kvm_vm_free(vm);
		create_machine();
		shared->history_len = 0;
		in_vm = 1;
		now = initial_model;
	}
	alarm(SEQUENCE_LIMIT);
	if (do_sequence(&now, sequence, n + 1, false)) {
		if (!now.dead)
			return true;
	} else {
		shared->failed = !go_on;
		if (shared->failed)
			return false;
		print_difference();
	}
	in_vm = FRESH;		/* who knows what is left of this one */

	return true;
}

/*
 * With -m: was @m seen before, after @n operations?  If so, what follows was, too,
 * as far as the model can tell.
 */
static struct known {
	struct model *models;
	uint64_t *hashes;
	int nr, max;
} seen[MAX_STEPS];

static bool seen_before(const struct model *m, int n)
{
	struct known *k = &seen[n];
	uint64_t hash = 0xcbf29ce484222325ull;

	for (int i = 0; i < sizeof(*m); i++)
		hash = (hash ^ ((const uint8_t *)m)[i]) * 0x100000001b3ull;
	for (int i = 0; i < k->nr; i++) {
		if (k->hashes[i] == hash && !memcmp(&k->models[i], m, sizeof(*m)))
			return true;
	}
	if (k->nr == k->max) {
		k->max = 2 * k->max + 64;
		k->models = realloc(k->models, k->max * sizeof(*m));
		k->hashes = realloc(k->hashes, k->max * sizeof(hash));
		TEST_ASSERT(k->models && k->hashes, "Out of memory");
	}
	k->models[k->nr] = *m;
	k->hashes[k->nr++] = hash;

	return false;
}

static int parents, planned;
static bool planning;

/* All continuations of sequence[], of which @n operations are there. */
static bool all_sequences(struct model m, int n)
{
	if (n == depth)
		return try_sequence(n);
	if (n && merge && seen_before(&m, n))
		return true;
	if (n == depth - 1) {
		if (parents++ % shares != share)
			return true;
		if (planning) {
			planned++;
			return true;
		}
		print_start(n);
	}

	for (int op = 0; op < NR_OPS; op++) {
		struct model next = m;

		if (!model_can(&m, &ops[op]) || left_out[op] ||
		    (n < prefix_len && op != prefix[n]))
			continue;
		sequence[n + 1] = op;
		model_step(&next, &ops[op], ops[op].pat == NEW ? new_pat(n + 1) : bad_pat(n + 1));
		if (next.dead) {
			if (share == 0 && !planning && !try_sequence(n + 1))
				return false;
		} else if (!all_sequences(next, n + 1)) {
			return false;
		}
	}

	return true;
}

static void explore(void)
{
	planning = true;
	all_sequences(initial_model, 0);
	planning = false;
	parents = 0;
	for (int i = 0; i < MAX_STEPS; i++)
		seen[i].nr = 0;
	printf("# %d beginnings\n", planned);
	fflush(stdout);

	create_machine();
	all_sequences(initial_model, 0);
}

static void explore_random(void)
{
	printf("# %d beginnings\n", (random_count - share + shares - 1) / shares);
	fflush(stdout);

	create_machine();
	for (int i = 0; i < random_count; i++) {
		uint64_t x = seed * 0x9e3779b97f4a7c15ull + i + 1;
		struct model m = initial_model;
		int steps, n = 0;

		if (i % shares != share)
			continue;
		xorshift(&x);
		steps = 50 + xorshift(&x) % 151;
		while (n < steps && !m.dead) {
			int op = xorshift(&x) % NR_OPS;

			if (!model_can(&m, &ops[op]) || left_out[op])
				continue;
			sequence[++n] = op;
			model_step(&m, &ops[op], ops[op].pat == NEW ? new_pat(n) : bad_pat(n));
		}
		printf("# RUN random %d\n", i);
		fflush(stdout);
		if (!try_sequence(n))
			return;
	}
}

/* ---- main ---- */

static int find_op(const char *name)
{
	for (int i = 0; i < NR_OPS; i++) {
		if (!strcmp(name, ops[i].name))
			return i;
	}
	if (!strcmp(name, "reset"))
		return RESET;
	fprintf(stderr, "no operation %s; -n names them\n", name);
	exit(1);
}

static int parse(char *names, uint8_t *seq, int max)
{
	int n = 0;

	for (char *name = strtok(names, "."); name; name = strtok(NULL, ".")) {
		TEST_ASSERT(n < max, "Too long a sequence");
		seq[n++] = find_op(name);
	}

	return n;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int explored(const char *what, void (*function)(void))
{
	double start = seconds();
	bool ok = in_child(function) && !shared->differences;

	if (shared->failed && !shared->differences)
		shared->differences = 1;
	printf("# %s: %lu sequences, %lu steps, %lu differences, %.1f s\n", what,
	       shared->sequences, shared->steps, shared->differences, seconds() - start);
	if (shared->failed)
		explain();
	printf("%s 1 %s\n", ok ? "ok" : "not ok", what);

	return ok ? 0 : 1;
}

int main(int argc, char *argv[])
{
	uint8_t names[NR_OPS];
	const char *quirk = "";
	char what[96];
	bool replaying = false;
	int opt, n;

	while ((opt = getopt(argc, argv, "d:r:s:x:w:f:q:e:cktmvn")) != -1) {
		switch (opt) {
		case 'd':
			depth = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			random_count = strtoul(optarg, NULL, 0);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'x':
			replayed_len = parse(optarg, replayed, MAX_HISTORY);
			replaying = true;
			break;
		case 'w':
			TEST_ASSERT(sscanf(optarg, "%d/%d", &share, &shares) == 2, "-w I/N");
			break;
		case 'f':
			prefix_len = parse(optarg, prefix, MAX_STEPS);
			break;
		case 'q':
			quirks_off = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			go_on = true;
			break;
		case 'k':
			keep_quirks = true;
			model_kvm.shared = true;
			quirk = ", quirk enabled";
			break;
		case 'm':
			merge = true;
			break;
		case 'e':
			n = parse(optarg, names, ARRAY_SIZE(names));
			while (n--)
				left_out[names[n]] = true;
			break;
		case 't':
			no_tag = true;
			break;
		case 'v':
			verbose = true;
			break;
		case 'n':
			for (int i = 0; i < NR_OPS; i++)
				puts(ops[i].name);
			return 0;
		default:
			return 1;
		}
	}

	if (!replaying && (!depth == !random_count || depth >= MAX_STEPS)) {
		fprintf(stderr, "One of -d DEPTH, -r COUNT and -x SEQUENCE\n");
		return 1;
	}

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_NPT));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));
	TEST_REQUIRE(kvm_is_forced_emulation_enabled());

	/* Mainline, which has no tag, is one that takes gpat without it */
	model_kvm.untagged = no_tag ||
			     (kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & SHARED_PAT_QUIRK);

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(shared != MAP_FAILED, "mmap: %s", strerror(errno));

	printf("TAP version 13\n1..1\n");
	if (replaying) {
		replay_verbose = true;
		snprintf(what, sizeof(what), "replay");
		return explored(what, replay);
	}
	if (depth) {
		snprintf(what, sizeof(what), "all sequences of %d operations%s%s", depth,
			 merge ? " from different states" : "", quirk);
		return explored(what, explore);
	}
	snprintf(what, sizeof(what), "random sequences, seed %lu%s", seed, quirk);
	return explored(what, explore_random);
}
