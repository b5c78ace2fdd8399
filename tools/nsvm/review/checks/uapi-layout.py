# SPDX-License-Identifier: GPL-2.0
# User-space ABI: structs and macros of linux/kvm.h (pahole) (whole, fast)
# depends: uapi
import re

from lib import jobs
from lib.base import lines
from lib.say import Fatal
from lib.settings import rel

PLACE = re.compile(r'(.*?)/\* +([0-9:]+) +([0-9]+)( |\*)')

INCLUDE = '#include <linux/kvm.h>\n'


def layout(pahole: str) -> dict[tuple, str]:
    """What must be the same -> "struct member offset size".  A member of a nested struct has the
    offset from the beginning; the nested struct grows with its last member, whose line says so"""
    structs = {}
    name = ''
    for line in pahole.splitlines():
        begin = re.match(r'(?:struct|union) ([a-z_0-9]+) \{', line)
        name = begin[1] if begin else name
        m = PLACE.match(line)
        size = re.search(r'/\* size: ([0-9]+)', line)
        if m and not begin and not line.startswith('}'):
            decl = ' '.join(m[1].split())
            ends = decl.startswith('}')
            structs[name, decl, m[2],
                    '' if ends else m[3]] = f'{name} {decl.split(";")[0].split()[-1]} {m[2]} {m[3]}'
        elif size:
            structs[name, 'size', size[1]] = f'{name} size 0 {size[1]}'
    return structs


def check(series, n: int) -> str:
    """What differs between base and series is what patches/<base>/uapi lists, no more and no less:
    lines "<+ or -> <struct> <member, or size> <offset> <size>" and "<+ or -> macro <name> <value>"
    """
    series.sh('headers')
    gcc = ['gcc', '-x', 'c', '-nostdinc', '-isystem',
           jobs.output(['gcc', '-print-file-name=include']).strip()]
    differences = []
    for which in ('base', 'series'):
        obj = series.work / f'layout-{which}.o'
        this = [*gcc, '-isystem', series.work / f'headers/{which}/include', '-']
        jobs.output([*this, '-g', '-fno-eliminate-unused-debug-types', '-c', '-o', obj],
                    input=INCLUDE)
        have = layout(jobs.output(['pahole', '--expand_types', '--show_private_classes', obj]))
        if len(have) < 300:
            raise Fatal('pahole shows next to nothing')
        macros = jobs.output([*this, '-E', '-dM'], input=INCLUDE)
        differences.append(have | {(m,): f'macro {m}'
                                   for m in re.findall(r'^#define (.*)', macros, re.M)})
    before, after = differences
    gone = [f'- {before[k]}' for k in before if k not in after]
    new = [f'+ {after[k]}' for k in after if k not in before]
    print('\n'.join(gone + new))
    listed = lines(series.base.dir / 'uapi')
    for line in gone + new:
        if line not in listed:
            raise Fatal(f'{line[2:]} is gone, or elsewhere' if line in
                        gone else f'new, and not intended: {line[2:]}')
    for line in listed:
        if line not in gone + new:
            raise Fatal(f'{rel(series.base.dir)}/uapi lists {line}, which is not so')
    counts = len({k[0] for k in before if len(k) > 1}), sum(len(k) == 1 for k in before)
    return '%d structs, %d macros; ' % counts + ('new is only what uapi lists'
                                                 if listed else 'nothing is new')
