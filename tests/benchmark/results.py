# SPDX-License-Identifier: Apache-2.0
"""What a benchmark has found: samples, and what is told of them."""

import dataclasses
import statistics
import typing

from tests.benchmark import measure

VERSION = 1


@dataclasses.dataclass(slots=True)
class Series:
    """All runs of one program on one disk.

    :param kind: ``ours``, ``peer`` or ``limit``.
    :param compresses: whether ours is compared with it as the fastest.
    :param verified: what was found equal when it was restored.
    """

    disk: str
    program: str
    title: str
    kind: str
    compresses: bool = False
    verified: str = ''
    samples: list[measure.Sample] = dataclasses.field(default_factory=list)

    @property
    def wall(self) -> float:
        """Median, in seconds."""
        return statistics.median(each.wall for each in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest run, in seconds."""
        walls = [each.wall for each in self.samples]
        return min(walls), max(walls)

    @property
    def cpu(self) -> float:
        """Median, in seconds."""
        return statistics.median(each.cpu for each in self.samples)

    @property
    def peak(self) -> int:
        """Most of all runs, in bytes."""
        return max(each.peak for each in self.samples)

    @property
    def stored(self) -> int | None:
        """Median, in bytes; None if it stores nothing."""
        sizes = [each.stored for each in self.samples
                 if each.stored is not None]
        return int(statistics.median(sizes)) if sizes else None


@dataclasses.dataclass(slots=True)
class Results:
    """One benchmark.

    :param machine: facts, as text.
    :param versions: of the programs.
    :param options: as asked for.
    :param disks: name -> what is on it, as numbers.
    :param facts: figures of another kind, in seconds or bytes.
    """

    started: str
    machine: dict[str, str]
    versions: dict[str, str]
    options: dict[str, typing.Any]
    disks: dict[str, dict[str, int]]
    series: list[Series] = dataclasses.field(default_factory=list)
    facts: dict[str, float] = dataclasses.field(default_factory=dict)

    def get(self, disk: str, program: str) -> Series | None:
        """Find a series that has samples."""
        for each in self.series:
            if (each.disk, each.program) == (disk, program) and each.samples:
                return each
        return None

    def fastest_peer(self, disk: str) -> Series | None:
        """Find the fastest of the peers that compress."""
        found = [each for each in self.series
                 if each.disk == disk and each.compresses and each.samples]
        return min(found, key=lambda each: each.wall, default=None)

    def to_dict(self) -> dict[str, typing.Any]:
        """Give it as JSON has it; sizes in bytes, times in seconds."""
        found = dataclasses.asdict(self)
        found['version'] = VERSION
        for raw, each in zip(found['series'], self.series, strict=True):
            if each.samples:
                raw['median'] = {'wall': each.wall, 'cpu': each.cpu,
                                 'peak': each.peak, 'stored': each.stored}
        return found


def from_dict(found: dict[str, typing.Any]) -> Results:
    """Read what :meth:`Results.to_dict` has given.

    :raises ValueError: it is of another version.
    """
    found = dict(found)
    if found.pop('version', None) != VERSION:
        raise ValueError(f'these are no results of version {VERSION}')
    found.pop('bars', None)
    series = []
    for raw in found.pop('series'):
        raw = {name: value for name, value in raw.items() if name != 'median'}
        raw['samples'] = [measure.Sample(**each) for each in raw['samples']]
        series.append(Series(**raw))
    return Results(series=series, **found)
