# SPDX-License-Identifier: GPL-2.0
# The selftest: kselftest install, run_kselftest.sh (whole, fast)
import re

from lib.base import put
from lib.say import Fatal
from lib.settings import settings
from machine import boot

IN_MACHINE = '''#!/bin/sh
cd /tmp && tar xf /tests/kselftest.tar && cd kselftest && sh ./run_kselftest.sh -t "kvm:$1"
'''


def check(series, n: int) -> str:
    """Installed as make kselftest-install does, all of kvm, so that the Makefile says what is
    there; and run by run_kselftest.sh in the machine"""
    series.sh('''a_test
        headers
        at "$last"
        rm -rf "$work/kselftest"
        smake selftest-gcc install INSTALL_PATH="$work/kselftest" CC=gcc
        grep -q "^kvm:$test\\$" "$work/kselftest/kselftest-list.txt" ||
            wrong "not in kselftest-list.txt"
        find "$work/kselftest/kvm" -type f ! -name "$test" -size +100k -delete
        strip "$work/kselftest/kvm/$test"
        mkdir -p "$work/vm"
        tar -C "$work" -cf "$work/vm/kselftest.tar" kselftest
        echo "$test" >"$work/vm/name"''')
    vm = series.work / 'vm'
    test = (vm / 'name').read_text().strip()
    put(vm / 'kselftest', IN_MACHINE)
    settings.set(ACCEL='tcg')
    log_text = boot.run(series.kernel(), 'check-kselftest', [f'kselftest:{test}'], base=series.base,
                        tests_dir=vm, files=[vm / 'kselftest.tar'], view=False).text()
    print(log_text)
    verdict = re.search(rf'^(not )?ok 1 selftests: kvm: {test}.*', log_text, re.M)
    if not verdict or verdict[0] != f'ok 1 selftests: kvm: {test}':
        raise Fatal(f'run_kselftest.sh: {verdict[0] if verdict else "says nothing of it"}')
    return 'installed, listed, and run by run_kselftest.sh in the machine'
