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
import re
import shutil
from itertools import zip_longest
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

from kernel import kernels, selftests
from kernel.kernels import Kernel
from lib import jobs, ktap
from lib.base import Base, lines, put, read
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
# the series that
# adds it; on and off, of mainline
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
# What makes no difference if it is saved there: no header to lose, GIF is set
NO_HEADER = ('l2-known', 'l2-gpat', 'l2-qemu')
SAME = {'stock': (*NO_HEADER, 'smm-gif'), 'series': ('smm-gif',), 'shared': (*NO_HEADER, 'smm-gif'),
        'asked': ('smm-gif',), 'on': NO_HEADER, 'off': ()}
# Those in which it matters whether a VMM asked, for the design page
ASKED = ('l2', 'l2-known', 'l2-qemu', 'l2-gpat', 'l1')
LEGEND = '''\
hPAT    L1's IA32_PAT when it was saved
gPAT    what L2 had written to its own
vmcb12  what L1 had written to vmcb12.g_pat, and L2 did not have yet
0       all memory is uncacheable for L2
A,B     A until the next #VMEXIT, and B from the next VMRUN on
'''
Rule = Callable[[str, str, str], list[str]]


def parse_rules(text: Iterable[str]) -> Rule:
    """(state, saver, restorer) -> the four PATs that are to be expected, see proof/migrations"""
    rows = [line.split() for line in text]

    def rule(state: str, saver: str, restorer: str) -> list[str]:
        matches = [r[3:] for r in rows if r[0] == state and saver in r[1].split(',')
                   and restorer in r[2].split(',')]
        if len(matches) != 1 or len(matches[0]) != 4:
            raise Fatal(f'{rel(RULES)} has not one line for {state} from {saver} to {restorer}')
        return matches[0]
    return rule


def states(saver: str, every: Sequence[str]) -> list[str]:
    """What is saved there; every: all kernels.  A VMM knows gpat where there is the quirk"""
    return [state for state in STATES if state not in SAME[saver]
            and (state != 'l2-gpat' or 'asked' in every)]


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


def restore_jobs(rule: Rule, savers: list[str], k: str) -> Iterator[str]:
    for saver, state in ((saver, state) for saver in savers for state in states(saver, savers)):
        saved, header = {'l2-known': ('l2', 'known'), 'l2-gpat': ('l2', 'gpat'),
                         'l2-qemu': ('l2-back', 'known'),
                         'smm-gif': ('smm', 'gif')}.get(state, (state, 'whole'))
        for order in ORDERS:
            name, arguments = f'{state}.{saver}.{k}.{order}', ' '.join([order, header, PATS[k],
                                                                        *rule(state, saver, k)])
            if state != 'l2-again':
                yield f'{name} /tests/{saver} {saved}.{saver} {arguments}'
                continue
            for first in ORDERS:
                yield f'{name}.saved-again-{first} /tests/again {state}.{saver}.{first} {arguments}'


def boot_all(base: Base, of: dict[str, Kernel]) -> dict[str, Boot]:
    """name -> boot; of: base, series, and perhaps mainline"""
    rule, where = parse_rules(lines(RULES)), base.b / 'migrate'
    every = [s for s in PATS if any(s in SAVERS[k] for k in of)]
    todo = {f'save-{k}': [job for s in SAVERS[k] for job in save_jobs(s)] for k in of}
    todo['save-series'] += again_jobs(every)
    todo |= {f'restore-{k}': [job for s in SAVERS[k] for job in restore_jobs(rule, every, s)]
             for k in of}

    def boot(name: str, files: Iterable[str]) -> Boot:
        action, k = name.split('-')
        put(where / name, ''.join(f'{job}\n' for job in todo[name]))
        keep = where / f'{name}.tgz' if action == 'save' else None
        done = machine.run(of[k], f'migrate-{name}', [f'{PROGRAM}:{action}:/tests/{name}'],
                           base=base, keep=keep, files=[where / f for f in (name, *files)],
                           test_timeout=settings.number('TIMEOUT'))
        if keep:
            for c in ktap.cases(done.text()):
                if c.verdict != 'ok':
                    raise Fatal(f'{k} does not save {c.name}: {c.verdict}, {c.reason} (log: '
                                f'{rel(done.log)})')
            if jobs.call(['tar', '-xzf', keep, '-C', where]):
                raise Fatal(f'what {k} saved did not get out of the machine (log: {rel(done.log)})')
        return done

    shutil.rmtree(where, ignore_errors=True)
    with Ticker('MIGRATE', 'saving') as ticker:
        boots = dict(jobs.each(lambda name: boot(name, []),
                               [f'save-{k}' for k in of if k != 'series']))
        boots['save-series'] = boot('save-series', [k for k in every if k != 'series'])
    say('MIGRATE',
        f'{sum(len(todo[f"save-{k}"]) for k in of)} checkpoints saved ({elapsed(ticker.start)})')
    with Ticker('MIGRATE', 'restoring') as ticker:
        boots |= jobs.each(lambda name: boot(name, [*every, 'again']), [f'restore-{k}' for k in of])
    say('MIGRATE', f'{sum(len(todo[f"restore-{k}"]) for k in of)} restores, each on another boot '
        f'than saved ({elapsed(ticker.start)})')
    shutil.rmtree(where)
    return dict(sorted(boots.items()))


