# SPDX-License-Identifier: GPL-2.0
# The selftest: skips where there is nothing to test (whole, fast)
from lib.base import put
from lib.say import Fatal, need_match
from lib.settings import settings
from machine import boot


def check(series, n: int) -> str:
    """Exit status 4 and no failure"""
    series.sh('''builds gcc CC=gcc
        mkdir -p "$work/vm"
        strip -o "$work/vm/test" "$binary"''')
    vm = series.work / 'vm'
    put(vm / 'no-kvm', '#!/bin/sh\nrm -f /dev/kvm\nexec /tests/test\n')
    settings.set(ACCEL='tcg')
    for name, where, options in (('no-kvm', 'without /dev/kvm', {'files': [vm / 'test']}),
                                 ('test', 'with nested=0', {'parameters': 'nested=0'})):
        log_text = boot.run(series.kernel(), f'check-skip-{name}', [name], base=series.base,
                            tests_dir=vm, view=False, **options).text()
        print(log_text)
        status = need_match(r'^# nsvm: end .* rc=(\d+)', log_text, 'the test did not end')
        if status != '4':
            raise Fatal(f'{where}: exit status {status}, and not 4')
    return 'exit status 4 without /dev/kvm, with nested=0'
