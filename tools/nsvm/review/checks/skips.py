# SPDX-License-Identifier: GPL-2.0
# The selftest: skips where there is nothing to test (whole, fast)
import os
import shutil

from kernel.kernels import Kernel
from lib.base import put
from lib.say import Fatal, need_match
from lib.settings import settings
from machine import boot


def check(series, n: int) -> str:
    """Exit status 4 and no failure"""
    series.sh('''builds gcc CC=gcc
        mkdir -p "$work/vm"
        strip -o "$work/vm/test" "$binary"''')
    vm, kernel = series.work / 'vm', series.kernel()
    put(vm / 'no-kvm', '#!/bin/sh\nrm -f /dev/kvm\nexec /tests/test\n')
    put(vm / 'intel', '#!/bin/sh\ninsmod /tests/kvm-amd.ko nested=1\nexec /tests/test\n')
    # The machine does not start without the modules that it has: kvm-amd is loaded by the script
    intel = Kernel(series.work / 'kernel-intel', 'check')
    shutil.rmtree(intel.dir, ignore_errors=True)
    shutil.copytree(kernel.dir, intel.dir, symlinks=True, copy_function=os.link)
    put(intel.dir / 'modules/order',
        ''.join(f'{m.stem}\n' for m in kernel.modules if m.stem != 'kvm-amd'))
    settings.set(ACCEL='tcg')
    amd = kernel.kvm_amd
    for label, of, more in (('no-kvm', kernel, {'files': [vm / 'test']}), ('intel', intel, {
            'files': [vm / 'test', amd], 'cpu': 'max,vendor=GenuineIntel,family=6,model=85,-svm'}),
                            ('test', kernel, {'parameters': 'nested=0'})):
        log_text = boot.run(of, f'check-skip-{label}', [label], base=series.base, tests_dir=vm,
                            view=False, **more).text()
        print(log_text)
        rc = need_match(r'^# nsvm: end .* rc=(\d+)', log_text, 'the test did not end')
        if rc != '4':
            raise Fatal(f'{label.replace("test", "nested=0")}: exit status {rc}, and not 4')
    return 'exit status 4 without /dev/kvm, on an Intel CPU, with nested=0'
