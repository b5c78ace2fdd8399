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
    """What the tests said, on each kernel"""
    parts = re.split(r'^# nsvm: run (\w+)\n', log, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def facts(log: str) -> list[str]:
    """The machine: CPU, kernel, parameters of kvm_amd"""
    return [need_match(rf'^# nsvm: {fact} ?(.*)$', log, f'the host does not say its {fact}').strip()
            for fact in ('cpu', 'kernel', 'kvm_amd')]


class Progress:
    """A line for each test as it ends"""

    def __init__(self, host: str) -> None:
        self.host, self.text, self.label = host, '', ''

    def __call__(self, line: str) -> None:
        self.text = line if line.startswith('# nsvm: begin ') else self.text + line
        if line.startswith('# nsvm: run '):
            self.label = line.split()[-1]
        if line.startswith('# nsvm: end '):
            *cases, whole = ktap.cases(self.text)
            count = [f'{sum(c.verdict == v for c in cases or [whole])} {v}'
                     for v in ('ok', 'not ok', 'skip')]
            say('TEST', f'{self.host}, {self.label}: {whole.test}: {", ".join(count)} '
                f'({whole.ms / 1000:.1f} s)')


def ticks(figures: dict[str, dict[str, bench.Row]]) -> str:
    """Least and median of each operation; what the last kernel takes more than the first"""
    first, last = list(figures.values())[0], list(figures.values())[-1]
    more = '      more' if len(figures) > 1 else ''
    out = [f'    {"ticks of the TSC: least, median":<36} ' +
           ''.join(f'{label:>20}' for label in figures) + more]
    for row in first:
        cells = ''.join(f'{rows[row][0]:>12}{rows[row][1]:>8}' for rows in figures.values())
        out.append(f'    {row:<36} {cells}' +
                   (f'{last[row][0] - first[row][0]:>+10}' if more else ''))
    return '\n'.join(out)


def on_host(base: Base, host: str, files: list[Path], variables: dict[str, str],
            measure: bool) -> int:
    name = re.sub(r'[^A-Za-z0-9.@-]+', '_', host)
    log = ssh.run(settings.given.get('SSH', 'ssh').split(), host, files, variables,
                  base.results / f'remote-{name}.log', Progress(host))
    lost = re.search(r'^# nsvm: not restored (.*)', log, re.M)
    if lost:
        raise Fatal(
            f'{host}: still has our module ({lost[1]}): as root, rmmod kvm_amd; modprobe kvm_amd')
    by_section = {label: ktap.cases(text) for label, text in sections(log).items()}
    put(base.results / f'remote-{name}.ktap', ktap.nested(by_section))
    cpu, kernel, parameters = facts(log)
    kernel = re.sub(r' \(.*\) #', ' #', kernel)
    head = f'\n  {host}: {cpu}\n  {kernel}\n  kvm_amd {parameters}\n'
    *before, (label, cases) = by_section.items()
    if measure and all(c.verdict == 'ok' for cases in by_section.values() for c in cases
                       if not c.case):
        text = head + '\n' + ticks({label: bench.parse(text)
                                    for label, text in sections(log).items()}) + '\n'
        put(base.results / f'remote-{name}-bench.txt',
            f'    On {time.strftime("%Y-%m-%d")}\n{text}')
        print(text, flush=True)
        return 0
    text, good = ktap.table(ktap.rows(before[0][1] if before else [], cases), label)
    nothing = not any(c.verdict == 'ok' for c in cases)
    subject = 'the series' if before else 'its KVM'
    verdict = f'{subject} {"does what it should" if good else "fails"}'
    print(f'{head}{text}\n  {host}: {"nothing was tested" if nothing else verdict}. '
          f'{elapsed(begun)} in all; results: {rel(base.results)}/remote-{name}.ktap', flush=True)
    if nothing and not any(c.verdict == 'not ok' for c in cases):
        return NOTHING
    return 0 if good else 1


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
