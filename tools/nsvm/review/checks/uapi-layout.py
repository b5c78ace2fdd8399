# SPDX-License-Identifier: GPL-2.0
# User-space ABI: structs and macros of linux/kvm.h (pahole) (whole, fast)
import re

from lib import jobs
from lib.base import lines
from lib.say import Fatal
from lib.settings import rel

MEMBER = re.compile(r'(.*?)/\* +([0-9:]+) +([0-9]+)( |\*)')
INCLUDE = '#include <linux/kvm.h>\n'


def layout(pahole: str) -> dict[tuple, str]:
    """Return what must be the same -> "struct member offset size".  A member of a nested struct has
    the offset from the beginning; the nested struct grows with its last member, whose line says so
    """
    members, struct = {}, ''
    for line in pahole.splitlines():
        if begin := re.match(r'(?:struct|union) ([a-z_0-9]+) \{', line):
            struct = begin[1]
        elif (m := MEMBER.match(line)) and not line.startswith('}'):
            declaration = ' '.join(m[1].split())
            size = '' if declaration.startswith('}') else m[3]
            name = declaration.split(';')[0].split()[-1]
            members[struct, declaration, m[2], size] = f'{struct} {name} {m[2]} {m[3]}'
        elif m := re.search(r'/\* size: ([0-9]+)', line):
            members[struct, 'size', m[1]] = f'{struct} size 0 {m[1]}'
    return members


def structs_and_macros(series, name: str) -> dict[tuple, str]:
    """Of the installed headers of base or series; what must be the same -> how uapi lists it"""
    gcc, obj = ['gcc', '-x', 'c', '-nostdinc'], series.work / f'layout-{name}.o'
    for directory in (jobs.output(['gcc', '-print-file-name=include']).strip(),
                      series.work / f'headers/{name}/include'):
        gcc += ['-isystem', directory]
    jobs.output([*gcc, '-', '-g', '-fno-eliminate-unused-debug-types', '-c', '-o', obj],
                input=INCLUDE)
    structs = layout(jobs.output(['pahole', '--expand_types', '--show_private_classes', obj]))
    if len(structs) < 300:
        raise Fatal('pahole shows next to nothing')
    macros = jobs.output([*gcc, '-', '-E', '-dM'], input=INCLUDE)
    return structs | {(macro,): f'macro {macro}'
                      for macro in re.findall(r'^#define (.*)', macros, re.M)}


def check(series, n: int) -> str:
    """What differs between base and series is what patches/<base>/uapi lists, no more and no less:
    lines "<+ or -> <struct> <member, or size> <offset> <size>" and "<+ or -> macro <name> <value>"
    """
    series.sh('headers')
    before, after = (structs_and_macros(series, name) for name in ('base', 'series'))
    gone = [f'- {before[k]}' for k in before if k not in after]
    new = [f'+ {after[k]}' for k in after if k not in before]
    print('\n'.join(gone + new))
    listed = lines(series.base.dir / 'uapi')
    for line in gone + new:
        if line not in listed:
            raise Fatal(f'{line[2:]} is gone, or elsewhere' if line in gone else
                        f'new, and not intended: {line[2:]}')
    for line in listed:
        if line not in gone + new:
            raise Fatal(f'{rel(series.base.dir)}/uapi lists {line}, which is not so')
    return f'new is only what uapi lists: {len(listed)} lines' if listed else 'nothing is new'
