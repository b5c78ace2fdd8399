# SPDX-License-Identifier: GPL-2.0
"""check [all|fast|list|am|NAME...] - checks of maintainers and build robots

Checks patches/<base>, applied to the base by plain git am.  Edits in src don't count, except for
checks that boot a kernel.  Only arch/x86/kvm and what it needs, user-space headers, the series'
selftest and documents are built, in build/<base>/check.  fast: the checks that take 3 minutes at
most and need no complete source.  am: only apply the patches.  list: print the names.

Prints a line for each check: the verdict; the number of each patch that passes, x for one that
does not; a remark; on failure the log; the time.  results/check.ktap has the same as KTAP.

A check is a file checks/NAME (POSIX sh) or checks/NAME.py.  A comment at its top is
  GROUP: title (each|whole[, fast])   GROUP: first words of a heading in GROUPS; title: its name in
                 the table; each, whole: whether it checks each patch or the whole series
It runs in its own process.  sh: "NAME FILE"; FILE assigns the variables of write().  Exit status 0,
1 (failed) or 4 (skip); the last line "seen: TEXT" of its output is the remark.  Python:
check(series, n) returns the remark; n is the patch, or the last one.  It raises Fatal(remark) if it
fails, with status 3 for a skip.

Exit status: 0 if nothing failed, else 1.
"""
import importlib
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from kernel import kernels
from lib import jobs, ktap
from lib.base import Base, digest, git, git_ok, put, read
from lib.say import Fatal, Ticker, elapsed
from lib.settings import place, rel, settings
from source import apply as source_apply
from source import package
from source import tree as source_tree

GROUPS = ('The mails', 'Code', 'Configurations (arch/x86/kvm, gcc, W=1, KVM_WERROR)',
          'User-space ABI', 'The selftest', 'Documents')
CHECKS = Path(__file__).parent / 'checks'
SKIP, NOT_HERE = 4, 3	# exit status of a check, status of a Fatal


@dataclass
class Series:
    """The patches as they were applied"""
    base: Base
    tree: Path			# a git tree in which one or the other of them is checked out
    commits: list[str]		# the first one is the base

    @property
    def work(self) -> Path:
        return self.base.b / 'check'

    @property
    def n(self) -> int:
        return len(self.commits) - 1

    def git(self, *args: str, **more) -> str:
        return git(self.tree, *args, **more)

    def message(self, n: int, form: str) -> str:
        return self.git('log', '-1', f'--format={form}', self.commits[n])

    def patch(self, n: int) -> Path:
        # Those that were left out come first
        return self.base.dir / self.base.series()[n - 1 - self.n]

    def kernel(self) -> kernels.Kernel:
        """Return the kernel of src, with edits, if there are any"""
        if self.base.worktree() == self.base.git('rev-parse', 'base^{tree}'):
            source_tree.make_series(self.base)
        return kernels.series_kernel(self.base)

    def sh(self, script: str) -> None:
        """Run that with lib.sh, and end the check if it fails"""
        sys.stdout.flush()
        status = jobs.finish(
            jobs.start(['sh', '-euc', f'. "$0"\n{script}', CHECKS / 'lib.sh', self.work / 'this']))
        if status:
            raise SystemExit(SKIP if status == SKIP else 1)

    def write(self, n: int, before: int) -> Path:
        """Write for a check in sh: the repository, the tree to work in, commits of the base and of
        the series; a patch, its commit and the one before, or all of the series"""
        values = {'top': place.top, 'tree': self.tree, 'work': self.work, 'base': self.commits[0],
                  'last': self.commits[-1], 'before': self.commits[before],
                  'commit': self.commits[n], 'patch': self.patch(n) if n else ''}
        put(self.work / 'this', ''.join(f'{k}={shlex.quote(str(v))}\n' for k, v in values.items()))
        return self.work / 'this'


@dataclass
class Check:
    file: Path
    title: str
    group: int
    each: bool
    fast: bool

    @property
    def name(self) -> str:
        return self.file.stem

    def log(self, n: int, series: Series) -> Path:
        return series.base.logs / f'check-{self.name}{f"-{n}" * self.each}.log'


def read_checks() -> list[Check]:
    groups = [g.partition(' (')[0] for g in GROUPS]
    head = re.compile(rf'^# ({"|".join(groups)}): (.*) \((each|whole)(, fast)?\)$', re.M)
    checks = []
    for file in CHECKS.iterdir():
        if not file.is_file() or file.name[0] == '.' or file.name == 'lib.sh':
            continue
        m = head.search(read(file))
        if not m:
            raise Fatal(f'{rel(file)} does not say what it is, see review/check.py')
        checks.append(Check(file, m[2], groups.index(m[1]), m[3] == 'each', bool(m[4])))
    return sorted(checks, key=lambda c: (c.group, c.name))


# ---- one check ----

