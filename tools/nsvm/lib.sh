# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash disable=SC2034
#
# What the tools of the lab share: settings, places, messages, logs, the lock.
# Sourced by each of them, never run.
#
# Settings are the symbols of Kconfig. NSVM_<symbol> in the environment wins
# over build/.config, which wins over the default in Kconfig.
#
# Environment that is no setting:
#   NSVM_V=1        show what commands print as they run
#   NSVM_BUILD      where everything is made, build/ when unset
#   NSVM_PATCHES    where the series are, patches/ when unset

set -eu
LC_ALL=C
export LC_ALL
umask 022

tool=${0##*/}
lib=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$lib/../.." && pwd)
build=${NSVM_BUILD:-$top/build}
patches=${NSVM_PATCHES:-$top/patches}
overlay=$top/tools/testing/selftests/kvm/x86

# What the make or the git that called us left behind is not for the make and
# the git that we call.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL MAKEFILES V O ARCH \
      BASE LINUX LINUX_REF CC DEBUG_KERNEL QEMU ACCEL CPU SMP MEMORY TESTS \
      TIMEOUT TEST_TIMEOUT CROSS_COMPILE LLVM KCFLAGS KCPPFLAGS CFLAGS \
      CPPFLAGS LDFLAGS LDLIBS OUTPUT KCONFIG_CONFIG \
      GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY 2>/dev/null || :

# ---- settings ----

# Print NSVM_<symbol>='value' for each symbol that the environment leaves open.
settings()
{
	config=$build/.config
	[ -r "$config" ] || config=/dev/null
	awk -v q="'" '
	function unquote(s) { gsub(/^"|"$/, "", s); return s }
	FNR == 1 { file++ }
	file == 1 && /^config / { sym = $2; known[sym] = 1 }
	file == 1 && /^(choice|endchoice|menu)/ { sym = "" }
	file == 1 && sym && /^\tdefault / && !/ if / {
		sub(/^\tdefault /, "")
		value[sym] = unquote($0)
	}
	file == 2 && /^NSVM_[A-Z_]+=/ {
		s = $0; sub(/=.*/, "", s); sub(/^NSVM_/, "", s)
		v = $0; sub(/^[^=]*=/, "", v)
		if (s in known) value[s] = unquote(v)
	}
	file == 2 && /^# NSVM_[A-Z_]+ is not set/ {
		sub(/^NSVM_/, "", $2)
		value[$2] = "n"
	}
	END {
		for (s in known) {
			if (ENVIRON["NSVM_" s] != "" || !(s in value))
				continue
			gsub(q, q "\\" q q, value[s])
			printf "NSVM_%s=%s%s%s; export NSVM_%s\n", s, q, value[s], q, s
		}
	}' "$top/Kconfig" "$config"
}
eval "$(settings)"

# What a shell does to a word, make and kconfig do not
case $NSVM_LINUX in
packaged) NSVM_LINUX='';;	# whatever build/.config says
"~"/*) NSVM_LINUX=$HOME/${NSVM_LINUX#??};;
esac

case $NSVM_BASE in
*/*|.*|*[!A-Za-z0-9._-]*) echo "$tool: BASE=$NSVM_BASE is no name of a directory of patches/" >&2; exit 1;;
esac

# ---- places ----

series_dir=$patches/$NSVM_BASE
b=$build/$NSVM_BASE
[ -z "$NSVM_LINUX" ] || b=$b-own
src=$b/src
logs=$b/logs
results=$b/results

# A debug kernel and another compiler have object directories of their own.
flavour=
[ "$NSVM_DEBUG_KERNEL" != y ] || flavour=-debug
[ "$NSVM_CC" = gcc ] || flavour=$flavour-$(printf %s "${NSVM_CC##*/}" | tr -c 'A-Za-z0-9.\n' _)

