# SPDX-License-Identifier: Apache-2.0
"""The command ``ironic-snapshot``: from the command line to an exit status.

What a command needs is imported when it runs, for help must come at once.
"""

import importlib
import logging
import os
import signal
import sys
import typing

from ironic_snapshot_core import errors
from ironic_snapshot_core import redact
from ironic_snapshot_cli import arguments
from ironic_snapshot_cli import status
from ironic_snapshot_cli import terminal as terminals

_COMMANDS = {
    'capture': 'ironic_snapshot_cli.capture',
    'list': 'ironic_snapshot_cli.listing',
    'show': 'ironic_snapshot_cli.show',
    'export': 'ironic_snapshot_cli.export',
    'restore': 'ironic_snapshot_cli.restore',
    'publish': 'ironic_snapshot_cli.publish',
    'verify': 'ironic_snapshot_cli.verify',
    'delete': 'ironic_snapshot_cli.delete',
    'prune': 'ironic_snapshot_cli.prune',
}


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    :param argv: without the program's name; None: this process's own.
    :returns: the exit status.
    """
    args = arguments.parse(argv)
    terminal = terminals.Terminal(sys.stderr)
    _set_up_logging(terminal, args.debug)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command = importlib.import_module(_COMMANDS[args.command])
        outcome = typing.cast(int, command.run(args, terminal))
        sys.stdout.flush()
        return outcome
    except (KeyboardInterrupt, errors.Cancelled):
        _drop_output()
        terminal.line(f'{terminals.PROGRAM}: interrupted')
        return status.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        _drop_output()
        return status.FAILED
    except Exception as error:
        if args.debug:
            raise
        _drop_output()
        terminal.line(f'{terminals.PROGRAM}: error: {_describe(error)}')
        if isinstance(error.__cause__, errors.Cancelled):
            return status.INTERRUPTED
        return status.FAILED


# Private


def _drop_output() -> None:
    """Forget what is not written yet, or Python would try it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe(error: Exception) -> str:
    """Give an error as one line: its code, and its sentence."""
    if isinstance(error, errors.Error):
        code, text = error.code, str(error)
    elif isinstance(error, OSError):
        code, text = 'system-error', str(error)
    else:
        code = 'internal-error'
        text = f'{type(error).__name__}: {error} (a bug; --debug shows more)'
    return f'[{code}] {" ".join(redact.redact(text).split())}'


def _set_up_logging(terminal: terminals.Terminal, debug: bool) -> None:
    redact.install()
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        handlers=[terminals.Handler(terminal)],
        format='%(message)s',
    )
