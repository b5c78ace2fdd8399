// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checkpoints of a nested vCPU that travel between kernels: one process saves a
 * VM to a file, another one, on another kernel, makes a VM of that and runs on.
 *
 *   svm_nested_pat_migrate save LIST
 *   svm_nested_pat_migrate restore LIST
 *
 * LIST is a file; a line is a job, with blanks between the words.  To save:
 *
 *   NAME FILE STATE PATS	a VM in that state is saved in FILE as NAME
 *   NAME FILE again FROM SAVED ORDER HEADER
 *				what is SAVED in FROM is restored and, before it
 *				has run, saved once more
 *
 * and to restore what is SAVED in FILE, as a test case NAME:
 *
 *   NAME FILE SAVED ORDER HEADER PATS L2 HPAT G_PAT NEXT
 *
 *   STATE	l2, l2-no-npt: inside L2, with and without nested NPT; l2-back: the
 *		same, and L2 was left and run again since it wrote; l1: in L1
 *		after L2 ran; smm: in SMM over L2.  In each, L1 has written
 *		HPAT_2 to IA32_PAT and GPAT to vmcb12.g_pat, and L2 has written
 *		GPAT_2 to IA32_PAT
 *   PATS	what this kernel is: it has shared or separate PATs; unquirked: it
 *		has separate ones while KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT is
 *		disabled, which is done
 *   ORDER	msrs-first, msrs-last: before or after nested state
 *   HEADER	whole; or known: as of a VMM that builds the header of nested
 *		state anew from the one field that it knows, vmcb_pa; or gpat:
 *		from vmcb_pa and gpat; or gif: as of a VMM that sets GIF in state
 *		outside of guest mode
 *   L2 ... NEXT	expected: what L2 reads from IA32_PAT, what is L1's, what is
 *		in vmcb12.g_pat after the #VMEXIT, what L2 reads after the next
 *		VMRUN.  By who wrote it: L1, g_pat (L1, to vmcb12), L2; or 0.
 *		For L2: refused, if KVM_SET_NESTED_STATE fails with EINVAL
 *
 * A file of checkpoints has each distinct page of memory once.  It is good for
 * the very binary that wrote it: the guests are in there.
 */
#include <sys/wait.h>

#include "svm_nested_pat.h"

#ifndef KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT
#define KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT	BIT(11)	/* v7.2 */
#endif

#define PAT_AFTER	0x0600050401070406ull	/* L2 writes it when all was judged */
#define MAX_JOBS	256
#define MAX_WORDS	11
#define WORDS		" \t\n"
#define MAGIC		0x0174706b43544150ull

enum pats { SHARED, SEPARATE, UNQUIRKED };

static struct { const char *name; uint64_t pat; } pat_names[] = {
	{ "L1", HPAT_2 }, { "g_pat", GPAT }, { "L2", GPAT_2 }, { "0", 0 },
	{ "after", PAT_AFTER }, { "reset", HPAT },
};

/* ---- Guests: what else has to survive ---- */

#define CANARY		0x000040ffee00f00dull

static uint64_t canary;

static uint64_t op_leave_canary(uint64_t val)
{
	canary = val;
	wrmsr(MSR_KERNEL_GS_BASE, val);
	asm volatile("movq %0, %%xmm15" : : "r"(val) : "xmm15");

	return 0;
}

static uint64_t op_canary_is_gone(uint64_t val)
{
	uint64_t xmm15;

	asm volatile("movq %%xmm15, %0" : "=r"(xmm15));

	return (canary != val) | (rdmsr(MSR_KERNEL_GS_BASE) != val) << 1 |
	       (xmm15 != val) << 2;
}

/* ---- The file ---- */

struct region {
	uint64_t gpa, pages;
	uint32_t slot, flags;
};

struct page {
	uint64_t gpa, index;
};

/* Of fixed size, and followed by what is not */
struct vcpu_head {
	char name[48];
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_debugregs debugregs;
	uint64_t pgd, vmcb12, l1_svm, uc;
	uint32_t level, npt;
	uint32_t xsave_size, nested_size, nmsrs, ncpuid, nregions, npages;
};

