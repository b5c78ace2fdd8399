# SPDX-License-Identifier: GPL-2.0
"""make run in a fresh Debian: what it says, and that nothing is left, whatever happens"""
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib import ktap
from lib.base import put
from lib.say import Fatal
from lib.settings import settings
from proof import fresh

LOG = '''  TREE      Linux 6.12.118 (6.12.118-1); the series was made on 6.12.117
  on the series: 110 ok, 0 not ok, 0 skipped
'''


class Fresh(unittest.TestCase):
    def setUp(self) -> None:
        self.top = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.dict(settings.given, BUILD=str(self.top)))

    def run_with(self, status: int, text: str, **install) -> tuple[int, list[ktap.Item]]:
        """main(), with a make run that says that; no other program is started"""
        def run_in(_root: Path, log: Path, _base: str) -> int:
            put(log, text)
            return status

        with mock.patch('os.getuid', return_value=0), mock.patch.object(
                fresh, 'install',
                **install), mock.patch.object(fresh, 'copy_repository'), mock.patch.object(
                        fresh, 'run_in', run_in), redirect_stdout(StringIO()):
            rc = fresh.main([])
        return rc, ktap.read(next(self.top.glob('*/results/fresh.ktap')))

    def test_good(self) -> None:
        rc, items = self.run_with(0, LOG)
        self.assertEqual((rc, items[0].verdict), (0, 'ok'))
        self.assertIn('6.12.118', items[0].detail)
        self.assertIn('110 ok', items[0].detail)
        self.assertFalse((self.top / 'fresh').exists())

    def test_bad(self) -> None:
        """The last line, and the log"""
        rc, items = self.run_with(2, 'run: 0002-x.patch does not apply\n')
        self.assertEqual((rc, items[0].verdict), (1, 'not ok'))
        self.assertRegex(items[0].detail, r'0002-x\.patch does not apply \(log: .*fresh\.log\)')

    def test_no_network(self) -> None:
        with self.assertRaises(Fatal) as raised:
            self.run_with(0, LOG, side_effect=Fatal('mmdebstrap cannot install trixie: x', 3))
        self.assertEqual(raised.exception.status, 3)
        self.assertFalse((self.top / 'fresh').exists())

    def test_no_root(self) -> None:
        with mock.patch('os.getuid', return_value=1000), self.assertRaises(Fatal) as raised:
            fresh.main([])
        self.assertEqual(raised.exception.status, 3)
