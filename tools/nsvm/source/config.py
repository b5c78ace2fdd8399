# SPDX-License-Identifier: GPL-2.0
"""config defconfig|menuconfig - make build/.config from Kconfig, with Debian's kconfiglib

Exit status: 0; 1 if there is no terminal for the menu.
"""
import os
import sys

from lib.say import Fatal, say
from lib.settings import place, rel, settings


def main(args: list[str]) -> int:
    if args not in (['defconfig'], ['menuconfig']):
        raise Fatal('usage: config defconfig|menuconfig')
    settings.load()		# says so if there is no kconfiglib
    import kconfiglib
    from menuconfig import menuconfig
    config = place.build / '.config'
    config.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(CONFIG_='NSVM_', KCONFIG_CONFIG=str(config))
    kconf = kconfiglib.Kconfig(str(place.top / 'Kconfig'), warn=False)
    if args == ['defconfig']:
        kconf.write_config(str(config))
        say('CONFIG', f'defaults written to {rel(config)}')
    elif sys.stdin.isatty():
        menuconfig(kconf)
    else:
        raise Fatal('menuconfig needs a terminal; make defconfig, and an editor')
    return 0
