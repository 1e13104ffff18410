# SPDX-License-Identifier: Apache-2.0
"""A second look at some clusters: did the disk change meanwhile?

Nobody should write to the disk during a capture, and most are kept from it.
What cannot be kept out, such as another host on shared storage or firmware
at work, is caught here with a likelihood that grows with what it writes.
"""

import random

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


class Sample:
    """Clusters to be read a second time, and what they read as at first.

    :param seed: the same seed chooses the same clusters.
    :param clusters: number of clusters of the disk.
    :param cluster_size: in bytes.
    """

    def __init__(
        self,
        seed: str,
        clusters: int,
        cluster_size: int,
        digest: digests.Digest,
    ) -> None:
        self._cluster_size = cluster_size
        self._digest = digest
        edge = -(-EDGE_BYTES // cluster_size)
        chosen = set(range(min(edge, clusters)))
        chosen.update(range(max(0, clusters - edge), clusters))
        chosen.update(
            random.Random(seed).sample(  # noqa: S311  nothing to guess
                range(clusters), min(RANDOM_CLUSTERS, clusters)
            )
        )
        # Nothing is noted for a cluster of zeroes.
        zero = digest.zero(cluster_size)
        self._digests = {cluster: zero for cluster in sorted(chosen)}

    def __len__(self) -> int:
        return len(self._digests)

    def note(self, cluster: int, digest: bytes) -> None:
        """Remember what a cluster read as, if it belongs to the sample."""
        if cluster in self._digests:
            self._digests[cluster] = digest

    def verify(
        self, source: reader.ClusterReader, name: str, stop: executor.Stop
    ) -> None:
        """Read the sample again.

        :param name: what messages call the disk.
        :raises DiskChanged: when a cluster reads as something else.
        :raises DiskReadError: when one cannot be read any more.
        """
        for cluster, expected in self._digests.items():
            stop.check()
            (data,) = source.read(cluster, 1).clusters
            if self._digest.digest(data) != expected:
                raise errors.DiskChanged(
                    device=name,
                    reason='it was written to during the capture: '
                    f'{self._cluster_size} bytes at offset '
                    f'{cluster * self._cluster_size} read differently '
                    'the second time',
                )
