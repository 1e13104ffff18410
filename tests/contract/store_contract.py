# SPDX-License-Identifier: Apache-2.0
"""What every store and every wrapper must do, as tests.

A test class for a store derives from :class:`StoreContract` and gives a
``store`` fixture with nothing in it.
"""

import concurrent.futures
import hashlib
import itertools
import os
import typing

import pytest

from ironic_snapshot_core import buffers
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import KiB, MiB

BAD_NAMES = ('', '/a', 'a/', 'a//b', '../a', 'a/../b', 'a/.', 'a b', 'a\n',
             'a?b', 'a%2fb', 'a~b', 'ä', 'a' * 1025, 'a/' + 'b' * 201)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def etag_of(store: base.Store, data: base.Data) -> str:
    """Give the etag that a store must make of some bytes."""
    return buffers.hexdigest(store.new_hash(), data)


def segment(info: base.ObjectInfo, start: int = 0,
            length: int | None = None) -> base.Segment:
    return base.Segment(info.name, info.size, info.etag, start, length)


def names(infos: typing.Iterable[base.ObjectInfo]) -> list[str]:
    return [info.name for info in infos]


def assert_unreadable(store: base.Store, name: str, size: int) -> None:
    """Check that an object is refused, however it is read."""
    with pytest.raises(errors.StoreError):
        store.get(name, size)
    with pytest.raises(errors.StoreError):
        b''.join(store.iter_bytes(name))
    with pytest.raises(errors.StoreError):
        store.get_range(name, 0, size // 2)


def many_ranges(store: base.Store, count: int = 1500
                ) -> tuple[list[base.Segment], bytes]:
    """Put some objects: give parts of them, many, and what these join to."""
    parts = [bytes(range(65 + n, 65 + 2 * n + 1)) for n in range(7)]
    infos = [store.put(f'p/{n}', part) for n, part in enumerate(parts)]
    segments, data = [], []
    for n in range(count):
        part = parts[n % 7]
        start, end = sorted((n // 7 % len(part), n // 3 % len(part)))
        segments.append(segment(infos[n % 7], start, end + 1 - start))
        data.append(part[start:end + 1])
    assert any(not each.whole for each in segments)
    assert any(each.whole for each in segments)
    return segments, b''.join(data)


class ReadContract:
    """Reading single objects; ``fill`` puts them where they are read."""

    @pytest.fixture
    def fill(self, store: base.Store
             ) -> typing.Callable[[str, bytes], base.ObjectInfo]:
        return store.put

    @pytest.mark.parametrize('data', [b'', b'x', os.urandom(3 * MiB + 7)],
                             ids=['empty', 'one', 'many'])
    def test_get_gives_what_was_put(self, store, fill, data):
        fill('a/b', data)
        assert store.get('a/b', len(data)) == data
        assert b''.join(store.iter_bytes('a/b')) == data

    def test_get_refuses_what_is_larger_than_the_limit(self, store, fill):
        fill('a', b'12345')
        with pytest.raises(errors.ObjectTooLarge):
            store.get('a', 4)

    @pytest.mark.parametrize('offset, length', [
        (0, 1), (0, 10), (3, 4), (9, 1)])
    def test_get_range_gives_exactly_the_range(
            self, store, fill, offset, length):
        fill('a', b'0123456789')
        assert store.get_range('a', offset, length) == (
            b'0123456789'[offset:offset + length])

    @pytest.mark.parametrize('offset, length', [
        (9, 2), (10, 1), (0, 11), (2**40, 1)])
    def test_get_range_refuses_a_range_beyond_the_end(
            self, store, fill, offset, length):
        fill('a', b'0123456789')
        with pytest.raises(errors.ObjectMismatch):
            store.get_range('a', offset, length)

    @pytest.mark.parametrize('offset, length', [(-1, 1), (0, 0), (0, -1)])
    def test_get_range_refuses_what_is_no_range(
            self, store, fill, offset, length):
        fill('a', b'0123456789')
        with pytest.raises(errors.InvalidValue):
            store.get_range('a', offset, length)

    def test_iter_bytes_gives_pieces_no_larger_than_asked(self, store, fill):
        data = os.urandom(100 * KiB)
        fill('a', data)
        pieces = list(store.iter_bytes('a', 30 * KiB))
        assert b''.join(pieces) == data
        assert max(map(len, pieces)) <= 30 * KiB

    def test_iter_bytes_may_be_given_up(self, store, fill):
        data = os.urandom(3 * MiB)
        fill('a', data)
        pieces = store.iter_bytes('a', KiB)
        assert next(pieces) == data[:KiB]
        pieces.close()
        assert store.get('a', len(data)) == data

    def test_stat_tells_size_and_etag(self, store, fill):
        fill('a', b'hello')
        assert store.stat('a') == base.ObjectInfo(
            'a', 5, etag_of(store, b'hello'), base.PLAIN, False)

    @pytest.mark.parametrize('call', [
        lambda store: store.get('no', 10),
        lambda store: store.get_range('no', 0, 1),
        lambda store: list(store.iter_bytes('no')),
        lambda store: store.stat('no'),
    ], ids=['get', 'get_range', 'iter_bytes', 'stat'])
    def test_a_missing_object_is_reported_by_name(self, store, call):
        with pytest.raises(errors.ObjectMissing) as caught:
            call(store)
        assert caught.value.name == 'no'
        assert not caught.value.retryable

    @pytest.mark.parametrize('name', BAD_NAMES)
    def test_reading_refuses_bad_names(self, store, name):
        for call in (lambda: store.get(name, 1),
                     lambda: store.get_range(name, 0, 1),
                     lambda: list(store.iter_bytes(name)),
                     lambda: store.stat(name)):
            with pytest.raises(errors.InvalidName):
                call()


class WriteContract:
    """Writing single objects; ``look`` reads what is then there."""

    @pytest.fixture
    def look(self, store: base.Store) -> typing.Callable[[str], bytes]:
        return lambda name: store.get(name, 64 * MiB)

    @pytest.mark.parametrize('data', [b'', b'x', os.urandom(3 * MiB + 7)],
                             ids=['empty', 'one', 'many'])
    def test_put_stores_and_tells_what(self, store, look, data):
        assert store.put('a/b', data) == base.ObjectInfo(
            'a/b', len(data), etag_of(store, data))
        assert look('a/b') == data

    @pytest.mark.parametrize('kind', [bytes, bytearray, memoryview])
    def test_put_takes_any_buffer(self, store, look, kind):
        store.put('a', kind(b'0123456789'))
        assert look('a') == b'0123456789'

    @pytest.mark.parametrize('sizes', [
        (), (0,), (5,), (1, 0, 2), (100 * KiB, 70 * KiB + 1),
        (MiB, 2 * MiB), (MiB + 1, 0, MiB - 1)], ids=str)
    def test_put_takes_several_buffers_as_one_object(
            self, store, look, sizes):
        pieces = [os.urandom(size) for size in sizes]
        kinds = itertools.cycle([bytes, bytearray, memoryview])
        data = b''.join(pieces)
        info = store.put('a/b', buffers.Buffers(
            kind(piece)
            for kind, piece in zip(kinds, pieces, strict=False)))
        assert info == base.ObjectInfo(
            'a/b', len(data), etag_of(store, data))
        assert look('a/b') == data

    def test_put_does_not_keep_the_buffer(self, store, look):
        data = bytearray(b'x' * 100)
        store.put('a', memoryview(data))
        data[:] = b'y' * 100
        assert look('a') == b'x' * 100

    def test_put_replaces(self, store, look):
        store.put('a', b'long ago')
        store.put('a', b'now')
        store.put('a', b'now')
        assert look('a') == b'now'

    def test_concurrent_puts_leave_one_whole_object(self, store, look):
        versions = [bytes([n]) * 200_000 for n in range(8)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda data: store.put('a/x', data), versions))
        assert look('a/x') in versions

    @pytest.mark.parametrize('name', BAD_NAMES)
    def test_put_refuses_bad_names(self, store, name):
        with pytest.raises(errors.InvalidName):
            store.put(name, b'')


class StoreContract(ReadContract, WriteContract):
    """All of it."""

    def test_list_gives_names_in_order(self, store):
        all_names = ['a/1', 'a/10', 'a/2', 'a-b', 'b/c/d', 'B']
        for name in all_names:
            store.put(name, name.encode())
        assert names(store.list('')) == sorted(all_names)
        assert names(store.list('a')) == ['a-b', 'a/1', 'a/10', 'a/2']
        assert names(store.list('a/')) == ['a/1', 'a/10', 'a/2']
        assert names(store.list('a/1')) == ['a/1', 'a/10']
        assert names(store.list('b/c/d')) == ['b/c/d']
        assert names(store.list('nothing/here')) == []

    def test_list_tells_what_stat_tells(self, store):
        one = store.put('x/1', b'one')
        image = store.join('x/image', [segment(one)])
        assert list(store.list('x/')) == [store.stat('x/1'),
                                          store.stat('x/image')]
        assert store.stat('x/image') == image

    @pytest.mark.parametrize('prefix', ['/', '../', 'a//', 'a?b', 'a/../'])
    def test_list_refuses_bad_prefixes(self, store, prefix):
        with pytest.raises(errors.InvalidName):
            list(store.list(prefix))

    def test_delete_removes_one_object(self, store):
        store.put('a/1', b'1')
        store.put('a/10', b'10')
        store.delete('a/1')
        assert names(store.list('')) == ['a/10']
        with pytest.raises(errors.ObjectMissing):
            store.stat('a/1')

    def test_delete_may_be_repeated(self, store):
        store.put('a', b'')
        store.delete('a')
        store.delete('a')

    @pytest.mark.parametrize('name', BAD_NAMES)
    def test_delete_and_join_refuse_bad_names(self, store, name):
        one = store.put('good', b'1')
        with pytest.raises(errors.InvalidName):
            store.delete(name)
        with pytest.raises(errors.InvalidName):
            store.join(name, [segment(one)])
        with pytest.raises(errors.InvalidName):
            store.join('image', [base.Segment(name, 1, one.etag)])

    def test_an_image_reads_as_its_segments(self, store):
        parts = [b'0123', b'4', b'56789']
        infos = [store.put(f'p/{n}', part) for n, part in enumerate(parts)]
        # In the order given, and one of them twice.
        wanted = [infos[2], infos[0], infos[2], infos[1]]
        data = b'56789' b'0123' b'56789' b'4'
        image = store.join('image', [segment(info) for info in wanted])
        assert image.kind == base.IMAGE
        assert image.size == len(data)
        assert image.etag == md5(''.join(
            info.etag for info in wanted).encode())
        assert store.stat('image') == image
        assert store.get('image', 100) == data
        assert b''.join(store.iter_bytes('image', 2)) == data

    def test_every_range_of_an_image_can_be_read(self, store):
        parts = [b'012', b'3', b'4567']
        infos = [store.put(f'p/{n}', part) for n, part in enumerate(parts)]
        store.join('image', [segment(info) for info in infos])
        for start, end in itertools.combinations(range(9), 2):
            assert store.get_range('image', start, end - start) == (
                b'01234567'[start:end])
        with pytest.raises(errors.ObjectMismatch):
            store.get_range('image', 7, 2)

    @pytest.mark.parametrize('ranges, data', [
        ([(0, 3)], b'012'),
        ([(7, 3)], b'789'),
        ([(7, None)], b'789'),
        ([(4, 1)], b'4'),
        ([(0, 10)], b'0123456789'),
        ([(3, 5), (0, 2), (3, 5), (9, 1), (2, 6)], b'3456701345679234567'),
        ([(0, 5), (5, 5)], b'0123456789'),
        ([(5, None), (0, None)], b'567890123456789'),
    ], ids=str)
    def test_an_image_of_ranges(self, store, ranges, data):
        ends = store.put('p/ends', b'<>')
        info = store.put('p/1', b'0123456789')
        wanted = [segment(ends, 0, 1),
                  *(segment(info, *each) for each in ranges),
                  segment(ends, 1, 1)]
        data = b'<%s>' % data
        image = store.join('image', wanted)
        assert (image.kind, image.size) == (base.IMAGE, len(data))
        etags = [f'{ends.etag}:0-0;']
        for start, length in ranges:
            last = start + (10 - start if length is None else length) - 1
            etags.append(info.etag if (start, last) == (0, 9)
                         else f'{info.etag}:{start}-{last};')
        etags.append(f'{ends.etag}:1-1;')
        assert image.etag == md5(''.join(etags).encode())
        assert store.stat('image') == image
        assert list(store.list('image')) == [image]
        assert store.get('image', len(data)) == data
        with pytest.raises(errors.ObjectTooLarge):
            store.get('image', len(data) - 1)
        for chunk_size in (1, 4, 100):
            pieces = list(store.iter_bytes('image', chunk_size))
            assert b''.join(pieces) == data
            assert max(map(len, pieces)) <= chunk_size
        for offset in range(len(data)):
            for length in {1, 4, len(data) - offset}:
                if offset + length <= len(data):
                    assert store.get_range('image', offset, length) == (
                        data[offset:offset + length])
        with pytest.raises(errors.ObjectMismatch):
            store.get_range('image', len(data) - 1, 2)

    def test_ranges_of_large_objects(self, store):
        parts = [os.urandom(2 * MiB + 7 * n) for n in range(3)]
        infos = [store.put(f'p/{n}', part) for n, part in enumerate(parts)]
        image = store.join('image', [
            segment(infos[0], MiB - 5, MiB), segment(infos[1]),
            segment(infos[2], 64 * KiB, 3)])
        data = (parts[0][MiB - 5:2 * MiB - 5] + parts[1]
                + parts[2][64 * KiB:64 * KiB + 3])
        assert image.size == len(data)
        assert b''.join(store.iter_bytes('image')) == data
        assert store.get('image', len(data)) == data
        assert store.get_range('image', MiB - 9, MiB) == (
            data[MiB - 9:2 * MiB - 9])

    @pytest.mark.parametrize('start, length', [
        (0, 0), (4, 0), (0, 5), (3, 2), (4, None), (4, 1), (9, 1),
        (-1, 2), (-1, None), (0, -1), (3, -2), (2**40, 1)], ids=str)
    def test_join_refuses_impossible_ranges(self, store, start, length):
        one = store.put('p/1', b'0123')
        with pytest.raises(errors.InvalidValue) as caught:
            store.join('image', [segment(one), segment(one, start, length)])
        assert 'p/1' in str(caught.value)
        with pytest.raises(errors.ObjectMissing):
            store.stat('image')

    def test_join_refuses_a_range_of_an_object_that_is_shorter(self, store):
        one = store.put('p/1', b'0123')
        with pytest.raises(errors.ObjectMismatch) as caught:
            store.join('image', [base.Segment('p/1', 9, one.etag, 5, 2)])
        assert caught.value.name == 'p/1'

    def test_join_refuses_a_range_of_what_is_missing(self, store):
        one = store.put('p/1', b'0123')
        with pytest.raises(errors.ObjectMissing) as caught:
            store.join('image', [base.Segment('p/2', 4, one.etag, 1, 2)])
        assert caught.value.name == 'p/2'

    def test_a_range_never_reads_as_what_its_object_became(self, store):
        one = store.put('p/1', b'0123')
        store.join('image', [segment(one, 1, 2)])
        # The range itself is as it was.
        store.put('p/1', b'x12x')
        assert_unreadable(store, 'image', 2)

    def test_get_counts_an_image_as_a_whole(self, store):
        one = store.put('p/1', b'0123')
        store.join('image', [segment(one)] * 3)
        with pytest.raises(errors.ObjectTooLarge):
            store.get('image', 11)
        assert len(store.get('image', 12)) == 12

    def test_join_may_be_repeated(self, store):
        one = store.put('p/1', b'0123')
        first = store.join('image', [segment(one)])
        assert store.join('image', [segment(one)]) == first

    def test_join_refuses_a_missing_segment(self, store):
        one = store.put('p/1', b'0123')
        gone = base.Segment('p/2', 4, one.etag)
        with pytest.raises(errors.ObjectMissing) as caught:
            store.join('image', [segment(one), gone])
        assert caught.value.name == 'p/2'
        with pytest.raises(errors.ObjectMissing):
            store.stat('image')

    @pytest.mark.parametrize('size, data', [
        (4, b'other'), (5, b'0123')], ids=['etag', 'size'])
    def test_join_refuses_a_segment_that_is_another(self, store, size, data):
        store.put('p/1', b'0123')
        with pytest.raises(errors.ObjectMismatch) as caught:
            store.join('image', [base.Segment(
                'p/1', size, etag_of(store, data))])
        assert caught.value.name == 'p/1'
        with pytest.raises(errors.ObjectMissing):
            store.stat('image')

    def test_join_refuses_no_segments_and_empty_ones(self, store):
        empty = store.put('p/1', b'')
        with pytest.raises(errors.InvalidValue):
            store.join('image', [])
        with pytest.raises(errors.InvalidValue):
            store.join('image', [segment(empty)])

    def test_deleting_an_image_keeps_its_segments(self, store):
        one = store.put('p/1', b'0123')
        store.join('image', [segment(one)])
        store.delete('image')
        assert names(store.list('')) == ['p/1']
        assert store.get('p/1', 4) == b'0123'

    def test_an_image_never_reads_as_what_a_segment_became(self, store):
        one = store.put('p/1', b'0123')
        store.join('image', [segment(one)])
        store.put('p/1', b'3210')
        assert_unreadable(store, 'image', 4)

    def test_an_image_does_not_survive_a_segment(self, store):
        infos = [store.put(f'p/{n}', bytes([n]) * 5) for n in range(2)]
        store.join('image', [segment(info) for info in infos])
        store.delete('p/1')
        with pytest.raises(errors.StoreError):
            store.get('image', 10)
        with pytest.raises(errors.StoreError):
            b''.join(store.iter_bytes('image'))

    def test_put_and_join_replace_each_other(self, store):
        one = store.put('p/1', b'0123')
        store.put('x', b'plain')
        store.join('x', [segment(one)])
        assert store.get('x', 10) == b'0123'
        store.put('x', b'plain')
        assert store.get('x', 10) == b'plain'
        assert store.stat('x').kind == base.PLAIN
        store.delete('x')
        assert names(store.list('')) == ['p/1']