struct checkpoint {
	struct vcpu_head head;
	struct kvm_x86_state *state;
	struct kvm_cpuid2 *cpuid;
	struct region *regions;
	struct page *pages;
};

/* Pages of a file, by their index */
static uint8_t (*store)[PAGE_SIZE];
static uint64_t nr_stored;

static void *checked(void *p)
{
	TEST_ASSERT(p, "Out of memory");
	return p;
}

static uint64_t store_page(const void *page)
{
	uint64_t i;

	for (i = 0; i < nr_stored; i++)
		if (!memcmp(store[i], page, PAGE_SIZE))
			return i;

	store = checked(realloc(store, (nr_stored + 1) * PAGE_SIZE));
	memcpy(store[nr_stored], page, PAGE_SIZE);

	return nr_stored++;
}

static void put(FILE *f, const void *p, size_t size)
{
	TEST_ASSERT(!size || fwrite(p, size, 1, f) == 1, "Cannot write: %s", strerror(errno));
}

static void get(FILE *f, void *p, size_t size)
{
	TEST_ASSERT(!size || fread(p, size, 1, f) == 1, "File of checkpoints is too short");
}

static void *get_new(FILE *f, size_t size)
{
	void *p = checked(calloc(1, size));

	get(f, p, size);
	return p;
}

static void put_checkpoint(FILE *f, const struct checkpoint *c)
{
	put(f, &c->head, sizeof(c->head));
	put(f, c->state->xsave, c->head.xsave_size);
	put(f, &c->state->nested, c->head.nested_size);
	put(f, c->state->msrs.entries, c->head.nmsrs * sizeof(struct kvm_msr_entry));
	put(f, c->cpuid->entries, c->head.ncpuid * sizeof(struct kvm_cpuid_entry2));
	put(f, c->regions, c->head.nregions * sizeof(*c->regions));
	put(f, c->pages, c->head.npages * sizeof(*c->pages));
}

/* Reads the next checkpoint, returns false at the end of the file. */
static bool get_checkpoint(FILE *f, struct checkpoint *c)
{
	size_t msrs;

	if (fread(&c->head, sizeof(c->head), 1, f) != 1)
		return false;

	msrs = c->head.nmsrs * sizeof(struct kvm_msr_entry);
	c->state = checked(calloc(1, sizeof(*c->state) + msrs));
	/* KVM reads as much as it has features for */
	c->state->xsave = checked(calloc(1, 65536 + c->head.xsave_size));
	get(f, c->state->xsave, c->head.xsave_size);
	TEST_ASSERT(c->head.nested_size <= sizeof(c->state->nested_), "Nested state is too big");
	get(f, &c->state->nested, c->head.nested_size);
	get(f, c->state->msrs.entries, msrs);
	c->cpuid = allocate_kvm_cpuid2(c->head.ncpuid);
	get(f, c->cpuid->entries, c->head.ncpuid * sizeof(struct kvm_cpuid_entry2));
	c->regions = get_new(f, c->head.nregions * sizeof(*c->regions));
	c->pages = get_new(f, c->head.npages * sizeof(*c->pages));

	return true;
}

static FILE *open_store(const char *file)
{
	uint64_t head[2];
	FILE *f = fopen(file, "r");

	TEST_ASSERT(f, "Cannot open %s: %s", file, strerror(errno));
	get(f, head, sizeof(head));
	TEST_ASSERT(head[0] == MAGIC, "%s is no file of checkpoints", file);
	nr_stored = head[1];
	store = get_new(f, nr_stored * PAGE_SIZE);

	return f;
}

/* The checkpoint called @name, which has to be in @file. */
static struct checkpoint find_checkpoint(const char *file, const char *name)
{
	struct checkpoint c;
	FILE *f = open_store(file);

