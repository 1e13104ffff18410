# SPDX-License-Identifier: Apache-2.0
"""Telling the person at the terminal what goes on and how long it took."""

import collections.abc
import contextlib
import sys
import time

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Print a line, stamped with the seconds since this program began."""
    print(f'[{time.monotonic() - _STARTED:6.1f} s] {text}', flush=True)


def warn(text: str) -> None:
    """Print a line to standard error."""
    print(f'[{time.monotonic() - _STARTED:6.1f} s] {text}', file=sys.stderr,
          flush=True)


@contextlib.contextmanager
def phase(name: str) -> collections.abc.Iterator[None]:
    """Say that something starts, and how long it took or that it failed."""
    say(f'{name} ...')
    before = time.monotonic()
    try:
        yield
    except BaseException:
        say(f'{name}: FAILED after {time.monotonic() - before:.1f} s')
        raise
    say(f'{name}: {time.monotonic() - before:.1f} s')


def megabytes(size: int) -> str:
    """Write a number of bytes as people read it."""
    return f'{size / 1e6:.1f} MB'
