# SPDX-License-Identifier: GPL-2.0
"""Settings and places: what Kconfig, build/.config and the command line say

settings.SMP and so on are strings, as Kconfig has them: "y" and "n" for a bool.
Loaded on first use.  Besides Kconfig's symbols there are COMMON, which all programs
have, and OPTIONS, which are those of one program; nothing else is a setting.

place has the directories that do not depend on the base, see base.Base for those
that do.
"""
import difflib
import os
import re
from pathlib import Path

from lib.say import Fatal

TOP = Path(__file__).resolve().parents[3]
LAB = TOP / 'tools/nsvm'
DEFAULTS = {'V': '', 'LOCKED': '', 'BUILD': str(TOP / 'build'), 'PATCHES': str(TOP / 'patches'),
            'OVERLAY': str(TOP / 'tools/testing/selftests/kvm/x86')}
COMMON = {'V': '1: show what commands print as they run',
          'BUILD': 'where everything is made (build/)',
          'PATCHES': 'where the series are (patches/)',
          'OVERLAY': 'where the tests are (tools/testing/selftests/kvm/x86/)',
          'LOCKED': 'directories of build/ that the program above has locked, with ":" between'}
MAIL = {'VERSION': 'of the series; with make V=5', 'SIGNOFF': "1: add the sender's Signed-off-by",
        'PREFIX': "in place of PATCH, such as 'PATCH RESEND'"}
OPTIONS = {
    'bases': {'TREES': 'git trees to look at as well, each perhaps with @COMMIT'},
    'bench': {'KERNELS': 'only these'},
    'check': {'NAME': 'only these checks'},
    'clean': {'FORCE': '1: even if there is work that is not in patches/'}, 'fuzz': {
        'TIME': 'seconds', 'SEED': 'of the first round', 'STEPS': 'with SEED: repeat that round'},
    'lava': {'URL': 'where LAVA finds the files', 'DEVICE': "the AMD machine's device type",
             'CHECK': '1: run the job of QEMU'}, 'mbox': MAIL,
    'model': {'SEQ': 'one sequence, such as run-a.write.smi.rsm.read',
              'KVM': 'mainline or mainline-series', 'DEPTH': 'length of the sequences',
              'RANDOM': 'how many random ones', 'SEED': 'of these'},
    'mutants': {'NAME': 'only these'}, 'remote': {
        'HOST': 'user@host, several with blanks between them',
        'MODULES': '1: load the modules of the series there', 'PART': 'kernel: the benchmark',
        'SSH': 'a command in place of ssh'}, 'send': {**MAIL, 'REALLY': '1: send'},
    'stack': {'PART': 'pats, file, socket, soak, or a file of kvm-unit-tests', 'VMM': "L0's QEMU"},
    'test': {'ALL': '1: whole kernels, and the other bases in full'},
    'view': {'CASE': 'a test case, or list'}}
EVERY = {name: text for options in OPTIONS.values() for name, text in options.items()}
# These come before the program that is meant, with its settings
FIRST_STEPS = ('setup', 'tree')
# What a program takes as its arguments, if it has none
ARGUMENTS = {'bases': 'TREES', 'check': 'NAME', 'mutants': 'NAME',
             'remote': 'PART', 'stack': 'PART', 'view': 'CASE'}
# As settings.SMP='2' on the command line of make; an argument is no setting
SETTING = re.compile(r'([A-Z][A-Z_]*)=(.*)', re.S)


class Settings:
    """Attributes are the symbols' values"""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.known: dict[str, str] | None = None

    def load(self) -> dict[str, str]:
        try:
            import kconfiglib
        except ImportError:
            raise Fatal('no Python module kconfiglib: make setup installs Debian\'s '
                        'python3-kconfiglib') from None
        os.environ['CONFIG_'] = 'NSVM_'
        kconf = kconfiglib.Kconfig(str(TOP / 'Kconfig'), warn=False)
        config = Path(self.BUILD) / '.config'
        if config.exists():
            kconf.load_config(str(config))
        return {name: sym.str_value for name, sym in kconf.syms.items() if sym.nodes}

    def __getattr__(self, name: str) -> str:
        if name in self.given:
            return self.given[name]
        if name in DEFAULTS:
            return DEFAULTS[name]
        if not name.isupper():
            raise AttributeError(name)
        if self.known is None:
            self.known = self.load()
        return self.known[name]

    def set(self, **values: str) -> None:
        """For one process: as if on the command line"""
        self.given.update(values)

    def number(self, name: str) -> int:
        value = getattr(self, name)
        if not value.isdigit():
            raise Fatal(f'{name}={value} is no number')
        return int(value)

    def arguments(self) -> list[str]:
        """What to give another program of the lab, which has options of its own"""
        return [f'{k}={v}' for k, v in self.given.items() if k != 'LOCKED' and k not in EVERY]


class Place:
    top, lab = TOP, LAB
    build = property(lambda self: Path(settings.BUILD))
    patches = property(lambda self: Path(settings.PATCHES))
    overlay = property(lambda self: Path(settings.OVERLAY))
    downloads = property(lambda self: self.build / 'dl')


settings = Settings()
place = Place()


def check_names(program: str) -> None:
    """Fatal if a setting is none of this program, with the nearest one that is."""
    # That of Kconfig's symbols takes no module
    known = [*re.findall(r'^config (\w+)', (TOP / 'Kconfig').read_text(), re.M), *COMMON,
             *(EVERY if program in FIRST_STEPS else OPTIONS.get(program, {}))]
    for name in settings.given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0)
            raise Fatal(f'{name}= is no setting of {program}: did you mean {near[0]}=?')


def from_arguments(args: list[str], program: str = '') -> list[str]:
    """Take the settings out of a command line.

    Args:
        args: settings and arguments, in any order.
        program: the one that they are for.

    Returns:
        The arguments; if there are none, the words of the setting that stands for them.

    Raises:
        Fatal: a setting is unknown.
    """
    rest = []
    for arg in args:
        m = SETTING.fullmatch(arg)
        if m:
            settings.given[m[1]] = m[2]
        else:
            rest.append(arg)
    for key in ('BUILD', 'PATCHES', 'OVERLAY'):
        if key in settings.given:
            settings.given[key] = os.path.abspath(settings.given[key])
    if 'V' in settings.given and 'VERSION' in OPTIONS.get(program, {}):
        settings.given['VERSION'] = settings.given.pop('V')
    if program:
        check_names(program)
    return rest or settings.given.get(ARGUMENTS.get(program, ''), '').split()


def rel(path: str | Path) -> str:
    """A path as a reader wants it: from the top of the repository"""
    return str(path).removeprefix(f'{TOP}/')
