// SPDX-License-Identifier: GPL-2.0
/*
 * A guest of Xen (PVH: dom0, or a domain of xl) that does with IA32_PAT what
 * "machine/stack l2" does, and says the same: its command line is "PAT... [on]".
 *
 * Xen enters it in 32-bit protected mode without paging
 * (xen/include/public/arch-x86/hvm/start_info.h).  dom0 has the second serial
 * port, others have Xen's debug port, which goes to Xen's console.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define MSR_IA32_PAT	0x277
#define COM2		0x2f8
#define COM2_STATUS	0x2fd
#define CAN_TAKE	0x20
#define XEN_DEBUG_PORT	0xe9
#define SCHED_OP	29	/* the hypercall, and what it is asked for */
#define SCHED_YIELD	0
#define SCHED_SHUTDOWN	2
#define DATA		4096
#define SHORT		50	/* rounds, with an exit to Xen after so many */
#define LONG		1000	/* for migrations: most of the time, the guest is active */

struct start_info {
	u32 magic, version, flags, nr_modules;
	u64 modules, cmdline;
};

#define SIF_INITDOMAIN	2	/* of flags: it is dom0 */

asm(".section .note.Xen, \"a\", @note\n"
	".long 4, 4, 18\n"		/* XEN_ELFNOTE_PHYS32_ENTRY */
	".asciz \"Xen\"\n"
	".long _start\n"
	".text\n"
	".globl _start\n"
	"_start: cld\n"
	"mov $stack_top, %esp\n"
	"push %ebx\n"
	"call run\n"
	"1: hlt\n"
	"jmp 1b\n"
	".bss\n"
	".balign 16\n"
	".skip 8192\n"
	"stack_top:\n"
	".text\n");

static const struct start_info *start;
static u32 data[DATA], expected, times;

static void hypercall(u32 nr, u32 a, const void *b)
{
	asm volatile("vmmcall" : "+a"(nr), "+b"(a), "+c"(b) : : "memory");
}

static u64 rdmsr(u32 msr)
{
	u64 val;

	asm volatile("rdmsr" : "=A"(val) : "c"(msr));

	return val;
}

static void wrmsr(u32 msr, u64 val)
{
	asm volatile("wrmsr" : : "c"(msr), "A"(val) : "memory");
}

static void to_port(u16 port, u8 val)
{
	asm volatile("outb %0, %1" : : "a"(val), "Nd"(port));
}

static u8 from_port(u16 port)
{
	u8 val;

	asm volatile("inb %1, %0" : "=a"(val) : "Nd"(port));

	return val;
}

/* ---- What it says ---- */

static void put(char c)
{
	if (!(start->flags & SIF_INITDOMAIN)) {
		to_port(XEN_DEBUG_PORT, c);
		return;
	}
	while (!(from_port(COM2_STATUS) & CAN_TAKE))
		;
	to_port(COM2, c);
}

static void puts(const char *s)
{
	while (*s)
		put(*s++);
}

static void hex(u64 val)
{
	for (int shift = 60; shift >= 0; shift -= 4)
		put("0123456789abcdef"[(u32)(val >> shift) & 15]);
}

static void number(u32 val)
{
	if (val > 9)
		number(val / 10);
	put('0' + val % 10);
}

static void say(const char *what, u64 pat)
{
	puts("\n# stack: L2 ");
	puts(what);
	hex(pat);
	put('\n');
}

/* ---- What it does ---- */

static u32 sum(void)
{
	u32 total = 0;

	asm volatile("" : : : "memory");	/* read it anew */
	for (int i = 0; i < DATA; i++)
		total = total * 31 + data[i];

	return total;
}

/* Some time in guest mode, an exit to Xen now and then */
static void work(int rounds)
{
	int right = 1;

	for (int i = 1; i <= rounds; i++) {
		right &= sum() == expected;
		if (i % SHORT == 0)
			hypercall(SCHED_OP, SCHED_YIELD, 0);
	}
	puts("\n# stack: L2 ");
	number(++times);
	puts(" reads ");
	hex(rdmsr(MSR_IA32_PAT));
	puts(right ? ", memory is right\n" : ", memory is wrong\n");
}

/* The next word of *s: a PAT, or zero for "on" and for the end */
static u64 word(const char **s)
{
	u64 val = 0;

	while (**s == ' ')
		(*s)++;
	if (**s == 'o')
		return 0;
	for (; **s > ' '; (*s)++)
		val = val << 4 | (**s <= '9' ? **s - '0' : **s - 'a' + 10);

	return val;
}

void run(const struct start_info *info)
{
	static const u32 reboot = 1;
	const char *s;
	u64 pat;

	start = info;
	for (int i = 0; i < DATA; i++)
		data[i] = i;
	expected = sum();
	say("is up, reads ", rdmsr(MSR_IA32_PAT));
	for (s = (const char *)(u32)info->cmdline; (pat = word(&s)); ) {
		say("writes ", pat);
		wrmsr(MSR_IA32_PAT, pat);
		work(SHORT);
		work(SHORT);
	}
	puts(*s ? "\n# stack: L2 goes on\n" : "\n# stack: L2 is done\n");
	while (*s)
		work(LONG);
	/* At poweroff Xen would halt, and QEMU go on */
	hypercall(SCHED_OP, SCHED_SHUTDOWN, &reboot);
}
