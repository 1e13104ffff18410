# SPDX-License-Identifier: Apache-2.0
"""What a capture or a restore reads is leased, whoever deletes it."""

import pytest

from ironic_snapshot_core import clock
from ironic_snapshot_core import codec
from ironic_snapshot_core import digest
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import prune
from ironic_snapshot_core.store import memory
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import request
from ironic_snapshot_cli import beginning
from tests import faults as test_faults
from tests.unit.cli import snapshots

NEW = snapshots.make_id('new')
NAMES = ('first', 'second', 'third', 'fourth')


@pytest.fixture
def faults():
    return test_faults.Faults()


@pytest.fixture
def store(faults):
    found = memory.MemoryStore()
    for sequence, name in enumerate(NAMES, start=1):
        each = snapshots.make(name, sequence=sequence)
        found.put(
            layout.manifest_name(each.lineage, each.id), each.to_bytes(None)
        )
    return test_faults.FaultyStore(found, faults)


@pytest.fixture
def stop():
    return executor.Stop()


@pytest.fixture
def begin(store, stop):
    """Begin a capture, as the command does."""
    wanted = request.CaptureRequest(
        snapshot=NEW,
        name='new',
        lineage=snapshots.LINEAGE,
        cluster_size=snapshots.CLUSTER,
        codec=codec.get_codec('zstd', 1),
        digest=digest.DEFAULT_DIGEST,
        pack_size=64 * snapshots.CLUSTER,
        workers=0,
        memory_limit=0,
    )

    def begin(asked='auto'):
        return beginning.leased(
            store, wanted, asked, clock.ManualClock(), stop
        )

    return begin


def delete(store, name):
    prune.delete(store, snapshots.LINEAGE, snapshots.make_id(name), None, 0)


def read_lease(store):
    return lease.get(store, snapshots.LINEAGE, NEW)


def test_it_is_leased_until_the_end(store, begin, stop):
    with begin() as choice:
        assert choice.manifest.name == 'fourth'
        assert read_lease(store).parent == choice.manifest.id
        with pytest.raises(errors.SnapshotInUse):
            delete(store, 'fourth')
        delete(store, 'third')
    assert read_lease(store) is None
    assert not stop.is_set()


@pytest.mark.parametrize(
    'error', [KeyboardInterrupt, errors.Cancelled, SystemExit]
)
def test_an_error_ends_it_too(store, begin, stop, error):
    with pytest.raises(error):
        with begin():
            raise error
    assert read_lease(store) is None
    # Nobody waits for a store that is out of order.
    assert stop.is_set()


def test_a_parent_that_is_deleted_meanwhile(store, begin, faults):
    """Before the lease names it; the next one is taken."""
    faults.on('put', 'leases/').call(lambda: delete(store, 'fourth'))
    with begin() as choice:
        assert choice.manifest.name == 'third'
        assert read_lease(store).parent == choice.manifest.id


def test_one_that_was_named_is_not_replaced(store, begin, faults):
    faults.on('put', 'leases/').call(lambda: delete(store, 'fourth'))
    with pytest.raises(errors.ParentUnsuitable, match='no such snapshot'):
        with begin(snapshots.make_id('fourth')):
            pass
    assert read_lease(store) is None


def test_parents_that_are_deleted_again_and_again(store, begin, faults):
    """That is no coincidence."""
    latest = reversed(NAMES)
    faults.on('put', 'leases/').times(3).call(
        lambda: delete(store, next(latest))
    )
    with pytest.raises(errors.ParentGone, match='has been deleted'):
        with begin():
            pass
    assert read_lease(store) is None


def test_a_lease_that_cannot_be_deleted(store, begin, faults, caplog):
    """It expires some day; what was captured is what counts."""
    faults.on('delete', 'leases/').raise_(errors.StoreUnavailable)
    with begin('none') as choice:
        assert (choice.manifest, choice.reason) == (None, 'asked for')
        assert read_lease(store).parent is None
    (record,) = caplog.records
    assert record.levelname == 'WARNING' and NEW in record.message
    week = 7 * 24 * 3600
    assert read_lease(store).expires == int(clock.ManualClock().time()) + week


@pytest.fixture
def read(store, stop):
    """Begin a restore, as the command does."""
    return lambda: beginning.reading(
        store,
        snapshots.make('fourth', sequence=4),
        clock.ManualClock(),
        stop,
    )


def test_what_is_restored_stays(store, read, stop):
    with read():
        with pytest.raises(errors.SnapshotInUse):
            delete(store, 'fourth')
        assert not stop.is_set()
    delete(store, 'fourth')


def test_a_restore_that_fails_lets_it_go(store, read, stop):
    with pytest.raises(errors.Cancelled):
        with read():
            raise errors.Cancelled()
    delete(store, 'fourth')
    assert stop.is_set()


def test_a_repository_that_is_only_read(store, read, faults, caplog):
    faults.on('put', 'leases/').raise_(errors.AccessDenied)
    with read():
        (record,) = caplog.records
        assert 'being deleted' in record.message
    delete(store, 'fourth')
