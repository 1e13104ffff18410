# SPDX-License-Identifier: Apache-2.0
"""The stores that need no server, and the wrappers, keep the contract."""

import errno
import fcntl
import io
import os
import stat

import blake3
import pytest

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.units import KiB, MiB
from tests import faults
from tests.contract import store_contract


class TestMemoryStore(store_contract.StoreContract):

    @pytest.fixture
    def store(self):
        return memory.MemoryStore()

    def test_etags_are_those_of_swift(self, store):
        assert store.put('a', b'0123').etag == store_contract.md5(b'0123')


class TestRetryingMemoryStore(store_contract.StoreContract):

    @pytest.fixture
    def store(self):
        return retry.RetryingStore(
            memory.MemoryStore(), clock=clock.ManualClock())


class TestFaultyStore(store_contract.StoreContract):
    """Without faults, the tests' own wrapper is a store like any other."""

    @pytest.fixture
    def store(self):
        return faults.FaultyStore(memory.MemoryStore(), faults.Faults())


class TestRetryingFaultyStore(store_contract.StoreContract):
    """With each third call failing, a retrying store is still a store."""

    @pytest.fixture
    def store(self):
        injected = faults.Faults()
        calls = iter(range(10**9))

        def fail_each_third():
            if next(calls) % 3 == 0:
                raise errors.StoreUnavailable('call', 'a', 'injected')

        injected.on('*').call(fail_each_third).times(None)
        yield retry.RetryingStore(
            faults.FaultyStore(memory.MemoryStore(), injected),
            clock=clock.ManualClock())
        # Names that were refused never got that far.
        if injected.calls:
            injected.assert_all_fired()


class TestRenewedStore(store_contract.StoreContract):
    """With a grant that expires at each third call, likewise."""

    @pytest.fixture
    def store(self):
        injected = faults.Faults()
        calls = iter(range(10**9))
        moments = iter(range(1, 10**9))

        def mint():
            return grant.mint('http://h/v1/a/c', 'key', next(moments),
                              [('PUT', 'a/')])

        holder = auth.GrantAuth(mint())

        def fail_each_third():
            if next(calls) % 3 == 0:
                raise errors.GrantExpired('call', 'a', 'injected')

        injected.on('*').call(fail_each_third).times(None)
        now = clock.ManualClock()
        yield retry.RetryingStore(
            faults.FaultyStore(memory.MemoryStore(), injected), clock=now,
            renewal=renewal.Renewal(
                holder, now, lambda: holder.renew(mint())))
        if injected.calls:
            injected.assert_all_fired()


class TestLimitedStore(store_contract.StoreContract):

    @pytest.fixture
    def store(self):
        return limit.LimitedStore(
            memory.MemoryStore(), 1000, clock.ManualClock())


