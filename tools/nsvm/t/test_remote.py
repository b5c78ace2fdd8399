# SPDX-License-Identifier: GPL-2.0
"""Tests of machine/ssh.py, machine/remote and proof/remote.py, this machine in place of the host"""
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import toy
from lib import ktap
from lib.say import Fatal
from machine import ssh
from proof import remote

# What is begun there goes on when ssh is killed, as on a host; its input then ends
SSH = '''while [ "$1" != -- ]; do shift; done
export PATH={d}/bin:$PATH TMPDIR={d}/tmp
mkfifo {d}/in
exec 4<&0
cat <&4 >{d}/in &
setsid sh -c "$3" <{d}/in | cat
kill $!'''


class Host(unittest.TestCase):
    def setUp(self) -> None:
        self.d = Path(tempfile.mkdtemp(prefix='nsvm-remote-'))
        self.addCleanup(shutil.rmtree, self.d)
        (self.d / 'tmp').mkdir()
        self.script('ssh', SSH.format(d=self.d))
        self.script('one', 'echo 1..2; echo "ok 1 a"; echo "ok 2 b $*"')
        self.script('bin/id', 'echo 0')

    def script(self, name: str, text: str) -> None:
        toy.script(self.d / name, text)

    def run_there(self, *tests: str, **variables: str) -> str:
        given = {'tests': ' '.join(tests), 'limit': '9', 'release': '', **variables}
        return ssh.run([str(self.d / 'ssh')], 'host', [self.d / name for name in tests], given,
                       self.d / 'log', lambda line: None)

    def assert_fails(self, reason: str, **variables: str) -> None:
        with self.assertRaisesRegex(Fatal, reason):
            self.run_there('one', **variables)
        self.assertEqual(list((self.d / 'tmp').iterdir()), [])

    def test_time_limit(self) -> None:
        self.script('sleeps', 'sleep 60')
        cases = ktap.cases(self.run_there('sleeps', 'one', limit='1'))
        self.assertEqual([c.verdict for c in cases if not c.case], ['not ok', 'ok'])

    def test_sudo(self) -> None:
        self.script('bin/id', 'echo 1000')
        self.script('bin/sudo',
                    f'[ "$1" = -n ] && shift && echo "$*" >>{self.d}/sudo && exec "$@"')
        self.assertIn('# nsvm: done', self.run_there('one'))
        self.assertIn('/remote ', (self.d / 'sudo').read_text())
        self.script('bin/sudo', 'exit 1')
        self.assert_fails('host: .* is not root there, and cannot use sudo')

    def test_no_connection(self) -> None:
        self.script('ssh', 'echo Connection refused >&2; exit 255')
        self.assert_fails('host: Connection refused')

    def test_another_kernel(self) -> None:
        self.assert_fails('it runs Linux .*, and the module is for 1.2.3', release='1.2.3')

    def test_broken_while_files_are_copied(self) -> None:
        self.script('ssh', f'{SSH.format(d=self.d).split("mkfifo")[0]} head -c 3000 | sh -c "$3"')
        self.assert_fails('host: ')

    def test_login_shell_is_killed(self) -> None:
        self.script('one',
                    'up() { cut -d " " -f 4 /proc/$1/stat; }; kill $(up $(up $PPID)); echo ok 1 a')
        self.assertIn('ok 1 a', self.run_there('one'))
        self.assertEqual(list((self.d / 'tmp').iterdir()), [])


class Results(unittest.TestCase):
    def test_ticks(self) -> None:
        text = remote.ticks({'stock': {'vmrun': (100, 110, 3)}, 'series': {'vmrun': (103, 111, 3)}})
        self.assertEqual(text.splitlines()[1].split(), ['vmrun', '100', '110', '103', '111', '+3'])

    def test_verdict(self) -> None:
        for verdicts, expected in (('ok', (0, 'its KVM does what it should')),
                                   ('skip', (remote.NOTHING, 'nothing was tested')),
                                   ('not ok', (1, 'nothing was tested'))):
            status, _, verdict = remote.judge([], [ktap.Case('t', 'c', verdicts)], 'host')
            self.assertEqual((status, verdict), expected)
