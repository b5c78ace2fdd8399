# SPDX-License-Identifier: GPL-2.0
"""fuzz run TIME [SEED] - hostile input and races, on the debug kernel

fuzz run TIME [SEED]    the PAT tests, TIME seconds of svm_nested_pat_fuzz, and a sixth of that of
                        svm_nested_pat_race on two CPUs
fuzz replay SEED STEPS  repeat one round of the fuzzer, and print each call

SEED is that of the first round, by default the time of day.  STEPS are those of the round.  The
line of a failure has both.  The kernel is that of DEBUG_KERNEL in Kconfig: KASAN, UBSAN, lockdep,
kmemleak and more.  A last argument "plain" uses the kernel of make run: ten times as fast, but
without these checks.  Mainline gets the tests of the default base, and no race: with its quirk
enabled, it does not read g_pat.  One machine fuzzes while another one runs the tests.  The race
runs alone on the host.

Results: fuzz.ktap, fuzz*.log, fuzz*.console; those of a failure are kept as failed-SEED.log
and .console.  Exit status: 0 if nothing was found, else 1.
"""
import re
import shutil
import time
from dataclasses import dataclass
from typing import Callable

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, read
from lib.kind import default_name, has_gpat
from lib.say import Fatal, Ticker, begun, elapsed, say
from lib.settings import rel, settings
from machine import boot as machine
from proof import run
from proof.model import watched
from source import tree as source_tree

FUZZ, RACE = 'svm_nested_pat_fuzz', 'svm_nested_pat_race'
PROGRESS = 500		# steps between two lines of progress


def tests_of(base: Base) -> Base:
    """Whose tree has what the fuzzer is built from"""
    return Base(default_name()) if has_gpat(base) else base


@dataclass
class Job:
    """A boot that has ended: its log, and why it is none that was good"""
    base: Base
    label: str
    log: str
    why: str

    def failure(self) -> str:
        """Why, and how to see it again"""
        results = self.base.results
        at = re.findall(r'^# nsvm: fuzz.* seed=(\d+) step=(\d+) ', self.log, re.M)
        if not at:
            return f'{self.why} (log: {rel(results)}/{self.label}.log)'
        seed, step = at[-1][0], int(at[-1][1])
        if '# nsvm: fuzz failed' not in self.log:
            step += PROGRESS
        for kind in ('log', 'console'):
            shutil.copy(results / f'{self.label}.{kind}', results / f'failed-{seed}.{kind}')
        return (f'{self.why}; again: make fuzz SEED={seed} STEPS={step} '
                f'(log: {rel(results)}/failed-{seed}.log)')


def start(base: Base, kernel: Kernel, label: str, limit: int, tests: list[str], **more) -> Job:
    """Boot the kernel with these tests.

    Args:
        limit: of the tests, in seconds.  It is wide: what is slow is the machine.
    """
    why = ''
    try:
        own = tests_of(base).b / 'selftests' if tests[0].startswith(FUZZ) else None
        machine.run(kernel, label, tests, base=base, timeout=limit + 60, test_timeout=limit,
                    tests_dir=own, **more)
    except Fatal as e:
        why = str(e).removeprefix(f'{label}: ').partition(' (console: ')[0]
    log = read(base.results / f'{label}.log')
    failures = [f'{c.name}: {c.verdict} {c.reason}' for c in ktap.cases(log) if c.verdict != 'ok']
    return Job(base, label, log, why or ''.join(failures[:1]))


def figures(log: str) -> str:
    """As the program names them"""
    return ', '.join(re.findall(r'^# (?:nsvm: (?:fuzz done|race) )?((?:leaks: |seeds=|ran=).*)',
                                log, re.M))


def fuzz(base: Base, kernel: Kernel, kind: str, seconds: int, seed: int) -> int:
    tests, race_time = selftests.pat_tests(base), seconds // 6 + 1
    report = ktap.Report(base.results / 'fuzz.ktap')

    def judge(name: str, job: Job, describe: Callable[[str], str]) -> bool:
        return report.item(not job.why, name, job.failure() if job.why else describe(job.log))

    say('FUZZ', f'{seconds} s of seed {seed}, {kind}')
    with Ticker('FUZZ', 'fuzzing'):
        hostile, passed = jobs.together(
            lambda: start(base, kernel, 'fuzz', seconds + 400, [f'{FUZZ}:{seed}:{seconds}'],
                          view=False),
            lambda: start(base, kernel, 'fuzz-suite', 600, tests, view=False))
        race = None if has_gpat(base) else start(base, kernel, 'fuzz-race', race_time * 10 + 240,
                                                  [f'{RACE}:{race_time}'], smp=2)
    judge('KVM_SET_NESTED_STATE, hostile', hostile, figures)
    judge(f'PAT tests, {kind}', passed,
          lambda log: f'{sum(c.case != "" for c in ktap.cases(log))} cases')
    if race and judge('VMRUN against a changing g_pat', race, figures):
        watched(report, 'VMRUNs of the race', run.view_of(base, 'fuzz-race'))
    print(f'  {elapsed(begun)} in all; results: {rel(report.path)}')
    return 0 if report.close() else 1


def main(args: list[str]) -> int:
    given = settings.given
    if not args and given.get('STEPS'):
        args = ['replay', given.get('SEED', ''), given['STEPS']]
    elif not args:
        args = ['run', given.get('TIME', '60'), *given.get('SEED', '').split()]
    plain = args[-1:] == ['plain']
    action, *words = (args[:-1] if plain else args) or ['']
    if any(not word.isdigit() for word in words) or (action, len(words)) not in (
            ('run', 1), ('run', 2), ('replay', 2)):
        raise Fatal(
            'usage: fuzz run TIME [SEED] [plain] | fuzz replay SEED STEPS [plain], all numbers')
    first, second = int(words[0]), int(words[1]) if words[1:] else int(time.time())
    if action == 'run' and not first:
        raise Fatal('TIME=0: how many seconds?')
    base = Base()
    run.prepare(base)
    kernel = kernels.fixed_kernel(base, debug=not plain)
    if has_gpat(base):
        source_tree.make(tests_of(base))
    selftests.build(tests_of(base), [FUZZ, RACE])
    if action == 'run':
        return fuzz(base, kernel, 'plain kernel' if plain else 'debug kernel', first, second)
    job = start(base, kernel, 'replay', 600, [f'{FUZZ}:{first}:0:{second}'], view=False)
    print(re.sub('^# nsvm: (?!fuzz).*\n', '', job.log, flags=re.M))
    print(job.why or f'  Seed {first}: nothing found in {second} steps')
    return 1 if job.why else 0
