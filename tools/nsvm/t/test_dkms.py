# SPDX-License-Identifier: GPL-2.0
"""For which kernels the package nsvm-pat-dkms is, as DKMS and postinst see it"""
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kernel import dkms

VALUES = dkms.values('6.12.117+deb12-cloud-amd64', '6.12.117-1~deb12u1+v5', ['kvm', 'kvm-amd'])
OURS = ['6.12.117+deb12-cloud-amd64', '6.12.117+deb12-amd64']
OTHERS = ['6.12.117+deb12-rt-amd64', '6.12.117+deb13-amd64', '6.12.1170+deb12-amd64',
          '6.12.117+deb12-amd64x', '6x12.117+deb12-amd64']
# As autoinstall does it: what read_conf has hides the kernel that is asked for
READ_CONF = ('safe_source() { . /dev/stdin; }; read_conf() { local kernelver=$2; safe_source; }; '
             'kernelver=$1; read_conf "$@"; ')


def bash(script: str, file: str, *args: str) -> str:
    return subprocess.run(['bash', '-c', script, 'bash', *args], input=dkms.fill(file, VALUES),
                          text=True, capture_output=True, check=True).stdout


class Test(unittest.TestCase):
    def test_conf(self) -> None:
        for asked in OURS + OTHERS:
            for built in '', OURS[0], OTHERS[0]:
                output = bash(READ_CONF + '[[ $1 =~ $BUILD_EXCLUSIVE_KERNEL ]] && echo match; echo '
                              '$AUTOINSTALL', 'dkms', asked, built)
                self.assertEqual(output, 'match\nyes\n' if asked in OURS else '\n', asked)
        output = bash(READ_CONF + 'echo ${BUILT_MODULE_NAME[*]} ${DEST_MODULE_LOCATION[*]} '
                      '$PACKAGE_VERSION', 'dkms')
        self.assertEqual(output, 'kvm kvm-amd /updates /updates 6.12.117-1~deb12u1+v5\n')

    def test_conf_without_kernel(self) -> None:
        """As postinst of Debian 13's DKMS reads it"""
        self.assertEqual(bash('. /dev/stdin; echo $AUTOINSTALL', 'dkms'), 'yes\n')

    def test_postinst(self) -> None:
        for running in OURS + OTHERS:
            output = bash('running=$1; uname() { echo $running; }; set configure; . /dev/stdin',
                          'postinst', running)
            self.assertEqual(f'does nothing on Linux {running}' in output, running in OTHERS)
