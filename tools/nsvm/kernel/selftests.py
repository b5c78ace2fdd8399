# SPDX-License-Identifier: GPL-2.0
"""selftests [TEST]... - static binaries of KVM selftests, in build/<base>/selftests

Builds the PAT tests, and TESTs of the overlay or of the tree.  Without a TEST: all tests of the
overlay and NEIGHBOURS.  A tree without the series has only its own tests.  If BASE has
"tests: <base>", the tests are built in the tree of that base, with its series.  The binaries run
on any machine.

The sources are symbolic links in build/<base>/selftests-src, with the overlay's files in place of
the tree's.  src does not change, and each test has one source.

mainline_test() is mainline's PAT test, without its use of a quirk that our KVM does not have.
"""
import re
import shutil
import time
from pathlib import Path

from lib import jobs
from lib.base import Base, digest, put, read
from lib.kind import mainline, own_tests, tests_base
from lib.say import Fatal, elapsed, say
from lib.settings import place, rel, settings
from source import tree as source_tree

# Tests of the base that have nothing to do with PAT and must not notice it
NEIGHBOURS = ['svm_vmcall_test', 'svm_nested_shutdown_test', 'svm_nested_soft_inject_test',
              'svm_int_ctl_test', 'nested_exceptions_test', 'hyperv_svm_test', 'state_test',
              'smm_test', 'set_sregs_test', 'triple_fault_event_test']
SELFTESTS = 'tools/testing/selftests'
QUIRK, MAINLINE_TEST = 'KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT', 'svm_nested_pat_mainline'


def arch_dir(tree: Path) -> str:
    return 'x86' if (tree / SELFTESTS / 'kvm/x86').is_dir() else 'x86_64'


def pat_tests(base: Base) -> list[str]:
    """Known when BASE is, and that is before anything is done"""
    if own := own_tests(base):
        return own
    return [f.stem for f in (place.overlay / 'svm_nested_pat_test.c',
                             *sorted(place.overlay.glob('svm_nested_pat_*_test.c'))) if f.exists()]


def wanted(base: Base) -> list[str]:
    """What make run runs"""
    return pat_tests(base) if settings.TESTS == 'all' else re.split('[, ]+',
                                                                    settings.TESTS.strip(', '))


def overlay_files(base: Base, pattern: str) -> list[Path]:
    """If the tree has the ABI that they test"""
    if 'KVM_STATE_SVM_VALID_GPAT' not in read(base.src / 'arch/x86/include/uapi/asm/kvm.h'):
        return []
    return sorted(place.overlay.glob(pattern))


def from_tree(of: Base) -> set[str]:
    """Names of the overlay's files that the tree has from its series: there the tree's count"""
    kvm = of.src / SELFTESTS / 'kvm' / arch_dir(of.src)
    return {f.name for f in place.overlay.glob('*.[ch]') if (kvm / f.name).exists()}


def make_shadow_tree(of: Base, shadow: Path, newer: bool,
                     own: set[str] | frozenset[str] = frozenset()) -> Path:
    """The place to build in; newer: than a kernel that tests run on; own: files of the tree's"""
    shutil.rmtree(shadow, ignore_errors=True)
    (shadow / SELFTESTS).mkdir(parents=True)
    for d in ('', 'tools', SELFTESTS):
        for f in (of.src / d).iterdir():
            if not (shadow / d / f.name).exists() and f.name not in ('.git', 'kvm'):
                (shadow / d / f.name).symlink_to(f)
    jobs.output(['cp', '-as', of.src / SELFTESTS / 'kvm', shadow / SELFTESTS])
    kvm, arch = shadow / SELFTESTS / 'kvm', arch_dir(of.src)
    ours = overlay_files(of, '*.[ch]')
    for f in ours:
        if f.name in own:
            continue
        (kvm / arch / f.name).unlink(missing_ok=True)
        (kvm / arch / f.name).symlink_to(f)
    # Warnings are errors in the tests that are ours
    strict = [f.stem for f in ours if f.suffix == '.c'] + own_tests(of)
    makefile = ['include Makefile', *(f'$(OUTPUT)/{arch}/{t}.o: CFLAGS += -Werror' for t in strict)]
    if newer:
        makefile += ['LDLIBS += $(OUTPUT)/regions.o', '$(TEST_GEN_PROGS): $(OUTPUT)/regions.o',
                     f'$(OUTPUT)/regions.o: {place.lab}/kernel/regions.c',
                     '\t$(CC) $(CFLAGS) -Werror -c -o $@ $<']
    put(kvm / 'Makefile.nsvm', '\n'.join(makefile) + '\n')
    return kvm


