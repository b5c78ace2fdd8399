# SPDX-License-Identifier: GPL-2.0
"""mutants [all] - break the series on purpose; do the tests and the VMRUN view notice?

mutants all        each small change that mutate.py knows, one at a time
mutants sample N   N of them, always the same: those that only the view can find, the others
                   spread evenly
mutants NAME...    these, even if their result is known; the build is kept
mutants list       name, line, change and statement of each

A mutant is built and booted with npt=1, and with npt=0 if it survives.  It is killed by the first
PAT test that fails, by an error that the view finds, or by a kernel that hangs, panics or
complains.  The test that killed it the last time, or a mutant near it, runs first.  A mutant that
does not build counts as neither.  patches/<base>/equivalent lists mutants that nothing can tell
from the series, as "<name> <reason>".  A line there that names no mutant, or a killed one, is an
error.

Results are kept in build/<base>/mutants.json until the series, a test or a tool changes.  An
interrupted run continues where it stopped.

Results: mutants.ktap; mutants.txt: each mutant and what killed it first.
Exit status: 0 if all were killed or are equivalent, else 1.
"""
import json
from collections import Counter
from dataclasses import asdict, dataclass

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, lines, put, read
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import place, rel
from machine import boot as machine
from proof import mutate, run
from proof.mutate import Mutant
from source import tree as source_tree

# Deleted, nothing but the view can tell
FOR_THE_VIEW = ('vmcb_mark_dirty(vmcb, VMCB_NPT);', 'vmcb_set_gpat(svm->nested.vmcb02.ptr, gpat);')
NOTHING = 'the series itself'


@dataclass
class Result:
    verdict: str	# killed, survived, unbuilt
    why: str = ''
    by: str = ''	# the test that killed it
    id: str = ''	# of all that this depends on


# ---- one mutant ----

def killer(base: Base, kernel: Kernel, label: str, npt: int, tests: list[str]) -> Result | None:
    """What kills it, if anything does"""
    try:
        boot = machine.run(kernel, label, tests, base=base, npt=npt, until_failure=True)
    except machine.Misbehaved as e:
        return Result('killed', str(e).removeprefix(f'{label}: ').partition(' (console: ')[0])
    for c in ktap.cases(boot.text()):
        if c.verdict == 'not ok':
            return Result('killed', c.name + ('' if npt else ', npt=0'), c.test)
    seen = run.view_of(base, label)
    if seen and not seen.ok:
        return Result('killed', f'the view: {seen.text().partition(": ")[2].splitlines()[0]}')
    return None


def judge(base: Base, mutant: Mutant, worker: int, tests: list[str]) -> Result:
    label = f'mutant{worker}'
    try:
        kernel = kernels.tree_kernel(base, mutate.tree(base, mutant, worker), f'-{label}', label,
                                     werror=False)
    except Fatal as e:
        why = str(e).partition(' does not build: ')[2].partition(' (log: ')[0]
        if not why or 'No space left' in why:
            raise
        return Result('unbuilt', rel(why))
    return killer(base, kernel, label, 1, tests) or killer(base, kernel, label, 0,
                                                           tests) or Result('survived')


def in_order(mutant: Mutant, tests: list[str], every: list[Mutant],
             past: dict[str, Result]) -> list[str]:
    """The tests, first the one that killed this mutant, or the one nearest to it, in the past."""
    killers = [(abs(m.first - mutant.first), past[m.name].by) for m in every
               if m.file == mutant.file and m.name in past and past[m.name].by in tests]
    likely = min(killers, default=(0, ''))[1]
    return sorted(tests, key=lambda test: test != likely)


# ---- all that are wanted ----

def depends_on(base: Base, kernel: Kernel) -> str:
    """Names all that a verdict does"""
    tests = [base.b / 'selftests' / t for t in selftests.pat_tests(base)]
    return machine.result_id(kernel, tests,
                             *(place.lab / 'proof' / f for f in ('mutants.py', 'mutate.py')))


