# SPDX-License-Identifier: Apache-2.0
"""What a capture has to know of its clusters, for 4 million of them.

Run as a program, it gathers that many contents, then builds the index, the
map and the head of the image, and prints seconds, and bytes of memory and of
documents, as JSON.
"""

import array
import hashlib
import json
import pathlib
import time
import uuid

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import documents

CLUSTERS = 4_000_000
CLUSTER_SIZE = 256 * 1024
STORED_SIZE = 128 * 1024
CLUSTERS_A_PACK = 512
ATTEMPT = str(uuid.UUID(int=1))


def measure(clusters: int = CLUSTERS) -> dict[str, float]:
    """Gather and write down what is known of so many clusters."""
    before = _status('VmRSS')
    content = contents.Content(clusters, digests.DEFAULT_DIGEST.size)
    gathering = 0.0
    packs: list[indexes.IndexPack] = []
    for first in range(0, clusters, CLUSTERS_A_PACK):
        count = min(CLUSTERS_A_PACK, clusters - first)
        made = [hashlib.blake2b(number.to_bytes(8, 'big'),
                                digest_size=32).digest()
                for number in range(first, first + count)]
        started = time.perf_counter()
        for cluster, digest in enumerate(made, first):
            content.add(cluster, digest)
        content.place(first, range(count))
        packs.append(indexes.IndexPack(
            layout.pack_name(len(packs) + 1), 0,
            array.array('I', range(0, (count + 1) * STORED_SIZE,
                                   STORED_SIZE)),
            content.digests(first, count)))
        gathering += time.perf_counter() - started
    index = indexes.Index(
        attempt=ATTEMPT, cluster_size=CLUSTER_SIZE,
        codec=codecs.DEFAULT_CODEC, digest=digests.DEFAULT_DIGEST.id,
        packs=tuple(packs))
    records = [manifest.PackRecord.new(
        attempt=ATTEMPT, name=pack.name, size=pack.offsets[-1],
        etag='0' * 32, clusters=len(pack), live_bytes=pack.offsets[-1])
        for pack in packs]
    size = clusters * CLUSTER_SIZE
    gathered = _status('VmHWM') - before
    started = time.perf_counter()
    # One at a time, as a capture stores them.
    stored = len(indexes.encode(index))
    stored += len(documents.build_map(content, size, CLUSTER_SIZE, ATTEMPT))
    stored += len(documents.build_head(
        content, index, size, codecs.get_codec(codecs.DEFAULT_CODEC),
        records))
    writing = time.perf_counter() - started
    return {'gathering': gathering, 'writing': writing, 'gathered': gathered,
            'most': _status('VmHWM') - before, 'stored': stored}


# Private


def _status(name: str) -> int:
    """Read one of this process's sizes, in bytes."""
    for line in pathlib.Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


if __name__ == '__main__':
    print(json.dumps(measure()))