	do {
		TEST_ASSERT(get_checkpoint(f, &c), "There is no %s in %s", name, file);
	} while (strcmp(c.head.name, name));
	fclose(f);

	return c;
}

/* Adds @c, whose pages are in the store, to @file. */
static void add_checkpoint(const char *file, struct checkpoint *c)
{
	struct checkpoint old[64];
	uint8_t (*mine)[PAGE_SIZE] = store;
	uint64_t head[2] = { MAGIC };
	int n = 0;
	FILE *f;

	/* What is in the file first, then the pages that this one adds */
	if (!access(file, F_OK)) {
		f = open_store(file);
		while (get_checkpoint(f, &old[n]))
			TEST_ASSERT(++n < ARRAY_SIZE(old), "Too many checkpoints in %s", file);
		fclose(f);
	} else {
		store = NULL;
		nr_stored = 0;
	}
	for (int i = 0; i < c->head.npages; i++)
		c->pages[i].index = store_page(mine[c->pages[i].index]);
	old[n++] = *c;

	f = fopen(file, "w");
	TEST_ASSERT(f, "Cannot write %s: %s", file, strerror(errno));
	head[1] = nr_stored;
	put(f, head, sizeof(head));
	put(f, store, nr_stored * PAGE_SIZE);
	for (int i = 0; i < n; i++)
		put_checkpoint(f, &old[i]);
	TEST_ASSERT(!fclose(f), "Cannot write %s: %s", file, strerror(errno));
}

/* ---- Save ---- */

static bool is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, PAGE_SIZE - 1);
}

static void save_memory(struct checkpoint *c)
{
	struct userspace_mem_region *region;
	size_t nregions = 0, npages = 0;
	int bucket;

	hash_for_each(vm->regions.slot_hash, bucket, region, slot_node) {
		nregions++;
		npages += region->region.memory_size / PAGE_SIZE;
	}
	c->regions = checked(calloc(nregions, sizeof(*c->regions)));
	c->pages = checked(calloc(npages, sizeof(*c->pages)));

	hash_for_each(vm->regions.slot_hash, bucket, region, slot_node) {
		struct region *r = &c->regions[c->head.nregions++];

		r->gpa = region->region.guest_phys_addr;
		r->pages = region->region.memory_size / PAGE_SIZE;
		r->slot = region->region.slot;
		r->flags = region->region.flags;

		for (uint64_t i = 0; i < r->pages; i++) {
			const void *page = (uint8_t *)region->host_mem + i * PAGE_SIZE;

			if (is_zero(page))
				continue;
			c->pages[c->head.npages++] = (struct page) {
				.gpa = r->gpa + i * PAGE_SIZE,
				.index = store_page(page),
			};
		}
	}
}

/* @uc: struct ucall of the guests, level: who goes on. */
static void save(const char *file, const char *name, int level, bool npt, vm_paddr_t uc)
{
	struct checkpoint c = { .state = vcpu_save_state(vcpu) };
	struct vcpu_head *h = &c.head;

	snprintf(h->name, sizeof(h->name), "%s", name);
	h->regs = c.state->regs;
	h->sregs = c.state->sregs;
	h->xcrs = c.state->xcrs;
	h->events = c.state->events;
	h->mp_state = c.state->mp_state;
	h->debugregs = c.state->debugregs;
	h->pgd = vm->pgd;
	h->vmcb12 = addr_hva2gpa(vm, vmcb12);
	h->l1_svm = l1_svm;
	h->uc = uc;
	h->level = level;
	h->npt = npt;
	h->xsave_size = vm_check_cap(vm, KVM_CAP_XSAVE2) ?: sizeof(struct kvm_xsave);
	h->nested_size = c.state->nested.size;
	h->nmsrs = c.state->msrs.nmsrs;
	h->ncpuid = vcpu->cpuid->nent;
	c.cpuid = vcpu->cpuid;
	save_memory(&c);

	printf("# saved %s: gpat 0x%016llx flags 0x%x, %u pages\n", name,
	       c.state->nested.hdr.svm.gpat, c.state->nested.hdr.svm.flags, h->npages);
	add_checkpoint(file, &c);
}

