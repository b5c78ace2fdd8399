# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash disable=SC2154
#
# checkpatch as `test` and `check` call it. Sourced by them, never run.

# Not counted: Signed-off-by is missing, a human adds it; commit ids in Fixes:
# cannot be looked up, the tree has no history; a new file may be in no pattern
# of MAINTAINERS.

# checkpatch_all FILE..., or -f FILE...
checkpatch_all()
{
	checkpatch_but MISSING_SIGN_OFF, "$@"
}

# checkpatch_patch FILE: the same, but says that Signed-off-by is missing
checkpatch_patch()
{
	checkpatch_but '' "$@"
}

checkpatch_but()
{
	ignored=$1
	shift
	(cd "$src" && scripts/checkpatch.pl --strict --terse --no-summary --quiet --color=never \
		--ignore "${ignored}UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES" "$@")
}
