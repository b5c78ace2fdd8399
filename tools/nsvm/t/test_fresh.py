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
from source import chroot

LOG = '''  TREE      Linux 6.12.118 (6.12.118-1); the series was made on 6.12.117
  on the series: 110 ok, 0 not ok, 0 skipped
'''


class Fresh(unittest.TestCase):
    def run_with(self, status: int, text: str) -> tuple[int, ktap.Item, list[Path]]:
        """main(), with a make run that says that: status, item, and what is left"""
        def run_in(_root: Path, log: Path, _base: str) -> int:
            put(log, text)
            return status

        top = Path(self.enterContext(tempfile.TemporaryDirectory()))
        with mock.patch.dict(settings.given, BUILD=str(top)), mock.patch(
                'os.getuid', return_value=0), mock.patch.object(
                    chroot, 'install'), mock.patch.multiple(
                        fresh, copy_repository=mock.DEFAULT,
                        run_in=run_in), redirect_stdout(StringIO()):
            rc = fresh.main([])
        return rc, ktap.read(next(top.glob('*/results/fresh.ktap')))[0], [*top.glob('fresh/*')]

    def test_good(self) -> None:
        rc, item, left = self.run_with(0, LOG)
        self.assertEqual((rc, item.verdict, left), (0, 'ok', []))
        self.assertRegex(item.detail, '6.12.118.*110 ok')

    def test_bad(self) -> None:
        """The last line, and the log"""
        rc, item, left = self.run_with(2, 'run: 0002-x.patch does not apply\n')
        self.assertEqual((rc, item.verdict, left), (1, 'not ok', []))
        self.assertRegex(item.detail, r'0002-x\.patch does not apply \(log: .*fresh\.log\)')

    def test_no_root(self) -> None:
        with mock.patch('os.getuid', return_value=1000), self.assertRaises(Fatal) as raised:
            fresh.main([])
        self.assertEqual(raised.exception.status, 3)
