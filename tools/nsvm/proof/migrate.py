# SPDX-License-Identifier: GPL-2.0
"""migrate [run] - carry checkpoints between stock kernel, series and mainline

migrate run    save VMs on each kernel, restore them on each, and check that L1 and L2 have the PATs
               of the table proof/migrations.  Without mainline, its rows and columns are a SKIP
migrate table  print L2's PAT for each pair, as in the design page

On a base whose series adds the quirk, "series" is the series before it.  The kernel with the quirk
counts twice: "shared" is its default; for "asked", the VMM disabled the quirk.

Mainline is the base of patches/ that already has gPAT, without its series.  Each VMRUN is
watched: on every kernel, the PAT that a guest reads must be the one that the CPU runs it with.

Results: migrate.ktap; migrate.txt, the table of what was seen; migrate-{save,restore}-*.log.
Exit status: 0 all as in the table, 1 not.
"""
import itertools
import re
import shutil
import textwrap
from typing import Iterable, Iterator, NamedTuple, Sequence

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, lines, put
from lib.kind import is_opt_in, mainline
from lib.say import Fatal, Ticker, elapsed, say
from lib.settings import place, rel, settings
from machine import boot as machine
from machine.boot import Boot
from proof import run
from proof.model import watched
from source import tree as source_tree
from source.debian import NOT_HERE

PROGRAM = 'svm_nested_pat_migrate'
RULES = place.lab / 'proof/migrations'
ORDERS = ('msrs-first', 'msrs-last')
# kernel -> the PATs of its guests.  Two are one with the quirk and without it: shared and asked, of
# the series that adds it; on and off, of mainline
PATS = {'stock': 'shared', 'series': 'separate', 'shared': 'shared', 'asked': 'unquirked',
        'on': 'shared', 'off': 'unquirked'}
ALWAYS_ON = ('stock', 'series', 'on', 'off')		# without the series that adds it
SAVERS = {'stock': ['stock'], 'series': ['series'], 'optin': ['shared', 'asked'],
          'mainline': ['on', 'off']}
STATES = {
    'l2': 'inside L2',
    'l2-known': 'inside L2, and the VMM knows of the header vmcb_pa only',
    'l2-qemu': 'the same, after L2 was left and run again: QEMU',
    'l2-gpat': 'inside L2, and the VMM knows of the header vmcb_pa and gpat only',
    'l2-again': 'inside L2, restored on the series, and saved again before it ran',
    'l2-no-npt': 'inside L2, without nested NPT',
    'l1': 'in L1 after L2 ran; L2 is run anew',
    'smm': 'in SMM over L2; RSM resumes L2',
    'smm-gif': 'in SMM over L2, and the VMM sets GIF in nested state',
}
LEGEND = '''\
hPAT    L1's IA32_PAT when it was saved
gPAT    what L2 had written to its own
vmcb12  what L1 had written to vmcb12.g_pat, and L2 did not have yet
0       all memory is uncacheable for L2
A,B     A until the next #VMEXIT, and B from the next VMRUN on
'''
# State, saver, restorer -> the four PATs of proof/migrations
Rules = dict[tuple[str, str, str], list[str]]


def read_rules(text: Iterable[str]) -> Rules:
    rules: Rules = {}
    for state, savers, restorers, *pats in map(str.split, text):
        for saver, restorer in itertools.product(savers.split(','), restorers.split(',')):
            if (state, saver, restorer) in rules or len(pats) != 4:
                raise Fatal(f'{rel(RULES)}: {state} from {saver} to {restorer} is there twice, or '
                            'is not four PATs')
            rules[state, saver, restorer] = pats
    for state, saver in {where[:2] for where in rules}:
        if not all((state, saver, k) in rules for k in PATS):
            raise Fatal(f'{rel(RULES)} does not have {state} from {saver} to each kernel')
    return rules


def checkpoints(rules: Rules, every: Sequence[str]) -> list[tuple[str, str]]:
    """Return (state, saver) of all these kernels.  A VMM knows gpat where there is the quirk"""
    return [(state, saver) for saver in every for state in STATES
            if (state, saver, saver) in rules and (state != 'l2-gpat' or 'asked' in every)]


# ---- lists of jobs, see svm_nested_pat_migrate.c ----

def save_jobs(k: str) -> list[str]:
    return [f'{state}.{k} /tmp/keep/{k} {state} {PATS[k]}'
            for state in ('l2', 'l2-back', 'l2-no-npt', 'l1', 'smm')]


def again_jobs(savers: list[str]) -> Iterator[str]:
    """What the series itself saved is legacy state if the header is not whole"""
    for k in savers:
        where = f'/tmp/keep/{k}' if k == 'series' else f'/tests/{k}'
        header = 'known' if k in ('series', 'asked') else 'whole'
        for order in ORDERS:
            yield f'l2-again.{k}.{order} /tmp/keep/again again {where} l2.{k} {order} {header}'


