# SPDX-License-Identifier: Apache-2.0
"""What is known of a large disk, in a process of its own.

Fills the structures of a capture with so many clusters, each new, every
third one incompressible, in packs of 500; then makes map, head and index of
them. With the word "shared" behind the number, all of them are known from a
parent. Prints one line of JSON: seconds of processor time, and bytes of memory
beyond those of the process itself.
"""

import array
import hashlib
import json
import sys
import time

from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import documents
from ipa_snapshot_hardware import parent
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


def fill_shared(clusters):
    """Take in clusters that a parent has stored, as a capture does."""
    content = contents.Content(clusters, 32, clusters)
    packs = []
    seconds = 0.0
    for first in range(0, clusters, IN_PACK):
        numbers = range(first, min(first + IN_PACK, clusters))
        digests = b''.join(
            hashlib.sha256(number.to_bytes(8, 'little')).digest()
            for number in numbers
        )
        offsets = array.array(
            'I', range(0, (len(numbers) + 1) * COMPRESSED, COMPRESSED)
        )
        name = f'pack-{len(packs) + 1:06d}'
        started = time.process_time()
        content.load(digests)
        packs.append(
            parent.ParentPack(
                record(name, offsets),
                index.IndexPack(
                    name,
                    0,
                    offsets,
                    content.shared_digests(first, len(numbers)),
                ),
                first,
                first,
            )
        )
        seconds += time.process_time() - started
    started = time.process_time()
    for first in range(0, clusters, IN_PACK):
        numbers = list(range(first, min(first + IN_PACK, clusters)))
        content.extend(numbers, numbers)
    seconds += time.process_time() - started
    return content, parent.Shared(packs), seconds


def record(name, offsets):
    return manifest.PackRecord.new(
        requests.SNAPSHOT,
        name,
        -(-offsets[-1] // C) * C,
        '0' * 32,
        len(offsets) - 1,
        offsets[-1],
    )


def main():
    clusters = int(sys.argv[1])
    before, _ = capture_process.resident()
    if sys.argv[2:] == ['shared']:
        content, shared, gathering = fill_shared(clusters)
        index_packs = []
    else:
        content, index_packs, gathering = fill(clusters)
        shared = parent.NOTHING
    gathered, _ = capture_process.resident()
    started = time.process_time()
    found = index.Index(
        requests.SNAPSHOT, C, 'zstd', 'blake3-256', tuple(index_packs)
    )
    records = [
        *shared.records(content, C).values(),
        *(record(each.name, each.offsets) for each in index_packs),
    ]
    sizes = {
        'map': len(
            documents.build_map(
                content, clusters * C, C, requests.SNAPSHOT, shared
            )
        )
    }
    sizes['head'] = len(
        documents.build_head(
            content,
            found,
            clusters * C,
            codec.get_codec('zstd'),
            records,
            shared,
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