def make_headers(of: Base, tree: str, to: Path) -> str:
    """The user-space headers of the tree that KVM's selftests include, and those that these do, in
    to/usr/include, as make headers would make them of all; others are the system's.  Names them"""
    read_from = ('include/uapi', 'arch/x86/include/uapi', 'scripts', f'{SELFTESTS}/kvm')
    made_of = digest(Path(__file__), of.git('rev-parse', *(f'{tree}:{d}' for d in read_from)))
    if read(to / 'stamp') == made_of:
        return made_of
    begin = time.monotonic()
    shutil.rmtree(to, ignore_errors=True)
    (to / 'scripts').mkdir(parents=True)
    jobs.output(['gcc', '-O2', '-o', to / 'scripts/unifdef', of.src / 'scripts/unifdef.c'])
    paths = set(of.git('ls-tree', '-r', '--name-only', tree, '--', 'include/uapi',
                       'arch/x86/include/uapi').split())
    # Those of 7.3 have vfio's library as well
    todo = [f for d in ('kvm', 'vfio') for f in (of.src / SELFTESTS / d).rglob('*.[chS]')
            if f.is_file()]
    made: dict[str, Path] = {}
    while todo:
        for name in re.findall(r'#\s*include <((?:linux|asm|asm-generic)/[a-z_0-9-]+\.h)>',
                               todo.pop().read_text(errors='replace')):
            path = next((p for d in ('include/uapi', 'arch/x86/include/uapi')
                         if (p := f'{d}/{name}') in paths), None)
            if path and name not in made:
                made[name] = to / 'from' / name
                put(made[name], of.git('show', f'{tree}:{path}') + '\n')
                todo.append(made[name])
    todo_headers = [(header, to / 'usr/include' / name) for name, header in made.items()]
    for _, installed in todo_headers:
        installed.parent.mkdir(parents=True, exist_ok=True)
    list(jobs.each(lambda f: jobs.output(['sh', of.src / 'scripts/headers_install.sh', *f], cwd=to),
                   todo_headers))
    put(to / 'stamp', made_of)
    say('SELFTESTS', f'{len(todo_headers)} user-space headers made ({elapsed(begin)})')
    return made_of


def build(base: Base, tests: list[str] | tuple[str, ...] = (), unaware: bool = False) -> Path:
    """The directory that has them, and those of before.

    Args:
        tests: of the tree's own.
        unaware: as they are without the series, with the headers of that kernel.
    """
    of, which = tests_base(base), '-unaware' if unaware else ''
    newer = of.b != base.b
    if newer:
        source_tree.make(of)
    arch, out = arch_dir(of.src), base.b / f'selftests{which}'
    ours = [f.stem for f in overlay_files(of, '*.c')]
    asked = list(dict.fromkeys([*pat_tests(base), *wanted(base), *tests]))
    names = [t for t in asked if t in ours
             or (of.src / SELFTESTS / 'kvm' / arch / f'{t}.c').exists()]
    for t in set(wanted(base)) - set(names) - set(pat_tests(base)):
        raise Fatal(f'no test {t} in {rel(of.src)}/{SELFTESTS}/kvm/{arch}')
    if not ours and not own_tests(of):
        say('SELFTESTS',
            f'{rel(of.src)} has no KVM_STATE_SVM_VALID_GPAT: only its own tests are built')
    tree = of.commit() if unaware else of.worktree()
    headers_id = make_headers(of, tree, base.b / f'headers{which}')
    trees = of.git('rev-parse', *(f'{tree}:{d}' for d in (SELFTESTS, 'tools/include',
                                                          'tools/arch/x86/include')))
    made_of = digest(headers_id, settings.CC, str(of.src), trees,
                     *sorted(place.overlay.glob('*.[ch]')), Path(__file__))
    have = read(out / '.stamp').split()
    if have[:1] != [made_of]:
        shutil.rmtree(out, ignore_errors=True)
        have = [made_of]
    todo = [t for t in names if t not in have]
    if todo:
        kvm = make_shadow_tree(of, base.b / f'selftests-src{which}', newer,
                               set() if unaware else from_tree(of))
        compile_tests(base, which, kvm, {t: t for t in todo},
                      f'{len(todo)} tests built, static, in {rel(out)}')
        put(out / '.stamp', ' '.join([*have, *todo]) + '\n')
    return out


