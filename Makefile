# SPDX-License-Identifier: GPL-2.0
#
# The front door of the lab. It only names the steps and their order. Each step is a
# program in tools/nsvm/, and its docstring says what it does. Settings of the command
# line (SMP=2) are passed on to every program; the programs reject unknown ones.

.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

from_command_line = $(filter command%,$(origin $(1)))
names := $(sort $(foreach w,$(MAKEOVERRIDES),$(if $(findstring =,$(w)),\
	$(firstword $(subst =, ,$(w))))))
S := $(foreach v,$(names),$(if $(call from_command_line,$(v)),'$(v)=$(subst ','\'',$($(v)))'))
B := $(if $(call from_command_line,BUILD),$(BUILD),build)
N := tools/nsvm/nsvm

##@ The two commands
.PHONY: run test
run: setup ## boot the stock kernel and the series, run the PAT tests on both, compare
	@$(N) run $S

test: ## all tests of the series and of the lab (ALL=1: whole kernels, all bases in full)
	@$(N) setup run test check list deb bench stack remote lava fresh $S
	@$(N) test $S

##@ Before review
.PHONY: check
check: ## checkpatch, compilers, sparse, configurations, ABI, selftest, documents (NAME=)
	@$(N) setup run check $S
	@$(N) check $S

##@ Other kernels
.PHONY: bases migrate fresh
bases: setup ## to which releases, and trees, the series apply (TREES='~/linux ~/stable@v6.6.150')
	@$(N) bases $S

fresh: setup ## make run in a newly installed Debian 13 (needs root)
	@$(N) setup fresh $S
	@$(N) fresh $S

migrate: setup ## checkpoints between stock kernel, series and mainline
	@$(N) migrate $S

##@ Real hypervisors
.PHONY: stack vmm
stack: ## whose PAT L2 has, with real hypervisors (PART=pats, file, socket, soak, xen; VMM=)
	@$(N) setup run stack $S
	@$(N) stack $S

vmm: setup ## build the patched QEMU, in build/<base>/root
	@$(N) vmm $S

##@ On AMD hosts
.PHONY: remote lava
remote: ## the tests over SSH (HOST='user@a user@b'; MODULES=1 loads ours; PART=kernel)
	@$(N) setup run remote $S
	@$(N) remote $S

lava: setup ## write jobs for LAVA, for QEMU and an AMD machine (URL= DEVICE=; CHECK=1 runs one)
	@$(N) setup lava $S
	@$(N) lava $S

##@ Package
.PHONY: deb
deb: ## DKMS package of the series for Debian's kernel, installed and tested (needs root)
	@$(N) setup run deb $S
	@$(N) deb check $S

##@ Single steps
.PHONY: setup tree kernel selftests boot view
setup: ## install the Debian packages that are missing
	@test -x /usr/bin/python3 || { \
		echo 'setup: no /usr/bin/python3; as root: apt-get install python3' >&2; exit 1; }
	@$(N) setup $S

tree: setup ## kernel source with the series applied, in build/<base>/src
	@$(N) tree series $S

kernel: setup ## build the kernel of build/<base>/src, with uncommitted edits
	@$(N) kernels $S

selftests: setup ## static test binaries in build/<base>/selftests, for any machine
	@$(N) selftests $S

boot: setup ## a shell on the emulated machine, with the tests in /tests
	@$(N) boot $S

view: ## what happened in a case of the last make run, with a picture (CASE=; CASE=list)
	@$(N) view $S

##@ More tests
.PHONY: types model fuzz mutants
types: setup ## the memory type of each access of L1 and L2, on Bochs, whose CPU obeys g_pat
	@$(N) types $S

model: setup ## all short sequences of operations against a model (SEQ= DEPTH= KVM=mainline)
	@$(N) model $S

fuzz: setup ## hostile userspace and races, on a debug kernel (TIME=60; SEED= STEPS= to repeat)
	@$(N) fuzz $S

mutants: setup ## break the series in small ways: do the tests or the VMRUN view notice? (NAME=)
	@$(N) mutants $S

##@ Cost
.PHONY: bench
bench: ## instructions of each operation, after each patch (KERNELS='stock series 3')
	@$(N) setup run bench $S
	@$(N) bench $S

##@ Work on the series
.PHONY: patches ports
patches: ## export the commits of build/<base>/src to patches/<base>
	@$(N) export $S

ports: setup ## how the ports differ from the default base's series
	@$(N) ports $S

##@ Mailing (V=5: version of the series; SIGNOFF=1, PREFIX='PATCH RESEND')
.PHONY: mbox send
mbox: tree ## one mailbox of cover letter and patches, for git am and b4 (V=5 SIGNOFF=1)
	@$(N) mbox $S

send: tree ## show what would be mailed, and to whom (V=5 SIGNOFF=1); REALLY=1 sends it
	@$(N) setup list $S
	@$(N) send $S

##@ Options (Kconfig; a command line such as make run SMP=2 overrides them)
.PHONY: menuconfig defconfig
menuconfig defconfig: setup ## choose in a menu, or write the defaults to build/.config
	@mkdir -p '$B'
	@CONFIG_=NSVM_ KCONFIG_CONFIG='$B/.config' \
		/usr/bin/python3 -m $(@:def%=alldef%) '$(CURDIR)/Kconfig'

##@ Cleaning
.PHONY: clean distclean
clean: ## remove objects, results and logs; keep sources and downloads
	@$(N) clean objects $S

distclean: ## remove build/ (FORCE=1: even if it has work that is not in patches/)
	@$(N) clean all $S

##@ Help
.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z ]+:.*## / { printf "  %-12s %s\n", $$1, $$2 } \
		END { printf "\nV=1 shows the output of the commands that are run (not with mbox and send).\n" \
			"tools/nsvm/nsvm PROGRAM --help describes a program and its settings.\n" }' Makefile
