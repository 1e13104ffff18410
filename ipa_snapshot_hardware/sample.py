# SPDX-License-Identifier: Apache-2.0
"""A second look at some clusters: did the disk change meanwhile?

Nobody should write to the disk during a capture, and most are kept from it.
What cannot be kept out, such as another host on shared storage or firmware
at work, is caught here with a likelihood that grows with what it writes.
"""

import array
import bisect
import itertools
import random
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import reader

# Chosen at random. A writer that touched 1 % of a disk goes unseen by 256
# clusters with a likelihood of 8 %, one that touched 3 % with 0.04 %.
RANDOM_CLUSTERS = 256
# Read again in any case: partition tables and boot sectors at both ends.
EDGE_BYTES = 1 * units.MiB
# And the first cluster of so many parts of the disk.
_MOST_STARTS = 256


def choose(
    seed: str,
    runs: Iterable[tuple[int, int]],
    cluster_size: int,
    starts: Iterable[int] = (),
    most: int = RANDOM_CLUSTERS,
) -> list[int]:
    """Choose clusters to be read a second time.

    :param seed: the same seed chooses the same clusters.
    :param runs: of clusters that are read: (first, count), in order.
    :param starts: offsets in bytes to be looked at, if they are read.
    :param most: to be chosen at random.
    """
    firsts, ends = array.array('I'), array.array('I')
    total = 0
    for first, count in runs:
        total += count
        firsts.append(first)
        ends.append(total)
    edge = min(-(-EDGE_BYTES // cluster_size), total)
    ordinals = {*range(edge), *range(total - edge, total)}
    ordinals.update(
        random.Random(seed).sample(  # noqa: S311  nothing to guess
            range(total), min(most, total)
        )
    )
    chosen = set()
    for ordinal in ordinals:
        number = bisect.bisect_right(ends, ordinal)
        before = ends[number - 1] if number else 0
        chosen.add(firsts[number] + ordinal - before)
    for start in itertools.islice(starts, _MOST_STARTS):
        cluster = start // cluster_size
        number = bisect.bisect_right(firsts, cluster) - 1
        before = ends[number - 1] if number > 0 else 0
        if number >= 0 and cluster - firsts[number] < ends[number] - before:
            chosen.add(cluster)
    return sorted(chosen)


def verify(
    chosen: Sequence[int],
    source: reader.ClusterReader,
    digest: digests.Digest,
    expected: Callable[[int], bytes | None],
    name: str,
    stop: executor.Stop,
) -> None:
    """Read clusters again.

    :param expected: gives the digest of what a cluster read as at first,
        None for zeroes.
    :param name: what messages call the disk.
    :raises DiskChanged: when a cluster reads as something else.
    :raises DiskReadError: when one cannot be read any more.
    """
    for cluster in chosen:
        stop.check()
        unreadable = list(source.unreadable)
        batch = source.read(cluster)
        size = len(batch.view)
        found = digest.digest(batch.view)
        batch.release()
        if list(source.unreadable) != unreadable:
            # It went bad since; that says nothing about a writer.
            continue
        if found != (expected(cluster) or digest.zero(size)):
            raise errors.DiskChanged(
                device=name,
                reason='it was written to during the capture: '
                f'{size} bytes at offset {cluster * size} read differently '
                'the second time',
            )
