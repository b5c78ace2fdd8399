# SPDX-License-Identifier: GPL-2.0
"""What make test gives to the programs that it starts"""
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib import base
from lib.settings import settings
from proof import test


class Arguments(unittest.TestCase):
    def test_locked(self) -> None:
        """What a program above has locked stays locked for those below, whoever starts them"""
        with mock.patch.dict(settings.given, LOCKED='/a:/b'), mock.patch.dict(
                base.locked, {Path('/c'): 3}, clear=True):
            self.assertIn('LOCKED=/a:/b:/c', test.arguments('run'))
        with mock.patch.dict(settings.given,
                             clear=True), mock.patch.dict(base.locked, {Path('/c'): 3}, clear=True):
            self.assertIn('LOCKED=/c', test.arguments('run'))