# image OBJ: what of a kernel is booted, and made by make. vmlinux, by its PVH note,
# has no decompressor to build and to run; with KASAN it dies there, as the entry is
# instrumented, but has no shadow yet.
image()
{
	case $flavour in
	-debug*) echo "$1/arch/x86/boot/bzImage";;
	*) echo "$1/vmlinux";;
	esac
}

# ---- messages ----

now()
{
	date +%s%3N
}

# elapsed MS_AT_START
elapsed()
{
	awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", (b - a) / 1000 }'
}

# say TAG TEXT: one line about one step
say()
{
	printf '  %-9s %s\n' "$1" "$2"
}

die()
{
	printf '%s: %s\n' "$tool" "$1" >&2
	exit "${2:-1}"
}

# A path as a reader wants it: from the top of the repository
rel()
{
	printf %s "${1#"$top"/}"
}

# ---- logs ----

# The line of a log that says what went wrong
first_error()
{
	grep -m1 'No space left on device' "$1" ||
	grep -m1 -E ':[0-9]+(:[0-9]+)?: (fatal )?error:|: undefined reference|^fatal:|^error:|^E: ' "$1" ||
	grep -m1 -i -E 'error|\*\*\*|cannot|unable|not found' "$1" ||
	tail -n 1 "$1"
}

# A long step shows that it is alive: on a terminal in place, else by a line
# every half minute.
ticker()
{
	if [ -t 1 ]; then
		while :; do
			printf '\r  %-9s %s ... %s' "$1" "$2" "$(elapsed "$3")"
			sleep 1 >/dev/null 2>&1
		done
	else
		while sleep 30 >/dev/null 2>&1; do
			say "$1" "$2 ... $(elapsed "$3")"
		done
	fi
}

tick_pid=
tick_stop()
{
	[ -n "$tick_pid" ] || return 0
	# KILL: a TERM just after the fork would meet the handler that the
	# ticker is about to drop, and be lost
	kill -KILL "$tick_pid" 2>/dev/null || :
	wait "$tick_pid" 2>/dev/null || :
	tick_pid=
	[ ! -t 1 ] || printf '\r\033[K'
}
trap tick_stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# KiB that are left where build/ is
free_kib()
{
	df -Pk "$build" | awk 'NR == 2 { print $4 }'
}

# space GIB: is there that much room for build/?
space()
{
	free=$(($(free_kib) / 1048576))
	[ "$free" -ge "$1" ] ||
		die "disk full: $(rel "$build") needs about $1 GiB, there are $free"
}

disk_is_full()
{
	[ "$(free_kib)" -lt 1024 ]
}

# logged TAG LOG TEXT COMMAND...: run it with its output in logs/LOG.log, say
# what was done and how long it took. When it fails: $error is the first error,
# nothing is said.
logged()
{
	l_tag=$1 log=$logs/$2.log l_text=$3 l_start=$(now) l_rc=0
	shift 3
	mkdir -p "$logs"
	if [ "${NSVM_V-}" = 1 ]; then
		{ l_rc=0; "$@" 2>&1 || l_rc=$?; echo $l_rc >"$log.rc"; } | tee "$log"
		read -r l_rc <"$log.rc"
		rm -f "$log.rc"
	else
		ticker "$l_tag" "$l_text" "$l_start" 9>&- &
		tick_pid=$!
		"$@" >"$log" 2>&1 || l_rc=$?
		tick_stop
	fi
	if [ "$l_rc" -ne 0 ]; then
		error=$(first_error "$log" | sed "s|^$src/||; s|$top/||g")
		# The log may have been short of room as well
		[ -n "$error" ] || ! disk_is_full || error="No space left on device"
		error=${error:-exit status $l_rc}
		return "$l_rc"
	fi
	say "$l_tag" "$l_text ($(elapsed "$l_start"))"
}

# put FILE: standard input becomes FILE, whole or not at all
put()
{
	cat >"$1.tmp" && mv -f "$1.tmp" "$1"
}

# ---- Debian's other suites ----

# The name of the machine's release
codename()
{
	sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null | tr -d '"'
}

