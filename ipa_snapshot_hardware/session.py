# SPDX-License-Identifier: Apache-2.0
"""A capture in the background of the agent, from slice to slice.

Ironic asks for the step again and again. Each time it hands over a fresh
grant, waits for the length of a slice, and is told how far the capture is.
The capture itself knows nothing of slices: it runs in a thread of its own,
also while nobody asks.

When nobody asks any more, as the conductor is restarted or gone, it goes on
as long as its grant lasts, and then waits for another as long as
:data:`renewal.PATIENCE_S`; then it ends with an error. So it survives an
outage of hours, and a machine that nobody wants any more stops sending.
What is stored stays, and the same snapshot asked for later goes on from
there.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import redact
from ironic_snapshot_core.store import auth as auths
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import priority
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import request

LOG = logging.getLogger(__name__)

#: Seconds for a capture to stop: longer than a request may be silent.
STOP_TIMEOUT_S = 120.0

# Whatever happens wakes who waits; this is for clocks that jump.
_POLL_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Means:
    """What a session gives its capture to work with.

    :param auth: has the newest grant at any time.
    :param clock: its sleep ends when the session is stopped.
    :param stop: ends the capture.
    :param counters: what the session tells of.
    :param ask: to be called when a fresh grant is needed at once.
    """

    auth: auths.GrantAuth
    clock: clocks.Clock
    stop: executor.Stop
    counters: progress.Progress
    ask: Callable[[], None]


class Session:
    """One capture, in a thread of its own.

    :param wanted: what is captured.
    :param grant: to begin with.
    :param work: captures.
    :param make_clock: gives a clock whose sleep ends when told to stop.
    """

    def __init__(
        self,
        wanted: request.CaptureRequest,
        grant: grants.Grant,
        work: Callable[[Means], capture.Captured],
        make_clock: Callable[[executor.Stop], clocks.Clock],
    ) -> None:
        self.wanted = wanted
        self._work = work
        self._stop = executor.Stop()
        self._clock = make_clock(self._stop)
        self._auth = auths.GrantAuth(grant)
        self._counters = progress.Progress(self._clock)
        self._thread = threading.Thread(
            target=self._run, name='snapshot-session', daemon=True
        )
        # Guarded by the condition.
        self._changed = threading.Condition()
        self._needs_grant = False
        self._captured: capture.Captured | None = None
        self._error: BaseException | None = None
        self._failed = False

    @property
    def failed(self) -> bool:
        """Whether it has failed, and somebody was told."""
        return self._failed

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def renew(self, grant: grants.Grant) -> None:
        """Go on with another grant.

        :raises InvalidValue: it is one for another container.
        """
        with self._changed:
            self._auth.renew(grant)
            self._needs_grant = False

    def wait(self, timeout_s: float) -> progress.State | capture.Captured:
        """Wait for the end; for a while.

        :param timeout_s: in seconds. It takes less when the capture needs a
            fresh grant.
        :returns: how far it is, or what came of it; that as often as it is
            asked for.
        :raises BaseException: what the capture has failed with.
        """
        deadline = self._clock.monotonic() + timeout_s
        with self._changed:
            while not (self._ended or self._needs_grant):
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, _POLL_S))
            if self._error is not None:
                self._failed = True
                raise self._error
            return self._captured or self._counters.state()

    def stop(self) -> None:
        """End it, if it has not ended; what is stored stays.

        :raises CaptureRunning: when it takes too long.
        """
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise errors.CaptureRunning(self.wanted.snapshot)

    # Private

    @property
    def _ended(self) -> bool:
        return self._captured is not None or self._error is not None

    def _run(self) -> None:
        captured = error = None
        try:
            # The threads of the capture begin with its priority.
            priority.lower(self.wanted.io_priority)
            captured = self._work(
                Means(
                    self._auth,
                    self._clock,
                    self._stop,
                    self._counters,
                    self._ask,
                )
            )
        except BaseException as caught:
            self._log(caught)
            error = _bare(caught)
        with self._changed:
            self._captured, self._error = captured, error
            self._changed.notify_all()

    def _ask(self) -> None:
        with self._changed:
            self._needs_grant = True
            self._changed.notify_all()

    def _log(self, error: BaseException) -> None:
        text = redact.redact(str(error))
        LOG.warning(
            'The capture of snapshot %s has ended: %s',
            self.wanted.snapshot,
            text,
            exc_info=not isinstance(error, errors.Error),
        )


class Sessions:
    """The session of this agent: there is one at a time, or none.

    :param make_clock: as for a session.
    """

    def __init__(
        self,
        make_clock: Callable[
            [executor.Stop], clocks.Clock
        ] = executor.StoppableClock,
    ) -> None:
        self._make_clock = make_clock
        self._lock = threading.Lock()
        self._session: Session | None = None

    def attend(
        self,
        wanted: request.CaptureRequest,
        grant: grants.Grant,
        work: Callable[[Means], capture.Captured],
    ) -> Session:
        """Give the session of a snapshot; begin it if there is none.

        One that has come to its end is given again, for the conductor may
        not have heard. One whose error was told begins again, and goes on
        from what is stored. That of another snapshot is stopped first.

        :param grant: a fresh one.
        :param work: captures, if it has to begin.
        :raises InvalidValue: when the same snapshot was asked for otherwise.
        :raises CaptureRunning: when another one does not stop.
        """
        with self._lock:
            there = self._session
            if there and there.wanted.snapshot == wanted.snapshot:
                _check_same(there.wanted, wanted)
                if not there.failed:
                    there.renew(grant)
                    return there
            if there:
                there.stop()
            self._session = Session(wanted, grant, work, self._make_clock)
            self._session.start()
            return self._session


# Private


def _bare(error: BaseException) -> BaseException:
    """Take from an error what keeps the capture's buffers alive."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _check_same(
    there: request.CaptureRequest, wanted: request.CaptureRequest
) -> None:
    """Refuse to go on with a capture under other conditions.

    The length of a slice may change; it is none of the capture's business.
    """
    for field in dataclasses.fields(request.CaptureRequest):
        if field.name == 'slice_seconds':
            continue
        before = getattr(there, field.name)
        now = getattr(wanted, field.name)
        if _comparable(before) != _comparable(now):
            raise errors.InvalidValue(
                field.name,
                _comparable(now),
                f'the capture of this snapshot was begun with '
                f'{_comparable(before)!r}; ask for another snapshot',
            )


def _comparable(value: object) -> object:
    if isinstance(value, codecs.Codec):
        return f'{value.id} at level {value.level}'
    return value
