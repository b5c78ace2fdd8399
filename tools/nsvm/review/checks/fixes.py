# SPDX-License-Identifier: GPL-2.0
# The mails: Fixes: tags (each, fast)
import re

from lib.say import Fatal


def check(series, n: int) -> str:
    """12 digits, the subject in quotes; where there is history, the commit is looked up"""
    tags = re.findall(r'^ *fixes.*', series.message(n, '%b'), re.M | re.I)
    selftest = series.message(n, '%s').startswith('KVM: selftests: ')
    if not tags and not selftest and re.search(
            'stable', series.patch(n).read_text().partition('\n---\n')[0], re.I):
        raise Fatal('for stable, and no Fixes:')
    unknown = False
    for tag in tags:
        m = re.fullmatch(r'Fixes: ([0-9a-f]{12}) \("([^"]+)"\)', tag)
        if not m:
            raise Fatal(f'not Fixes: <12 digits> ("subject"): {tag}')
        subject = series.git('log', '-1', '--format=%s', m[1], '--', check=False)
        if subject and subject != m[2]:
            raise Fatal(f'{m[1]} is "{subject}"')
        unknown |= not subject
    return 'well formed; no history here to look the commits up' if unknown else ''