class TestDirectoryStore(store_contract.StoreContract):

    @pytest.fixture
    def store(self, tmp_path):
        return directory.DirectoryStore(tmp_path)

    def test_objects_survive_the_store(self, store, tmp_path):
        one = store.put('a/1', b'0123')
        store.join('a/image', [store_contract.segment(one)] * 2)
        again = directory.DirectoryStore(tmp_path)
        assert again.get('a/image', 8) == b'01230123'

    def test_etags_are_the_beginning_of_blake3(self, store):
        for data in (b'', b'0123', bytes(3 * MiB)):
            etag = store.put('a', data).etag
            assert etag == blake3.blake3(data).hexdigest()[:32]
            assert store.stat('a').etag == etag

    def test_an_object_is_a_file_others_cannot_read(self, store, tmp_path):
        store.put('a/1', b'0123')
        path = tmp_path / 'a' / '1'
        assert path.read_bytes() == b'0123'
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_what_a_crash_left_is_no_object(self, store, tmp_path):
        store.put('a/1', b'0123')
        (tmp_path / 'a' / '~abcdef').write_bytes(b'01')
        assert store_contract.names(store.list('')) == ['a/1']

    def test_files_of_others_are_no_objects(self, store, tmp_path):
        store.put('a/1', b'0123')
        (tmp_path / 'lost+found').mkdir()
        (tmp_path / 'lost+found' / 'x').write_bytes(b'')
        assert store_contract.names(store.list('')) == ['a/1']

    def test_a_failed_put_leaves_nothing(self, store, tmp_path, monkeypatch):
        store.put('a/1', b'before')

        def fail(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, 'fsync', fail)
        with pytest.raises(errors.StoreFull) as caught:
            store.put('a/1', b'after')
        assert 'a/1' in str(caught.value)
        monkeypatch.undo()
        assert store.get('a/1', 10) == b'before'
        assert os.listdir(tmp_path / 'a') == ['1']

    def test_it_does_not_create_its_directory(self, tmp_path):
        # It may be a file system that is not mounted.
        store = directory.DirectoryStore(tmp_path / 'not-mounted')
        with pytest.raises(errors.ContainerMissing):
            store.put('a', b'')
        assert not (tmp_path / 'not-mounted').exists()

    def test_a_changed_file_is_never_read_as_the_object(
            self, store, tmp_path):
        store.put('a', b'0123456789')
        with open(tmp_path / 'a', 'r+b') as f:
            f.write(b'x')
        with pytest.raises(errors.ObjectMismatch):
            store.get('a', 10)
        with pytest.raises(errors.ObjectMismatch):
            list(store.iter_bytes('a'))

    def test_etags_survive_a_copy_without_attributes(self, store, tmp_path):
        info = store.put('a', b'0123456789')
        os.removexattr(tmp_path / 'a', directory.ETAG_ATTRIBUTE)
        assert store.stat('a') == info
        assert store.get('a', 10) == b'0123456789'

    @pytest.mark.parametrize('damaged', [
        b'[["p", 4', b'4', b'[]', b'{}', b'[["p"]]',
        b'[["p", 4, "x", 0, 5]]', b'[["p", 4, "x", -1, 2]]',
        b'[["p", 4, "x", 0, 0]]', b'[["p", "4", "x", 0, 4]]',
        b'[["../p", 4, "x", 0, 4]]', b'[[7, 4, "x", 0, 4]]'])
    def test_a_damaged_list_of_segments_is_reported(
            self, store, tmp_path, damaged):
        one = store.put('p', b'0123')
        store.join('image', [store_contract.segment(one)])
        (tmp_path / 'image~segments').write_bytes(damaged)
        for call in (lambda: store.get('image', 10),
                     lambda: store.stat('image'),
                     lambda: store.get_range('image', 0, 1),
                     lambda: list(store.iter_bytes('image'))):
            with pytest.raises(errors.ObjectMismatch):
                call()

    def test_parts_of_objects_survive_the_store(self, store, tmp_path):
        one = store.put('p', b'0123')
        store.join('image', [store_contract.segment(one, 1, 2),
                             store_contract.segment(one, 3)])
        again = directory.DirectoryStore(tmp_path)
        assert again.get('image', 3) == b'123'
        assert again.stat('image') == store.stat('image')

    def test_a_name_that_is_a_folder_is_refused(self, store):
        store.put('a/b', b'')
        with pytest.raises(errors.StoreError) as caught:
            store.put('a', b'')
        assert 'folder' in str(caught.value)
        with pytest.raises(errors.StoreError):
            store.put('a/b/c', b'')

    def test_an_unmounted_directory_is_not_an_empty_store(self, tmp_path):
        store = directory.DirectoryStore(tmp_path / 'not-mounted')
        with pytest.raises(errors.ContainerMissing):
            list(store.list(''))
        with pytest.raises(errors.ContainerMissing):
            store.delete('a')


def aligned(*sizes):
    """Give random bytes in buffers that begin at a page, read-only."""
    views = []
    for size in sizes:
        views.append(memoryview(buffers.allocate(size)))
        views[-1][:] = os.urandom(size)
    return buffers.Buffers(view.toreadonly() for view in views)


def at_odd_place(size):
    """Give random bytes that begin at no multiple of anything."""
    return memoryview(buffers.allocate(size + 4096))[1:size + 1]


class Direct:
    """A file system's side of O_DIRECT; the bytes go to a real one.

    :param accepts: whether it can be set.
    :ivar asked: whether it was asked for.
    :ivar written: (size, whether O_DIRECT was set) of each write.
    """

    def __init__(self, monkeypatch, accepts=True):
        self.accepts = accepts
        self.asked = self.on = False
        self.written = []
        self.fail = lambda size: None
        self.most = 2**40
        direct = self

        class File(io.FileIO):

            def write(self, data):
                direct.fail(len(data))
                direct.written.append((len(data), direct.on))
                return super().write(data[:direct.most])

        monkeypatch.setattr(directory.fcntl, 'fcntl', self.fcntl)
        monkeypatch.setattr(
            directory, 'open', lambda *args, **options: (
                File(*args) if options else open(*args)), raising=False)

    def fcntl(self, f, command, flags=0):
        if command == fcntl.F_GETFL:
            return os.O_RDWR | (os.O_DIRECT if self.on else 0)
        assert command == fcntl.F_SETFL
        wanted = bool(flags & os.O_DIRECT)
        self.asked |= wanted
        if wanted and not self.accepts:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.on = wanted


