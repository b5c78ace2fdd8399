/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A BIOS that is a hypervisor.  L1 gives L2 nested paging and a PAT, and intercepts nothing
 * of what it does.  L2 writes another PAT, and from then on prints what it reads of it, to
 * port 0xe9, QEMU's debugcon.  There is no #VMEXIT to L1 after that write.
 */
#define L1_PAT		0x0007040500070405
#define VMCB12_PAT	0x0606060606060606
#define L2_PAT		0x0007010600070106

#define ROM		0xf0000		/* also right below 4 GiB, where the CPU begins */
#define TABLES		0x1000		/* the first GiB as it is, for L1 and L2 */
#define NESTED		0x6000		/* the same from L2 to L1; not shared, as KVM write-protects it */
#define VMCB		0x4000
#define HSAVE		0x5000
#define LONG_MODE	0x80000011	/* CR0 */
#define PAE		0x20		/* CR4 */

	.macro	wrmsr64 msr, value
	mov	$\msr, %ecx
	mov	$(\value & 0xffffffff), %eax
	mov	$(\value >> 32), %edx
	wrmsr
	.endm

	.macro	segment at, selector, attributes
	movl	$(\attributes << 16 | \selector), \at(%rdi)
	movl	$-1, \at + 4(%rdi)
	.endm

	.text
	.globl	_start
	.code16
_start:
	cli
	lgdtl	%cs:gdtr - ROM
	mov	$0x11, %eax
	mov	%eax, %cr0
	ljmpl	$8, $protected

	.code32
protected:
	mov	$0x10, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	movl	$TABLES + 0x1007, TABLES
	movl	$TABLES + 0x2007, TABLES + 0x1000
	movl	$NESTED + 0x1007, NESTED
	movl	$NESTED + 0x2007, NESTED + 0x1000
	mov	$TABLES + 0x2000, %edi
	mov	$0x87, %eax
1:	mov	%eax, (%edi)
	mov	%eax, NESTED - TABLES(%edi)
	add	$8, %edi
	add	$0x200000, %eax
	cmp	$0x40000000, %eax
	jb	1b
	mov	$PAE, %eax
	mov	%eax, %cr4
	mov	$TABLES, %eax
	mov	%eax, %cr3
	wrmsr64	0xc0000080, 0x1100	/* EFER: LME, SVME */
	mov	$LONG_MODE, %eax
	mov	%eax, %cr0
	ljmp	$0x18, $long

	.code64
long:
	wrmsr64	0x277, L1_PAT
	wrmsr64	0xc0010117, HSAVE
	mov	$VMCB, %edi
	movl	$1 << 31, 0x00c(%rdi)	/* intercepts: shutdown, and VMRUN, which has to be */
	movl	$1, 0x010(%rdi)
	movl	$1, 0x058(%rdi)		/* ASID */
	movl	$1, 0x090(%rdi)		/* NP_ENABLE */
	movl	$NESTED, 0x0b0(%rdi)
	segment	0x400, 0x10, 0xc93
	segment	0x410, 0x18, 0xa9b
	segment	0x420, 0x10, 0xc93
	segment	0x430, 0x10, 0xc93
	movl	$0x1500, 0x4d0(%rdi)	/* EFER: LMA, too */
	movl	$PAE, 0x548(%rdi)
	movl	$TABLES, 0x550(%rdi)
	movl	$LONG_MODE, 0x558(%rdi)
	movl	$0x400, 0x560(%rdi)	/* DR7, DR6 */
	movl	$0xffff0ff0, 0x568(%rdi)
	movl	$2, 0x570(%rdi)
	movl	$l2, 0x578(%rdi)
	mov	$VMCB12_PAT, %rax
	mov	%rax, 0x668(%rdi)
	mov	%rdi, %rax
	clgi
	vmrun	%rax
	mov	$left, %esi
2:	lodsb
	out	%al, $0xe9
	test	%al, %al
	jnz	2b
	hlt

l2:
	wrmsr64	0x277, L2_PAT
3:	mov	$reads, %esi
4:	lodsb
	out	%al, $0xe9
	cmp	$' ', %al
	jne	4b
	mov	$0x277, %ecx
	rdmsr
	shl	$32, %rdx
	lea	(%rdx, %rax), %rbx
	mov	$16, %ecx
5:	rol	$4, %rbx
	mov	%ebx, %eax
	and	$15, %eax
	mov	digits(%eax), %al
	out	%al, $0xe9
	loop	5b
	mov	$'\n', %al
	out	%al, $0xe9
	mov	$100000, %ecx
6:	loop	6b
	jmp	3b

reads:	.ascii	"L2-reads "
left:	.asciz	"L2 left\n"
digits:	.ascii	"0123456789abcdef"
	.balign	8
gdt:	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdtr:	.word	. - gdt - 1
	.long	gdt

	.org	0xfff0
	.code16
	jmp	_start
	.org	0x10000
