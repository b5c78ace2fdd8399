# SPDX-License-Identifier: GPL-2.0
# The mails: subject: prefix, capital, length; Fixes: (each, fast)
import re

from lib.say import Fatal


def check(series, n: int) -> str:
    """What checkpatch.pl does not look at, or only where it has history"""
    subject = series.message(n, '%s')
    files = series.git('diff', '--name-only', *series.commits[n - 1:n + 1])
    prefix = 'KVM: selftests: '
    if re.search('^arch/x86/kvm/mmu/', files, re.M):
        prefix = 'KVM: x86/mmu: '
    elif re.search('^(arch/x86/(kvm/svm|include/uapi)|Documentation/virt/kvm)/', files, re.M):
        prefix = 'KVM: x86: nSVM: '
    if not re.match(f'{prefix}(nSVM: )?[A-Z]', subject):
        raise Fatal(f'does not begin with "{prefix}" and a capital: {subject}')
    if subject.endswith('.') or len(subject) > 78:
        raise Fatal(f'has a full stop, or more than 78 columns: {subject}')
    for tag in re.findall(r'^ *fixes.*', series.message(n, '%b'), re.M | re.I):
        m = re.fullmatch(r'Fixes: ([0-9a-f]{12}) \("([^"]+)"\)', tag)
        if not m:
            raise Fatal(f'not Fixes: <12 digits> ("subject"): {tag}')
        known = series.git('log', '-1', '--format=%s', m[1], '--', check=False)
        if known not in ('', m[2]):
            raise Fatal(f'{m[1]} is "{known}"')
    return ''
