# SPDX-License-Identifier: Apache-2.0
"""What a capture has to know of its clusters, in a process of its own.

Gathers what is known of so many clusters: each new, every third stretch of
them incompressible, in packs of 512; or, with the word "shared" behind the
number, all of them known from a parent. Then makes the index, the map and the
head of the image. Prints as JSON seconds of processor time (of one thread,
which waits for nothing), and bytes of memory, beyond those of the process
itself, and of documents.
"""

import argparse
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
from ironic_snapshot_core import pack
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import documents
from ipa_snapshot_hardware import parent as parents

CLUSTERS = 4_000_000
CLUSTER_SIZE = 256 * 1024
STORED_SIZE = 100_000
CLUSTERS_A_PACK = 512
#: Clusters of a kind in a row.
STRETCH = 16
ATTEMPT = str(uuid.UUID(int=1))


def measure(clusters: int, shared: bool = False,
            stretch: int = STRETCH) -> dict[str, float]:
    """Gather and write down what is known of so many clusters.

    :param shared: all of them are in packs of a parent.
    """
    before = _status('VmRSS')
    packs: list[indexes.IndexPack] = []
    older = parents.NOTHING
    if shared:
        content, older, gathering = _gather_shared(clusters)
    else:
        content, packs, gathering = _gather(clusters, stretch)
    gathered = _status('VmRSS') - before
    started = time.process_time()
    index = indexes.Index(
        attempt=ATTEMPT, cluster_size=CLUSTER_SIZE,
        codec=codecs.DEFAULT_CODEC, digest=digests.DEFAULT_DIGEST.id,
        packs=tuple(packs))
    records = [*older.records(content, CLUSTER_SIZE).values(),
               *map(_record, packs)]
    size = clusters * CLUSTER_SIZE
    # One at a time, as a capture stores them.
    sizes = {
        'map_bytes': len(documents.build_map(
            content, size, CLUSTER_SIZE, ATTEMPT, older)),
        'head_bytes': len(documents.build_head(
            content, index, size, codecs.get_codec(codecs.DEFAULT_CODEC),
            records, older)),
        'index_bytes': len(indexes.encode(index))}
    return {'gathering': gathering,
            'writing': time.process_time() - started,
            'gathered': gathered, 'most': _status('VmHWM') - before, **sizes}


# Private


def _gather(clusters: int, stretch: int) -> tuple[
        contents.Content, list[indexes.IndexPack], float]:
    """Take in clusters as a capture does.

    :returns: what is known of them, what is in their packs, and seconds.
    """
    content = contents.Content(clusters, digests.DEFAULT_DIGEST.size)
    packs: list[indexes.IndexPack] = []
    seconds = 0.0
    for numbers in _in_packs(clusters):
        made = [_digest(number) for number in numbers]
        compressed = [bool(each // stretch % 3) for each in range(len(made))]
        # Those that are not come first.
        order = sorted(range(len(made)), key=compressed.__getitem__)
        entries = [pack.PackEntry(
            made[each], STORED_SIZE if compressed[each] else CLUSTER_SIZE,
            compressed[each]) for each in order]
        started = time.process_time()
        for cluster, digest in zip(numbers, made, strict=True):
            content.add(cluster, digest)
        content.place(numbers[0], order)
        packs.append(indexes.IndexPack.of(
            layout.pack_name(len(packs) + 1), entries,
            content.digests(numbers[0], len(numbers))))
        seconds += time.process_time() - started
    return content, packs, seconds


def _gather_shared(clusters: int) -> tuple[
        contents.Content, parents.Shared, float]:
    """Take in clusters that a parent has stored, likewise."""
    content = contents.Content(
        clusters, digests.DEFAULT_DIGEST.size, clusters)
    packs: list[parents.ParentPack] = []
    seconds = 0.0
    for numbers in _in_packs(clusters):
        first, count = numbers[0], len(numbers)
        made = b''.join(map(_digest, numbers))
        offsets = array.array(
            'I', range(0, (count + 1) * STORED_SIZE, STORED_SIZE))
        started = time.process_time()
        content.load(made)
        index_pack = indexes.IndexPack(
            layout.pack_name(len(packs) + 1), 0, offsets,
            content.shared_digests(first, count))
        packs.append(parents.ParentPack(
            _record(index_pack), index_pack, first, first))
        seconds += time.process_time() - started
    started = time.process_time()
    for numbers in _in_packs(clusters):
        content.extend(list(numbers), list(numbers))
    seconds += time.process_time() - started
    return content, parents.Shared(packs), seconds


def _in_packs(clusters: int) -> list[range]:
    return [range(first, min(first + CLUSTERS_A_PACK, clusters))
            for first in range(0, clusters, CLUSTERS_A_PACK)]


def _digest(number: int) -> bytes:
    return hashlib.blake2b(
        number.to_bytes(8, 'big'), digest_size=32).digest()


def _record(index_pack: indexes.IndexPack) -> manifest.PackRecord:
    used = index_pack.offsets[-1]
    return manifest.PackRecord.new(
        attempt=ATTEMPT, name=index_pack.name,
        size=-(-used // CLUSTER_SIZE) * CLUSTER_SIZE, etag='0' * 32,
        clusters=len(index_pack), live_bytes=used)


def _status(name: str) -> int:
    """Read one of this process's sizes, in bytes.

    Not from getrusage: that remembers the parent's size before exec.
    """
    for line in pathlib.Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('clusters', type=int, nargs='?', default=CLUSTERS)
    parser.add_argument('shared', choices=['shared'], nargs='?')
    parser.add_argument('--stretch', type=int, default=STRETCH)
    args = parser.parse_args()
    print(json.dumps(measure(
        args.clusters, bool(args.shared), args.stretch)))
