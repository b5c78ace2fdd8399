/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What vmrun.c uses of QEMU's plugin API (docs/devel/tcg-plugins of QEMU), and
 * of GLib's byte arrays which that API fills: Debian packages no header.
 */
#ifndef NSVM_QEMU_PLUGIN_H
#define NSVM_QEMU_PLUGIN_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#define QEMU_PLUGIN_VERSION	4	/* the first with read_memory_vaddr */
#define QEMU_PLUGIN_CB_R_REGS	1	/* the callback reads registers */
#define QEMU_PLUGIN_EXPORT	__attribute__((visibility("default")))

struct qemu_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

struct qemu_plugin_reg_descriptor {
	void *handle;
	const char *name;
	const char *feature;
};

struct g_array {
	void *data;
	unsigned int len;
};

extern int qemu_plugin_version;
int qemu_plugin_install(__u64 id, const struct qemu_info *info, int argc, char **argv);

void qemu_plugin_register_vcpu_init_cb(__u64 id, void (*cb)(__u64 id, unsigned int cpu));
void qemu_plugin_register_vcpu_tb_trans_cb(__u64 id,
					   void (*cb)(__u64 id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_atexit_cb(__u64 id, void (*cb)(__u64 id, void *data), void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    void (*cb)(unsigned int cpu, void *data),
					    int flags, void *data);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);
__u64 qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

struct g_array *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(void *handle, struct g_array *bytes);
bool qemu_plugin_read_memory_vaddr(__u64 addr, struct g_array *bytes, size_t len);

struct g_array *g_byte_array_new(void);
struct g_array *g_byte_array_set_size(struct g_array *bytes, unsigned int len);

#endif /* NSVM_QEMU_PLUGIN_H */
