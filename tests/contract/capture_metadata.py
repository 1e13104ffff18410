# SPDX-License-Identifier: Apache-2.0
"""What is known of a large disk, in a process of its own.

Fills the structures of a capture with so many clusters, each new, every
third one incompressible, in packs of 500; then makes map, head and index of
them. Prints one line of JSON: seconds of processor time, and bytes of memory
beyond those of the process itself.
"""

import hashlib
import json
import sys
import time

from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import documents
from ironic_snapshot_core import codec
from ironic_snapshot_core import index
from ironic_snapshot_core import manifest
from ironic_snapshot_core import pack
from ironic_snapshot_core import units
from tests.contract import capture_process
from tests.contract import capture_requests as requests

C = 256 * units.KiB
IN_PACK = 500
COMPRESSED = 100_000


def fill(clusters):
    """Take in clusters as a capture does."""
    content = contents.Content(clusters, 32)
    index_packs = []
    entries = []
    seconds = 0.0
    for first in range(0, clusters, IN_PACK):
        digests = [
            hashlib.sha256(number.to_bytes(8, 'little')).digest()
            for number in range(first, min(first + IN_PACK, clusters))
        ]
        started = time.process_time()
        for cluster, digest in enumerate(digests, first):
            content.add(cluster, digest)
        raw = [n for n in range(len(digests)) if n % 3 == 0]
        order = (*raw, *(n for n in range(len(digests)) if n % 3))
        content.place(first, order)
        seconds += time.process_time() - started
        entries = [
            pack.PackEntry(digests[n], C if n % 3 == 0 else COMPRESSED, n % 3)
            for n in order
        ]
        started = time.process_time()
        index_packs.append(
            index.IndexPack.of(
                f'pack-{len(index_packs) + 1:06d}',
                entries,
                content.digests(first, len(digests)),
            )
        )
        seconds += time.process_time() - started
    return content, index_packs, seconds


def main():
    clusters = int(sys.argv[1])
    before, _ = capture_process.resident()
    content, index_packs, gathering = fill(clusters)
    gathered, _ = capture_process.resident()
    started = time.process_time()
    found = index.Index(
        requests.SNAPSHOT, C, 'zstd', 'blake3-256', tuple(index_packs)
    )
    sizes = {
        'map': len(
            documents.build_map(content, clusters * C, C, requests.SNAPSHOT)
        )
    }
    records = [
        manifest.PackRecord(
            requests.SNAPSHOT,
            each.name,
            -(-each.offsets[-1] // C) * C,
            '0' * 32,
            len(each),
            each.offsets[-1],
        )
        for each in index_packs
    ]
    sizes['head'] = len(
        documents.build_head(
            content,
            found,
            clusters * C,
            codec.get_codec('zstd'),
            records,
        )
    )
    sizes['index'] = len(index.encode(found))
    building = time.process_time() - started
    _, most = capture_process.resident()
    print(
        json.dumps(
            {
                'gathered': gathered - before,
                'peak': most - before,
                'gathering_s': round(gathering, 2),
                'building_s': round(building, 2),
                'sizes': sizes,
            }
        )
    )


if __name__ == '__main__':
    main()
