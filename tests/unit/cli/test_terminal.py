# SPDX-License-Identifier: Apache-2.0
"""The progress bar, and plain lines."""

import io
import logging
import threading

import pytest

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import units
from ironic_snapshot_cli import terminal as terminals

STEP = terminals.Step(
    'capture', units.GiB, 4 * units.GiB, 512 * units.MiB, 65.0
)


class Stream(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


def test_a_wide_bar_has_everything():
    assert terminals.draw_bar(STEP, 110) == (
        f'capture  [{"=" * 10 + ">":40}]  25%  1.0 GiB of 4.0 GiB  '
        '512.0 MiB/s  1:05 left'
    )


def test_a_narrow_bar_gives_up_the_figures_that_matter_least():
    assert terminals.draw_bar(STEP, 60) == (
        'capture  [==>       ]  25%  1.0 GiB of 4.0 GiB  512.0 MiB/s'
    )
    assert terminals.draw_bar(STEP, 30) == 'capture  [===>         ]  25%'


@pytest.mark.parametrize('columns', range(1, 130))
@pytest.mark.parametrize('done', [0, 1, 4])
def test_a_bar_fits_any_width(columns, done):
    step = terminals.Step(
        'capture', done * units.GiB, 4 * units.GiB, 2.0**30, 3600.0
    )
    assert len(terminals.draw_bar(step, columns)) < max(columns, 1)


def test_a_step_of_unknown_size_has_no_bar():
    assert terminals.draw_bar(terminals.Step('survey'), 80) == 'survey ...'


def test_messages_stay_above_the_bar():
    stream = Stream(True)
    terminal = terminals.Terminal(stream)
    terminal.draw('[=> ]')
    terminal.line('hello')
    terminal.draw('')
    terminal.line('bye')
    erase = '\r\x1b[K'
    assert stream.getvalue() == (
        f'{erase}[=> ]{erase}hello\n[=> ]{erase}bye\n'
    )


def test_a_reader_that_is_gone_does_not_matter():
    stream = Stream(False)
    terminal = terminals.Terminal(stream)
    stream.close()
    terminal.line('hello')


def test_secrets_are_not_shown():
    stream = Stream(False)
    handler = terminals.Handler(terminals.Terminal(stream))
    handler.handle(
        logging.LogRecord(
            'test',
            logging.WARNING,
            __file__,
            1,
            'GET /v1/a?temp_url_sig=%s',
            ('canary',),
            None,
        )
    )
    assert stream.getvalue() == (
        'ironic-snapshot: warning: GET /v1/a?temp_url_sig=***\n'
    )


def show(stream, monkeypatch, **options):
    """Show progress until it was looked at three times."""
    monkeypatch.setattr(terminals, 'BAR_INTERVAL_S', 0.01)
    monkeypatch.setattr(terminals, 'LINE_INTERVAL_S', 0.01)
    looked = threading.Event()
    times = []

    def look():
        times.append(1)
        if len(times) == 3:
            looked.set()
        return STEP

    with terminals.Progress(
        terminals.Terminal(stream), look, clocks.SystemClock(), **options
    ):
        looked.wait(0.3 if options else 10)
    return stream.getvalue()


def test_a_bar_is_gone_at_the_end(monkeypatch):
    found = show(Stream(True), monkeypatch)
    assert found.count(' 25%') >= 3
    assert found.endswith('\r\x1b[K')
    assert '\n' not in found


def test_plain_lines_elsewhere(monkeypatch):
    lines = show(Stream(False), monkeypatch).splitlines()
    assert len(lines) >= 3
    assert set(lines) == {
        'capture: 25%, 1.0 GiB of 4.0 GiB, 512.0 MiB/s, 1:05 left'
    }


@pytest.mark.parametrize(
    'is_terminal, options',
    [
        (True, {'quiet': True}),
        (False, {'quiet': True}),
        (False, {'only_bar': True}),
    ],
)
def test_silence(monkeypatch, is_terminal, options):
    assert show(Stream(is_terminal), monkeypatch, **options) == ''


def test_a_bar_beside_json(monkeypatch):
    assert '25%' in show(Stream(True), monkeypatch, only_bar=True)
