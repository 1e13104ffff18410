# SPDX-License-Identifier: Apache-2.0
"""Compression of clusters, and what hostile blobs cannot do."""

import concurrent.futures
import os
import random
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import codec
from ironic_snapshot_core import errors
from ironic_snapshot_core.units import KiB, MiB

SIZE = 64 * KiB
TEXT = (b'some text that compresses, ' * 3000)[:SIZE]

both = pytest.mark.parametrize('codec_id', ['zstd', 'zlib'])


@both
@pytest.mark.parametrize('size', [64 * KiB, 256 * KiB, 2 * MiB])
def test_what_is_compressed_comes_back(codec_id, size):
    found = codec.get_codec(codec_id)
    data = (TEXT * 32)[:size]
    blob = found.compress(data)
    assert len(blob) < size // 2
    assert found.decompress(blob, size) == data
    assert found.decompress(memoryview(blob), size) == data


@both
def test_what_does_not_shrink_enough_is_left_alone(codec_id):
    found = codec.get_codec(codec_id)
    assert found.compress(os.urandom(SIZE)) is None
    noise = random.Random(1).randbytes(SIZE)
    # 1/32 saved is not enough, 1/8 is.
    assert found.compress(noise[:-SIZE // 32] + bytes(SIZE // 32)) is None
    assert found.compress(noise[:-SIZE // 8] + bytes(SIZE // 8)) is not None


def test_none_leaves_everything_alone():
    found = codec.get_codec('none')
    assert found.compress(TEXT) is None
    assert found.qcow2_compression is None
    with pytest.raises(errors.Corrupted):
        found.decompress(b'x', SIZE)


def test_zstd_frames_are_as_qcow2_wants_them():
    blob = codec.get_codec('zstd').compress(TEXT)
    frame = zstandard.get_frame_parameters(blob)
    assert frame.content_size == SIZE
    assert not frame.has_checksum
    assert frame.dict_id == 0


def test_zlib_streams_are_as_qcow2_wants_them():
    blob = codec.get_codec('zlib').compress(TEXT)
    assert zlib.decompress(blob, -12) == TEXT


@both
@pytest.mark.parametrize('change', [
    lambda blob: b'',
    lambda blob: blob[:-1],
    lambda blob: blob[1:],
    lambda blob: blob + b'\0',
    lambda blob: blob + blob,
    lambda blob: b'\0' + blob,
    lambda blob: os.urandom(100),
], ids=['empty', 'short', 'begun', 'longer', 'twice', 'shifted', 'noise'])
def test_exactly_one_frame(codec_id, change):
    found = codec.get_codec(codec_id)
    blob = change(found.compress(TEXT))
    with pytest.raises(errors.Corrupted):
        found.decompress(blob, SIZE)


@both
@pytest.mark.parametrize('size', [SIZE - 1, SIZE + 1, 0, 2 * SIZE])
def test_exactly_the_size(codec_id, size):
    found = codec.get_codec(codec_id)
    with pytest.raises(errors.Corrupted):
        found.decompress(found.compress(TEXT), size)


def zstd_of_unknown_size(data):
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def skippable_then(blob):
    return b'\x50\x2a\x4d\x18\x04\0\0\0abcd' + blob


@pytest.mark.parametrize('blob', [
    zstd_of_unknown_size(TEXT),
    skippable_then(zstandard.compress(TEXT)),
    zstandard.compress(TEXT) + b'\x50\x2a\x4d\x18\x00\0\0\0',
], ids=['no size', 'skippable first', 'skippable last'])
def test_odd_frames_are_refused(blob):
    with pytest.raises(errors.Corrupted):
        codec.get_codec('zstd').decompress(blob, SIZE)


def deflate(data):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize('codec_id, bomb', [
    ('zstd', zstandard.compress(bytes(256 * MiB))),
    ('zstd', zstd_of_unknown_size(bytes(256 * MiB))),
    ('zlib', deflate(bytes(256 * MiB))),
], ids=['zstd', 'zstd without size', 'zlib'])
def test_a_bomb_takes_no_memory(codec_id, bomb):
    found = codec.get_codec(codec_id)
    tracemalloc.start()
    try:
        with pytest.raises(errors.Corrupted):
            found.decompress(bomb, SIZE)
        assert tracemalloc.get_traced_memory()[1] < 2 * MiB
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300), st.sampled_from(['zstd', 'zlib']))
def test_garbage_raises_our_error_only(blob, codec_id):
    found = codec.get_codec(codec_id)
    try:
        assert len(found.decompress(blob, 100)) == 100
    except errors.Corrupted:
        pass


@given(st.integers(0, 10**9), st.sampled_from(['zstd', 'zlib']))
def test_a_flipped_bit_never_gives_another_length(position, codec_id):
    # It may give other bytes: the digest is there for that.
    found = codec.get_codec(codec_id)
    blob = bytearray(found.compress(TEXT))
    position %= len(blob) * 8
    blob[position // 8] ^= 1 << position % 8
    try:
        assert len(found.decompress(bytes(blob), SIZE)) == SIZE
    except errors.Corrupted:
        pass


@both
def test_threads_share_a_codec(codec_id):
    found = codec.get_codec(codec_id)
    clusters = [(b'%d ' % n * SIZE)[:SIZE] for n in range(40)]

    def there_and_back(data):
        return found.decompress(found.compress(data), SIZE)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(there_and_back, clusters)) == clusters


@pytest.mark.parametrize('codec_id, level', [
    ('zstd', 0), ('zstd', 20), ('zstd', -1), ('zlib', 0), ('zlib', 10),
    ('none', 1)])
def test_levels_there_are_none_of(codec_id, level):
    with pytest.raises(errors.InvalidValue):
        codec.get_codec(codec_id, level)


def test_levels():
    assert codec.get_codec('zstd').level == 1
    assert codec.get_codec('zstd', 3).level == 3
    assert codec.get_codec('zlib').level == 6
    assert codec.get_codec('none').level is None


def test_an_unknown_one_is_refused():
    with pytest.raises(errors.UnsupportedFeature, match='lzma'):
        codec.get_codec('lzma')
