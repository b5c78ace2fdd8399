// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU plugin (TCG): writes down each VMRUN of the hypervisor that runs on the
 * emulated machine, L0, with what the CPU finds in the VMCB.
 *
 *   -plugin vmrun.so,log=FILE[,limit=LINES]
 *
 * All that it knows is the architecture: opcodes, rAX as the physical address
 * of the VMCB, the VMCB's layout (APM volume 2, appendix B).  It needs nothing
 * from the kernel but the place where Linux maps physical memory when booted
 * with "nokaslr no5lvl" (Documentation/arch/x86/x86_64/mm.rst): before QEMU
 * 10.1, plugins cannot read physical memory.
 *
 * VMRUN puts the CPU in guest mode until the instruction after it is executed.
 * A VMRUN in guest mode is L1's and is intercepted, as is an access of IA32_PAT
 * by a guest.  One line an event, numbers in hexadecimal but for NUMBER and CPU:
 *
 *   V NUMBER CPU VMCB G_PAT CLEAN NP_ENABLE NCR3 ASID RIP EDX:EAX VMLOAD HPAT CR3
 *			VMRUN.  VMLOAD: the VMCB of the last VMLOAD, which for
 *			KVM is vmcb01 of that vCPU; HPAT: the g_pat in there
 *   M NUMBER CPU VMCB r|w RIP EDX:EAX
 *			#VMEXIT for RDMSR or WRMSR of IA32_PAT
 *   A NUMBER CPU VMCB RIP RAX
 *			#VMEXIT for L1's attempt to run the vmcb12 at RAX
 *   P NUMBER CPU VMCB NCR3 RIP GPA
 *			#VMEXIT for a nested page fault, for the STUCK-th time since
 *			L0 last did anything about it that the CPU noticed
 *   T TEXT		a line written to the serial port COM2: the tests' output
 *   E NUMBER end|limit|unreadable
 *			the end; or LINES lines were written; or there was no
 *			VMCB where it should be
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

/* ---- The architecture ---- */

/* Offsets in the control area, and in the save area, which starts at 0x400 */
enum vmcb {
	VMCB_ASID		= 0x058,
	VMCB_EXITCODE		= 0x070,
	VMCB_EXITINFO1		= 0x078,	/* of EXIT_MSR: 0 RDMSR, 1 WRMSR */
	VMCB_EXITINFO2		= 0x080,	/* of EXIT_NPF: the address */
	VMCB_NP_ENABLE		= 0x090,
	VMCB_NCR3		= 0x0b0,
	VMCB_CLEAN		= 0x0c0,
	VMCB_CR3		= 0x550,
	VMCB_RIP		= 0x578,
	VMCB_RAX		= 0x5f8,
	VMCB_G_PAT		= 0x668,
	VMCB_END		= 0x670,
};

#define EXIT_MSR		0x7c
#define EXIT_VMRUN		0x80
#define EXIT_NPF		0x400
#define MSR_IA32_PAT		0x277
#define COM2			0x2f8
#define DIRECT_MAP		0xffff888000000000ull	/* Linux's */

static const unsigned char op_vmrun[] = { 0x0f, 0x01, 0xd8 };
static const unsigned char op_vmload[] = { 0x0f, 0x01, 0xda };
static const unsigned char op_outb[] = { 0xee };	/* out %al, (%dx) */

/* ---- State ---- */

#define MAX_CPUS		64
#define MAX_VMRUNS		64
#define STUCK			16	/* the same nested page fault, without progress */

enum { RAX, RCX, RDX, NR_REGS };
static const char * const reg_names[NR_REGS] = { "rax", "rcx", "rdx" };

static struct cpu {
	void *reg[NR_REGS];
	struct g_array *bytes;	/* what was read last */
	__u64 number;		/* of the last VMRUN */
	__u64 vmcb;		/* of the last VMRUN, zero outside guest mode */
	__u64 resume;		/* where #VMEXIT goes */
	__u64 vmload;		/* VMCB of the last VMLOAD */
	struct npf {
		__u64 vmcb, ncr3, rip, gpa, error;
	} npf;			/* the last nested page fault */
	int nr_npf;		/* how often, in a row */
} cpus[MAX_CPUS];

/* Protects all below, and is what puts the events of all CPUs in an order. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *out;
static __u64 number, lines, limit = 500000;

/* What follows a VMRUN in the code */
static __u64 resume_at[MAX_VMRUNS];
static int nr_resume;

