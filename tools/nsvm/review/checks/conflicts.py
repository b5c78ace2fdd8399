# SPDX-License-Identifier: GPL-2.0
# The mails: no leftovers of merges and rebases (each, fast)
import re

from lib.say import Fatal

LEFTOVERS = re.compile(
    r'^\s*#?\s*Conflicts:.*|^(<<<<<<<|>>>>>>>|\|\|\|\|\|\|\|) .*|^\(cherry picked from commit .*|'
    r'^# .*|^(fixup|squash|amend)! .*', re.M)


def check(series, n: int) -> str:
    """A "# Conflicts:" of git, a conflict marker, a comment of an editor's template"""
    leftover = LEFTOVERS.search(series.message(n, '%B'))
    if leftover:
        raise Fatal(f'leftover of git: {leftover[0].strip()}')
    return ''
