#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
"""The page of a run in Chromium, if that is installed: no error on the console, a picture of it

On a phone and on a desk, light and dark, images off; that of the last make run, or of a toy if
there was none.  Pictures are in build/page-*.png.
"""
import shutil
import sys
import tempfile
from pathlib import Path

import toy
from toy import is_
from lib import jobs
from lib.base import Base, read
from lib.settings import from_arguments, place
from proof import report
from test_report import made

VARIANTS = {'phone': ['--window-size=390,844'], 'desk': ['--window-size=1200,900'],
            'dark': ['--window-size=390,844', '--blink-settings=preferredColorScheme=0'],
            'no-images': ['--window-size=390,844', '--blink-settings=imagesEnabled=false']}

if not shutil.which('chromium'):
    print('ok 1 the page of make run in Chromium # SKIP that is not installed: it is large\n1..1')
    sys.exit(0)
from_arguments(sys.argv[1:])
page = read(Base().results / report.FILES[2]) or report.as_html(made(), '<svg></svg>', 'words')


def console(text: str, name: str, *options: str) -> list[str]:
    """What Chromium has to complain of"""
    with tempfile.TemporaryDirectory() as d:
        html, picture, log = Path(d) / 'page.html', place.build / f'page-{name}.png', Path(d) / 'log'
        html.write_text(text)
        picture.unlink(missing_ok=True)
        rc = jobs.call(['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', *options,
                        '--enable-logging=stderr', f'--user-data-dir={d}/user', f'--screenshot={picture}',
                        html.as_uri()],
                       log, timeout=60)
        said = [line for line in read(log).splitlines() if 'CONSOLE' in line]
        return said if rc == 0 and picture.exists() else [*said, f'exit status {rc}, or no picture']


for name, options in VARIANTS.items():
    is_(console(page, name, *options), [], f'the page in Chromium: {name}')
bad = page.replace('</html>', '<script>none()</script><img src="https://localhost/x.png"></html>')
is_(len(console(bad, 'spoilt')) > 1, True, 'a script and an image from elsewhere would be noticed')
print(f'1..{toy.count}')
