# SPDX-License-Identifier: GPL-2.0
"""Settings and places: what Kconfig, build/.config and the command line say

settings.SMP and so on are strings, as Kconfig has them: "y" and "n" for a bool.
Loaded on first use.  Besides Kconfig's symbols there are

  V        1: show what commands print as they run
  BUILD    where everything is made (build/)
  PATCHES  where the series are (patches/)
  OVERLAY  where the tests are (tools/testing/selftests/kvm/x86/)
  LOCKED   directories of build/ that the program above us has locked, with ":" between

place has the directories that do not depend on the base, see base.Base for those
that do.
"""
import os
import re
from pathlib import Path

from lib.say import Fatal

TOP = Path(__file__).resolve().parents[3]
LAB = TOP / 'tools/nsvm'
OTHERS = {'V': '', 'LOCKED': '', 'BUILD': str(TOP / 'build'), 'PATCHES': str(TOP / 'patches'),
          'OVERLAY': str(TOP / 'tools/testing/selftests/kvm/x86')}
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
            raise Fatal('no Python module kconfiglib: make setup installs Debian\'s python3-kconfiglib') from None
        os.environ['CONFIG_'] = 'NSVM_'
        kconf = kconfiglib.Kconfig(str(TOP / 'Kconfig'), warn=False)
        config = Path(self.BUILD) / '.config'
        if config.exists():
            kconf.load_config(str(config))
        return {name: sym.str_value for name, sym in kconf.syms.items() if sym.nodes}

    def __getattr__(self, name: str) -> str:
        if name in self.given:
            return self.given[name]
        if name in OTHERS:
            return OTHERS[name]
        if not name.isupper():
            raise AttributeError(name)
        if self.known is None:
            self.known = self.load()
        if name not in self.known:
            raise Fatal(f'{name}= is no setting: make help, make menuconfig')
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
        """What to give another program of the lab, so that it has the same"""
        return [f'{k}={v}' for k, v in self.given.items() if k != 'LOCKED']


class Place:
    top, lab = TOP, LAB

    @property
    def build(self) -> Path:
        return Path(settings.BUILD)

    @property
    def patches(self) -> Path:
        return Path(settings.PATCHES)

    @property
    def overlay(self) -> Path:
        return Path(settings.OVERLAY)

    @property
    def downloads(self) -> Path:
        return self.build / 'dl'


settings = Settings()
place = Place()


def from_arguments(args: list[str]) -> list[str]:
    """Take the settings out of a command line"""
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
    return rest


def rel(path: str | Path) -> str:
    """A path as a reader wants it: from the top of the repository"""
    return str(path).removeprefix(f'{TOP}/')
