# SPDX-License-Identifier: Apache-2.0
"""How far a capture or a restore is, as the node record shows it.

The figures come from the ramdisk, which is not trusted: only whole numbers
within bounds and one word get into the node record.
"""
import dataclasses
import re
from typing import Any, ClassVar

from ironic_snapshot_core import errors
from ironic_snapshot_core.document import MAX_INTEGER
from ironic_snapshot_core.manifest import format_time
from ironic_snapshot_core.manifest import parse_time

_WHAT = 'the result of the agent'
_PHASE = re.compile(r'[a-z][a-z-]{0,31}')

# What the ramdisk must say of anything, and the most that makes sense.
_NUMBERS = {
    'percent': 100,
    'total_bytes': MAX_INTEGER,
    'read_bytes': MAX_INTEGER,
    'rate': MAX_INTEGER,
    'moved': MAX_INTEGER,
}
# What it may not know.
_GUESSES = {'eta': MAX_INTEGER}


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far something is. Moments are ISO 8601, UTC, whole seconds.

    :cvar OWN: what there is beside these, whole numbers all.
    :cvar WORK: what nothing was done of when nothing moves, for people.
    :cvar GAIN: what an agent that gets on does, for people.

    :ivar phase: what the agent is at, in its words.
    :ivar percent: of the bytes to read.
    :ivar total_bytes: to read.
    :ivar read_bytes: of those.
    :ivar rate: bytes read per second.
    :ivar eta: seconds until all is read; None while that is not known.
    :ivar slices: times the agent has answered.
    :ivar updated_at: when it last did.
    :ivar moved: the agent's count of everything that it does; None while
        this agent has said nothing yet.
    :ivar moved_at: when that was last seen to change, or all began.
    :ivar asked_at: when the agent was last given a slice; empty before.
    """

    OWN: ClassVar[tuple[str, ...]] = ()
    WORK: ClassVar[str] = ''
    GAIN: ClassVar[str] = ''

    phase: str = ''
    percent: int = 0
    total_bytes: int = 0
    read_bytes: int = 0
    rate: int = 0
    eta: int | None = None
    slices: int = 0
    updated_at: str = ''
    moved: int | None = None
    moved_at: str = ''
    asked_at: str = ''

    def to_dict(self) -> dict[str, Any]:
        """What goes into the node record."""
        return {key: value for key, value in dataclasses.asdict(self).items()
                if value not in ('', None)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> 'Progress':
        """Read it from the node record, also one of a later release."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in record.items()
                      if key in known})

    def reported(self, report: Any, now: float) -> 'Progress':
        """The same, with what the agent says at the end of a slice.

        :param report: unchecked.
        :param now: seconds since the epoch.
        :raises Corrupted: it is not what an agent says.
        """
        figures = _check(report, self.OWN)
        moment = format_time(now)
        if figures['moved'] != self.moved:
            figures['moved_at'] = moment
        return dataclasses.replace(
            self, **figures, slices=self.slices + 1, updated_at=moment)

    def asked(self, now: float) -> 'Progress':
        """The same, with the agent at work on another slice."""
        return dataclasses.replace(
            self, asked_at=format_time(now),
            moved_at=self.moved_at or format_time(now))

    def restarted(self, now: float) -> 'Progress':
        """The same, with an agent that counts from zero again."""
        return dataclasses.replace(
            self, moved=None, moved_at=format_time(now))

    def check_moving(self, timeout: int, now: float) -> None:
        """Check that the last slice was not one of too many in vain.

        :param timeout: in seconds; 0: never mind.
        :raises Stalled: nothing has moved for that long.
        """
        _check_since(self.moved_at, timeout, now,
                     f'nothing was {self.WORK} in the phase "{self.phase}"')

    def check_answering(self, timeout: int, now: float, why: str) -> None:
        """Check that the agent should not have answered long ago.

        :param timeout: in seconds; 0: never mind.
        :param why: what stands in the way.
        :raises Stalled: it has been without a new slice for that long.
        """
        _check_since(self.asked_at or self.moved_at, timeout, now, why)


@dataclasses.dataclass(frozen=True, slots=True)
class CaptureProgress(Progress):
    """How far an attempt is.

    :ivar data_bytes: of those read, in clusters that are not zero.
    :ivar stored_bytes: of the packs in the store.
    :ivar packs: in the store.
    """

    OWN = ('data_bytes', 'stored_bytes', 'packs')
    WORK = 'read or stored'
    GAIN = 'storing anything new'

    data_bytes: int = 0
    stored_bytes: int = 0
    packs: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreProgress(Progress):
    """How far a restore is; an agent that restarts counts from zero.

    :ivar fetched_bytes: from the store.
    :ivar written_bytes: to the disk.
    """

    OWN = ('fetched_bytes', 'written_bytes')
    WORK = 'read, fetched or written'
    GAIN = 'writing anything to speak of'

    fetched_bytes: int = 0
    written_bytes: int = 0


# Private

def _check(report: Any, own: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(report, dict):
        raise errors.Corrupted(_WHAT, 'it names no progress')
    figures = {name: _number(report.get(name), name, most)
               for name, most in (
                   *_NUMBERS.items(),
                   *((name, MAX_INTEGER) for name in own))}
    for name, most in _GUESSES.items():
        value = report.get(name)
        figures[name] = (
            None if value is None else _number(value, name, most))
    phase = report.get('phase')
    if not isinstance(phase, str) or not _PHASE.fullmatch(phase):
        raise errors.Corrupted(_WHAT, 'its progress has no proper "phase"')
    return {'phase': phase, **figures}


def _number(value: Any, name: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise errors.Corrupted(
            _WHAT, f'its progress has no proper "{name}"')
    return value


def _check_since(moment: str, timeout: int, now: float, what: str) -> None:
    if not timeout or not moment:
        return
    seconds = int(now - parse_time(moment))
    if seconds >= timeout:
        raise errors.Stalled(what, seconds)
