# SPDX-License-Identifier: GPL-2.0
"""view [CASE|list] - what happened in a case of the last make run, at each VMRUN

Prints what happened in CASE, on the stock kernel and on the series, and draws it:
results/view.svg.  CASE is the name of a test or of a case, or the part of a case's name after the
dot.  list prints all names.  The data are the logs of the plugin vmrun.c.
"""
from pathlib import Path

from lib import svg
from lib.base import Base, put
from lib.say import Fatal
from lib.settings import place, rel
from proof import story

DEFAULT = 'npt_on.l2_write_is_saved_at_vmexit'


def stories(log: Path, case: str) -> list[story.Story]:
    if not log.exists():
        raise Fatal(f'no {rel(log)}: make run first')
    with open(log, errors='replace') as f:
        return story.stories(f, case)


def told(base: Base, case: str) -> tuple[str, str]:
    """Story and picture; the latter is '' if that is too long, or nothing happened"""
    tests = base.src / 'tools/testing/selftests/kvm/x86' if base.own_test() else place.overlay
    names: svg.Names = {}
    panels, out = {}, []
    for kernel, title in ('stock', base.name), ('series', 'with the series'):
        log = base.results / f'{kernel}.vmrun'
        told = stories(log, case)
        if not told:
            raise Fatal(f'no case {case} in {rel(log)}: make view CASE=list')
        names |= story.pat_names(''.join(story.sources(tests / f'{s.test}.c') for s in told))
        out.append(f'{kernel}\n' + '\n\n'.join(story.text(s, names) for s in told))
        panels[title] = next((s for s in told if s.events), told[0])
    return '\n\n'.join(out), story.svg(panels, names)


def show(case: str) -> None:
    base = Base()
    if case == 'list':
        for s in stories(base.results / 'series.vmrun', ''):
            if s.vmruns:
                print(f'{s.vmruns:6} VMRUNs  {s.verdict:7} {s.test} {s.case}')
        return
    text, picture = told(base, case)
    print(f'\n{text}')
    if not picture:
        print('\n  no picture: too long, or nothing happened')
        return
    put(base.results / 'view.svg', picture)
    print(f'\n  as a picture: {rel(base.results / "view.svg")}')


def main(args: list[str]) -> int:
    if len(args) > 1:
        raise Fatal('usage: view [CASE|list]')
    show(args[0] if args else DEFAULT)
    return 0
