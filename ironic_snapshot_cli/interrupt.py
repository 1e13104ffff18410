# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM, which are the same here."""

import contextlib
import signal
import types
from collections.abc import Iterator

from ipa_snapshot_hardware import executor

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopping(stop: executor.Stop) -> Iterator[None]:
    """Have a signal stop a capture in an orderly way.

    A second one breaks off at once.
    """

    def handle(number: int, frame: types.FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = [(each, signal.signal(each, handle)) for each in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