static void disable_quirk(enum pats kind)
{
	const uint64_t quirk = KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT;

	if (kind != UNQUIRKED)
		return;

	TEST_ASSERT(kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & quirk, "KVM has no such quirk");
	vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, quirk);
}

static void save_state(const char *file, const char *name, const char *state, enum pats kind)
{
	bool npt = strcmp(state, "l2-no-npt");
	bool separate = kind != SHARED && npt;
	bool exited = strcmp(state, "l2") && npt;
	struct kvm_regs regs;
	vm_paddr_t uc;
	int level = L2;

	create_vm_with_smm(npt);
	disable_quirk(kind);
	write_pat(L1, HPAT_2);
	enter_l2();
	write_pat(L2, GPAT_2);
	if (!strcmp(state, "l1")) {
		exit_l2();
		level = L1;
	} else if (!strcmp(state, "l2-back")) {
		exit_l2();
		enter_l2();
	}
	guest_call(level, op_leave_canary, CANARY);

	vcpu_regs_get(vcpu, &regs);
	uc = addr_hva2gpa(vm, (void *)regs.rdi);
	if (!strcmp(state, "smm"))
		smi();
	else
		TEST_ASSERT(level == L1 || !strncmp(state, "l2", 2), "Unknown state %s", state);

	/* The three PATs differ wherever there are three */
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), separate ? HPAT_2 : GPAT_2);
	TEST_ASSERT_EQ(vmcb12->save.g_pat, separate && exited ? GPAT_2 : GPAT);
	save(file, name, level, npt, uc);
}

/* ---- Restore ---- */

static void restore_msrs(const struct checkpoint *c)
{
	for (int i = 0; i < c->head.nmsrs; i++) {
		const struct kvm_msr_entry *e = &c->state->msrs.entries[i];

		/* What this KVM does not have, no VMM would have given to the guest */
		if (!kvm_msr_is_in_save_restore_list(e->index))
			continue;
		TEST_ASSERT(_vcpu_set_msr(vcpu, e->index, e->data) == 1,
			    "Cannot restore MSR 0x%x = 0x%llx", e->index, e->data);
	}
}

static void restore_nested(const struct checkpoint *c, bool refused)
{
	int err = set_nested_state(c->state);

	if (refused && err == EINVAL) {
		printf("# saw l2=refused\n");
		exit(0);
	}
	TEST_ASSERT(!err && !refused, "KVM_SET_NESTED_STATE: %s, it was to be %s",
		    err ? strerror(err) : "taken", refused ? "refused" : "taken");
}

static void restore_vcpu(struct checkpoint *c, bool msrs_last, bool refused)
{
	struct vcpu_head *h = &c->head;

	vcpu_sregs_set(vcpu, &h->sregs);
	if (msrs_last)
		restore_nested(c, refused);
	else
		restore_msrs(c);
	vcpu_xcrs_set(vcpu, &h->xcrs);
	vcpu_xsave_set(vcpu, c->state->xsave);
	vcpu_events_set(vcpu, &h->events);
	vcpu_mp_state_set(vcpu, &h->mp_state);
	vcpu_debugregs_set(vcpu, &h->debugregs);
	vcpu_regs_set(vcpu, &h->regs);
	if (msrs_last)
		restore_msrs(c);
	else
		restore_nested(c, refused);
}

/*
 * Makes the VM and its vCPU from nothing but @c, up to the point where KVM_RUN
 * would go on.  If nested state is to be @refused, that is the end of the job.
 */
static void restore(struct checkpoint *c, const char *order, const char *header,
		    enum pats kind, bool refused)
{
	struct kvm_nested_state *nested = &c->state->nested;
	struct vcpu_head *h = &c->head;
	struct ucall *uc;

