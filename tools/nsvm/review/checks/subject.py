# SPDX-License-Identifier: GPL-2.0
# The mails: subject: prefix, capital, length (each, fast)
import re

from lib.say import Fatal


def check(series, n: int) -> str:
    s = series.message(n, '%s')
    files = series.git('diff', '--name-only', *series.commits[n - 1:n + 1])
    kernel = re.search('^(arch/x86/(kvm/svm|include/uapi)|Documentation/virt/kvm)/', files, re.M)
    prefix = 'KVM: x86: nSVM: ' if kernel else 'KVM: selftests: '
    if re.search('^arch/x86/kvm/mmu/', files, re.M):
        kernel, prefix = True, 'KVM: x86/mmu: '
    if not re.match(re.escape(prefix) + ('' if kernel else '(nSVM: )?') + '[A-Z]', s):
        raise Fatal(f'does not begin with "{prefix}" and a capital: {s}')
    if s.endswith('.'):
        raise Fatal(f'ends in a full stop: {s}')
    if len(s) > 78:
        raise Fatal(f'{len(s)} columns: {s}')
    return ''
