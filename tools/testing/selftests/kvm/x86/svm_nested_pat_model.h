/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What nested SVM does to the two PATs, as a model that knows nothing of KVM.
 * Each rule is one of Documentation/virt/kvm/x86/nested-svm-pat.rst, or of the
 * APM (volume 2, "Nested Paging and VMRUN/#VMEXIT").
 *
 * model_step() does to struct model what an operation does to a vCPU and tells
 * what it has to return; model_can() tells whether the operation exists at that
 * point at all: L2 can't VMRUN, RSM needs an SMI.
 */
#ifndef SELFTEST_KVM_SVM_NESTED_PAT_MODEL_H
#define SELFTEST_KVM_SVM_NESTED_PAT_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum kind {
	VMRUN,		/* L1 runs vmcb12 @vmcb with @npt, and @pat in g_pat */
	EXIT,		/* L2 does something that L1 intercepts */
	READ,		/* the guest that runs, be it L1, L2 or SMM: RDMSR */
	WRITE,		/* ... WRMSR of @pat */
	HOST_WRITE,	/* KVM_SET_MSRS of @pat */
	POKE,		/* somebody in L1 writes @pat to vmcb12.g_pat meanwhile */
	SET,		/* KVM_SET_NESTED_STATE of what GET returns, changed by @how */
	SAVE,		/* keeps nested state for LOAD */
	LOAD,		/* KVM_SET_NESTED_STATE of that, here and now */
	MOVE,		/* saves all state, restores it in another VM */
	SVME,		/* KVM_SET_SREGS that sets EFER.SVME to @on */
	SMI,		/* the SMI handler runs */
	RSM,
	SMM,		/* KVM_SET_VCPU_EVENTS that sets smi.smm to @on */
	INIT,		/* L1 of vmcb12 0 intercepts it, else it resets the vCPU */
	NO_RUN,		/* KVM_RUN with immediate_exit */
};

enum pat { KEEP, NEW, BAD };	/* as it is; a PAT not used before; an invalid one */

enum how {
	AS_IS,
	NO_TAG,		/* header without gPAT, as from a KVM that has none */
	GARBAGE,	/* header with something else in flags and reserved */
	NEW_GPAT,	/* header with another gPAT, */
	BAD_GPAT,	/* with an invalid one */
	GPAT_ONLY,	/* header with vmcb_pa and gpat only: another one, when moved the same */
	BAD_GPAT_ONLY,	/* with an invalid one */
	FLIP_NPT,	/* the other NP_ENABLE, header as is, */
	FLIP_NPT_GPAT,	/* and with another gPAT */
	OUTSIDE,	/* not in guest mode */
};

struct op {
	const char *name;
	enum kind kind;
	int vmcb;
	bool npt, clean, fep, msr_exits, on, msrs_last;
	enum pat pat;
	enum how how;
	uint64_t code;		/* EXIT: what L1 finds in vmcb12.exit_code */
};

/* What userspace and KVM agreed on for the VM */
static struct {
	bool shared;	/* L1 and L2 share one PAT, whatever NPT is */
	bool untagged;	/* R14: in the header, a gpat without tag counts unless it is zero */
} model_kvm;

struct nested_model {
	bool guest_mode, npt, legacy, msr_exits;
	int cur;			/* the vmcb12 that runs, or ran before SMI */
	uint64_t gpat;
};

struct model {
	uint64_t hpat;
	struct nested_model nested, saved;
	struct {
		uint64_t g_pat;
		bool npt, msr_exits;
	} vmcb12[2];
	bool svme, saved_svme, smm, dead;
	enum { NOWHERE, TO_L1, TO_L2 } rsm;	/* where SMM came from by SMI */
};

/* What an operation returns, as far as it does. */
struct result {
	int err;		/* errno of the ioctl */
	int vector;		/* exception in the guest */
	uint64_t value;		/* RDMSR */
	uint64_t exit_code;	/* of the last #VMEXIT, if there was one */
};

