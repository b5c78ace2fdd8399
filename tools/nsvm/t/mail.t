#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""What mbox makes, and what send does and refuses

A stand-in for sendmail keeps what it gets, one for get_maintainer.pl names some: no mail
leaves the machine.
"""
import email
import shutil
import sys
from email.message import Message
from pathlib import Path

import toy
from toy import (AUTHOR, b, code, commit, git, is_, letter, nsvm, overlay, patches, run, script,
                 top, tree)

me = 'Some One Else <else@example.org>'
sent, tested = top / 'sent', b / 'results/tested'


def refused(name: str, reason: str, *args: str) -> None:
    r = nsvm(*args)
    is_((r.returncode, reason in r.stderr, sent_mails()), (1, True, []), f'{args[0]}: {name}',
        r.stderr)
    git(top, 'checkout', '-q', '.')


def sent_mails() -> list[Message]:
    """What was sent since the last call"""
    messages = [email.message_from_bytes(f.read_bytes()) for f in sorted(sent.iterdir())]
    shutil.rmtree(sent)
    sent.mkdir()
    return messages


def edit(file: Path, more: str = '\n') -> None:
    file.write_text(file.read_text() + more)


if not shutil.which('b4') or run('git', 'send-email', '--dump-aliases').returncode:
    print('1..0 # SKIP no b4 or no git send-email (make setup installs them)')
    sys.exit(0)

toy.make((code, '0\n'), ('scripts/get_maintainer.pl', ''))
script(tree / 'scripts/get_maintainer.pl', 'case "$*" in *--nol*--mpath*) echo "Own '
       '<own@example.org>";; *--nol*) echo "M <m@example.org>";; *) echo list@example.org;; esac')
script(top / 'sendmail', f'cat >"$(printf "{sent}/%03d" "$(ls {sent} | wc -l)")"')
edit(top / '.gitconfig', f'[sendemail]\nsendmailcmd = {top}/sendmail\n')
commit('x: One', (code, '1\n'))
commit(f'x: Two\n\nSigned-off-by: {me}', (code, '2\n'))
(overlay / 'test.c').write_text('1\n')
(patches / 'changes').write_text('v3:\n - Third.\n\nv2:\n - Second.\n')
nsvm('export')
sent.mkdir()
(top / '.gitignore').write_text('/*\n!/patches/\n!/overlay/\n')
git(top, 'init', '-q')
git(top, 'add', '-A')
git(top, 'commit', '-q', '-m', 'all')

# ---- the mailbox ----

box = b / 'series-v3.mbox'
r = nsvm('mbox', 'VERSION=3', 'SIGNOFF=1')
is_(r.returncode, 0, 'mbox V=3 SIGNOFF=1', r.stderr)
text = box.read_text()
nsvm('mbox', 'VERSION=3', 'SIGNOFF=1')
is_(box.read_text(), text, 'mbox: twice the same')
base, wanted = git(tree, 'rev-parse', 'base'), git(tree, 'rev-parse', 'HEAD^{tree}')
for part in ('Text.\n\nChanges since v2:\n - Third.\n\nChanges since v1:\n - Second.\n\nJ',
             f'\nbase-tree: Linux 1.2.3 (Debian linux-source-toy 7)\nbase-commit: {base}\nchange-'):
    is_(part in text, True, 'mbox: what is new; on what it is', text)
is_(text.count('\nSigned-off-by: '), 2, 'mbox: each patch is signed off once')
git(top, 'clone', '-q', str(tree), 'am')
for argv in ('git am -q --empty=drop', 'b4 --offline-mode shazam -m'):
    git(top / 'am', 'reset', '-q', '--hard', 'base')
    r = run(*argv.split(), box, where=top / 'am')
    is_(git(top / 'am', 'log', '-1',
            '--format=%T %an %(trailers)'), f'{wanted} {AUTHOR} Signed-off-by: {me}',
        f'mbox: {argv} makes the tree, authors are kept', r.stderr)
(top / 'out').mkdir()
b4_text = run('b4', '--offline-mode', 'am', '-m', box, '-o', top / 'out', where=top / 'am').stderr
is_(('Total patches: 2' in b4_text, f'specified base-commit {base}' in b4_text,
     len(list((top / 'out').glob('*.cover')))), (True, True, 1),
    'mbox: b4 am finds patches, base and cover letter', b4_text)
nsvm('mbox', 'PREFIX=PATCH RESEND')
text = (b / 'series.mbox').read_text()
is_([text.count(s) for s in ('\nSubject: [PATCH RESEND 1/2] ', 'Signed-off-by', 'Changes since')],
    [1, 1, 0], 'mbox: a first version, not signed, with a prefix', text)
refused('V=x', 'V=x is no version', 'mbox', 'VERSION=x')
refused('PREFIX without PATCH', 'word PATCH', 'mbox', 'PREFIX=RFC')
refused('a version of which nothing is known', 'does not say what is new in v77', 'mbox',
        'VERSION=77')
letter.write_text(letter.read_text().replace('change-id', 'was-id'))
refused('no change-id', 'a line for its end: change-id: 20', 'mbox')
(top / '.gitconfig').rename(top / 'kept')
refused('SIGNOFF by nobody', 'git config --global user.name', 'mbox', 'SIGNOFF=1')
(top / 'kept').rename(top / '.gitconfig')

# ---- sending ----

from lib import settings
from lib.base import Base
from proof.tested import content_id

go = ('send', 'VERSION=3', 'SIGNOFF=1', 'REALLY=1')
settings.from_arguments(toy.PLACES)
refused('never tested', 'make test has not passed here', *go)
tested.parent.mkdir()
tested.write_text(f'content {content_id(Base())}\ndate today\nsummary Tested: 7 passed.\n')
r = nsvm(*go[:3])
recipients = ' '.join(r.stdout.split()).partition(' To: ')[2].partition(' each')[0]
is_((r.returncode, sent_mails(), recipients),
    (0, [], 'M <m@example.org> Own <own@example.org> Cc: list@example.org'),
    'send: a dry run says to whom', r.stderr)
is_('generated-content.rst' in r.stdout, True, 'send: names the rules of the project', r.stdout)


def send_mails() -> list[Message]:
    r, messages = nsvm(*go), sent_mails()
    is_((r.returncode, len(messages)), (0, 3), 'send: REALLY=1', r.stderr)
    return messages


messages = send_mails()
first = messages[0]['Message-ID']
for n, subject in enumerate(('Toy', 'x: One', 'x: Two')):
    thread = first if n else 'None'
    headers = [' '.join(str(messages[n][h]).split())
               for h in ('Subject', 'From', 'In-Reply-To', 'References', 'To', 'Cc')]
    is_([*headers[:5], headers[5].split(',')[0]],
        [f'[PATCH v3 {n}/2] {subject}', me, thread, thread,
         'M <m@example.org>, Own <own@example.org>', 'list@example.org'],
        f'send: headers of mail {n}')
is_(messages[2].get_payload(decode=True).decode().split(' <')[0], f'From: {AUTHOR}',
    'send: names the author')
is_('\nTested: 7 passed.\n' in messages[0].get_payload(), True, 'send: says what was tested')
is_(send_mails()[0]['Message-ID'] != first, True, 'send: other message ids each time')

refused('not signed off', f'not signed off by {me}', 'send', 'REALLY=1')
refused('a dry run of that', 'REALLY=1 would not do it either', 'send')
edit(letter)
refused('edits in patches/', 'in no commit: patches/toy/0000-cover-letter.patch', *go)
edit(overlay / 'test.c')
refused('edits of a test', 'in no commit: overlay/test.c', *go)
edit(overlay / 'test.c')
git(top, 'commit', '-q', '-a', '-m', 'another test')
refused('tested, but something else', 'passed for something else (today)', *go)
git(top, 'reset', '-q', '--hard', 'HEAD~1')
edit(tree / code)
refused('edits in src', 'not in patches/: make patches', *go)
git(tree, 'commit', '-q', '-a', '-m', 'not exported')
refused('a commit that was not exported', 'not in patches/: make patches', *go)
git(tree, 'reset', '-q', '--hard', 'HEAD~1')
edit(patches / 'BASE', 'waits: mainline\n')
refused('a port to a stable kernel', 'this waits for mainline', *go)
edit(patches / 'BASE', 'send-first: security@kernel.org\n')
refused('a report that says nothing', 'has no paragraph "Patch 1: ..."', *go)
edit(patches / 'BASE', 'send-first: security@kernel.org\n')
letter.write_text(letter.read_text().replace('Text.\n', 'Text.\n\nPatch 1: One is bad\nsince '
                                             '6.1.\n\nPatch 2: So is two.\n\n'))
git(top, 'commit', '-q', '-a', '-m', 'a report')
tested.write_text(f'content {content_id(Base())}\ndate today\nsummary Tested: 7 passed.\n')
r, messages = nsvm(*go), sent_mails()
is_([(m['Subject'], m['Cc'], m['References'], 'list@' in str(m)) for m in messages],
    [(f'[PATCH v3] x: {s}', 'security@kernel.org', None, False) for s in ('One', 'Two')],
    'send: reports go to no list', r.stderr)
is_('\n---\nOne is bad\nsince 6.1.\n\n' in messages[0].get_payload(), True,
    'send: a report says what it is about')
script(top / 'sendmail', 'echo no route to anywhere >&2; exit 1')
refused('no way out', 'git send-email fails', *go)
print(f'1..{toy.count}')
