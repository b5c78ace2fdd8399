# SPDX-License-Identifier: GPL-2.0
"""model [run] - compare KVM with a model of the PATs in every short sequence of operations

model run              every sequence of 3 operations, every one of DEPTH= (5) from different
                       states, RANDOM= (600) random ones with SEED= (default: the time of day)
model test             the part of this that make test runs
                       If the series adds the quirk, both also run with the quirk enabled
model mainline         the same on mainline: the base of patches/ that already has gPAT, with its
                       quirk disabled.  Operations in its file "differences" must differ from the
                       model, all others must not
model mainline-series  the same with its series: a "defect" of that file must no longer differ
model seq SEQ          one sequence, such as run-a.write.smi.rsm.read

KVM and the model are compared after each step.  Machines with one CPU each share the work, and
each VMRUN is watched.  A difference is made as short as possible and printed in a form that
"model seq" takes.

Results: model.ktap, model-mainline.ktap, model-mainline-series.ktap; output: model*.log.
Exit status: 0 no difference; 1 a difference, or it could not be run.
"""
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from kernel import kernels, selftests
from lib import jobs, ktap
from lib.base import Base, lines, read
from lib.kind import is_opt_in, mainline
from lib.ktap import Report
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import rel, settings
from machine import boot as machine
from machine.boot import Boot
from proof import run, vmruns
from source import tree as source_tree

PROGRAM = 'svm_nested_pat_model'
# What differs only where L1 breaks the rule for clean bits, if a defect is repaired, and the
# operations with which it does
CLEAN_BITS = 'run-a-clean'
BREACH = {'run-a-off', 'run-a-off-bad', 'poke', 'poke-bad'}
# Longer than what is gone through, and wrong without the repair
REPAIRS = ('run-a.write.set-outside.run-a-clean.read',
           'run-b.save.vmmcall.run-a.load.vmmcall.run-a-clean.read')


def option(name: str, default: int) -> int:
    """NAME=NUMBER of the command line"""
    return settings.number(name) if name in settings.given else default


def one_cpu(kernel: kernels.Kernel, label: str, tests: list[str], base: Base, limit: int,
            **more) -> Boot:
    return machine.run(kernel, label, [f'{PROGRAM}:{t}' for t in tests], base=base, smp=1,
                       timeout=limit, test_timeout=limit, **more)


def watched(report: Report, name: str, check: vmruns.Check | None) -> None:
    verdict, detail = vmruns.verdict(check)
    report.item(verdict, name, detail)


def sums(log: str) -> dict[str, Counter[str]]:
    """Of "# NAME: N sequences, N steps, N differences, S s", all of a name taken together"""
    sums: dict[str, Counter[str]] = {}
    for name, *n in re.findall(r'^# (.*): (\d+) sequences, (\d+) steps, (\d+) differences', log,
                               re.M):
        sums.setdefault(name, Counter()).update(parts=1, sequences=int(n[0]), steps=int(n[1]),
                                                differ=int(n[2]))
    return sums


def show_differences(log: str) -> None:
    """What differs, the shortest sequence, how to see it again"""
    for block in re.findall(r'^# (differs.*(?:\n#.*){0,3})', log, re.M)[:10]:
        print('  ' + block.replace('\n#', '')[:400])


# ---- this KVM ----

def explore(base: Base, plan: list[str], limit: int, text: str) -> int:
    """Share the work among machines, and judge what they say together.

    Args:
        plan: arguments of the program, for each part.
        limit: of a machine, in seconds.
        text: what is done, for people.
    """
    kernel, shares = kernels.series_kernel(base), range(jobs.workers())
    report, begin = Report(base.results / 'model.ktap'), time.monotonic()
    checks = [vmruns.Check(f'model{i}') for i in shares]
    logs = [base.results / f'model{i}.log' for i in shares]
    for log in logs:
        log.unlink(missing_ok=True)

    def share(i: int) -> Boot:
        mine = [f'{arguments}:-w:{i}/{len(shares)}' for arguments in plan]
        return one_cpu(kernel, f'model{i}', mine, base, limit, live=checks[i].feed)

    say('MODEL', text)
    with Ticker('MODEL', lambda: f'{sum(read(log).count("# RUN ") for log in logs)} beginnings'):
        list(jobs.each(share, shares))
    log_text = '\n'.join(map(read, logs))
    results = sums(log_text)
    for name, n in results.items():
        good = n['parts'] == len(shares) and not n['differ']
        report.item(good, name, f'{n["sequences"]} sequences, {n["steps"]} steps')
    for check in checks:
        watched(report, 'VMRUNs in all of them', check if check.vmruns or check.end else None)
    reasons = [c.reason for c in ktap.cases(log_text) if c.verdict != 'ok']
    if reasons or len(results) != len(plan):
        report.item(False, 'KVM does what the model does', ''.join(reasons[:1])
                    or 'not all was run')
    show_differences(log_text)
    good = report.close()
    say('MODEL', f'KVM {"does what the model does" if good else "and the model differ"} '
        f'({elapsed(begin)}); logs: {rel(base.results)}/model*.log')
    return 0 if good else 1


# ---- another KVM ----

@dataclass
class Line:
    """Of the file differences: <operations, with dots> <rule> <whose>: <what and why>"""
    operations: set[str]
    rule: str
    text: str
    sequences: list[str] = field(default_factory=list)		# that it explains


