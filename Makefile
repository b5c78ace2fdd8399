# SPDX-License-Identifier: GPL-2.0
#
# The front door of the lab. It only names the steps and their order; each is a
# program in a room of tools/nsvm/, and says at its top what it does. What the command
# line says (SMP=2) goes to each of them, which know what there is.

.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

from_command_line = $(filter command%,$(origin $(1)))
names := $(sort $(foreach w,$(MAKEOVERRIDES),$(if $(findstring =,$(w)),$(firstword $(subst =, ,$(w))))))
S := $(foreach v,$(names),$(if $(call from_command_line,$(v)),'$(v)=$(subst ','\'',$($(v)))'))
B := $(if $(call from_command_line,BUILD),$(BUILD),build)
N := tools/nsvm/nsvm

##@ The two commands
.PHONY: run test
run: setup ## boot the base and the series, run the PAT tests on both, show what changed
	@$(N) run $S

test: ## everything that can be verified here (ALL=1: whole kernels, the other bases in full)
	@$(N) setup run test check list deb bench stack remote lava fresh $S
	@$(N) test $S

##@ Before anybody reads the patches
.PHONY: check
check: ## checkpatch, compilers, sparse, configurations, ABI, selftest, documents (NAME=...)
	@$(N) setup run check $S
	@$(N) check $S

##@ Between kernels
.PHONY: bases migrate fresh
bases: setup ## which release takes which series, in Debian and in your trees (TREES='~/linux ~/stable@v6.6.150')
	@$(N) bases $S

fresh: setup ## make run in a Debian 13 that was just installed (as root)
	@$(N) setup fresh $S
	@$(N) fresh $S

migrate: setup ## checkpoints from and to kernels without and with the series, and mainline
	@$(N) migrate $S

##@ Real hypervisors
.PHONY: stack vmm
stack: ## KVM on KVM on KVM: whose PAT L2 has, and after a real migration (PART=pats, soak, smp, xen; VMM=)
	@$(N) setup run stack $S
	@$(N) stack $S

vmm: setup ## QEMU with its series, built in build/<its base>/root
	@$(N) vmm $S

##@ On AMD hosts
.PHONY: remote lava
remote: ## the tests there, over SSH (HOST='user@a user@b' MODULES=1 PART=kernel)
	@$(N) setup run remote $S
	@$(N) remote $S

lava: setup ## the tests as jobs for LAVA, on QEMU and on an AMD machine (URL= DEVICE=; CHECK=1 runs the first)
	@$(N) setup lava $S
	@$(N) lava $S

##@ To use it
.PHONY: deb
deb: ## a DKMS package of the series for the distribution's kernel, tried on the emulated machine
	@$(N) setup run deb $S
	@$(N) deb check $S

##@ One step
.PHONY: setup tree kernel selftests boot view
setup: ## install the Debian packages that are missing
	@test -x /usr/bin/python3 || { echo 'setup: no /usr/bin/python3; as root: apt-get install python3' >&2; exit 1; }
	@$(N) setup $S

tree: setup ## kernel source with the series applied, in build/<base>/src
	@$(N) tree series $S

kernel: setup ## kernel of what is in build/<base>/src, edits included
	@$(N) kernels $S

selftests: setup ## static test binaries in build/<base>/selftests, for any machine
	@$(N) selftests $S

boot: setup ## a shell on the emulated machine, with the tests in /tests
	@$(N) boot $S

view: ## story and picture of a case in the last make run (CASE=..., CASE=list)
	@$(N) view $S

##@ More proof (each says at its end how long it took)
.PHONY: types model fuzz mutants
types: setup ## the memory type of each access of L2, on Bochs, whose CPU obeys g_pat
	@$(N) types $S

model: setup ## every short sequence of operations against a model (SEQ=, DEPTH=, KVM=mainline, mainline-series)
	@$(N) model $S

fuzz: setup ## hostile userspace and races on a debug kernel (TIME=60 SEED=..., or SEED=... STEPS=... again)
	@$(N) fuzz $S

mutants: setup ## break the series in small ways, see that tests and view notice (NAME=...)
	@$(N) mutants $S

##@ What it costs
.PHONY: bench
bench: ## instructions of each operation, time to a verdict (PART=kernel, PART=time, KERNELS=)
	@$(N) setup run bench $S
	@$(N) bench $S

##@ Work on the series
.PHONY: patches ports
patches: ## export the commits of build/<base>/src to patches/<base>
	@$(N) export $S

ports: setup ## what the series of the other bases changed of the first one's
	@$(N) ports $S

##@ The way to the list (SIGNOFF=1, PREFIX='PATCH RESEND'; V=5 is the version here)
.PHONY: mbox send
mbox: tree ## one mailbox of cover letter and patches, for git am and b4 (V=5 SIGNOFF=1)
	@$(N) mbox $S

send: tree ## show what would be mailed to whom (V=5 SIGNOFF=1); REALLY=1 sends it
	@$(N) setup list $S
	@$(N) send $S

##@ Options (Kconfig; make run BASE=... LINUX=... SMP=... wins over them)
.PHONY: menuconfig defconfig
menuconfig defconfig: setup ## choose in a menu, or write the defaults to build/.config
	@mkdir -p '$B'
	@CONFIG_=NSVM_ KCONFIG_CONFIG='$B/.config' /usr/bin/python3 -m $(@:def%=alldef%) '$(CURDIR)/Kconfig'

##@ Cleaning
.PHONY: clean distclean
clean: ## remove objects, results and logs; keep sources and downloads
	@$(N) clean objects $S

distclean: ## remove build/ (FORCE=1: even if there is work in it)
	@$(N) clean all $S

##@ Help
.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z ]+:.*## / { printf "  %-12s %s\n", $$1, $$2 } \
		END { printf "\nV=1 shows what commands print (but not with mbox and send).\n" \
			"tools/nsvm/nsvm PROGRAM --help says what one does, and its settings.\n" }' Makefile