static void end(const char *why)
{
	if (!out)
		return;

	fprintf(out, "E %llu %s\n", number, why);
	fclose(out);
	out = NULL;
}

static void record(const char *fmt, ...)
{
	va_list args;

	if (lines++ == limit)
		end("limit");
	if (!out)
		return;

	va_start(args, fmt);
	vfprintf(out, fmt, args);
	va_end(args);
}

static __u64 bytes_at(struct cpu *c, size_t offset, size_t size)
{
	__u64 val = 0;

	if (offset + size <= c->bytes->len)
		memcpy(&val, (char *)c->bytes->data + offset, size);

	return val;
}

static __u64 get_reg(struct cpu *c, int reg)
{
	g_byte_array_set_size(c->bytes, 0);
	qemu_plugin_read_register(c->reg[reg], c->bytes);

	return bytes_at(c, 0, sizeof(__u64));
}

static bool read_vmcb(struct cpu *c, __u64 pa)
{
	return qemu_plugin_read_memory_vaddr(DIRECT_MAP + pa, c->bytes, VMCB_END);
}

/* The guest's: rAX is in the VMCB, the others are in the registers. */
static __u64 edx_eax(struct cpu *c, __u64 rdx)
{
	return rdx << 32 | bytes_at(c, VMCB_RAX, 4);
}

/* ---- Events ---- */

static void on_vmload(unsigned int cpu, void *unused)
{
	struct cpu *c = &cpus[cpu];

	if (!c->vmcb)
		c->vmload = get_reg(c, RAX);
}

/* #VMEXIT of @pa, which has been read */
static void on_npf(struct cpu *c, unsigned int cpu, __u64 pa)
{
	struct npf now = {
		.vmcb = pa,
		.ncr3 = bytes_at(c, VMCB_NCR3, 8),
		.rip = bytes_at(c, VMCB_RIP, 8),
		.gpa = bytes_at(c, VMCB_EXITINFO2, 8),
		.error = bytes_at(c, VMCB_EXITINFO1, 8),
	};

	c->nr_npf = memcmp(&now, &c->npf, sizeof(now)) ? 1 : c->nr_npf + 1;
	c->npf = now;
	if (c->nr_npf == STUCK)
		record("P %llu %u %llx %llx %llx %llx\n", c->number, cpu, pa, now.ncr3,
		       now.rip, now.gpa);
}

static void on_vmrun(unsigned int cpu, void *next)
{
	struct cpu *c = &cpus[cpu];
	__u64 pa, rdx, hpat;

	if (c->vmcb)
		return;

	pa = get_reg(c, RAX);
	rdx = get_reg(c, RDX);
	hpat = read_vmcb(c, c->vmload) ? bytes_at(c, VMCB_G_PAT, 8) : 0;

	pthread_mutex_lock(&lock);
	c->number = ++number;
	c->vmcb = pa;
	c->resume = (__u64)next;
	if (!read_vmcb(c, pa) || !bytes_at(c, VMCB_ASID, 4))	/* zero is invalid */
		end("unreadable");
	record("V %llu %u %llx %016llx %llx %llx %llx %llx %llx %016llx %llx %016llx %llx\n",
	       number, cpu, pa, bytes_at(c, VMCB_G_PAT, 8), bytes_at(c, VMCB_CLEAN, 4),
	       bytes_at(c, VMCB_NP_ENABLE, 1) & 1, bytes_at(c, VMCB_NCR3, 8),
	       bytes_at(c, VMCB_ASID, 4), bytes_at(c, VMCB_RIP, 8), edx_eax(c, rdx),
	       c->vmload, hpat, bytes_at(c, VMCB_CR3, 8));
	/* Emulated, or an exception of the guest */
	if (bytes_at(c, VMCB_RIP, 8) != c->npf.rip)
		c->nr_npf = 0;
	pthread_mutex_unlock(&lock);
}