class TestWritesPastThePageCache:

    @pytest.fixture
    def store(self, tmp_path):
        return directory.DirectoryStore(tmp_path)

    @staticmethod
    def check(store, tmp_path, data):
        data, info = bytes(data), store.put('a/1', data)
        assert (tmp_path / 'a' / '1').read_bytes() == data
        assert info == store.stat('a/1') == base.ObjectInfo(
            'a/1', len(data), store_contract.etag_of(store, data))
        assert os.listdir(tmp_path / 'a') == ['1']

    @pytest.mark.parametrize('data', [
        aligned(MiB), aligned(64 * KiB, 3 * MiB), aligned(MiB, MiB, 4096),
        aligned(MiB + 1), aligned(MiB - 4096), aligned(MiB, 100),
        os.urandom(2 * MiB), at_odd_place(MiB),
        buffers.Buffers([aligned(MiB).parts[0], at_odd_place(MiB)]),
    ], ids=['one', 'two', 'three', 'odd size', 'small', 'odd part', 'bytes',
            'odd place', 'odd place later'])
    def test_all_of_it_is_written(self, store, tmp_path, data):
        self.check(store, tmp_path, data)

    @pytest.mark.parametrize('data, wanted', [
        (aligned(MiB), True), (aligned(4096, MiB), True),
        (aligned(MiB - 4096), False), (aligned(MiB + 512), False),
        (aligned(MiB, 100), False)])
    def test_only_what_is_large_and_even(
            self, store, tmp_path, monkeypatch, data, wanted):
        direct = Direct(monkeypatch)
        self.check(store, tmp_path, data)
        assert direct.asked is wanted
        assert {on for _, on in direct.written} == {wanted}

    def test_a_file_system_that_cannot(self, store, tmp_path, monkeypatch):
        direct = Direct(monkeypatch, accepts=False)
        self.check(store, tmp_path, aligned(MiB, MiB))
        assert direct.asked
        assert direct.written == [(MiB, False)] * 2

    @pytest.mark.parametrize('good', [0, 1])
    def test_a_write_that_is_refused(
            self, store, tmp_path, monkeypatch, good):
        direct = Direct(monkeypatch)

        def fail(size):
            if direct.on and len(direct.written) == good:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        direct.fail = fail
        self.check(store, tmp_path, aligned(MiB, 2 * MiB))
        assert direct.written == [(MiB, good > 0), (2 * MiB, False)]

    def test_short_writes(self, store, tmp_path, monkeypatch):
        direct = Direct(monkeypatch)
        direct.most = 100_000

        def fail(size):
            if direct.on and size % 4096:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        direct.fail = fail
        self.check(store, tmp_path, aligned(MiB, MiB))
        assert [on for _, on in direct.written].count(True) == 1

    @pytest.mark.parametrize('error, raised', [
        (errno.EINVAL, errors.StoreUnavailable),
        (errno.ENOSPC, errors.StoreFull)])
    def test_other_failures_are_reported(
            self, store, tmp_path, monkeypatch, error, raised):
        direct = Direct(monkeypatch)

        def fail(size):
            raise OSError(error, os.strerror(error))

        direct.fail = fail
        with pytest.raises(raised):
            store.put('a/1', aligned(MiB))
        assert os.listdir(tmp_path / 'a') == []


class TestRetryingDirectoryStore(store_contract.StoreContract):

    @pytest.fixture
    def store(self, tmp_path):
        return retry.RetryingStore(
            directory.DirectoryStore(tmp_path), clock=clock.ManualClock())


@pytest.mark.parametrize('wrap', [
    retry.RetryingStore,
    lambda store: limit.LimitedStore(store, 2**30),
    lambda store: faults.FaultyStore(store, faults.Faults()),
], ids=['retry', 'limit', 'faults'])
def test_a_wrapper_has_the_hash_of_its_store(tmp_path, wrap):
    for store in (memory.MemoryStore(), directory.DirectoryStore(tmp_path)):
        wrapper = wrap(store)
        etag = store_contract.etag_of(store, b'0123')
        assert store_contract.etag_of(wrapper, b'0123') == etag
        assert wrapper.put('a', b'0123').etag == etag


@pytest.mark.parametrize('damaged', [False, True])
def test_reading_goes_on_with_the_hash_of_the_store(tmp_path, damaged):
    inner = directory.DirectoryStore(tmp_path)
    data = os.urandom(10 * KiB)
    inner.put('a', data)
    if damaged:
        with open(tmp_path / 'a', 'r+b') as f:
            f.seek(5 * KiB)
            f.write(bytes(100))
    injected = faults.Faults()
    injected.on('iter_bytes').raise_(errors.StoreUnavailable).when_applied()
    store = retry.RetryingStore(
        faults.FaultyStore(inner, injected), clock=clock.ManualClock())
    if damaged:
        with pytest.raises(errors.ObjectMismatch):
            list(store.iter_bytes('a', KiB))
    else:
        assert b''.join(store.iter_bytes('a', KiB)) == data
    injected.assert_all_fired()


def test_an_image_of_more_segments_than_swift_takes_in_one_manifest(tmp_path):
    for store in (memory.MemoryStore(), directory.DirectoryStore(tmp_path)):
        segments, data = store_contract.many_ranges(store)
        image = store.join('image', segments)
        assert image.size == len(data)
        assert store.get('image', len(data)) == data
