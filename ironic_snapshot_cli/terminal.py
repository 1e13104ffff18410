# SPDX-License-Identifier: Apache-2.0
"""What a person sees meanwhile: messages, and a progress bar below them.

On a terminal there is one line that is drawn again five times a second and
is gone at the end; elsewhere a plain line every ten seconds; or nothing.
"""

import dataclasses
import logging
import os
import sys
import threading
import types
import typing
from collections.abc import Callable

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import redact
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import table

BAR_INTERVAL_S = 0.2
LINE_INTERVAL_S = 10.0

PROGRAM = 'ironic-snapshot'

# Back to the first column, and delete what is there.
_ERASE = '\r\x1b[K'
_WIDEST_BAR = 40
_NARROWEST_BAR = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """How far something is.

    :param label: what is being done.
    :param done: bytes.
    :param total: bytes; 0 while that is not known.
    :param rate: bytes per second; 0 while that is not known.
    :param eta: seconds that are left; None while that is not known.
    """

    label: str
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta: float | None = None


class Terminal:
    """Standard error, shared by messages and a bar; for any thread."""

    def __init__(self, stream: typing.TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._bar = ''
        self.is_terminal = stream.isatty()

    @property
    def columns(self) -> int:
        """Width in characters."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def line(self, text: str) -> None:
        """Write a message; a bar stays below it."""
        with self._lock:
            erase = _ERASE if self._bar else ''
            self._write(f'{erase}{text}\n{self._bar}')

    def ask(self, question: str) -> str:
        """Put a question; give the line that is typed, without spaces."""
        with self._lock:
            self._write(question)
        return sys.stdin.readline().strip()

    def draw(self, bar: str) -> None:
        """Draw the bar, or none, in place of the one before."""
        with self._lock:
            if bar or self._bar:
                self._write(_ERASE + bar)
            self._bar = bar

    # Private

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # Nobody looks any more; that is no reason to stop.


class Handler(logging.Handler):
    """Shows what is logged, without the secrets of other libraries."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = redact.redact(self.format(record))
        except Exception:
            self.handleError(record)
            return
        self._terminal.line(f'{PROGRAM}: {record.levelname.lower()}: {text}')


class Progress:
    """Shows how far something is, from a thread of its own.

    :param look: tells; called from that thread.
    :param quiet: show nothing.
    :param only_bar: show nothing but on a terminal.
    """

    def __init__(
        self,
        terminal: Terminal,
        look: Callable[[], Step],
        clock: clocks.Clock,
        quiet: bool = False,
        only_bar: bool = False,
    ) -> None:
        self._terminal = terminal
        self._look = look
        self._clock = clock
        self._done = threading.Event()
        self._shown = not quiet and (terminal.is_terminal or not only_bar)
        self._thread = threading.Thread(
            target=self._run, name='progress', daemon=True
        )

    def __enter__(self) -> 'Progress':
        if self._shown:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._done.set()
        if self._shown:
            self._thread.join()
            self._terminal.draw('')

    # Private

    def _run(self) -> None:
        bar = self._terminal.is_terminal
        interval_s = BAR_INTERVAL_S if bar else LINE_INTERVAL_S
        while not self._done.wait(interval_s):
            step = self._look()
            if bar:
                self._terminal.draw(draw_bar(step, self._terminal.columns))
            else:
                self._terminal.line(f'{step.label}: {_figures(step)}')


def draw_bar(step: Step, columns: int) -> str:
    """Draw a bar that fits, and leaves the last column free.

    ::

        capture [=============>              ]  47%  1.2 / 2.6 GiB ...
    """
    width = columns - 1
    figures = _parts(step)
    if not step.total:
        return f'{step.label} ...'[:width]
    while True:
        text = '  '.join(figures)
        room = width - table.width(step.label) - len(text) - 5
        if room >= _NARROWEST_BAR or len(figures) == 1:
            break
        figures.pop()
    if room < _NARROWEST_BAR:
        return f'{step.label} {text}'[:width]
    length = min(room, _WIDEST_BAR)
    filled = length * min(step.done, step.total) // step.total
    bar = '=' * filled + '>' * (filled < length)
    return f'{step.label}  [{bar:{length}}] {text}'


# Private


def _parts(step: Step) -> list[str]:
    """Give the figures, the most important first."""
    if not step.total:
        return ['...']
    parts = [
        f'{100 * step.done // step.total:3}%',
        f'{sizes.show(step.done)} of {sizes.show(step.total)}',
    ]
    if step.rate:
        parts.append(f'{sizes.show(step.rate)}/s')
    if step.eta is not None:
        parts.append(f'{sizes.show_clock(step.eta)} left')
    return parts


def _figures(step: Step) -> str:
    return ', '.join(_parts(step)).strip()