# ---- results ----

class Seen(NamedTuple):
    state: str
    saver: str
    restorer: str
    l2: str		# the PAT that L2 has, by who wrote it; refused; SKIP
    after: str	# the next #VMEXIT; - or the same: nothing to tell
    is_wrong: bool = False


def seen(log: str) -> Iterator[Seen]:
    """Of each restore"""
    for part in re.split(r'^#\s+RUN\s+', log, flags=re.M)[1:]:
        saw = re.search(r'^# saw l2=(\S+)(?:.* next=(\S+))?', part, re.M) or ['', '?', '-']
        yield Seen(*part.split('.')[:3], saw[1], saw[2] or '-', not re.search('^ok ', part, re.M))


def expected(every: Sequence[str] = ALWAYS_ON) -> Iterator[Seen]:
    """As the rules have it, between these kernels"""
    rule = parse_rules(lines(RULES))
    for where in ((state, s, r) for s in every for state in states(s, every) for r in every):
        want = rule(*where)
        yield Seen(*where, want[0], want[3])


def matrix(restores: Iterable[Seen], every: Sequence[str] = ALWAYS_ON) -> str:
    """For people"""
    cells: dict[tuple[str, str, str], dict[str, None]] = {}
    for s in restores:
        shared = PATS[s.saver] == 'shared' or s.state == 'l2-no-npt'
        whose = {'L2': 'hPAT' if shared else 'gPAT', 'L1': 'L1' if shared else 'hPAT',
                 'g_pat': 'vmcb12'}
        pats = [whose.get(pat, pat)
                for pat in ([s.l2] if s.after in ('-', s.l2) else [s.l2, s.after])]
        cells.setdefault(s[:3], {})[','.join(pats) + '!' * s.is_wrong] = None
    out = [LEGEND, f'{"saved by":<16}  restored by',
           ' ' * 16 + ''.join(f'  {k:<11}' for k in every).rstrip()]
    for state, title in STATES.items():
        rows = [(saver, ['/'.join(cells.get((state, saver, k), ())) for k in every])
                for saver in every]
        out += [title] * any(cell for _, row in rows for cell in row)
        out += [(f'  {saver:<14}' + ''.join(f'  {cell:<11}' for cell in row)).rstrip()
                for saver, row in rows if any(row)]
    return '\n'.join(out) + '\n'


def missing_in_docs() -> str:
    """The first line of the tables that the design page has not, or is not of them; or nothing"""
    page = read(place.top / 'Documentation/virt/kvm/x86/nested-svm-pat.rst')
    for section, every, shown in (('Checkpoints between kernels', ALWAYS_ON, tuple(STATES)),
                                  ('Always on, or on request', tuple(PATS), ASKED)):
        part = re.split(r'^.*\n=+$',
                        page.partition(f'\n{section}\n=')[2], 1, re.M)[0].rpartition('::\n')[2]
        has = [line[4:] for line in part.splitlines() if line.startswith('    ')]
        restores = (s for s in expected(every) if s.state in shown)
        wants = [line for line in matrix(restores, every).splitlines() if line]
        for want, line in zip_longest(wants, has):
            if want != line:
                return want or line
    return ''


def migrate(base: Base) -> int:
    if not base.series():
        raise Fatal(f'no series in {rel(base.dir)}: nothing to compare with')
    of, reason, every = {'stock': run.prepare(base)}, '', ALWAYS_ON
    if is_opt_in(base):
        every = tuple(PATS)
        of = {'stock': kernels.tree_kernel(base, base.root(), 'stock', 'kernel-root'),
              'series': of['stock'], 'optin': kernels.series_kernel(base)}
    selftests.build(base, [PROGRAM])
    try:
        of['mainline'] = kernels.stock_kernel(source_tree.make_base(mainline()))
    except Fatal as e:
        if e.status != NOT_HERE:
            raise
        reason = str(e)
    of.setdefault('series', kernels.series_kernel(base))
    for old in base.results.glob('migrate*'):
        old.unlink()
    boots = boot_all(base, of)
    restored = '\n'.join(boot.text() for name, boot in boots.items() if 'restore' in name)
    skipped = [s._replace(l2='SKIP', after='-') for s in expected(every) if reason
               and {'on', 'off'} & {*s[1:3]}]
    text = matrix([*seen(restored), *skipped], every)
    put(base.results / 'migrate.txt', text)
    print('\n' + re.sub('^(?=.)', '  ', text, flags=re.M))

    report, cases = ktap.Report(base.results / 'migrate.ktap'), ktap.cases(restored)
    for state in dict.fromkeys(state for saver in every for state in states(saver, every)):
        these = [c for c in cases if c.case.split('.')[0] == state]
        failures = [f'{c.case}: {c.reason}' for c in these if c.verdict != 'ok']
        detail = f'{len(these)} restores, as they must' if these else 'from and to mainline only'
        verdict = not failures if these else 'skip'
        report.item(verdict, f'checkpoint {state}',
                    f'{failures[0]} ({len(failures)} of these)' if failures else detail)
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
