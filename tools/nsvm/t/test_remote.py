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
        for name in 'tmp', 'bin':
            (self.d / name).mkdir()
        toy.script(self.d / 'ssh', SSH.format(d=self.d))
        toy.script(self.d / 'one', 'echo 1..2; echo "ok 1 a"; echo "ok 2 b $*"')
        toy.script(self.d / 'sleeps', f'echo $$ >{self.d}/pid; sleep 60')
        toy.script(self.d / 'bin/id', 'echo 0')

    def run_there(self, *tests: str, live=lambda line: None, **variables: str) -> str:
        files = [self.d / name for name in dict.fromkeys(t.partition(':')[0] for t in tests)]
        given = {'tests': ' '.join(tests), 'limit': '9', 'release': '', **variables}
        return ssh.run([str(self.d / 'ssh')], 'host', files, given, self.d / 'log', live)

    def fails(self, *tests: str, **options) -> str:
        with self.assertRaises(Fatal) as e:
            self.run_there(*tests, **options)
        return str(e.exception)

    def left(self) -> list[Path]:
        return list((self.d / 'tmp').iterdir())

    def test_time_limit(self) -> None:
        cases = ktap.cases(self.run_there('sleeps', 'one', limit='1'))
        self.assertEqual([c.verdict for c in cases if not c.case], ['not ok', 'ok'])

    def test_sudo(self) -> None:
        toy.script(self.d / 'bin/id', 'echo 1000')
        toy.script(self.d / 'bin/sudo',
                   f'[ "$1" = -n ] && shift && echo "$*" >>{self.d}/sudo && exec "$@"')
        self.assertIn('# nsvm: done', self.run_there('one'))
        self.assertIn('/remote ', (self.d / 'sudo').read_text())

    def test_another_kernel(self) -> None:
        self.assertRegex(self.fails('one', release='1.2.3'),
                         'it runs Linux .*, and the module is for 1.2.3')
        self.assertEqual(self.left(), [])

    def test_broken_while_files_are_copied(self) -> None:
        toy.script(self.d / 'ssh',
                   f'{SSH.format(d=self.d).split("mkfifo")[0]} head -c 3000 | sh -c "$3"')
        self.assertIn('host: ', self.fails('one'))
        self.assertEqual(self.left(), [])

    def test_login_shell_is_killed(self) -> None:
        toy.script(self.d / 'one',
                   'up() { cut -d " " -f 4 /proc/$1/stat; }; kill $(up $(up $PPID)); echo ok 1 a')
        self.assertIn('ok 1 a', self.run_there('one'))
        self.assertEqual(self.left(), [])

    def test_ticks(self) -> None:
        text = remote.ticks({'stock': {'vmrun': (100, 110, 3)}, 'series': {'vmrun': (103, 111, 3)}})
        self.assertEqual(text.splitlines()[1].split(), ['vmrun', '100', '110', '103', '111', '+3'])