# apt_conf DIR SUITE [own|source]: write DIR/apt.conf, with which apt-get sees SUITE
# as the machine's own archive has it (with "own" the machine's suites, too, with
# "source" SUITE's source packages), on lists and a cache of its own in DIR. Where that is comes from the machine's apt
# configuration. Dir::State::status is DIR/status, if the caller has put it there.
# Fails if apt knows no archive of this release.
apt_conf()
{
	keyring=
	for f in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp; do
		[ ! -r $f ] || { keyring="[signed-by=$f] "; break; }
	done
	mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
	awk -v c="$(codename)" -v k="$keyring" -v suite="$2" -v more="${3-}" '
		BEGIN { type = more == "source" ? "deb-src " : "deb " }
		c == "" { next }
		$2 == c && suite !~ /-security$/ { print type k $1, suite, $3 }
		$2 == c "-security" && suite ~ /-security$/ { print type k $1, suite, $3 }
		more != "own" { next }
		$2 == c || $2 == c "-updates" || $2 == c "-security" { print "deb " k $0 }
	' | awk '!seen[$0]++' >"$1/sources.list"
	[ -s "$1/sources.list" ] || return 1
	[ -f "$1/status" ] || : >"$1/status"
	cat >"$1/apt.conf" <<-END
	Dir::State::Lists "$1/lists";
	Dir::State::status "$1/status";
	Dir::State::extended_states "$1/extended_states";
	Dir::Cache "$1/cache";
	Dir::Etc::sourcelist "$1/sources.list";
	Dir::Etc::sourceparts "-";
	APT::Sandbox::User "root";
	APT::Update::Error-Mode "any";
	Acquire::Retries "2";
	#clear APT::Update::Pre-Invoke;
	#clear APT::Update::Post-Invoke;
	#clear APT::Update::Post-Invoke-Success;
	#clear DPkg::Pre-Install-Pkgs;
	#clear DPkg::Post-Invoke;
	END
}

# unpack_source FILE PACKAGE DIR ARGUMENT...: the kernel that is in a linux-source
# package or in a tarball, without its top directory; ARGUMENTs are for tar. Debian's
# archive has many blocks, all CPUs unpack.
unpack_source()
{
	u_deb=$1 u_package=$2 u_dir=$3
	shift 3
	case $u_deb in
	*.deb) dpkg-deb --fsys-tarfile "$u_deb" | tar -xOf - "./usr/src/$u_package.tar.xz";;
	*) cat "$u_deb";;
	esac |
	tar -x -I 'xz -d -T0' -C "$u_dir" --strip-components=1 "$@"
}

# ---- one at a time ----

lock()
{
	case :${NSVM_LOCKED-}: in
	*":$b:"*) return 0;;
	esac
	mkdir -p "$b" || die "cannot write $(rel "$b")"
	exec 9>"$b/.lock"
	flock -n 9 || die "another run is at work in $(rel "$b"): wait for it to end"
	NSVM_LOCKED=${NSVM_LOCKED:+$NSVM_LOCKED:}$b
	export NSVM_LOCKED
}

# ---- the base and the tree ----

# base_key KEY: a value of patches/<base>/BASE
base_key()
{
	sed -n "s/^$1:[[:space:]]*//p" "$series_dir/BASE" | sed -n '1s/[[:space:]]*$//p'
}

# The patches of the series, in order
series()
{
	[ ! -f "$series_dir/series" ] ||
	sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$series_dir/series"
}

# bases: those of patches/; the first one is the default, the others are ports
bases()
{
	(cd "$patches" && for f in */BASE; do [ ! -f "$f" ] || echo "${f%/BASE}"; done)
}

