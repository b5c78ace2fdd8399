# SPDX-License-Identifier: GPL-2.0
"""send [VERSION=n] [SIGNOFF=1] [PREFIX=...] [REALLY=1] - mail the series, with git send-email

Without REALLY=1, shows what would be mailed to whom, and what prevents it.  Prints first the
rules of the project that gets the mails; only the sender can follow them.  The mails are those of
mbox, in build/<base>/send.  Each goes to everybody whom scripts/get_maintainer.pl of the tree
names, with the tree's MAINTAINERS and with this repository's, as with b4: maintainers in To,
reviewers and lists in Cc.  git's sendemail.* settings say how mail leaves the machine.

Sends nothing, and prints one line for each reason, if
  - the series is not signed off by the sender
  - patches/ or the tests have uncommitted changes, or build/<base>/src has commits or edits that
    are not in patches/
  - make test has not passed for exactly this series, on this base
  - BASE has "waits: mainline", as ports to stable kernels do

If BASE has "send-first: security@kernel.org", it follows Documentation/process/security-bugs.rst:
each fix in a mail of its own, to the maintainers of what it touches, with Cc to that address, and
to no list.  The paragraph "Patch n:" of the cover letter goes below its "---".  Tests are not
mailed: a reproducer is for those who ask.

Exit status: 0 sent, or a dry run that nothing prevents; else 1.
"""
import re
import shutil
import time

from lib import jobs
from lib.base import Base, git, git_ok, put, read
from lib.say import Fatal, say, say_error
from lib.settings import place, rel
from proof import tested
from review.mbox import LETTER, argument, make_mails, sender

# Of each project, what the one who sends has to know: file, what it is about
RULES = {'Linux': [
    ('Documentation/process/submitting-patches.rst', 'what a sign-off states'),
    ('Documentation/process/generated-content.rst', 'say which parts a tool wrote, and which tool'),
    ('Documentation/process/security-bugs.rst', 'what goes to security@kernel.org first')],
         'QEMU': [('docs/devel/code-provenance.rst',
                   'what a sign-off states, and that content of AI generators is declined')]}
ASK = ['scripts/get_maintainer.pl', '--nogit', '--nogit-fallback', '--norolestats']


def find_obstacles(base: Base, made: dict[str, str], who: str) -> list[str]:
    """Return what is in the way, a line each"""
    reasons = [f'this waits for {cause}' for cause in base.keys('waits')]
    unsigned = [name for name, text in made.items() if name != LETTER
                and f'Signed-off-by: {who}' not in text.partition('\n---\n')[0].splitlines()]
    if unsigned:
        reasons.append(f'not signed off by {who} ({unsigned[0]}): SIGNOFF=1 does it, '
                       'see "Developer\'s Certificate of Origin"')
    for d in (base.dir, place.overlay):
        if not git_ok(d, 'rev-parse', '-q', '--verify', 'HEAD'):
            reasons.append(
                f'{rel(d)} is in no git repository: nobody could say later what was sent')
        elif changed := git(d, 'status', '--porcelain', '.'):
            reasons.append('changes that are in no commit: '
                           f'{" ".join(line[3:] for line in changed.splitlines())}')
    applied = read(base.src / '.git/nsvm-applied').split()
    if not base.is_clean() or base.head() not in applied:
        reasons.append(
            f'{rel(base.src)} has commits or edits that are not in patches/: make patches')
    elif base.series_id() not in applied:
        reasons.append(f'{rel(base.src)} is not what patches/ has now: make tree')
    mark = tested.last(base)
    if not mark:
        reasons.append('make test has not passed here yet')
    elif mark.get('content') != tested.content_id(base):
        reasons.append(f'make test passed for something else ({mark.get("date")}), not for this '
                       'series on this base')
    return reasons


def make_reports(made: dict[str, str]) -> dict[str, str]:
    """Return the mails of a series that go to its maintainers before any list"""
    paragraphs = dict(re.findall(r'^Patch (\d+): ((?:.+\n)+)', made[LETTER], re.M))
    reported = {}
    for n, (name, text) in enumerate(made.items()):
        files = re.findall(r'^diff --git a/(\S+)', text, re.M)
        if all(file.startswith('tools/testing/') for file in files):
            continue		# the cover letter, or a test
        if str(n) not in paragraphs:
            raise Fatal(f'the cover letter has no paragraph "Patch {n}: ..." for {name}: versions, '
                        'conditions, reproducer')
        text = re.sub(r'^(Subject: \[.*?) \d+/\d+\]', r'\1]', text, count=1, flags=re.M)
        text = re.sub(r'^(?:In-Reply-To|References): .*\n', '', text, flags=re.M)
        reported[name] = text.replace('\n---\n', f'\n---\n{paragraphs[str(n)]}\n', 1)
    return reported


def ask(base: Base, names: list[str], *options: str) -> list[str]:
    """Return addresses, by both MAINTAINERS"""
    argv = [*ASK, *options, *(base.dir / name for name in names)]
    ours = [*argv, '--mpath', place.top / 'MAINTAINERS']
    answers = jobs.together(lambda: jobs.output(argv, cwd=base.src),
                            lambda: jobs.output(ours, cwd=base.src))
    return list(dict.fromkeys(''.join(answers).splitlines()))


def main(args: list[str]) -> int:
    base = Base().lock()
    base.need_tree()
    for file, about in RULES[base.project()]:
        say('SEND', f'read {file}: {about}')
    really, who = argument('REALLY') == '1', sender()
    made = make_mails(base, str(time.time()) if really else '')
    first = base.keys('send-first')
    if first:
        made = make_reports(made)
    reasons = find_obstacles(base, made, who)
    for reason in reasons:
        say_error('send', reason)
    if reasons and really:
        raise Fatal('nothing was sent')
    names = [name for name in made if name != LETTER]
    to = ask(base, names, '--nol', '--nor')
    cc = first or [address for address in ask(base, names, '--nom') if address not in to]
    if not to:
        raise Fatal(f'{ASK[0]} names nobody')
    out, log = base.b / 'send', base.logs / 'send.log'
    shutil.rmtree(out, ignore_errors=True)
    print(f'\n  From: {who}\n')
    for name, text in made.items():
        put(out / name, text)
        print(f'  {text.partition("Subject: ")[2].partition(chr(10))[0]}')
    print('\n  To:', *to, sep='\n    ')
    trailers = [] if first else [f"each patch's author, and whom its trailers name: {rel(log)}"]
    print('\n  Cc:', *cc, *trailers, '', sep='\n    ', flush=True)
    argv = ['git', '-C', place.patches, 'send-email', '--confirm=never', '--no-thread',
            f'--from={who}', '--8bit-encoding=UTF-8', f'--suppress-cc={"all" if first else "self"}',
            *(f'--to={a}' for a in to), *(f'--cc={a}' for a in cc)]
    jobs.step('SEND', log, f'{len(made)} mails sent'
              if really else f'git send-email would take these mails: {rel(out)}',
              [*argv, *([] if really else ['--dry-run']), out],
              'git send-email fails (the log says how many went)')
    if reasons:
        raise Fatal('nothing was sent, and REALLY=1 would not do it either')
    if not really:
        say('SEND', 'nothing was sent, this is a dry run: REALLY=1 sends')
    return 0
