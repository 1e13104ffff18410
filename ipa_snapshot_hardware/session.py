# SPDX-License-Identifier: Apache-2.0
"""A capture, a stream or a restore in the background, slice by slice.

Ironic asks for the step again and again. Each time it hands over a fresh
grant, waits for the length of a slice, and is told how far the work is. The
work itself knows nothing of slices: it runs in a thread of its own, also
while nobody asks.

When nobody asks any more, as the conductor is restarted or gone, it goes on
as long as its grant lasts, and then waits for another as long as
:data:`renewal.PATIENCE_S`; then it ends with an error. So it survives an
outage of hours, and a machine that nobody wants any more stops sending.
What is stored, or is on the disk, stays, and the same asked for later goes
on from there.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any
from typing import ClassVar
from typing import Generic
from typing import Protocol
from typing import TypeAlias
from typing import TypeVar

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import redact
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.store import auth as auths
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import priority
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import restore_request

LOG = logging.getLogger(__name__)

T = TypeVar('T')

#: What lets the work do what it does.
Grant: TypeAlias = grants.Grant | upload_grant.UploadGrant

#: Seconds for the work to stop: longer than a request may be silent.
STOP_TIMEOUT_S = 120.0

# Whatever happens wakes who waits; this is for clocks that jump.
_POLL_S = 1.0


class Request(Protocol):
    """What is asked for: a dataclass, of which each field counts.

    ``activity`` and ``key`` tell one session from another.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def activity(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def snapshot(self) -> str: ...

    @property
    def io_priority(self) -> str: ...

    @property
    def slice_seconds(self) -> int: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Means:
    """What a session gives its work to work with.

    :param auth: has the newest grant at any time, of the kind that was given.
    :param clock: its sleep ends when the session is stopped.
    :param stop: ends the work.
    :param counters: what the session tells of.
    :param ask: to be called when a fresh grant is needed at once.
    """

    auth: Any
    clock: clocks.Clock
    stop: executor.Stop
    counters: progress.Progress
    ask: Callable[[], None]


class Session(Generic[T]):
    """One capture, stream or restore, in a thread of its own.

    :param wanted: what is asked for.
    :param grant: to begin with.
    :param work: does it.
    :param make_clock: gives a clock whose sleep ends when told to stop.
    """

    def __init__(
        self,
        wanted: Request,
        grant: Grant,
        work: Callable[[Means], T],
        make_clock: Callable[[executor.Stop], clocks.Clock],
    ) -> None:
        self.wanted = wanted
        self._work = work
        self._stop = executor.Stop()
        self._clock = make_clock(self._stop)
        self._auth: Any = (
            upload_grant.UploadAuth(grant)
            if isinstance(grant, upload_grant.UploadGrant)
            else auths.GrantAuth(grant)
        )
        self._counters: progress.Progress = (
            progress.RestoreProgress
            if wanted.activity == restore_request.RestoreRequest.activity
            else progress.CaptureProgress
        )(self._clock)
        self._thread = threading.Thread(
            target=self._run, name='snapshot-session', daemon=True
        )
        # Guarded by the condition.
        self._changed = threading.Condition()
        self._needs_grant = False
        self._outcome: T | None = None
        self._error: BaseException | None = None
        self._failed = False

    @property
    def failed(self) -> bool:
        """Whether it has failed, and somebody was told."""
        return self._failed

    @property
    def writing(self) -> bool:
        """Whether a disk is half written, and this is at it."""
        return self._thread.is_alive() and self._counters.state().touched

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def renew(self, grant: Grant) -> None:
        """Go on with another grant.

        :raises InvalidValue: it is one for another container or image.
        """
        with self._changed:
            self._auth.renew(grant)
            self._needs_grant = False

    def wait(self, timeout_s: float) -> progress.State | T:
        """Wait for the end; for a while.

        :param timeout_s: in seconds. It takes less when the work needs a
            fresh grant.
        :returns: how far it is, or what came of it; that as often as it is
            asked for.
        :raises BaseException: what the work has failed with.
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
            if self._outcome is not None:
                return self._outcome
            return self._counters.state()

    def stop(self) -> None:
        """End it, if it has not ended; what was done stays.

        :raises CaptureRunning: when it takes too long.
        :raises RestoreRunning: likewise.
        """
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        if not self._thread.is_alive():
            return
        if self.wanted.activity == restore_request.RestoreRequest.activity:
            raise errors.RestoreRunning(
                self.wanted.snapshot,
                'was told to stop, but waits for its disk or store',
            )
        raise errors.CaptureRunning(self.wanted.snapshot)

    # Private

    @property
    def _ended(self) -> bool:
        return self._outcome is not None or self._error is not None

    def _run(self) -> None:
        outcome = error = None
        try:
            # The threads of the work begin with its priority.
            priority.lower(self.wanted.io_priority)
            outcome = self._work(
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
            self._outcome, self._error = outcome, error
            self._changed.notify_all()

    def _ask(self) -> None:
        with self._changed:
            self._needs_grant = True
            self._changed.notify_all()

    def _log(self, error: BaseException) -> None:
        text = redact.redact(str(error))
        LOG.warning(
            'The %s of snapshot %s has ended: %s',
            self.wanted.activity,
            self.wanted.snapshot,
            text,
            # Of ours the text says all, but not of what they are due to.
            exc_info=not isinstance(error.__cause__ or error, errors.Error),
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
        self._session: Session[Any] | None = None

    def attend(
        self,
        wanted: Request,
        grant: Grant,
        work: Callable[[Means], T],
    ) -> Session[T]:
        """Give the session of what is asked for; begin it if there is none.

        One that has come to its end is given again, for the conductor may
        not have heard. One whose error was told begins again, and goes on
        from what was done. Any other is stopped first; but a restore that
        is writing makes room for another restore only.

        :param grant: a fresh one.
        :param work: does it, if it has to begin.
        :raises InvalidValue: when the same was asked for otherwise.
        :raises CaptureRunning: when a capture does not stop.
        :raises RestoreRunning: when a restore does not, or must not.
        """
        with self._lock:
            there = self._session
            if there and _is_same(there.wanted, wanted):
                _check_same(there.wanted, wanted)
                if not there.failed:
                    there.renew(grant)
                    return there
            if there:
                _check_may_stop(there, wanted)
                there.stop()
            begun = Session(wanted, grant, work, self._make_clock)
            self._session = begun
            begun.start()
            return begun


# Private


def _bare(error: BaseException) -> BaseException:
    """Take from an error what keeps the work's buffers alive."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _is_same(there: Request, wanted: Request) -> bool:
    return (there.activity, there.key) == (wanted.activity, wanted.key)


def _check_same(there: Request, wanted: Request) -> None:
    """Refuse to go on under other conditions.

    The length of a slice may change; it is none of the work's business.
    """
    for field in dataclasses.fields(wanted):
        if field.name == 'slice_seconds':
            continue
        before = _comparable(getattr(there, field.name))
        now = _comparable(getattr(wanted, field.name))
        if before != now:
            raise errors.InvalidValue(
                field.name,
                now,
                f'the {there.activity} was begun with {before!r}; ask for '
                'another one',
            )


def _check_may_stop(there: Session[Any], wanted: Request) -> None:
    """Refuse to leave a disk half written for something else."""
    if there.writing and there.wanted.activity != wanted.activity:
        raise errors.RestoreRunning(
            there.wanted.snapshot, 'is writing to the disk'
        )


def _comparable(value: object) -> object:
    if isinstance(value, codecs.Codec):
        return f'{value.id} at level {value.level}'
    return value