first_base()
{
	awk '$2 == "BASE" { here = 1 }
		here && $1 == "default" { gsub(/"/, "", $2); print $2; exit }' "$top/Kconfig"
}

need_base()
{
	[ -f "$series_dir/BASE" ] && return 0
	die "no $(rel "$series_dir")/BASE; BASE= is one of: $(cd "$patches" && printf "%s " *)"
}

# git in the tree, deaf to the user's and the machine's configuration
g()
{
	g_in "$src" "$@"
}

g_in()
{
	g_dir=$1
	shift
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git -C "$g_dir" \
		-c gc.auto=0 -c core.hooksPath=/dev/null -c advice.detachedHead=false \
		-c user.name='nsvm lab' -c user.email=nsvm@localhost "$@"
}

need_tree()
{
	[ -e "$src/.git/nsvm-base" ] || die "no tree in $(rel "$src") yet: make tree"
}

base_commit()
{
	cat "$src/.git/nsvm-base"
}

# worktree_tree DIR: the tree object of what is there now, commits, edits and
# new files alike. Of src, NSVM_TREE if `run` has looked already.
worktree_tree()
{
	if [ "$1" = "$src" ] && [ -n "${NSVM_TREE-}" ]; then
		echo "$NSVM_TREE"
		return
	fi
	git_dir=$(g_in "$1" rev-parse --absolute-git-dir) &&
	cp "$git_dir/index" "$git_dir/nsvm-index" &&
	GIT_INDEX_FILE=$git_dir/nsvm-index g_in "$1" add -A &&
	GIT_INDEX_FILE=$git_dir/nsvm-index g_in "$1" write-tree
}

is_clean()
{
	[ -z "$(g status --porcelain)" ]
}

# ---- tests ----

# Tests of the base that have nothing to do with PAT and must not notice it
neighbours="svm_vmcall_test svm_nested_shutdown_test svm_nested_soft_inject_test
svm_int_ctl_test nested_exceptions_test hyperv_svm_test state_test smm_test
set_sregs_test triple_fault_event_test"

# Does the base have gPAT, and a svm_nested_pat_test, already? BASE says so. Then
# that test, as the series changes it in the tree, is the PAT test, those of the
# overlay are not used, and the series is no port of the first base's.
own_pat_test()
{
	[ "$(base_key tests)" = own ]
}

# The base whose selftests run on this one: its own, or with "tests: <base>" those
# of a newer kernel, as stable kernels are tested.  The series then adds no test.
tests_base()
{
	case $(base_key tests) in
	''|own) echo "$NSVM_BASE";;
	*) base_key tests;;
	esac
}

# series_files: those files of the overlay that the series adds
series_files()
{
	[ -z "$(base_key tests)" ] || return 0
	for f in svm_nested_pat.h svm_nested_pat_test.c; do
		[ ! -f "$overlay/$f" ] || echo "$overlay/$f"
	done
}

pat_tests()
{
	! own_pat_test || { echo svm_nested_pat_test; return; }
	for f in "$overlay"/svm_nested_pat_test.c "$overlay"/svm_nested_pat_*_test.c; do
		[ ! -f "$f" ] || basename "$f" .c
	done
}

# What make run runs
wanted_tests()
{
	if [ "$NSVM_TESTS" = all ]; then
		pat_tests
	else
		echo "$NSVM_TESTS" | awk -F '[, ]+' '{ for (i = 1; i <= NF; i++) if ($i != "") print $i }'
	fi
}

# ---- the way to the list ----

# Who sends: the user's own git identity, or nothing and a reason in $no_sender
no_sender="git knows no name and address of yours: git config --global user.name '...', and user.email"
sender()
{
	who=$(git -C "$top" -c user.useConfigOnly=true var GIT_COMMITTER_IDENT 2>/dev/null) || return 1
	echo "${who%>*}>"
}

# Written by make test when everything passed, "<key> <value>" a line: content,
# summary
tested=$results/tested

# Names what make test tests: base, series and overlay. Not the cover letter.
content_id()
{
	{
		base_commit
		"$lib/tree" id
		cat "$overlay"/*.[ch]
	} | sha256sum | cut -c 1-16
}

tested_is_this()
{
	[ -f "$tested" ] && [ "$(sed -n 's/^content //p' "$tested")" = "$(content_id)" ]
}