def compile_tests(base: Base, which: str, kvm: Path, names: dict[str, str], text: str) -> None:
    """In a directory of make_shadow_tree(), to build/<base>/selftests<which>; names: of the test,
    and of the binary"""
    arch, log = arch_dir(kvm.parents[3]), base.logs / f'build-selftests{which}.log'
    objects, out = base.b / f'selftests-obj{which}', base.b / f'selftests{which}'
    cc = 'LLVM=1' if settings.CC == 'clang' else f'CC={settings.CC}'
    progs = ' '.join(f'{arch}/{t}' for t in names)
    none = ('TEST_GEN_PROGS_COMMON', 'TEST_GEN_PROGS_EXTENDED_x86_64',
            'TEST_GEN_PROGS_EXTENDED_x86', 'TEST_PROGS_x86_64', 'TEST_PROGS_x86',
            'TEST_GEN_PROGS_EXTENDED', 'TEST_PROGS')
    jobs.step('SELFTESTS', log, text,
              ['make', '-C', kvm, '-f', 'Makefile.nsvm', f'-j{jobs.workers()}', cc,
               f'OUTPUT={objects}', f'KHDR_INCLUDES=-isystem {base.b}/headers{which}/usr/include',
               f'TEST_GEN_PROGS_x86_64={progs}', f'TEST_GEN_PROGS_x86={progs}',
               *(f'{n}=' for n in none)], 'the tests do not build', env={'LDFLAGS': '-static'})
    out.mkdir(parents=True, exist_ok=True)
    for test, binary in names.items():
        if not (objects / arch / test).exists():
            raise Fatal(f'{test} was not built (log: {rel(log)})')
        # A build ID is also of the directories in debug information: the same wherever it was built
        jobs.output(['strip', '-R', '.note.gnu.build-id', '-o', out / binary,
                     objects / arch / test])


def without_quirk(source: str) -> str:
    """A test of mainline without the statements that ask for the quirk, or disable it"""
    text, count = re.subn(rf'\b\w+\([^;{{}}]*\b{QUIRK}\b[^;{{}}]*;', ';', source)
    if not count or QUIRK in text:
        raise Fatal(f"mainline's test is not as the edit expects it: {count} statements with "
                    f'{QUIRK} removed, {text.count(QUIRK)} others left')
    return text


def mainline_test(quirk: bool = False) -> Path:
    """The directory that has it, as MAINLINE_TEST; quirk: unchanged, for a KVM that has it.  Fatal
    with NOT_HERE if mainline's source cannot be had"""
    of = source_tree.make_base(mainline())
    test, which, arch = 'svm_nested_pat_test', '-quirk' if quirk else '-no-quirk', arch_dir(of.src)
    out = of.b / f'selftests{which}'
    text = of.git('show', f'{of.commit()}:{SELFTESTS}/kvm/{arch}/{test}.c') + '\n'
    text = text if quirk else without_quirk(text)
    made_of = digest(of.commit(), text, settings.CC, Path(__file__), place.lab / 'kernel/regions.c')
    if read(out / '.stamp') == made_of:
        return out
    make_headers(of, of.commit(), of.b / f'headers{which}')
    kvm = make_shadow_tree(of, of.b / f'selftests-src{which}', newer=True)
    (kvm / arch / f'{test}.c').unlink()
    put(kvm / arch / f'{test}.c', text)
    shutil.rmtree(of.b / f'selftests-obj{which}', ignore_errors=True)
    compile_tests(of, which, kvm, {test: MAINLINE_TEST},
                  f"mainline's own {test} built{'' if quirk else ' without its quirk'}")
    put(out / '.stamp', made_of)
    return out


def main(args: list[str]) -> int:
    base = source_tree.make(Base())
    build(base, args or [*NEIGHBOURS, *(f.stem for f in overlay_files(base, '*.c'))])
    say('SELFTESTS', f'{rel(base.b)}/selftests: copy svm_nested_pat*_test to an AMD machine and '
        'start them as root')
    return 0