def judge_unknown(base: Base, wanted: list[Mutant], every: list[Mutant],
                  again: bool) -> dict[str, Result]:
    """Judge what is not known of these, or all of them again.

    Returns:
        name -> result, of all that were ever judged.

    Raises:
        Fatal: the series itself is killed, and thus all would be.
    """
    kernel, file = kernels.series_kernel(base), base.b / 'mutants.json'
    tests, key = selftests.pat_tests(base), depends_on(base, kernel)
    past = {name: Result(**r) for name, r in json.loads(read(file) or '{}').items()}
    todo = [m for m in wanted if again or m.name not in past or past[m.name].id != key]
    free, count = list(range(jobs.workers())), 0

    def keep(name: str, result: Result) -> None:
        result.id = key
        past[name] = result
        put(file, json.dumps({name: asdict(r) for name, r in past.items()}, indent=0))

    def one(mutant: Mutant) -> Result:
        worker = free.pop()
        try:
            return judge(base, mutant, worker, in_order(mutant, tests, every, past))
        finally:
            free.append(worker)

    if todo:
        say('MUTANTS', f'{len(wanted)} of {len(every)}, {len(todo)} to be judged')
        with Ticker('MUTANTS', lambda: f'{count} of {len(todo)}') as ticker:
            if NOTHING not in past or past[NOTHING].id != key:
                failure = killer(base, kernel, 'mutant', 1, tests)
                if failure:
                    raise Fatal(f'{NOTHING} is killed by {failure.why}')
                keep(NOTHING, Result('survived'))
            for mutant, result in jobs.each(one, todo):
                count += 1
                keep(mutant.name, result)
        say('MUTANTS', f'{count} judged ({elapsed(ticker.start)})')
    return past


def report(base: Base, wanted: list[Mutant], known: dict[str, Result], names: set[str],
           title: str) -> bool:
    """Print and keep what is known of these mutants.

    Args:
        names: of all mutants that there are.
        title: the name of the one item for make test.

    Returns:
        Whether none survives without a reason, and no reason is stale.
    """
    reasons = dict(line.split(None, 1) for line in lines(base.dir / 'equivalent'))
    faults = [f'stale: {name} is listed as equivalent and is no mutant' for name in reasons
              if name not in names]
    total: Counter[str] = Counter()
    texts: list[str] = []
    for m in wanted:
        verdict, why = known[m.name].verdict, known[m.name].why
        text = f'{m.name} line {m.first}, {m.change}: {m.code}'
        if verdict == 'killed':
            if m.name in reasons:
                faults.append(f'stale: {m.name} is listed as equivalent and was killed by {why}')
            why = f'by {why}'
        elif verdict == 'survived' and m.name in reasons:
            verdict, why = 'equivalent', reasons[m.name]
        elif verdict == 'survived':
            faults.append(f'survived {text}')
        total[verdict] += 1
        texts.append(f'{verdict:<10} {text}' + (f'\n           {why}' if why else ''))
        if verdict != 'killed':
            print(f'  {texts[-1]}')
    put(base.results / 'mutants.txt', ''.join(f'{text}\n' for text in texts))
    print(f'  Each mutant and what was the first to kill it: {rel(base.results)}/mutants.txt')
    others = [f'{total[v]} {v}' for v in ('equivalent', 'unbuilt') if total[v]]
    result = ktap.Report(base.results / 'mutants.ktap')
    result.item(not faults, title,
                ', '.join([f'{total["killed"]} of {len(wanted)}', *others, *faults]))
    return result.close()


def sample(every: list[Mutant], count: int) -> list[Mutant]:
    """Always the same: those that only the view can find, the others spread evenly."""
    chosen = [m for m in every if m.change == 'deleted' and m.code in FOR_THE_VIEW]
    others = count - len(chosen)
    chosen += [every[i * len(every) // others] for i in range(others)]
    return [m for m in every if m in chosen]


def main(args: list[str]) -> int:
    base, prepare = Base(), source_tree.make if args == ['list'] else run.prepare
    prepare(base)
    if not base.is_clean():
        raise Fatal(f'{rel(base.src)} has edits that are in no commit: commit them first')
    every = mutate.mutants(base.src, base.commit(), '|'.join(lines(base.dir / 'mutate')))
    if not every:
        raise Fatal('the series changes nothing in arch/x86/kvm')
    wanted, name, named = every, 'each mutant is killed', False
    if args == ['list']:
        print('\n'.join(f'{m.name}\t{m.first}\t{m.change}\t{m.code}' for m in every))
        return 0
    if args[:1] == ['sample'] and len(args) == 2 and args[1].isdigit():
        wanted, name = sample(every, int(args[1])), 'a sample of mutants is killed'
    elif args not in ([], ['all']):
        wanted, name, named = [m for m in every if m.name in args], 'these mutants are killed', True
        if len(wanted) != len({*args}):
            raise Fatal(f'no mutant {" ".join({*args} - {m.name for m in wanted})} (mutants list)')
    good = report(base, wanted, judge_unknown(base, wanted, every, again=named),
                  {m.name for m in every}, name)
    if named:
        print(f'  kernel: {rel(base.b)}/mutant0, its sources and objects: '
              f'{rel(base.b)}/module-mutant0')
    return 0 if good else 1