	vm = vm_create_barebones();
	disable_quirk(kind);
	vm_create_irqchip(vm);
	for (int i = 0; i < h->nregions; i++)
		vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, c->regions[i].gpa,
					    c->regions[i].slot, c->regions[i].pages,
					    c->regions[i].flags);
	for (int i = 0; i < h->npages; i++)
		memcpy(addr_gpa2hva(vm, c->pages[i].gpa), store[c->pages[i].index], PAGE_SIZE);

	vm->pgd = h->pgd;
	vm->pgd_created = true;
	vmcb12 = addr_gpa2hva(vm, h->vmcb12);
	l1_svm = h->l1_svm;

	/* The library's guests know host addresses, those of the host they left */
	uc = addr_gpa2hva(vm, h->uc);
	uc->hva = uc;
	TEST_ASSERT(!memcmp(addr_gva2hva(vm, (vm_vaddr_t)op_vmrun), op_vmrun, 16),
		    "The checkpoint is of another binary");

	vcpu = __vm_vcpu_add(vm, 0);
	vcpu_init_cpuid(vcpu, c->cpuid);

	if (!strcmp(header, "known"))
		memset(&nested->hdr.svm.gpat, 0,
		       sizeof(nested->hdr) - sizeof(nested->hdr.svm.vmcb_pa));
	else if (!strcmp(header, "gpat"))
		memset(&nested->hdr.svm.flags, 0, sizeof(nested->hdr) -
		       offsetof(struct kvm_svm_nested_state_hdr, flags));
	else if (!strcmp(header, "gif"))
		nested->flags |= KVM_STATE_NESTED_GIF_SET;
	else
		TEST_ASSERT(!strcmp(header, "whole"), "Unknown header %s", header);
	TEST_ASSERT(!strcmp(order, "msrs-first") || !strcmp(order, "msrs-last"),
		    "Unknown order %s", order);
	restore_vcpu(c, !strcmp(order, "msrs-last"), refused);
}

static void save_again(const char *file, const char *name, const char *from,
		       const char *saved, const char *order, const char *header)
{
	struct checkpoint c = find_checkpoint(from, saved);

	restore(&c, order, header, SEPARATE, false);
	store = NULL;
	nr_stored = 0;
	save(file, name, c.head.level, c.head.npt, c.head.uc);
}

static const char *name_of(uint64_t pat)
{
	static char hex[4][20];
	static int n;

	for (int i = 0; i < ARRAY_SIZE(pat_names); i++)
		if (pat_names[i].pat == pat)
			return pat_names[i].name;

	n = (n + 1) % ARRAY_SIZE(hex);
	snprintf(hex[n], sizeof(hex[n]), "0x%016lx", pat);
	return hex[n];
}

static uint64_t pat_of(const char *name)
{
	for (int i = 0; i < ARRAY_SIZE(pat_names); i++)
		if (!strcmp(pat_names[i].name, name))
			return pat_names[i].pat;

	TEST_FAIL("No PAT has the name %s", name);
}

/* As TEST_ASSERT_EQ(), and the first line says what it is about. */
static void judge(const char *what, uint64_t is, uint64_t wanted)
{
	if (is == wanted)
		return;

	fprintf(stderr, "==== Test Assertion Failure ====\n  %s is that of %s, not of %s\n",
		what, name_of(is), name_of(wanted));
	exit(254);
}

