# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# What checks share, see ../check.py. Sourced by each of them, with its arguments.

# Python and what it can import are those of Debian's packages
PATH=/usr/bin:/bin:$PATH
set -eu
# shellcheck source=/dev/null
. "$1"
jobs=-j$(nproc)

# What the table says; why it fails, or cannot be done here
seen() { echo "seen: $1"; }
wrong() { seen "$1"; exit 1; }
not_here() { seen "$1"; exit 4; }

# g: git in the tree, which it must not look for further up
g() { GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git -C "$tree" --git-dir=.git "$@"; }

# touched [PATTERN...]: files that differ between $before and $commit
touched() { g diff --name-only --diff-filter=d "$before" "$commit" -- "$@"; }

# at COMMIT: it is checked out
at() { g read-tree --reset -u "$1"; }

# none_new DIR FUNCTION: FUNCTION writes what it finds in the tree to a file, in sorted lines;
# fails if the series has one that the base has not, or has it more often
none_new()
{
	at "$last"
	"$2" "$1/series"
	[ -s "$1/series" ] || return 0
	at "$base"
	"$2" "$1/base"
	new=$(comm -23 "$1/series" "$1/base")
	[ -z "$new" ] || { echo "$new"; wrong "$(echo "$new" | head -n 1)"; }
}

# ---- compiling ----

kmake() { make -C "$tree" O="$obj" W=1 LOCALVERSION= "$@"; }

compile() { kmake "$jobs" "$@" arch/x86/kvm/; }

# Is that a symbol of this base?
is_symbol()
{
	(cd "$tree" && grep -r -q --include='Kconfig*' -E "^(menu)?config $1\$" arch/x86 \
		arch/Kconfig virt init kernel crypto drivers/hv drivers/crypto drivers/iommu)
}

# configure OBJ DEFCONFIG SYMBOL=VALUE... [-- MAKE-ARGUMENT...]: with no symbol lost; the
# last value of one counts. Symbols that this base does not have are left out.
configure()
{
	obj=$work/$1 defconfig=$2
	key=$({ echo "$*"; gcc --version; clang --version; cat "${0%/*}/lib.sh"
		g ls-files -s '*Kconfig*'; } | sha256sum)
	shift 2
	[ "$(cat "$obj/config-key" 2>/dev/null)" != "$key" ] || return 0
	rm -f "$obj/config-key"
	symbols=
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		if is_symbol "${1%%=*}"; then
			symbols="$symbols $1"
		else
			echo "no ${1%%=*} in this base"
		fi
		shift
	done
	[ $# -eq 0 ] || shift
	# shellcheck disable=SC2086
	symbols=$(printf '%s\n' $symbols | tac | sort -u -t = -k 1,1)
	mkdir -p "$obj"
	kmake "$@" "$defconfig"
	for s in $symbols; do echo "CONFIG_$s"; done >>"$obj/.config"
	kmake "$@" olddefconfig
	for s in $symbols; do
		v=$(sed -n "s/^CONFIG_${s%%=*}=//p" "$obj/.config")
		[ "${v:-n}" = "${s#*=}" ] || lost "${s%%=*}" "${v:-n}" "${s#*=}"
	done
	echo "$key" >"$obj/config-key"
}

# May be another one
lost() { wrong "the configuration has $1=$2, and not $3"; }

# All of KVM on, as modules: what distributions have
everything="MODULES=y EXPERT=y WERROR=n HYPERVISOR_GUEST=y PARAVIRT=y HYPERV=y HIGH_RES_TIMERS=y
CRYPTO=y CRYPTO_HW=y CRYPTO_DEV_CCP=y CRYPTO_DEV_CCP_DD=m IOMMU_SUPPORT=y AMD_IOMMU=y
CRYPTO_DEV_SP_PSP=y AMD_MEM_ENCRYPT=y
KVM=m KVM_AMD=m KVM_INTEL=m KVM_WERROR=y KVM_SMM=y KVM_HYPERV=y KVM_XEN=y KVM_AMD_SEV=y"

# config SYMBOL=VALUE...: KVM compiles with $everything, changed by these. Skipped if
# there is no such first symbol.
config()
{
	at "$commit"
	is_symbol "${1%%=*}" || not_here "this base has no ${1%%=*}"
	# shellcheck disable=SC2086
	configure config x86_64_defconfig $everything "$@"
	compile
}

# need_clang: one that this kernel takes, for LLVM=1
need_clang()
{
	at "$commit"
	need=$(sh "$tree/scripts/min-tool-version.sh" llvm)
	v=$(clang -dumpversion 2>/dev/null) || v=
	[ "$(printf '%s\n' "$need" "$v" | sort -V | head -n 1)" = "$need" ] ||
		not_here "this kernel needs clang $need, here is ${v:-none}"
}

# ---- user space ----

# headers: as installed, of the base and of the series, in headers/{base,series}/include
headers()
{
	for h in base series; do
		c=$base
		[ $h = base ] || c=$last
		key=$(g rev-parse "$c:include/uapi" "$c:arch/x86/include/uapi")
		h=$work/headers/$h
		[ "$(cat "$h/key" 2>/dev/null)" != "$key" ] || continue
		rm -rf "$h"
		at "$c"
		make -C "$tree" O="$work/headers/${tree##*/}" "$jobs" headers_install \
			INSTALL_HDR_PATH="$h"
		echo "$key" >"$h/key"
	done
}

# a_test: $test, the selftest of the series, and $arch, the directory that has it
a_test()
{
	arch=x86
	g cat-file -e "$base:tools/testing/selftests/kvm/x86" 2>/dev/null || arch=x86_64
	test=$(touched "tools/testing/selftests/kvm/$arch/*_test.c" | head -n 1)
	[ -n "$test" ] || not_here "no patch adds a test, see BASE"
	test=$(basename "$test" .c)
}

# smake OBJ TARGET... : make of selftests/kvm
smake()
{
	out=$work/$1
	shift
	mkdir -p "$out"
	LDFLAGS=-static make -C "$tree/tools/testing/selftests" TARGETS=kvm "$jobs" O="$out" \
		KHDR_INCLUDES="-isystem $work/headers/series/include" "$@"
}

# builds COMPILER MAKE-ARGUMENT: the test of the series alone, $binary; fails if that warns
builds()
{
	a_test
	headers
	at "$commit"
	binary=$work/selftest-$1/kselftest/kvm/$arch/$test log=$work/selftest-$1.log
	rm -f "$binary"*
	smake "selftest-$1" all "$2" TEST_GEN_PROGS_x86_64="$arch/$test" \
		TEST_GEN_PROGS_x86="$arch/$test" TEST_GEN_PROGS_COMMON= \
		TEST_GEN_PROGS_EXTENDED_x86_64= TEST_GEN_PROGS_EXTENDED_x86= TEST_PROGS_x86_64= \
		TEST_PROGS_x86= TEST_GEN_PROGS_EXTENDED= TEST_PROGS= >"$log" 2>&1 ||
		{ cat "$log"; exit 1; }
	cat "$log"
	[ -x "$binary" ] || wrong "was not built"
	warned=$(grep -m1 "$test.*warning: " "$log") && wrong "$(echo "$warned" | sed 's|.*/||')"
	:
}