static void on_resume(unsigned int cpu, void *addr)
{
	struct cpu *c = &cpus[cpu];
	__u64 pa = c->vmcb, rcx, rdx, code;

	/* What follows L1's VMRUN is executed in guest mode. */
	if (!pa || c->resume != (__u64)addr)
		return;

	c->vmcb = 0;
	rcx = get_reg(c, RCX);
	rdx = get_reg(c, RDX);
	if (!read_vmcb(c, pa))
		return;

	code = bytes_at(c, VMCB_EXITCODE, 8);

	pthread_mutex_lock(&lock);
	if (code == EXIT_MSR && (__u32)rcx == MSR_IA32_PAT)
		record("M %llu %u %llx %c %llx %016llx\n", c->number, cpu, pa,
		       bytes_at(c, VMCB_EXITINFO1, 8) ? 'w' : 'r',
		       bytes_at(c, VMCB_RIP, 8), edx_eax(c, rdx));
	else if (code == EXIT_NPF)
		on_npf(c, cpu, pa);
	else if (code == EXIT_VMRUN)
		record("A %llu %u %llx %llx %llx\n", c->number, cpu, pa,
		       bytes_at(c, VMCB_RIP, 8), bytes_at(c, VMCB_RAX, 8));
	pthread_mutex_unlock(&lock);
}

static void on_outb(unsigned int cpu, void *unused)
{
	static char line[160];
	static size_t len;
	struct cpu *c = &cpus[cpu];
	char byte;

	if (c->vmcb || (__u16)get_reg(c, RDX) != COM2)
		return;

	byte = get_reg(c, RAX);

	pthread_mutex_lock(&lock);
	if (byte >= ' ' && len < sizeof(line)) {
		line[len++] = byte;
	} else if (byte == '\n' && len) {
		record("T %.*s\n", (int)len, line);
		len = 0;
	}
	pthread_mutex_unlock(&lock);
}

/* ---- Plugin ---- */

static bool follows_vmrun(__u64 addr)
{
	for (int i = 0; i < nr_resume; i++)
		if (resume_at[i] == addr)
			return true;

	return false;
}

static void translate_insn(struct qemu_plugin_insn *insn)
{
	void (*cb)(unsigned int cpu, void *data) = NULL;
	__u64 addr = qemu_plugin_insn_vaddr(insn);
	unsigned char op[sizeof(op_vmrun)];
	size_t len = qemu_plugin_insn_data(insn, op, sizeof(op));
	__u64 next = addr + len;

	if (follows_vmrun(addr))
		qemu_plugin_register_vcpu_insn_exec_cb(insn, on_resume, QEMU_PLUGIN_CB_R_REGS,
						       (void *)addr);

	if (len == sizeof(op_vmrun) && !memcmp(op, op_vmrun, len)) {
		if (!follows_vmrun(next) && nr_resume < MAX_VMRUNS)
			resume_at[nr_resume++] = next;
		cb = on_vmrun;
	} else if (len == sizeof(op_vmload) && !memcmp(op, op_vmload, len)) {
		cb = on_vmload;
	} else if (len == sizeof(op_outb) && !memcmp(op, op_outb, len)) {
		cb = on_outb;
	}

	if (cb)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, cb, QEMU_PLUGIN_CB_R_REGS,
						       (void *)next);
}

static void translate(__u64 id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < n; i++)
		translate_insn(qemu_plugin_tb_get_insn(tb, i));
	pthread_mutex_unlock(&lock);
}

static void init_cpu(__u64 id, unsigned int cpu)
{
	struct g_array *regs = qemu_plugin_get_registers();
	const struct qemu_plugin_reg_descriptor *reg = regs->data;

	if (cpu >= MAX_CPUS) {
		fprintf(stderr, "vmrun: more than %d CPUs\n", MAX_CPUS);
		exit(1);
	}

	cpus[cpu].bytes = g_byte_array_new();
	for (unsigned int i = 0; i < regs->len; i++)
		for (int j = 0; j < NR_REGS; j++)
			if (!strcmp(reg[i].name, reg_names[j]))
				cpus[cpu].reg[j] = reg[i].handle;
}

static void finish(__u64 id, void *unused)
{
	pthread_mutex_lock(&lock);
	end("end");
	pthread_mutex_unlock(&lock);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

QEMU_PLUGIN_EXPORT
int qemu_plugin_install(__u64 id, const struct qemu_info *info, int argc, char **argv)
{
	const char *log = "";

	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "log=", 4))
			log = argv[i] + 4;
		else if (!strncmp(argv[i], "limit=", 6))
			limit = strtoull(argv[i] + 6, NULL, 0);
		else
			return -1;
	}

	out = fopen(log, "w");
	if (!out) {
		perror(log);
		return -1;
	}

	qemu_plugin_register_vcpu_init_cb(id, init_cpu);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	qemu_plugin_register_atexit_cb(id, finish, NULL);

	return 0;
}