#define EXIT_CODE_MSR	0x7c
#define EXIT_CODE_INIT	0x63
#define EXIT_CODE_ERR	0xffffffff
#define VECTOR_GP	13

/* Eight fields, each one of UC, WC, WT, WP, WB and UC-. */
static inline bool pat_is_valid(uint64_t pat)
{
	for (int i = 0; i < 8; i++, pat >>= 8) {
		if ((pat & 0xff) > 7 || (pat & 0xff) == 2 || (pat & 0xff) == 3)
			return false;
	}
	return true;
}

/* R1, R14: L2 has a PAT of its own. */
static inline bool model_separate(const struct nested_model *n)
{
	return n->npt && !model_kvm.shared;
}

/* The PAT of whoever runs: R1, R4; SMM has L1's (R10). */
static inline uint64_t *model_pat(struct model *m)
{
	return m->nested.guest_mode && model_separate(&m->nested) ? &m->nested.gpat : &m->hpat;
}

/* R7: there is a gPAT to be saved, and its tag with it. */
static inline bool model_has_gpat(const struct nested_model *n)
{
	return n->guest_mode && model_separate(n) && !n->legacy;
}

/* R3, R10: into L2 by VMRUN or RSM.  R2: not with an invalid g_pat. */
static inline bool model_enter(struct model *m)
{
	struct nested_model *n = &m->nested;

	n->npt = m->vmcb12[n->cur].npt;
	n->msr_exits = m->vmcb12[n->cur].msr_exits;
	n->gpat = m->vmcb12[n->cur].g_pat;
	if (model_separate(n) && !pat_is_valid(n->gpat))
		return false;
	n->guest_mode = true;
	return true;
}

/* R11: out of L2 without #VMEXIT. */
static inline void model_leave(struct model *m)
{
	m->nested.guest_mode = false;
	m->nested.legacy = false;
}

/* R6: out of L2 to L1.  R9: g_pat stays as it is if L2 has no gPAT of its own. */
static inline void model_exit(struct model *m)
{
	if (model_has_gpat(&m->nested))
		m->vmcb12[m->nested.cur].g_pat = m->nested.gpat;
	model_leave(m);
}

/* R8: into L2 by nested state.  R9: gPAT is hPAT for now if it has none. */
static inline void model_set(struct model *m, struct nested_model n, bool tag)
{
	m->nested = n;
	m->nested.legacy = n.guest_mode && model_separate(&n) && !tag;
	if (m->nested.legacy)
		m->nested.gpat = m->hpat;
}

static inline bool model_can(const struct model *m, const struct op *op)
{
	bool l2 = m->nested.guest_mode;

	if (m->dead)
		return false;
	switch (op->kind) {
	case VMRUN:
		return m->svme && !l2 && !m->smm;
	case EXIT:
		return l2;
	case POKE:
		return l2 || (m->smm && m->rsm == TO_L2);
	case SET:
		return l2 || op->how == AS_IS || op->how == OUTSIDE ||
		       op->how == BAD_GPAT || op->how == BAD_GPAT_ONLY;
	case SAVE:
	case SVME:
	case INIT:
		return !m->smm;
	case LOAD:
		return !m->smm || m->saved.guest_mode;
	case MOVE:
		return op->how == AS_IS || (l2 && m->nested.npt);
	case SMI:
		return !m->smm;
	case RSM:
		return m->smm && m->rsm;
	case SMM:
		return m->smm != op->on;
	case READ:
	case WRITE:	/* the handler knows no exceptions; L1 intercepts no prefix */
		if (m->smm)
			return m->rsm && !op->fep && op->pat != BAD;
		return !(op->fep && l2 && m->nested.msr_exits);
	default:
		return true;
	}
}