def once(check: Check, n: int, series: Series) -> tuple[str, str]:
    """Do it, and return verdict and remark"""
    log, this = check.log(n, series), series.write(n, n - 1 if check.each else 0)
    argv = ['sh', check.file, this]
    if check.file.suffix:
        argv = [place.lab / 'nsvm', 'check', 'one', check.name, series.tree, str(n),
                *series.commits, *settings.arguments()]
    status = jobs.call(argv, log)
    remark = (re.findall(r'^seen: (.*)$', log.read_text(errors='replace'), re.M) or [''])[-1]
    if status in (0, SKIP):
        return 'skip' if status else 'ok', remark
    error = jobs.first_error(log, status)
    return 'not ok', remark or error.replace(f'{series.tree}/', '').replace(f'{place.top}/', '')


def one(name: str, tree: str, n: str, *commits: str) -> int:
    """Be the process of a check in Python"""
    series = Series(Base(), Path(tree), list(commits))
    try:
        print(f'seen: {importlib.import_module(f"review.checks.{name}").check(series, int(n))}')
    except Fatal as e:
        print(f'seen: {e}')
        return SKIP if e.status == NOT_HERE else 1
    return 0


def do(check: Check, series: Series, report: ktap.Report) -> None:
    with Ticker('CHECK', check.title) as ticker:
        results = {n: once(check, n, series)
                   for n in (range(1, series.n + 1) if check.each else [series.n])}
    failed = [n for n, (verdict, _) in results.items() if verdict == 'not ok']
    marks = ''.join('x' if n in failed else str(n % 10) for n in results) * check.each
    verdict = 'not ok' if failed else min((verdict for verdict, _ in results.values()),
                                          default='ok')
    remark = next((remark for _, remark in results.values() if remark), '')
    if failed:
        n = failed[0]
        remark = f'{f"{n}: " * check.each}{results[n][1]} (log: {rel(check.log(n, series))})'
    report.item(verdict, check.title,
                ' '.join(filter(None, (marks, remark, f'({elapsed(ticker.start)})'))))


# ---- the patches ----

def part(base: Base) -> Path:
    """Return a worktree of what src has of the base, for checks that are fast"""
    tree = base.b / 'check/part'
    if not (tree / '.git').exists() or not git_ok(tree, 'rev-parse', 'HEAD'):
        shutil.rmtree(tree, ignore_errors=True)
        base.git('worktree', 'prune')
        base.git('worktree', 'add', '-q', '--no-checkout', '--detach', str(tree), 'base')
        if base.linux:
            git(tree, 'sparse-checkout', 'set', '--no-cone', *(f'/{p}' for p in package.PART))
    return tree


def apply(base: Base, tree: Path) -> Series:
    """Return the series, as git am applies it for someone without any setting"""
    # A worktree of src has its tag base, another repository that of the source
    commit = base.root() if (tree / '.git').is_file() else git(tree, 'rev-parse', 'base^{commit}')
    file, todo = base.b / f'check/{tree.name}.applied', source_apply.patches(*base.before, base)
    made_of = digest(commit, *(b.series_id() for b in (*base.before, base)))
    commits = read(file).split()
    if commits[:1] != [made_of]:
        applied = source_apply.apply_in(base, tree, todo, commit)
        source_apply.need_strict(
            base, package.kernel_version(git(tree, 'show', f'{commit}:Makefile')), applied)
        git(tree, 'update-ref', 'refs/nsvm/check', applied.commit)
        every = [commit, *git(tree, 'rev-list', '--reverse', f'{commit}..{applied.commit}').split()]
        count = sum(name not in applied.left_out for name in base.series())
        commits = [made_of, *every[-count - 1:]]
        put(file, '\n'.join(commits) + '\n')
    return Series(base, tree, commits[1:])


def main(args: list[str]) -> int:
    if args[:1] == ['one']:
        return one(*args[1:])
    checks = read_checks()
    if args == ['list']:
        print('\n'.join(f'  {c.name:<18} {c.title}' for c in checks))
        return 0
    for name in set(args) - {c.name for c in checks} - {'all', 'fast', 'am'}:
        raise Fatal(f'no check {name}; tools/nsvm/nsvm check list names them')
    wanted = [c for c in checks if not args or 'all' in args or c.name in args or c.fast
              and 'fast' in args]
    base = source_tree.make_base(Base())
    report = ktap.Report(base.results / 'check.ktap')
    report.group(GROUPS[0])
    title, group = 'git am on the pristine base', 0
    needed = {c.fast for c in wanted} or {True}
    try:
        trees = {fast: part(base) if fast else source_tree.make_whole(base) for fast in needed}
        applied = {fast: apply(base, tree) for fast, tree in trees.items()}
        report.item('ok', title)
    except Fatal as e:
        report.item('not ok', title, f'{e} (log: {rel(base.logs / "am.log")})')
        wanted = []
    for c in wanted:
        if c.group != group:
            report.group(GROUPS[c.group])
            group = c.group
        do(c, applied[c.fast], report)
    return ktap.finish(report)
