# SPDX-License-Identifier: GPL-2.0
"""mbox [VERSION=n] [SIGNOFF=1] [PREFIX='PATCH RESEND'] - write the series as one mailbox

Writes build/<base>/series.mbox, or series-v<n>.mbox, for b4 am -m, b4 shazam -m, and git am
--empty=drop, which drops the cover letter.  It adds to patches/<base>:

  - the version in subjects, and message ids that make one thread
  - in the cover letter, the text of patches/<base>/changes for this version and earlier ones, and
    the result of make test, if it tested this series
  - base-commit: the commit of the source.  For a package it is in no public tree, but the same
    wherever the tree is made.  If BASE has "after:", a line prerequisite-patch-id for each patch
    before this series, as git format-patch --base writes them
  - with SIGNOFF=1, the Signed-off-by of the user

b4's change-id, at the end of the cover letter, stays the same in all versions.  (b4 send -o makes
such mails from a branch, but they differ each time and have another base-commit on Debian 12.
Without an SMTP server, its next step is a web service.)

Exit status: 0 written, 1 not.
"""
import re
import textwrap
import time

from lib import jobs
from lib.base import Base, digest, put, read
from lib.say import Fatal, say
from lib.settings import place, rel, settings
from proof import tested

LETTER = '0000-cover-letter.patch'


def argument(name: str, otherwise: str = '') -> str:
    return settings.given.get(name) or otherwise


def sender() -> str:
    """Return the user's own git identity"""
    identity = jobs.output(['git', '-C', place.patches, '-c', 'user.useConfigOnly=true', 'var',
                            'GIT_COMMITTER_IDENT'], check=False)
    if not identity:
        raise Fatal("git knows no name and address of yours: git config --global user.name '...', "
                    "and user.email")
    return identity[:identity.rindex('>') + 1]


def subject_prefix() -> tuple[int, str]:
    """Return the version, and what is in the brackets before n/m"""
    version, prefix = argument('VERSION', '1'), argument('PREFIX', 'PATCH')
    if not re.fullmatch('[1-9][0-9]*', version):
        raise Fatal(f'V={version} is no version: V=4 makes [PATCH v4 0/8]')
    if not re.fullmatch('[A-Za-z0-9._ -]*', prefix) or 'PATCH' not in prefix.split():
        raise Fatal(f"PREFIX='{prefix}' must have the word PATCH, which mail filters look for, and "
                    "no odd characters")
    return int(version), prefix if version == '1' else f'{prefix} v{version}'


def list_changes(base: Base, version: int) -> str:
    """Return what goes between the text of the cover letter and its list of patches"""
    entries = re.split(r'^v([0-9]+):.*\n', read(base.dir / 'changes'), flags=re.M)
    changes = {int(v): re.sub(r'\n{2,}', '\n', text.strip('\n'))
               for v, text in zip(entries[1::2], entries[2::2])}
    if version > 1 and version not in changes:
        raise Fatal(f'{rel(base.dir / "changes")} does not say what is new in v{version}: '
                    f'it needs a line "v{version}:" and text below')
    parts = [f'Changes since v{v - 1}:\n{text}\n\n' for v, text in changes.items()
             if 1 < v <= version]
    mark = tested.last(base)
    if mark.get('content') == tested.content_id(base):
        parts.append(textwrap.fill(mark['summary'], 72) + '\n\n')
    return ''.join(parts)


def describe_base(base: Base) -> str:
    """Return the lines that say on what the series is, as git format-patch writes them"""
    text = base.git('format-patch', '--stdout', f'--base={base.root()}', f'{base.commit()}..HEAD')
    lines = re.findall('^(?:base-commit|prerequisite-patch-id): .*', text, re.M)
    if not base.linux:
        _, package, version = read(base.src / '.git/nsvm-source').split()[:3]
        lines.insert(0, f'base-tree: {base.project()} {base.key("kernel")} '
                     f'(Debian {package} {version})')
    return '\n'.join(lines)


def make_mails(base: Base, salt: str = '') -> dict[str, str]:
    """Return file name -> mail; another salt makes other message ids.

    Only the header, the sign-off and, in the cover letter, the places named above differ from
    patches/."""
    version, prefix = subject_prefix()
    base.series_id()	# all files are there
    files = {name: read(base.dir / name) for name in (LETTER, *base.series())}
    letter, last, made = files[LETTER], len(files) - 1, {}
    change_id = re.search(r'^change-id: (\S+)-\S+$', letter, re.M)
    if not change_id:
        raise Fatal(
            f'{rel(base.dir / LETTER)} has no change-id; a line for its end: change-id: '
            f'{time.strftime("%Y%m%d", time.gmtime())}-nested-svm-pat-{digest(letter)[:12]}')
    domain = (re.findall(r'^From: [^<]*<[^>]*@(.*)>', letter, re.M) or ['localhost'])[0]
    ids = [f'<{change_id[1]}-v{version}-{n}-{digest(prefix, salt, text)[:12]}@{domain}>'
           for n, text in enumerate(files.values())]
    for n, (name, text) in enumerate(files.items()):
        if n and argument('SIGNOFF') == '1':
            text = jobs.output(['git', 'interpret-trailers', '--if-exists', 'addIfDifferent',
                                '--trailer', f'Signed-off-by: {sender()}'], input=text)
        header, body = text.split('\n\n', 1)
        header = header.replace('\n ', ' ')	# b4 0.12 on Python 3.11 fails on folded lines
        header = re.sub(r'^Subject: \[.*?\] *',
                        f'Subject: [{prefix} {n:0{len(str(last))}}/{last}] ', header, 1, re.M)
        header += f'\nMessage-ID: {ids[n]}'
        if n:
            header += f'\nIn-Reply-To: {ids[0]}\nReferences: {ids[0]}'
        else:
            changes, base_lines = list_changes(base, version), describe_base(base)
            body = re.sub(r'^\S.* \([0-9]+\):$', lambda m: changes + m[0], body, 1, re.M)
            body = re.sub('^base-tree: .*', lambda m: base_lines, body, 1, re.M)
        made[name] = f'{header}\n\n{body}'
    return made


def main(args: list[str]) -> int:
    base = Base()
    base.need_tree()
    made, version = make_mails(base), subject_prefix()[0]
    out = base.b / ('series.mbox' if version == 1 else f'series-v{version}.mbox')
    put(out, ''.join(f'{text}\n' for text in made.values()))
    say('MBOX', f'{len(made) - 1} patches and a cover letter: {rel(out)}')
    say('MBOX', f'signed off by {sender()}' if argument('SIGNOFF') == '1' else
        'not signed off: SIGNOFF=1 does that, or the one who applies it: git am -s')
    say('MBOX', 'to apply it: git am --empty=drop FILE, or b4 shazam -m FILE')
    return 0
