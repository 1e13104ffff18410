# SPDX-License-Identifier: Apache-2.0
"""Run the programs that know disks and file systems, on a short leash.

What they parse may have been written by somebody hostile. So each is a
process of its own, with limits of memory, of processor time and of output,
and no answer of theirs is believed that does not fit.
"""

import collections.abc
import logging
import os
import selectors
import shutil
import subprocess
import threading
import types
import typing

from ironic_snapshot_core.units import KiB
from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.survey import look

LOG = logging.getLogger(__name__)

#: Address space of one program, unless more is needed.
MEMORY_BYTES = 512 * MiB
#: What short answers are held to.
MAX_ANSWER = 16 * MiB

_SECONDS = 120
_MAX_ERRORS = 16 * KiB
_PATH = os.defpath + ':/usr/local/sbin:/usr/sbin:/sbin'
_POLL_SECONDS = 0.5


class Tool:
    """A running program whose output is read as it comes.

    :param arguments: the program's name, and what to tell it.
    :param seconds: it is killed after.
    :param memory: its address space at most, in bytes.
    :param watch: called about twice a second and with every piece of
        output.
    :raises Doubt: it is not installed, or could not be started.
    """

    def __init__(
        self,
        arguments: collections.abc.Sequence[str],
        *,
        watch: look.Watch,
        seconds: int = _SECONDS,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self.name = arguments[0]
        self._watch = watch
        self._timed_out = False
        self._errors = bytearray()
        # prlimit becomes the program, in the same process.
        command = [
            find('prlimit'),
            f'--as={memory}',
            f'--cpu={seconds}',
            '--core=0',
            '--',
            find(self.name),
            *arguments[1:],
        ]
        try:
            self._process = subprocess.Popen(  # noqa: S603  no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={'LC_ALL': 'C', 'PATH': _PATH},
            )
        except OSError as error:
            raise look.Doubt(
                f'{self.name}: {error.strerror}') from None
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> 'Tool':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def output(self) -> collections.abc.Iterator[bytes]:
        """Give what it writes, in pieces, until it ends.

        :raises Doubt: it took too long.
        """
        process = self._process
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while selector.get_map():
                self._watch()
                for key, _ in selector.select(_POLL_SECONDS):
                    piece = os.read(key.fd, 64 * KiB)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        yield piece
                    elif len(self._errors) < _MAX_ERRORS:
                        self._errors += piece[:_MAX_ERRORS]
        process.wait()
        if self._timed_out:
            raise look.Doubt(f'{self.name} timed out')

    @property
    def code(self) -> int:
        """What it ended with; negative: the signal that ended it."""
        code = self._process.poll()
        assert code is not None
        return code

    @property
    def errors(self) -> str:
        """The beginning of what it wrote to its standard error."""
        return self._errors.decode(errors='replace')

    def fail(self) -> typing.NoReturn:
        """Say that nothing can be made of its answer.

        :raises Doubt: always.
        """
        LOG.info('%s ended with %d: %s', self.name, self.code,
                 ' / '.join(self.errors.split('\n')[-8:]))
        raise look.Doubt(f'{self.name} failed')

    def _expire(self) -> None:
        self._timed_out = True
        self._process.kill()


class Answer(typing.NamedTuple):
    """What a program that has ended said."""

    tool: Tool
    output: bytes

    @property
    def text(self) -> str:
        return self.output.decode(errors='replace')


def run(
    *arguments: str,
    watch: look.Watch,
    limit: int = MAX_ANSWER,
    seconds: int = _SECONDS,
) -> Answer:
    """Run a program to its end.

    :param seconds: it is killed after.
    :param limit: it is stopped when it has written as many bytes; the rest
        of the output is of no interest then.
    :raises Doubt: it is not installed, or took too long.
    """
    output = bytearray()
    with Tool(arguments, watch=watch, seconds=seconds) as tool:
        for piece in tool.output():
            output += piece
            if len(output) >= limit:
                break
    return Answer(tool, bytes(output[:limit]))


def find(name: str) -> str:
    """Give the path of a program.

    :raises Doubt: it is not installed.
    """
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise look.Doubt(f'tool missing: {name}')
    return path