/* Runs L1 and L2 on; what they see has to be @want. */
static void run_and_judge(struct checkpoint *c, enum pats kind, char *want[4])
{
	bool separate = kind != SHARED && c->head.npt;
	uint64_t l2, hpat, g_pat, next, host, after;

	host = vcpu_get_msr(vcpu, MSR_IA32_CR_PAT);
	TEST_ASSERT_EQ(guest_call(c->head.level, op_canary_is_gone, CANARY), 0);
	if (c->head.level == L1) {
		judge("L1's PAT, before L2 ran", read_pat(L1), host);
		enter_l2();
	}
	l2 = read_pat(L2);
	judge("KVM_GET_MSRS after L2 ran", vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), host);
	exit_l2();
	g_pat = vmcb12->save.g_pat;
	hpat = read_pat(L1);
	enter_l2();
	next = read_pat(L2);

	printf("# saw l2=%s hpat=%s g_pat=%s next=%s\n",
	       name_of(l2), name_of(hpat), name_of(g_pat), name_of(next));
	judge("L2's PAT", l2, pat_of(want[0]));
	judge("L1's PAT", hpat, pat_of(want[1]));
	judge("KVM_GET_MSRS before L2 ran", host, pat_of(want[1]));
	judge("vmcb12.g_pat", g_pat, pat_of(want[2]));
	judge("L2's PAT after VMRUN", next, pat_of(want[3]));

	/* And all of it goes on as this kernel does */
	write_pat(L2, PAT_AFTER);
	judge("L2's PAT after WRMSR", read_pat(L2), PAT_AFTER);
	after = separate ? hpat : PAT_AFTER;
	judge("KVM_GET_MSRS after WRMSR in L2", vcpu_get_msr(vcpu, MSR_IA32_CR_PAT), after);
	exit_l2();
	judge("L1's PAT after WRMSR in L2", read_pat(L1), after);
	judge("vmcb12.g_pat after WRMSR in L2", vmcb12->save.g_pat,
	      separate ? PAT_AFTER : g_pat);
}

/* ---- Jobs ---- */

static enum pats parse_kind(const char *name)
{
	static const char * const names[] = { "shared", "separate", "unquirked" };

	for (int i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return i;

	TEST_FAIL("PATs cannot be %s", name);
}

/* Does what the @n words say, in a process of its own. */
static void do_job(bool saving, char **word, int n)
{
	if (saving && n == 4) {
		save_state(word[1], word[0], word[2], parse_kind(word[3]));
	} else if (saving && n == 7 && !strcmp(word[2], "again")) {
		save_again(word[1], word[0], word[3], word[4], word[5], word[6]);
	} else if (!saving && n == 10) {
		struct checkpoint c = find_checkpoint(word[1], word[2]);
		enum pats kind = parse_kind(word[5]);

		restore(&c, word[3], word[4], kind, !strcmp(word[6], "refused"));
		run_and_judge(&c, kind, &word[6]);
	} else {
		TEST_FAIL("A job has %d words, %s", n, word[0]);
	}
}

int main(int argc, char *argv[])
{
	static char line[MAX_JOBS][256];
	char *word[MAX_WORDS];
	int jobs = 0, failed = 0;
	bool saving;
	FILE *f;

	TEST_ASSERT(argc == 3 && (!strcmp(argv[1], "save") || !strcmp(argv[1], "restore")),
		    "usage: %s save|restore LIST", argv[0]);
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_NPT));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	keep_quirks = true;	/* a job says whether, see disable_quirk() */
	saving = !strcmp(argv[1], "save");
	f = fopen(argv[2], "r");
	TEST_ASSERT(f, "Cannot open %s: %s", argv[2], strerror(errno));
	while (jobs < MAX_JOBS && fgets(line[jobs], sizeof(line[0]), f))
		jobs++;
	TEST_ASSERT(jobs && jobs < MAX_JOBS, "%s has no jobs, or too many", argv[2]);
	fclose(f);

	printf("TAP version 13\n1..%d\n", jobs);
	for (int i = 0; i < jobs; i++) {
		int n = 0, status;
		pid_t pid;

		for (char *w = strtok(line[i], WORDS); w && n < MAX_WORDS; w = strtok(NULL, WORDS))
			word[n++] = w;
		TEST_ASSERT(n > 3, "Job %d has too few words", i + 1);

		printf("#  RUN           %s ...\n", word[0]);
		fflush(stdout);
		pid = fork();
		if (!pid) {
			do_job(saving, word, n);
			exit(0);
		}
		TEST_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid, "Cannot fork");
		failed += !!status;
		printf("%sok %d %s\n", status ? "not " : "", i + 1, word[0]);
	}

	return !!failed;
}