def restore_jobs(rules: Rules, savers: Sequence[str], k: str) -> Iterator[str]:
    for state, saver in checkpoints(rules, savers):
        saved, header = {'l2-known': ('l2', 'known'), 'l2-gpat': ('l2', 'gpat'),
                         'l2-qemu': ('l2-back', 'known'),
                         'smm-gif': ('smm', 'gif')}.get(state, (state, 'whole'))
        sources = {'': f'/tests/{saver} {saved}.{saver}'}
        if state == 'l2-again':
            sources = {f'.saved-again-{first}': f'/tests/again {state}.{saver}.{first}'
                       for first in ORDERS}
        for order in ORDERS:
            for suffix, source in sources.items():
                yield ' '.join([f'{state}.{saver}.{k}.{order}{suffix}', source, order, header,
                                PATS[k], *rules[state, saver, k]])


def run_jobs(base: Base, kernel: Kernel, name: str, jobs_text: str, files: Iterable[str]) -> Boot:
    """Boot that kernel for save-KERNEL or restore-KERNEL; what is saved comes to build/<base>"""
    where = base.b / 'migrate'
    action, k = name.split('-')
    put(where / name, jobs_text)
    keep = where / f'{name}.tgz' if action == 'save' else None
    boot = machine.run(kernel, f'migrate-{name}', [f'{PROGRAM}:{action}:/tests/{name}'], base=base,
                       keep=keep, files=[where / f for f in (name, *files)],
                       test_timeout=settings.number('TIMEOUT'))
    if keep:
        for c in ktap.cases(boot.text()):
            if c.verdict != 'ok':
                raise Fatal(f'{k} does not save {c.name}: {c.verdict}, {c.reason} (log: '
                            f'{rel(boot.log)})')
        if jobs.call(['tar', '-xzf', keep, '-C', where]):
            raise Fatal(f'what {k} saved did not get out of the machine (log: {rel(boot.log)})')
    return boot


def boot_all(base: Base, kernel_of: dict[str, Kernel]) -> dict[str, Boot]:
    """Return name -> boot; kernel_of: stock, series, and perhaps optin and mainline"""
    rules, where = read_rules(lines(RULES)), base.b / 'migrate'
    every = [s for s in PATS if any(s in SAVERS[k] for k in kernel_of)]
    todo = {f'save-{k}': [job for s in SAVERS[k] for job in save_jobs(s)] for k in kernel_of}
    todo['save-series'] += again_jobs(every)
    todo |= {f'restore-{k}': [job for s in SAVERS[k] for job in restore_jobs(rules, every, s)]
             for k in kernel_of}

    def boot(name: str, files: Iterable[str]) -> Boot:
        return run_jobs(base, kernel_of[name.split('-')[1]], name,
                        ''.join(f'{job}\n' for job in todo[name]), files)

    def count(action: str) -> int:
        return sum(len(todo[f'{action}-{k}']) for k in kernel_of)

    shutil.rmtree(where, ignore_errors=True)
    with Ticker('MIGRATE', 'saving') as ticker:
        boots = dict(jobs.each(lambda name: boot(name, []),
                               [f'save-{k}' for k in kernel_of if k != 'series']))
        boots['save-series'] = boot('save-series', [k for k in every if k != 'series'])
    say('MIGRATE', f'{count("save")} checkpoints saved ({elapsed(ticker.start)})')
    with Ticker('MIGRATE', 'restoring') as ticker:
        boots |= jobs.each(lambda name: boot(name, [*every, 'again']),
                           [f'restore-{k}' for k in kernel_of])
    say('MIGRATE', f'{count("restore")} restores, each on another boot than saved '
        f'({elapsed(ticker.start)})')
    shutil.rmtree(where)
    return dict(sorted(boots.items()))


# ---- results ----

class Restore(NamedTuple):
    state: str
    saver: str
    restorer: str
    l2: str		# the PAT that L2 has, by who wrote it; refused; SKIP
    after: str	# the next #VMEXIT; - or the same: nothing to tell
    is_wrong: bool = False


def read_log(log: str) -> Iterator[Restore]:
    for part in re.split(r'^#\s+RUN\s+', log, flags=re.M)[1:]:
        saw = re.search(r'^# saw l2=(\S+)(?:.* next=(\S+))?', part, re.M) or ['', '?', '-']
        yield Restore(*part.split('.')[:3], saw[1], saw[2] or '-',
                      not re.search('^ok ', part, re.M))


