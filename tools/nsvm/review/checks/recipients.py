# SPDX-License-Identifier: GPL-2.0
# The mails: get_maintainer.pl: recipients (each, fast)
# depends: MAINTAINERS
import re

from lib import jobs
from lib.base import read
from lib.say import Fatal
from lib.settings import place


def check(series, n: int) -> str:
    """By the tree's list of maintainers and by ours"""
    series.sh('at "$last"')
    ours = place.top / 'MAINTAINERS'
    argv = ['scripts/get_maintainer.pl', '--nogit', '--nogit-fallback', '--roles', series.patch(n),
            '--mpath']
    addresses = ''.join(
        jobs.together(*(lambda m=m: jobs.output([*argv, m], cwd=series.tree) for m in ('.', ours))))
    print(addresses)
    if not re.search(r'^kvm@vger.kernel.org ', addresses, re.M):
        raise Fatal('not for kvm@vger.kernel.org')
    if not re.search(r'\((supporter|maintainer):KERNEL VIRTUAL MACHINE', addresses):
        raise Fatal('no maintainer of KVM gets it')
    sections = re.findall(r'^(.+)\nM:\t', read(ours), re.M)
    if series.message(n, '%s').startswith('KVM: selftests: ') and not any(s in addresses
                                                                          for s in sections):
        raise Fatal('MAINTAINERS does not know it')
    return 'all for kvm@vger.kernel.org and a maintainer of KVM'
