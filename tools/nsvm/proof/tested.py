# SPDX-License-Identifier: GPL-2.0
"""What make test has passed: written by proof/test.py, read before a series is mailed"""
from lib.base import Base, digest, read
from lib.settings import place


def content_id(base: Base) -> str:
    """Names what make test tests: base, series and overlay, not the cover letter"""
    return digest(base.commit(), base.series_id(), *sorted(place.overlay.glob('*.[ch]')))


def last(base: Base) -> dict[str, str]:
    """What it wrote when all had passed: content, date, summary"""
    return dict(line.split(' ', 1) for line in read(base.results / 'tested').splitlines())
