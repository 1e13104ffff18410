# SPDX-License-Identifier: Apache-2.0
"""The stores that need no server, and the wrappers, keep the contract."""

import errno
import os
import stat

import pytest

from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.store import retry
from tests import faults
from tests.contract import store_contract


class TestMemoryStore(store_contract.StoreContract):

    @pytest.fixture
    def store(self):
        return memory.MemoryStore()


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

    def test_a_damaged_list_of_segments_is_reported(self, store, tmp_path):
        one = store.put('p', b'0123')
        store.join('image', [store_contract.segment(one)])
        (tmp_path / 'image~segments').write_bytes(b'[["p", 4')
        with pytest.raises(errors.ObjectMismatch):
            store.get('image', 10)

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


class TestRetryingDirectoryStore(store_contract.StoreContract):

    @pytest.fixture
    def store(self, tmp_path):
        return retry.RetryingStore(
            directory.DirectoryStore(tmp_path), clock=clock.ManualClock())


def test_an_image_of_more_segments_than_swift_takes_in_one_manifest(tmp_path):
    for store in (memory.MemoryStore(), directory.DirectoryStore(tmp_path)):
        infos = [store.put(f'p/{n}', b'%04d' % n) for n in range(7)]
        image = store.join('image', [
            store_contract.segment(infos[n % 7]) for n in range(1500)])
        assert image.size == 6000
        assert store.get('image', 6000) == b''.join(
            b'%04d' % (n % 7) for n in range(1500))
