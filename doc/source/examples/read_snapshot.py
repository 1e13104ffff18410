"""Write the disk of a snapshot to a file, by the format alone.

    python read_snapshot.py REPOSITORY MANIFEST OUTPUT

REPOSITORY is a directory with the objects of a container, MANIFEST the name
of a manifest in it.
"""
import json
import pathlib
import struct
import sys
import uuid

import blake3
import zstandard


def open_document(data, magic):
    """Header and payload of an index or a map."""
    if blake3.blake3(data[:-32]).digest() != data[-32:]:
        raise ValueError('the digest does not match')
    found, version, flags, length = struct.unpack_from('<4sHHH', data)
    if (found, version, flags) != (magic, 1, 0):
        raise ValueError('not a document that this reader knows')
    start = 10 + length + 16
    size, stored = struct.unpack_from('<QQ', data, 10 + length)
    payload = zstandard.ZstdDecompressor().decompress(
        data[start:start + stored], max_output_size=size)
    return data[10:10 + length], payload


def columns(payload, position, lengths):
    """Columns of u32, one for each length, and where they end."""
    result = []
    for count in lengths:
        planes = [payload[position + plane * count:][:count]
                  for plane in range(4)]
        result.append([int.from_bytes(each, 'little')
                       for each in zip(*planes, strict=True)])
        position += 4 * count
    return result, position


def read_index(data):
    """For each slot: number of the pack, offset, length, raw?, digest."""
    header, payload = open_document(data, b'ISIX')
    packs, count = struct.unpack_from('<II', header, 52)
    (numbers, counts, raws, lengths), position = columns(
        payload, 0, (packs, packs, packs, count))
    slots, slot = [], 0
    for number, in_pack, raw in zip(numbers, counts, raws, strict=True):
        offset = 0
        for ordinal in range(in_pack):
            digest = payload[position + 32 * slot:][:32]
            slots.append((number, offset, lengths[slot], ordinal < raw,
                          digest))
            offset += lengths[slot]
            slot += 1
    return slots


def read_map(data):
    """Pairs of a cluster of the disk and its (attempt, slot)."""
    header, payload = open_document(data, b'ISMP')
    _size, _cluster_size, attempts, count = struct.unpack('<QIII', header)
    ids = [str(uuid.UUID(bytes=payload[16 * n:16 * n + 16]))
           for n in range(attempts)]
    (gaps, counts, numbers, jumps), _end = columns(
        payload, 16 * attempts, (count,) * 4)
    cluster = slot = 0
    for gap, run, number, jump in zip(gaps, counts, numbers, jumps,
                                      strict=True):
        cluster += gap
        slot = (slot + jump) % 2 ** 32
        for ordinal in range(run):
            yield cluster + ordinal, (ids[number], slot + ordinal)
        cluster += run
        slot += run


def read_object(path, record):
    """The bytes of an object that the manifest tells of."""
    data = path.read_bytes()
    if blake3.blake3(data).hexdigest() != record['digest']:
        raise ValueError(f'{path} is damaged')
    return data


def main(repository, manifest_name, output):
    repository = pathlib.Path(repository)
    manifest = json.loads((repository / manifest_name).read_text())
    if manifest['version'] != 1 or manifest['features']:
        raise ValueError('written by a newer release')

    def folder(lineage, attempt):
        return (repository / 'v1' / lineage['node'] / lineage['generation']
                / 'attempts' / attempt)

    attempts = {}
    for each in manifest['attempts']:
        path = folder(each['lineage'], each['id'])
        attempts[each['id']] = path, read_index(
            read_object(path / 'index', each['index']))
    own = folder(manifest['lineage'], manifest['id'])
    size, cluster_size = manifest['disk']['size'], manifest['cluster_size']
    with open(output, 'wb') as disk:
        disk.truncate(size)
        for cluster, (attempt, slot) in read_map(
                read_object(own / 'map', manifest['map'])):
            path, slots = attempts[attempt]
            number, offset, length, raw, digest = slots[slot]
            with open(path / f'pack-{number:06d}', 'rb') as pack:
                pack.seek(offset)
                data = pack.read(length)
            if not raw:   # this reader knows zstd only
                data = zstandard.ZstdDecompressor().decompress(
                    data, max_output_size=cluster_size)
            if blake3.blake3(data).digest() != digest:
                raise ValueError(f'cluster {cluster} is damaged')
            disk.seek(cluster * cluster_size)
            disk.write(data[:size - cluster * cluster_size])


if __name__ == '__main__':
    main(*sys.argv[1:])
