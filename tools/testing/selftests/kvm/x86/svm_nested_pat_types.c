// SPDX-License-Identifier: GPL-2.0-only
/*
 * Has L1 and L2 write and read a page through each of the eight fields of their
 * PAT, for a CPU that tells which memory type it used for that.
 *
 * Twice: on a page whose MTRR type is WB, as of all memory, and on one that is
 * made UC through /proc/mtrr.  L1 has Linux's PAT, in which field 1 is WC.  L2's
 * is one of @pats, which L1 put into vmcb12.g_pat ("loaded"), or which L2 wrote
 * after L1 put INIT_PAT there ("written").
 *
 * XCHG BX, BX, which does nothing, is executed at the begin and at the end of
 * what is to be traced.  After each such part, a line tells what it was:
 *
 *   # trace CASE vmrun VALUE	VMRUN of L1, with VALUE in vmcb12.g_pat
 *   # trace CASE wrmsr VALUE	L2 wrote IA32_PAT
 *   # trace CASE L1 PAT SEEN	accesses by L1 or L2, whose PAT has to be that,
 *   # trace CASE L2 PAT SEEN	and what RDMSR returned
 *
 * CASE is <npt_on|npt_off>.<loaded|written>.<name of the PAT>.  The accesses are
 * to WB_PAGES and UC_PAGES, 4 KiB apart, one for each field.
 *
 * The PATs and their names are those of tools/nsvm/lib/pat.py.
 */
#include <asm/mtrr.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "svm_nested_pat.h"

#define WB_PAGES	0x100000000000ull
#define UC_PAGES	0x110000000000ull

#define L1_PAT		0x0407050600070106ull	/* Linux's */
#define INIT_PAT	0x0007040600070406ull	/* after reset */

static const struct { const char *name; uint64_t pat; } pats[] = {
	{ "reset", INIT_PAT },
	{ "windows", 0x0007010600070106ull },
	{ "freebsd", 0x0001050600070406ull },
	{ "virtualbox", 0x0006060606060606ull },
	{ "all_types", 0x0700010405000106ull },
};

/* ---- L1 and L2 ---- */

static inline void mark(void)
{
	asm volatile("xchg %%bx, %%bx" : : : "memory");
}

static void touch(void)
{
	for (uint64_t i = 0; i < 8; i++) {
		uint64_t *wb = (void *)(WB_PAGES + i * PAGE_SIZE);
		uint64_t *uc = (void *)(UC_PAGES + i * PAGE_SIZE);

		WRITE_ONCE(*wb, i);
		WRITE_ONCE(*uc, i);
		GUEST_ASSERT(READ_ONCE(*wb) == i && READ_ONCE(*uc) == i);
	}
}

/* Once before, so that what is traced has no page faults. */
static uint64_t op_touch(uint64_t unused)
{
	touch();
	mark();
	touch();
	mark();

	return rdmsr(MSR_IA32_CR_PAT);
}

static void l2_marks(void)
{
	mark();
	l2_guest();
}

static uint64_t op_vmrun_marked(uint64_t arg)
{
	struct svm_test_data *svm = (void *)arg;

	svm->vmcb->save.rip = (uint64_t)l2_marks;
	svm->vmcb->save.rsp = (uint64_t)l2_stack + sizeof(l2_stack) - 8;
	mark();
	run_guest(svm->vmcb, svm->vmcb_gpa);

	return svm->vmcb->control.exit_code;
}

static uint64_t op_write_marked(uint64_t pat)
{
	mark();
	wrmsr(MSR_IA32_CR_PAT, pat);
	mark();

	return 0;
}

/* ---- Host ---- */

static void touch_traced(const char *name, int level, uint64_t pat)
{
	printf("# trace %s L%d %016lx %016lx\n", name, level, pat,
	       guest_call(level, op_touch, 0));
}

static void do_case(bool npt, bool written, const char *pat_name, uint64_t pat)
{
	uint64_t g_pat = written ? INIT_PAT : pat;
	char name[64];

	snprintf(name, sizeof(name), "%s.%s.%s", npt ? "npt_on" : "npt_off",
		 written ? "written" : "loaded", pat_name);
	host_writes_hpat(L1_PAT);
	vmcb12->save.g_pat = g_pat;
	guest_call(L2, op_vmrun_marked, l1_svm);
	printf("# trace %s vmrun %016lx\n", name, g_pat);
	if (written) {
		guest_call(L2, op_write_marked, pat);
		printf("# trace %s wrmsr %016lx\n", name, pat);
	}
	touch_traced(name, L2, npt || written ? pat : L1_PAT);
	exit_l2();
	touch_traced(name, L1, !npt && written ? pat : L1_PAT);
}

/* Where the CPU finds what the guest finds at @gpa. */
static uint64_t physical_address(vm_paddr_t gpa)
{
	void *hva = addr_gpa2hva(vm, gpa);
	uint64_t entry;
	int fd;

	TEST_ASSERT(!mlock(hva, PAGE_SIZE), "mlock failed, errno %d", errno);
	fd = open_path_or_exit("/proc/self/pagemap", O_RDONLY);
	TEST_ASSERT_EQ(pread(fd, &entry, sizeof(entry),
			     (uint64_t)hva / PAGE_SIZE * sizeof(entry)), sizeof(entry));
	close(fd);

	return (entry & GENMASK_ULL(54, 0)) * PAGE_SIZE;
}

/* A page that each field of a PAT has a mapping of.  Returns its address. */
static vm_paddr_t map_page(vm_vaddr_t gva)
{
	vm_paddr_t gpa = addr_gva2gpa(vm, vm_vaddr_alloc_page(vm));

	for (uint64_t i = 0; i < 8; i++, gva += PAGE_SIZE) {
		virt_pg_map(vm, gva, gpa);
		*vm_get_page_table_entry(vm, gva) |= (i & 3) << 3 | (i & 4) << 5;
	}

	return gpa;
}

static void run_all(bool npt)
{
	struct mtrr_sentry uc = { .size = PAGE_SIZE, .type = MTRR_TYPE_UNCACHABLE };
	int mtrr = open_path_or_exit("/proc/mtrr", O_RDWR);

	create_vm(npt);
	map_page(WB_PAGES);
	uc.base = physical_address(map_page(UC_PAGES));
	TEST_ASSERT(ioctl(mtrr, MTRRIOC_ADD_ENTRY, &uc) >= 0,
		    "No MTRR for 0x%lx, errno %d", (long)uc.base, errno);

	for (int i = 0; i < ARRAY_SIZE(pats); i++) {
		do_case(npt, false, pats[i].name, pats[i].pat);
		do_case(npt, true, pats[i].name, pats[i].pat);
	}

	/*
	 * KVM rejects it, or else the CPU does if it gets it.  A KVM that shares
	 * the PAT ignores it.
	 */
	if (npt) {
		vmcb12->save.g_pat = INVALID_PAT;
		set_guest_op(op_vmrun, l1_svm);
		vcpu_run(vcpu);
	}

	close(mtrr);	/* and the MTRR is free again */
	kvm_vm_free(vm);
}

int main(void)
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_NPT));
	TEST_REQUIRE(!access("/proc/mtrr", W_OK));

	run_all(true);
	run_all(false);

	return 0;
}
