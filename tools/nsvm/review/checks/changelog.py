# SPDX-License-Identifier: GPL-2.0
# The mails: changelog: lines of at most 75 (each, fast)
import re

from lib.say import Fatal

# Trailers must not be broken, nor a word
FREE = re.compile(r'(Fixes|Link|Closes|Reported-by|Suggested-by|Cc|Co-developed-by): .*|\s*\S+')


def check(series, n: int) -> str:
    text = [line for line in series.message(n, '%b').splitlines() if not FREE.fullmatch(line)]
    for line in text:
        # A quoted line may be as long as it was
        if len(line) > 75 and not line.startswith('    '):
            raise Fatal(f'{len(line)} columns: {line}')
    if sum(bool(line.strip()) for line in text) < 2:
        raise Fatal('no changelog to speak of')
    return ''