def expected(every: Sequence[str] = ALWAYS_ON) -> Iterator[Restore]:
    """Yield the restores between these kernels, as the rules have them"""
    rules = read_rules(lines(RULES))
    for (state, saver), restorer in itertools.product(checkpoints(rules, every), every):
        pats = rules[state, saver, restorer]
        yield Restore(state, saver, restorer, pats[0], pats[3])


def matrix(restores: Iterable[Restore], every: Sequence[str] = ALWAYS_ON) -> str:
    """Return a table for people"""
    cells: dict[tuple[str, str, str], dict[str, None]] = {}
    for r in restores:
        shared = PATS[r.saver] == 'shared' or r.state == 'l2-no-npt'
        whose = {'L2': 'hPAT' if shared else 'gPAT', 'L1': 'L1' if shared else 'hPAT',
                 'g_pat': 'vmcb12'}
        pats = [r.l2] if r.after in ('-', r.l2) else [r.l2, r.after]
        text = ','.join(whose.get(pat, pat) for pat in pats) + '!' * r.is_wrong
        cells.setdefault(r[:3], {})[text] = None
    out = [LEGEND, f'{"saved by":<16}  restored by',
           ' ' * 16 + ''.join(f'  {k:<11}' for k in every).rstrip()]
    for state, title in STATES.items():
        rows = [(saver, ['/'.join(cells.get((state, saver, k), ())) for k in every])
                for saver in every]
        out += [title] * any(cell for _, row in rows for cell in row)
        out += [(f'  {saver:<14}' + ''.join(f'  {cell:<11}' for cell in row)).rstrip()
                for saver, row in rows if any(row)]
    return '\n'.join(out) + '\n'


def find_kernels(base: Base) -> tuple[dict[str, Kernel], str]:
    """Return the kernels by name, and why mainline is not among them"""
    kernel_of = {'stock': run.prepare(base)}
    if is_opt_in(base):
        kernel_of = {'stock': kernels.tree_kernel(base, base.root(), 'stock', 'kernel-root'),
                     'series': kernel_of['stock'], 'optin': kernels.series_kernel(base)}
    selftests.build(base, [PROGRAM])
    reason = ''
    try:
        kernel_of['mainline'] = kernels.stock_kernel(source_tree.make_base(mainline()))
    except Fatal as e:
        if e.status != NOT_HERE:
            raise
        reason = str(e)
    kernel_of.setdefault('series', kernels.series_kernel(base))
    return kernel_of, reason


def migrate(base: Base) -> int:
    if not base.series():
        raise Fatal(f'no series in {rel(base.dir)}: nothing to compare with')
    every = tuple(PATS) if is_opt_in(base) else ALWAYS_ON
    kernel_of, reason = find_kernels(base)
    for old in base.results.glob('migrate*'):
        old.unlink()
    boots = boot_all(base, kernel_of)
    restored = '\n'.join(boot.text() for name, boot in boots.items() if 'restore' in name)
    skipped = [r._replace(l2='SKIP', after='-') for r in expected(every) if reason
               and {'on', 'off'} & {r.saver, r.restorer}]
    text = matrix([*read_log(restored), *skipped], every)
    put(base.results / 'migrate.txt', text)
    print('\n' + textwrap.indent(text, '  '))

    report, cases = ktap.Report(base.results / 'migrate.ktap'), ktap.cases(restored)
    for state in dict.fromkeys(r.state for r in expected(every)):
        these = [c for c in cases if c.case.split('.')[0] == state]
        failures = [f'{c.case}: {c.reason}' for c in these if c.verdict != 'ok']
        if not these:
            report.item('skip', f'checkpoint {state}', 'from and to mainline only')
        elif failures:
            report.item(False, f'checkpoint {state}', f'{failures[0]} ({len(failures)} of these)')
        else:
            report.item(True, f'checkpoint {state}', f'{len(these)} restores, as they must')
    lost = [c for c in cases if c.verdict == 'not ok' and '.' not in c.case]
    if lost and not report.count('not ok'):
        report.item(False, 'checkpoints', f'{lost[0].name}: {lost[0].reason}')
    for name in boots:
        watched(report, f'VMRUNs of migrate-{name}', run.view_of(base, f'migrate-{name}'))
    if reason:
        report.item('skip', 'checkpoints of and for mainline', reason)
    good = report.close()
    say('MIGRATE',
        f'{"" if good else "NOT "}as {rel(RULES)} says; results: {rel(base.results)}/migrate.txt')
    return 0 if good else 1


def main(args: list[str]) -> int:
    if args == ['table']:
        every = tuple(PATS) if is_opt_in(Base()) else ALWAYS_ON
        print(matrix(expected(every), every), end='')
        return 0
    if args not in ([], ['run']):
        raise Fatal('usage: migrate run | table')
    return migrate(Base())
