#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""checks.t [all|CHECK...] [SETTING=VALUE]... - make check notices each kind of defect

By the check meant for it, and by no other.  Without a name only those that cost seconds.  A defect
is an edit of a file, or one more patch behind the series, in a copy of the lab and of patches/; it
takes objects from build/<base>/check, so these names are best checked before.
"""
import atexit
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import toy
from toy import is_
from kernel.selftests import arch_dir
from lib import ktap
from lib.base import Base, git, put, read
from lib.settings import from_arguments, place, settings

only = from_arguments(sys.argv[1:])
base, n = Base(), len(Base().series())
top = Path(tempfile.mkdtemp(prefix='checks-', dir=place.build))
atexit.register(shutil.rmtree, top)
b, patches = top / 'build' / base.b.name, top / 'patches' / base.name


def links(real: Path, to: Path, but: str) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for f in real.iterdir():
        if not re.fullmatch(but, f.name):
            (to / f.name).symlink_to(f)


def check(*names: str) -> tuple[int, list[ktap.Item]]:
    shutil.rmtree(b / 'logs', ignore_errors=True)
    given = [a for a in settings.arguments() if not a.startswith(('BUILD=', 'PATCHES='))]
    rc = subprocess.run([top / 'tools/nsvm/nsvm', 'check', *names, *given],
                        capture_output=True).returncode
    return rc, ktap.read(b / 'results/check.ktap')


# ---- defects ----

def fresh() -> None:
    """The patches as they are"""
    shutil.rmtree(patches, ignore_errors=True)
    shutil.copytree(base.dir, patches)


def expect(name: str, item: str, pattern: str) -> None:
    rc, items = check(name)
    failures = [f'{i.name} {i.detail}' for i in items if i.verdict == 'not ok']
    good = rc == 1 and len(failures) == 1 and re.search(pattern, failures[0]) is not None
    is_(good, True, f'check {name}: {item}', '; '.join(failures) or 'not noticed')


def wanted(name: str) -> bool:
    return name in only or 'all' in only or not only and name in FAST


def edit(name: str, file: int | str, pattern: str, new: str, item: str, expected: str) -> None:
    """file: in the repository, or which of the patches that have the pattern"""
    if not wanted(name):
        return
    fresh()
    series = [patches / p for p in base.series()]
    if isinstance(file, int):
        edited = [p for p in series if re.search(pattern, read(p), re.M)][file]
    else:
        edited = top / file
    text = read(edited)
    put(edited, re.sub(pattern, new, text, flags=re.M))
    if name in EACH:
        marks = ('x' if p == edited else str(i % 10) for i, p in enumerate(series, 1))
        expected = f'{"".join(marks)}.*{expected}'
    expect(name, item, expected)
    put(edited, text)


def code(name: str, file: str, pattern: str, new: str, item: str, expected: str,
         subject: str = 'KVM: x86: nSVM') -> None:
    """One more patch, which edits the file like that, or makes it if there is none"""
    if not wanted(name):
        return
    fresh()
    env = {'GIT_INDEX_FILE': str(top / 'index')}
    git(src, 'read-tree', tip, env=env)
    text = git(src, 'show', f'{tip}:{file}', check=False)
    text = re.sub(pattern, new, text, flags=re.M) if text else new
    blob = git(src, 'hash-object', '-w', '--stdin', input=f'{text}\n')
    git(src, 'update-index', '--add', '--cacheinfo', f'100644,{blob},{file}', env=env)
    message = (f'{subject}: Plant a defect\n\nTo see that it is noticed.  It is in no series,\n'
               'and gone right after.\n')
    commit = git(src, 'commit-tree', git(src, 'write-tree', env=env), '-p', tip, input=message)
    form = '--no-numbered', '--zero-commit', '--no-signature', '--stdout'
    mail = f'{n + 1:04}-planted.patch'
    put(patches / mail, git(src, 'format-patch', '-q', '-1', *form, commit) + '\n')
    put(patches / 'series', f'{read(patches / "series")}{mail}\n')
    expect(name, item, (f'x {n + 1}: ' if name in EACH else '') + '.*' + expected)


MAILS = ('checkpatch', 'message', 'recipients')
EACH, FAST = (*MAILS, 'w1'), (*MAILS, 'am', 'uapi-headers', 'uapi-layout')
nested, svm = 'arch/x86/kvm/svm/nested.c', 'arch/x86/kvm/svm/svm.c'
uapi, api = 'arch/x86/include/uapi/asm/kvm.h', 'Documentation/virt/kvm/api.rst'
end_of_includes = r'^#include "svm.h"$'
selftest, function = 'KVM: selftests', '^static void run_until'

shutil.copytree(place.lab, top / 'tools/nsvm', ignore=shutil.ignore_patterns('__pycache__'))
for name in ('Documentation', 'patches'):
    shutil.copytree(place.top / name, top / name)
shutil.copy(place.top / 'MAINTAINERS', top)
(top / 'tools/testing').symlink_to(place.top / 'tools/testing')
links(place.top, top, 'tools|patches|MAINTAINERS|Documentation|build|\\..*')
links(place.build, top / 'build', f'{b.name}|{top.name}')
links(base.b, b, r'check|results|logs|\.lock|.*\.tmp')
links(base.b / 'check', b / 'check', r'this|.*\.applied')
check('am')
src, tip = b / 'src', read(b / 'check/part.applied').split()[-1]
arch = arch_dir(src)
test = f'tools/testing/selftests/kvm/{arch}/svm_nested_pat_test.c'
makefile = 'tools/testing/selftests/kvm/Makefile'
makefile += '.kvm' * (src / f'{makefile}.kvm').exists()


def svm_code(name: str, file: str, text: str, item: str, expected: str) -> None:
    code(name, file, end_of_includes, f'\\g<0>\n{text}', item, expected)


def without(name: str, condition: str, item: str) -> None:
    svm_code(name, svm, f'{condition}\n#error planted\n#endif', item, 'planted')


edit('am', 1, r'^(@@ .*\n) (.+)', r'\1 x\2', 'a patch that does not apply',
     r'0002-.*does not apply: \S+:\d+')
edit('checkpatch', 2, '^---$', 'Signed-off-by: Some One <some@example.org>\n---',
     'a patch that is signed off', 'Signed-off-by')
svm_code('checkpatch', nested, 'int  nsvm_planted( void ) ;', 'bad spacing', '')
edit('checkpatch', 3, '^$', f'\n{"word " * 20}\n', 'a changelog line that is too long',
     'maximum 75')
edit('checkpatch', 3, '^---$', '\n# Conflicts:\n#\tarch/x86/kvm/svm/svm.c\n---',
     'a note of a merge', 'dropped by git')
code('checkpatch', 'arch/x86/kvm/svm/planted.h', '', '/* nothing */', 'a file without SPDX line',
     'SPDX-License-Identifier')
edit('message', 1, '^Subject: .*', 'Subject: [PATCH] kvm: cache g_pat', 'a wrong subject',
     'does not begin')
edit('message', 4, '^Subject: .*(\n .*)*', r'\g<0>.', 'a subject with a full stop', 'full stop')
edit('message', 3, '^---$', 'Fixes: 01234567 ("KVM")\n---', 'a commit id that is too short',
     'not Fixes: <12')
code('recipients', 'README', r'\A', 'Planted\n', 'a patch that is not for KVM', 'not for kvm@vger')
edit('recipients', -1, r'svm_nested_pat|nested[.]gpat|KVM_STATE_SVM_VALID_GPAT', 'svm_planted',
     'a test that our list does not know', 'MAINTAINERS does not know')
svm_code('w1', nested, 'static const int nsvm_planted = 1;', 'a variable nobody uses',
         'nested.c:.*nsvm_planted')
svm_code('clang', nested, 'int nsvm_planted(int x);\nint nsvm_planted(int x) { x = x; return x; }',
         'an assignment to itself', 'nested.c:.*error: ')
svm_code('sparse', nested, 'int nsvm_planted(int __user *p);\nint nsvm_planted(int __user *p) { '
         'return *(int *)p; }', 'an address space that is lost', 'address space')
svm_code('cocci', nested, 'void nsvm_planted(void *p);\nvoid nsvm_planted(void *p)\n{\n\tif '
         '(p)\n\t\tkfree(p);\n}', 'a NULL check that kfree() does', 'NULL check before')
without('cfg-builtin', '#ifndef MODULE', 'code that is no module')
without('cfg-amd-only', '#if !IS_ENABLED(CONFIG_HYPERV) && !defined(CONFIG_KVM_SMM)', 'HYPERV=n')
svm_code('cfg-no-kvm-hyperv', svm, 'int nsvm_planted(struct kvm_vcpu *vcpu);\n'
         'int nsvm_planted(struct kvm_vcpu *vcpu) { return !!vcpu->arch.hyperv; }', 'KVM_HYPERV=n',
         'hyperv')
svm_code('cfg-32bit', svm, 'static_assert(sizeof(long) == 8);', 'a long of 64 bits',
         'static assertion')
without('cfg-allmod', '#ifdef CONFIG_KASAN', 'KASAN')
code('uapi-headers', uapi, '^struct kvm_svm_nested_state_hdr',
     r'struct kvm_planted { __u32 class; };\n\g<0>', 'a field that C++ cannot name', r'as c\+\+')
code('uapi-layout', uapi, '__u64 vmcb_pa;', r'__u64 first;\n\t\g<0>', 'a field that moved',
     'vmcb_pa.* is gone')
code('uapi-layout', uapi, r'^(#define KVM_STATE_SVM_VALID_GPAT.*0x0*)1', r'\g<1>2',
     'a flag of another value', 'not intended: macro|macro .* is not so')
edit('uapi-layout', f'patches/{base.name}/uapi', r'\Z', '+ macro PLANTED 1\n',
     'a macro that is not there', 'PLANTED 1, which is not so')
code('selftest-gcc', test, function, r'static int nsvm_planted;\n\g<0>', 'an unused variable',
     'planted', selftest)
code('selftest-clang', test, function, r'static inline int nsvm_planted(void) { return 1; }\n\g<0>',
     'a function nobody uses', 'nsvm_planted', selftest)
code('kselftest', makefile, '^.*svm_nested_pat_test.*\n', '', 'a test that Makefile does not name',
     'not in kselftest-list', selftest)
code('skips', test, r'^.*TEST_REQUIRE\(.*SVM.*\n', '', 'a test that asks for no SVM', 'exit status',
     selftest)
code('htmldocs', api, r'\A', 'See :ref:`nsvm-planted-nowhere` and *this.\n', 'a broken page',
     'api.rst: WARNING')
edit('own-rst', 'Documentation/virt/kvm/x86/nested-svm-pat.rst', r'\Z',
     '\nA title\n=======\n\n:ref:`nowhere`\n', 'a broken page', 'nested-svm-pat.rst')
edit('own-rst', 'tools/nsvm/Documentation/lab.rst', r'\Z', '\nA title\n==\n',
     'a title that is none', 'too short.*lab.rst')
print(f'1..{toy.count}')