def judge(known: list[Line], log: str, seen: vmruns.Check, repaired: bool) -> str:
    """What no line explains; a line that explains nothing; a repaired defect that is still there"""
    differences = [(sequence, False)
                   for sequence in re.findall(r'^# differs: .* in (\S+)', log, re.M)]
    differences += [(error.case.partition(' ')[2], True) for error in seen.errors]
    other: list[str] = []
    for sequence, in_vmcb in differences:
        explain = [line.sequences for line in known if ('in the VMCB only' in line.text) == in_vmcb
                   and line.operations & {*sequence.split('.')}]
        (explain or [other])[0].append(sequence)
    faults = [f'{len(other)} differences that no line explains, such as {min(other, key=len)}'
             ] if other else []
    for line in known:
        gone = repaired and line.text.startswith('defect')
        none = '(none: repaired)' if gone else '(none: the line is stale)'
        example = min(line.sequences, key=len, default=none)
        print(
            f'  {line.rule:<3} {len(line.sequences):5} times, such as {example}\n      {line.text}')
        if gone == bool(line.sequences):
            faults.append(f'{line.rule} {".".join(sorted(line.operations))}: '
                          f'{"still there" if gone else none}')
    return '; '.join(faults)


def compare(base: Base, repaired: bool) -> int:
    """Compare mainline with the model; repaired: with its series, which repairs defects."""
    other = mainline()
    quirk = other.need_key('quirk')
    if repaired:
        kernel = kernels.series_kernel(source_tree.make(other))
    else:
        kernel = kernels.stock_kernel(source_tree.make_base(other))
    words = [line.split(None, 2) for line in lines(other.dir / 'differences')]
    known = [Line(set(operations.split('.')), rule, text) for operations, rule, text in words]
    without = set().union(*(line.operations for line in known if not repaired
                            or not line.text.startswith('defect')))
    if repaired:
        without = without - {CLEAN_BITS} | BREACH
    name, theirs = 'mainline-series' if repaired else 'mainline', f'-t:-q:{quirk}'
    but = f'{theirs}:-e:{".".join(sorted(without))}'
    same = [f'-x:{seq}:{theirs}' for seq in (REPAIRS if repaired else ())]
    same += [f'-d:3:-m:{but}', f'-r:{option("RANDOM", 40)}:-s:{option("SEED", 1)}:{but}']
    report, begin = Report(base.results / f'model-{name}.ktap'), time.monotonic()
    say('MODEL', f'{name}, with and without what is known to differ')
    one, two = jobs.together(lambda: one_cpu(kernel, f'{name}-same', same, base, 600),
                             lambda: one_cpu(kernel, f'{name}-other', [f'-d:3:-m:-c:{theirs}'],
                                             base, 600))
    total = sum(sums(one.text()).values(), Counter())
    reasons = [c.reason for c in ktap.cases(one.text()) if c.verdict != 'ok']
    show_differences(one.text())
    report.item(not reasons, 'with its series, it does what the model does'
                if repaired else 'mainline, quirk disabled, does what the model does', reasons[0]
                if reasons else f'{total["sequences"]} sequences, {total["steps"]} steps')
    check_one, check_two = (run.view_of(base, f'{name}-{part}') for part in ('same', 'other'))
    if check_one and not check_one.ok:
        watched(report, 'VMRUNs of it', check_one)
    explained = 'where it does not, file differences says why'
    if check_two:
        faults = judge(known, two.text(), check_two, repaired)
        report.item(not faults, explained, faults or f'{len(known)} kinds')
    else:
        report.item('skip', explained, 'VMRUNs are not watched')
    say('MODEL', f'done ({elapsed(begin)}); logs: {rel(base.results)}/{name}-*.log')
    return 0 if report.close() else 1


def sequence(base: Base, seq: str) -> int:
    boot = one_cpu(kernels.series_kernel(base), 'model-seq', [f'-x:{seq}'], base, 60)
    print('\n'.join(re.findall(r'^# ((?!nsvm:).*)', boot.text(), re.M)))
    reasons = [c.reason for c in ktap.cases(boot.text()) if c.verdict != 'ok']
    check = run.view_of(base, 'model-seq')
    print('\n'.join([*reasons, *([check.text()] if check else [])]))
    return 0 if not reasons and (not check or check.ok) else 1


def main(args: list[str]) -> int:
    base, given = Base(), settings.given
    if not args and given.get('SEQ'):
        args = ['seq', given['SEQ']]
    args = args or [given.get('KVM') or 'run']
    if args not in (['run'], ['test'], ['mainline'], ['mainline-series']) and (
            len(args) != 2 or args[0] != 'seq'):
        raise Fatal('usage: model run|test|mainline|mainline-series | seq SEQ')
    run.prepare(base)
    selftests.build(base, [PROGRAM])
    if args[0] == 'seq':
        return sequence(base, args[1])
    if args[0].startswith('mainline'):
        return compare(base, args == ['mainline-series'])
    if args == ['test']:
        plan = ['-d:2', '-d:4:-m', f'-r:{option("RANDOM", 60)}:-s:{option("SEED", 1)}']
        plan += ['-d:3:-m:-k'] * is_opt_in(base)
        return explore(base, plan, 600,
                       'every sequence of 2 operations, of 4 from different states, random ones')
    depth, seed = option('DEPTH', 5), option('SEED', int(time.time()))
    small = min(depth, 3)
    plan = [f'-d:{small}', *([f'-d:{depth}:-m'] if depth > 3 else []),
            f'-r:{option("RANDOM", 600)}:-s:{seed}', *[f'-d:{small}:-k'] * is_opt_in(base)]
    return explore(base, plan, 3600, f'every sequence of {small} operations, of {depth} from '
                   f'different states, random ones of seed {seed}')
