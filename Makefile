# SPDX-License-Identifier: GPL-2.0
#
# The front door of the lab. It only names the steps and their order; each step
# is a tool in tools/nsvm/ that says at its top what it does.

.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
T := tools/nsvm

# Symbols of Kconfig, from the command line or the environment
settings := $(shell sed -n 's/^config //p' Kconfig)
define setting
ifneq ($$(filter command% environment%,$$(origin $(1))),)
export NSVM_$(1) := $$($(1))
endif
endef
$(foreach s,$(settings),$(eval $(call setting,$(s))))
export NSVM_BEGUN := $(shell date +%s%3N)
# Arguments of one target
export NSVM_DEPTH := $(DEPTH)
export NSVM_RANDOM := $(RANDOM)
export NSVM_SEED := $(SEED)
export NSVM_KERNELS := $(KERNELS)
# V=1 is "show everything", but for mbox and send V is the version of the series
ifneq ($(filter mbox send,$(MAKECMDGOALS)),)
export NSVM_VERSION := $(V)
export NSVM_SIGNOFF := $(SIGNOFF)
export NSVM_PREFIX := $(PREFIX)
export NSVM_REALLY := $(REALLY)
else ifdef V
export NSVM_V := $(V)
endif

##@ The two commands
.PHONY: run test
run: ## boot the base and the series, run the PAT tests on both, show what changed
	@$T/setup run
	@$T/view setup
	@$T/tree base
	@$T/build kernel-base
	@$T/tree series
	@$T/run

test: ## everything: npt=1 and npt=0, neighbours, each patch alone, failure paths
	@$T/setup run test mutants list check
	@$T/view setup
	@$T/test

##@ Before anybody reads the patches
.PHONY: check
check: ## checkpatch, compilers, sparse, configurations, ABI, selftest, documents (NAME=...)
	@$T/setup run check
	@$T/tree base
	@$T/build kernel-base
	@$T/tree series
	@$T/build kernel
	@$T/check $(or $(NAME),all)

##@ Between kernels
.PHONY: migrate
migrate: ## checkpoints from and to kernels without and with the series, and mainline
	@$T/setup run
	@$T/view setup
	@$T/migrate prepare
	@$T/tree base
	@$T/build kernel-base
	@$T/tree series
	@$T/build kernel
	@$T/build selftests
	@$T/migrate run

##@ One step
.PHONY: setup tree kernel selftests boot view
setup: ## install the Debian packages that are missing
	@$T/setup run

tree: setup ## kernel source with the series applied, in build/<base>/src
	@$T/tree base
	@$T/tree series

kernel: tree ## kernel of what is in build/<base>/src, edits included
	@$T/build kernel

selftests: tree ## static test binaries in build/<base>/selftests, for any machine
	@$T/build selftests

boot: kernel selftests ## a shell on the emulated machine, with the tests in /tests
	@$T/boot shell

view: ## story and picture of a case in the last make run (CASE=..., CASE=list)
	@$T/view show $(CASE)

##@ More proof (each says at its end how long it took)
.PHONY: model fuzz mutants
model: kernel selftests ## every short sequence of operations against a model (SEQ=, DEPTH=, KVM=mainline, mainline-series)
	@$T/view setup
	@$T/model $(if $(SEQ),seq $(SEQ),$(or $(KVM),run))

fuzz: tree ## hostile userspace and races on a debug kernel (TIME=60 SEED=..., or SEED=... STEPS=... again)
	@$T/setup run
	@$T/view setup
	@$T/fuzz $(if $(STEPS),replay $(SEED) $(STEPS),run $(or $(TIME),60) $(SEED))

mutants: kernel selftests ## break the series in small ways, see that tests and view notice (NAME=...)
	@$T/setup run mutants
	@$T/view setup
	@$T/mutants $(or $(NAME),all)

##@ What it costs
.PHONY: bench
bench: ## instructions of each operation, time to a verdict (PART=kernel, PART=time, KERNELS=)
	@$T/setup run bench
	@$T/view setup
	@$T/tree base
	@$T/tree series
	@$T/build selftests
	@$T/bench run $(PART)

##@ Work on the series
.PHONY: patches ports

patches: ## export the commits of build/<base>/src to patches/<base>
	@$T/export

ports: ## what the series of the other bases changed of the first one's
	@$T/setup run
	@$T/ports

##@ The way to the list (SIGNOFF=1, PREFIX='PATCH RESEND'; V=4 is the version here)
.PHONY: mbox send
mbox: tree ## one mailbox of cover letter and patches, for git am and b4 (V=4 SIGNOFF=1)
	@$T/mbox

send: tree ## show what would be mailed to whom (V=4 SIGNOFF=1); REALLY=1 sends it
	@$T/setup list
	@$T/send

##@ Options (Kconfig; make run BASE=... LINUX=... SMP=... wins over them)
.PHONY: menuconfig defconfig
menuconfig: ## choose in a menu
	@$T/setup config
	@$T/config menuconfig

defconfig: ## write the defaults to build/.config
	@$T/setup config
	@$T/config defconfig

##@ Cleaning
.PHONY: clean distclean
clean: ## remove objects, results and logs; keep sources and downloads
	@$T/clean objects

distclean: ## remove build/
	@$T/clean all

##@ Help
.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 } \
		END { printf "\nV=1 shows what commands print (but not with mbox and send).\n" }' Makefile
