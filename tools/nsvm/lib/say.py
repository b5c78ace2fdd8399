# SPDX-License-Identifier: GPL-2.0
"""Messages: one line about one step, and that a long one is alive"""
import re
import sys
import threading
import time

TICK = 30		# seconds between two lines, where there is no terminal
begun = time.monotonic()


class Fatal(Exception):
    """Ends the program with this one line; status 3: what it needs cannot be had"""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def need_match(pattern: str, text: str, missing: str) -> str:
    """The first group of the first match.

    Args:
        pattern: a regular expression, whose "^" and "$" are those of lines.
        text: where to look.
        missing: what the message says if there is no match.

    Raises:
        Fatal: there is none.
    """
    m = re.search(pattern, text, re.M)
    if not m:
        raise Fatal(missing)
    return m[1]


def elapsed(since: float) -> str:
    return f'{time.monotonic() - since:.1f} s'


def say(tag: str, text: str) -> None:
    print(f'  {tag:<9} {text}', flush=True)


def say_error(tool: str, text: str) -> None:
    print(f'{tool}: {text}', file=sys.stderr, flush=True)


class Ticker:
    """with Ticker(TAG, text): on a terminal a line that counts, else one each TICK

    text may be a function, asked for each line.  Of several at once, the first one is seen."""
    seen = threading.Lock()

    def __init__(self, tag: str, text) -> None:
        self.tag = tag
        self.text = text if callable(text) else lambda: text
        self.stop = threading.Event()
        self.start = time.monotonic()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.first = False

    def run(self) -> None:
        terminal = sys.stdout.isatty()
        while not self.stop.wait(1 if terminal else TICK):
            line = f'{self.text()} ... {elapsed(self.start)}'
            if terminal:
                print(f'\r\033[K  {self.tag:<9} {line}', end='', flush=True)
            else:
                say(self.tag, line)

    def __enter__(self) -> 'Ticker':
        self.first = Ticker.seen.acquire(blocking=False)
        if self.first:
            self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        if not self.first:
            return
        self.stop.set()
        self.thread.join()
        Ticker.seen.release()
        if sys.stdout.isatty():
            print('\r\033[K', end='', flush=True)
