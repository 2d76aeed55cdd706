# SPDX-License-Identifier: BSD-3-Clause
"""What all of the lab shares: where things are, and the three ways in which a case ends early."""
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, '..', '..'))
DEPS = os.environ.get('BTD_DEPS') or os.path.join(ROOT, '.deps')
BUILD = os.environ.get('BTD_BUILD') or os.path.join(ROOT, 'build', 'release')
GUEST = os.path.join(HERE, 'guest')
MIB = 1 << 20


class Skip(Exception):
    """This machine or this build cannot run the case; the text says why, and what to do."""


class Failed(Exception):
    """The case found something wrong; the text says what."""


def check(condition, text):
    if not condition:
        raise Failed(text)


def built(path):
    """A program of the release build."""
    full = os.path.join(BUILD, path)
    if not os.path.exists(full):
        raise Skip(f'{path} is not built; build the preset release')
    return full


class Progress:
    """One line that is written over while a case runs; nothing where no terminal looks on."""

    def __init__(self):
        self.live = sys.stderr.isatty()
        self.begin = time.monotonic()

    def show(self, text):
        if self.live:
            line = f'  {time.monotonic() - self.begin:4.0f} s  {text}'
            print(f'\r\x1b[K{line[:100]}', end='', file=sys.stderr, flush=True)

    def clear(self):
        if self.live:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)
