# SPDX-License-Identifier: GPL-2.0
#
# The front door of the lab. It only names the steps and their order; each is a
# program in a room of tools/nsvm/, and says at its top what it does.

.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Settings are what the command line of make says (SMP=2); the environment has no say
given = $(foreach v,$(1),$(if $(filter command%,$(origin $(v))),'$(v)=$($(v))'))
S := $(call given,$(shell sed -n 's/^config //p' Kconfig) BUILD)
$(foreach v,BUILD CASE CHECK KVM NAME PART SEED SEQ STEPS TIME TREES VMM,$(if $(filter environment%,$(origin $(v))),$(eval undefine $(v))))
# V=1 is "show everything", but for mbox and send V is the version of the series
MAIL = $(patsubst 'V=%,'VERSION=%,$(call given,V)) $(call given,SIGNOFF PREFIX REALLY)
N := tools/nsvm/nsvm
NSVM = $(N) $(1) $(S) $(if $(filter mbox send,$@),,$(call given,V))

##@ The two commands
.PHONY: run test
run: setup ## boot the base and the series, run the PAT tests on both, show what changed
	@$(call NSVM,run)

test: ## everything: npt=1 and npt=0, neighbours, each patch alone, failure paths
	@$(call NSVM,setup run test check list deb bench stack remote lava fresh)
	@$(call NSVM,test)

##@ Before anybody reads the patches
.PHONY: check
check: ## checkpatch, compilers, sparse, configurations, ABI, selftest, documents (NAME=...)
	@$(call NSVM,setup run check)
	@$(call NSVM,check $(or $(NAME),all))

##@ Between kernels
.PHONY: bases migrate fresh
bases: setup ## which release takes which series, in Debian and in your trees (TREES='~/linux ~/stable@v6.6.150')
	@$(call NSVM,bases $(TREES))

fresh: setup ## make run in a Debian 13 that was just installed (as root)
	@$(call NSVM,setup fresh)
	@$(call NSVM,fresh)

migrate: setup ## checkpoints from and to kernels without and with the series, and mainline
	@$(call NSVM,migrate run)

##@ Real hypervisors
.PHONY: stack
stack: ## KVM on KVM on KVM: whose PAT L2 has, and after a real migration (PART=pats, soak, xen; VMM=)
	@$(call NSVM,setup run stack)
	@$(call NSVM,stack $(PART) $(call given,VMM))

##@ On AMD hosts
.PHONY: remote lava
remote: ## the tests there, over SSH (HOST='user@a user@b' MODULES=1 PART=kernel)
	@$(call NSVM,setup run remote)
	@$(call NSVM,remote $(PART) $(call given,HOST MODULES SSH))

lava: setup ## the tests as jobs for LAVA, on QEMU and on an AMD machine (URL= DEVICE=; CHECK=1 runs the first)
	@$(call NSVM,setup lava)
	@$(call NSVM,lava $(if $(CHECK),check) $(call given,URL DEVICE))

##@ To use it
.PHONY: deb
deb: ## a DKMS package of the series for the distribution's kernel, tried on the emulated machine
	@$(call NSVM,setup run deb)
	@$(call NSVM,deb check)

##@ One step
.PHONY: setup tree kernel selftests boot view
setup: ## install the Debian packages that are missing
	@test -x /usr/bin/python3 || { echo 'setup: no /usr/bin/python3; as root: apt-get install python3' >&2; exit 1; }
	@$(call NSVM,setup)

tree: setup ## kernel source with the series applied, in build/<base>/src
	@$(call NSVM,tree series)

kernel: setup ## kernel of what is in build/<base>/src, edits included
	@$(call NSVM,kernels)

selftests: setup ## static test binaries in build/<base>/selftests, for any machine
	@$(call NSVM,selftests)

boot: setup ## a shell on the emulated machine, with the tests in /tests
	@$(call NSVM,boot)

view: ## story and picture of a case in the last make run (CASE=..., CASE=list)
	@$(call NSVM,view $(CASE))

##@ More proof (each says at its end how long it took)
.PHONY: types model fuzz mutants
types: setup ## the memory type of each access of L2, on Bochs, whose CPU obeys g_pat
	@$(call NSVM,types)

model: setup ## every short sequence of operations against a model (SEQ=, DEPTH=, KVM=mainline, mainline-series)
	@$(call NSVM,model $(if $(SEQ),seq $(SEQ),$(or $(KVM),run)) $(call given,DEPTH RANDOM SEED SHARD))

fuzz: setup ## hostile userspace and races on a debug kernel (TIME=60 SEED=..., or SEED=... STEPS=... again)
	@$(call NSVM,fuzz $(if $(STEPS),replay $(SEED) $(STEPS),run $(or $(TIME),60) $(SEED)))

mutants: setup ## break the series in small ways, see that tests and view notice (NAME=..., SHARD=2/3)
	@$(call NSVM,mutants $(or $(NAME),all) $(call given,SHARD))

##@ What it costs
.PHONY: bench
bench: ## instructions of each operation, time to a verdict (PART=kernel, PART=time, KERNELS=)
	@$(call NSVM,setup run bench)
	@$(call NSVM,bench run $(PART) $(call given,KERNELS))

##@ Work on the series
.PHONY: patches ports
patches: ## export the commits of build/<base>/src to patches/<base>
	@$(call NSVM,export)

ports: setup ## what the series of the other bases changed of the first one's
	@$(call NSVM,ports)

##@ The way to the list (SIGNOFF=1, PREFIX='PATCH RESEND'; V=5 is the version here)
.PHONY: mbox send
mbox: tree ## one mailbox of cover letter and patches, for git am and b4 (V=5 SIGNOFF=1)
	@$(call NSVM,mbox $(MAIL))

send: tree ## show what would be mailed to whom (V=5 SIGNOFF=1); REALLY=1 sends it
	@$(call NSVM,setup list)
	@$(call NSVM,send $(MAIL))

##@ Options (Kconfig; make run BASE=... LINUX=... SMP=... wins over them)
.PHONY: menuconfig defconfig
menuconfig defconfig: setup ## choose in a menu, or write the defaults to build/.config
	@mkdir -p $(or $(BUILD),build)
	@CONFIG_=NSVM_ KCONFIG_CONFIG=$(or $(BUILD),build)/.config \
		/usr/bin/python3 -m $(@:def%=alldef%) $(CURDIR)/Kconfig

##@ Cleaning
.PHONY: clean distclean
clean: ## remove objects, results and logs; keep sources and downloads
	@$(call NSVM,clean objects)

distclean: ## remove build/
	@$(call NSVM,clean all $(call given,FORCE))

##@ Help
.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z ]+:.*## / { printf "  %-12s %s\n", $$1, $$2 } \
		END { printf "\nV=1 shows what commands print (but not with mbox and send).\n" }' Makefile