/* Does @op to @m; @pat is the PAT that goes with it, if any. */
static inline struct result model_step(struct model *m, const struct op *op,
				       uint64_t pat)
{
	struct nested_model *n = &m->nested, next = *n;
	struct result r = {};
	bool tag;

	switch (op->kind) {
	case VMRUN:
		n->cur = op->vmcb;
		m->vmcb12[op->vmcb].npt = op->npt;
		m->vmcb12[op->vmcb].msr_exits = op->msr_exits;
		if (op->pat != KEEP)
			m->vmcb12[op->vmcb].g_pat = pat;
		if (!model_enter(m))
			r.exit_code = EXIT_CODE_ERR;
		break;
	case EXIT:
		model_exit(m);
		r.exit_code = op->code;
		break;
	case READ:
	case WRITE:
		if (n->guest_mode && n->msr_exits) {	/* R4: L1 intercepts it */
			model_exit(m);
			r.exit_code = EXIT_CODE_MSR;
		} else if (op->kind == READ) {
			r.value = *model_pat(m);
		} else if (!pat_is_valid(pat)) {
			r.vector = VECTOR_GP;
		} else {
			*model_pat(m) = pat;
			n->legacy = false;		/* R9: L2's own from now on */
		}
		break;
	case HOST_WRITE:				/* R5, R9 */
		if (!pat_is_valid(pat))
			break;
		m->hpat = pat;
		if (n->legacy)
			n->gpat = pat;
		break;
	case POKE:
		m->vmcb12[n->cur].g_pat = pat;
		break;
	case SET:
		if (!n->guest_mode || op->how == OUTSIDE) {
			model_leave(m);
			break;
		}
		if (model_separate(n) && (op->how == BAD_GPAT ||	/* R8, R14 */
					  (op->how == BAD_GPAT_ONLY && model_kvm.untagged))) {
			r.err = 22;			/* EINVAL */
			break;
		}
		if (op->how == FLIP_NPT || op->how == FLIP_NPT_GPAT)
			next.npt = !n->npt;
		if (op->how == NEW_GPAT || op->how == FLIP_NPT_GPAT) {
			next.gpat = pat;
			tag = true;
		} else if (op->how == GPAT_ONLY && model_kvm.untagged) {
			next.gpat = pat;
			tag = true;
		} else {
			tag = model_has_gpat(n) && op->how != NO_TAG && op->how != GARBAGE &&
			      op->how != GPAT_ONLY && op->how != BAD_GPAT_ONLY;
		}
		model_set(m, next, tag);
		break;
	case SAVE:
		m->saved = *n;
		m->saved_svme = m->svme;
		break;
	case LOAD:
		if (m->smm) {				/* no L2 in SMM */
			r.err = 22;
			break;
		}
		m->svme = m->saved_svme;
		model_set(m, m->saved, model_has_gpat(&m->saved));
		break;
	case MOVE:
		model_set(m, next,
			  model_has_gpat(n) && op->how != NO_TAG &&
			  (op->how != GPAT_ONLY || model_kvm.untagged));
		break;
	case SVME:
		if (!op->on)
			model_leave(m);
		m->svme = op->on;
		break;
	case SMI:
		m->smm = true;
		m->rsm = n->guest_mode ? TO_L2 : TO_L1;
		if (n->guest_mode)
			model_exit(m);
		break;
	case RSM:
		m->smm = false;
		if (m->rsm == TO_L2 && !model_enter(m))
			m->dead = true;			/* shutdown */
		break;
	case SMM:
		model_leave(m);
		m->smm = op->on;
		m->rsm = NOWHERE;
		break;
	case INIT:
		if (n->guest_mode && n->cur == 0) {
			model_exit(m);
			r.exit_code = EXIT_CODE_INIT;
		} else {
			model_leave(m);
			m->svme = true;			/* the host boots L1 again */
		}
		break;
	case NO_RUN:
		break;
	}

	return r;
}

#endif /* SELFTEST_KVM_SVM_NESTED_PAT_MODEL_H */
