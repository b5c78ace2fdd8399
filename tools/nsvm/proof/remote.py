# SPDX-License-Identifier: GPL-2.0
"""remote [kernel] - run the PAT tests, or the benchmark (kernel), on AMD hosts over SSH

  HOST='user@a user@b'  the hosts; the user must be root, or have sudo without a password
  MODULES=1             test the host's own kvm_amd (stock), then ours (series).  The host must run
                        the packaged kernel of make run.  Its own module is loaded again at the end,
                        also after an interrupt or if the connection breaks.  Refused while a VM
                        runs, on another kernel, and if modules must be signed.  The kernel stays
                        tainted (O: out-of-tree module) until a reboot
  SSH='ssh -F FILE'     a command to use instead of ssh

Without MODULES=1, the host is tested as it is: column "host".  Nothing is left on a host.

Results: build/<base>/results/remote-<host>.ktap; .log: the tests' output; -bench.txt: ticks.
Exit status: 0 if no case is "not ok" (of the series, with MODULES=1), 1 if one is or a host cannot
be used, 3 if there is no packaged kernel, 4 if nothing was tested.
"""
import re
import time
from pathlib import Path

from kernel import distro, kernels, module, selftests
from lib import jobs, ktap
from lib.base import Base, put
from lib.say import Fatal, begun, elapsed, need_match, say, say_error
from lib.settings import rel, settings
from machine import ssh
from proof import bench
from source import tree
from source.debian import NOT_HERE

NOTHING = 4


def sections(log: str) -> dict[str, str]:
    """Return what the tests printed, on each kernel"""
    parts = re.split(r'^# nsvm: run (\w+)\n', log, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def show_progress(host: str, line: str) -> None:
    """Print a line for each test as it ends"""
    m = re.match(r'# nsvm: end (\S+) rc=(\d+) ms=(\d+)', line)
    if m:
        say('TEST', f'{host}: {m[1]}: exit status {m[2]} ({int(m[3]) / 1000:.1f} s)')


def ticks(figures: dict[str, dict[str, bench.Row]]) -> str:
    """Return a table: least and median of each operation; what the last kernel takes more"""
    first, last = list(figures.values())[0], list(figures.values())[-1]
    more = '      more' if len(figures) > 1 else ''
    out = [f'    {"ticks of the TSC: least, median":<36} ' +
           ''.join(f'{label:>20}' for label in figures) + more]
    for row in first:
        cells = ''.join(f'{rows[row][0]:>12}{rows[row][1]:>8}' for rows in figures.values())
        out.append(f'    {row:<36} {cells}' +
                   (f'{last[row][0] - first[row][0]:>+10}' if more else ''))
    return '\n'.join(out)


def describe(host: str, log: str) -> str:
    """Return the CPU of a host, its kernel, and the parameters of kvm_amd"""
    cpu, kernel, parameters = (
        need_match(rf'^# nsvm: {fact} ?(.*)$', log, f'the host does not say its {fact}').strip()
        for fact in ('cpu', 'kernel', 'kvm_amd'))
    kernel = re.sub(r' \(.*\) #', ' #', kernel)
    return f'\n  {host}: {cpu}\n  {kernel}\n  kvm_amd {parameters}\n'


def judge(stock: list[ktap.Case], cases: list[ktap.Case], label: str) -> tuple[int, str, str]:
    """Return exit status, table and verdict; stock: the cases on the host's own module, if ours,
    which has that label, was tested as well"""
    table, good = ktap.table(ktap.rows(stock, cases), label)
    kvm, verdicts = 'the series' if stock else 'its KVM', {c.verdict for c in cases}
    if 'ok' not in verdicts:
        return 1 if 'not ok' in verdicts else NOTHING, table, 'nothing was tested'
    return int(not good), table, f'{kvm} {"does what it should" if good else "fails"}'


def on_host(base: Base, host: str, files: list[Path], variables: dict[str, str],
            measure: bool) -> int:
    """Run the tests or the benchmark on a host, print what comes of it, return the exit status"""
    name = re.sub(r'[^A-Za-z0-9.@-]+', '_', host)
    log = ssh.run(settings.given.get('SSH', 'ssh').split(), host, files, variables,
                  base.results / f'remote-{name}.log', lambda line: show_progress(host, line))
    lost = re.search(r'^# nsvm: not restored (.*)', log, re.M)
    if lost:
        raise Fatal(
            f'{host}: still has our module ({lost[1]}): as root, rmmod kvm_amd; modprobe kvm_amd')
    texts = sections(log)
    by_label = {label: ktap.cases(text) for label, text in texts.items()}
    put(base.results / f'remote-{name}.ktap', ktap.nested(by_label))
    head = describe(host, log)
    if measure and all(c.verdict == 'ok' for cases in by_label.values() for c in cases
                       if not c.case):
        figures = {label: bench.parse(text) for label, text in texts.items()}
        text = f'{head}\n{ticks(figures)}\n'
        put(base.results / f'remote-{name}-bench.txt',
            f'    On {time.strftime("%Y-%m-%d")}\n{text}')
        print(text, flush=True)
        return 0
    *stock, (label, cases) = by_label.items()
    status, table, verdict = judge(stock[0][1] if stock else [], cases, label)
    print(f'{head}{table}\n  {host}: {verdict}. {elapsed(begun)} in all; '
          f'results: {rel(base.results)}/remote-{name}.ktap', flush=True)
    return status


def main(args: list[str]) -> int:
    hosts = settings.given.get('HOST', '').split()
    if not hosts or args not in ([], ['kernel']) or any(h.startswith('-') for h in hosts):
        raise Fatal("usage: make remote HOST='user@host...' [MODULES=1] [PART=kernel]")
    base = Base().lock()
    tree.make(base)
    tests = [bench.PROGRAM] if args else selftests.wanted(base)
    where = selftests.build(base, tests)
    files = [where / t for t in tests]
    variables = {'tests': ' '.join(tests), 'limit': settings.TEST_TIMEOUT, 'release': ''}
    if settings.given.get('MODULES') == '1':
        kernel = kernels.series_kernel(base)
        if not kernels.is_packaged(base) or module.changed_modules(base,
                                                                   base.worktree()) != ['kvm-amd']:
            raise Fatal(f'MODULES=1: {base.name} has no kvm-amd.ko for a packaged kernel, or not '
                        'it alone', NOT_HERE)
        files.append(kernel.dir / 'modules/kvm-amd.ko')
        variables['release'] = distro.info(base, 'release')

    def one(host: str) -> int:
        try:
            return on_host(base, host, files, variables, bool(args))
        except Fatal as e:
            say_error('remote', str(e))
            return e.status
    return max(status for _, status in jobs.each(one, hosts, len(hosts)))
