# SPDX-License-Identifier: Apache-2.0
import dataclasses
from types import SimpleNamespace
import uuid

import pytest

from ironic_snapshot import source
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core import layout
from ironic_snapshot_core import prune
from ironic_snapshot_core.manifest import AttemptRecord
from ironic_snapshot_core.store.memory import MemoryStore
from tests.unit.core import test_manifest as manifests

CHILD = '77777777-0000-4000-8000-000000000007'
KEY = 'k' * 32
NODE = SimpleNamespace(uuid=manifests.B, lessee=None, owner='p')


@pytest.fixture(autouse=True)
def key():
    CONF.set_override('manifest_key', KEY, group='snapshot')
    yield
    CONF.clear_override('manifest_key', group='snapshot')


def stored(store, id, lineage=manifests.LINEAGE, **changes):
    """A snapshot that exists, of the project p."""
    manifest = manifests.make(dataclasses.replace(
        manifests.REPORT, snapshot=id,
        packs=(), attempts=()), lineage=lineage, **{
            'project': 'p', **changes})
    store.put(layout.manifest_name(lineage, id),
              manifest.to_bytes(KEY.encode()))
    return manifest


@pytest.mark.parametrize('attempts', [0, 1, 300])
def test_prefixes(attempts):
    """The snapshot, its own attempt even without packs, and all others."""
    older = [AttemptRecord(str(uuid.uuid4()), layout.Lineage(
        str(uuid.uuid4()), str(uuid.uuid4())), manifests.OBJECT)
        for _attempt in range(attempts)]
    packs = [dataclasses.replace(manifests.TRIMMED, attempt=each.id)
             for each in older]
    manifest = manifests.make(dataclasses.replace(
        manifests.INCREMENTAL, packs=tuple(packs), attempts=tuple(older)))
    found = source.prefixes(manifest)
    own = layout.attempt_prefix(manifests.LINEAGE, manifests.A)
    assert found == [
        f'v1/{manifests.B}/{manifests.C}/snapshots/{manifests.A}/', own,
        *(layout.attempt_prefix(each.lineage, each.id) for each in older)]
    given = grant.mint('https://swift.example.org/v1/AUTH_a/c', 'key', 1,
                       [('GET', prefix) for prefix in found])
    name = layout.manifest_name(manifests.LINEAGE, manifests.A)
    assert given.find('GET', name)
    assert not given.find('PUT', name)
    assert not given.find('GET', layout.manifest_name(
        manifests.LINEAGE, CHILD))


def test_own_attempt_is_granted_once():
    found = source.prefixes(manifests.make(manifests.INCREMENTAL))
    assert len(found) == len(set(found)) == 3


def test_by_id_of_any_lineage():
    store = MemoryStore()
    other = layout.Lineage(manifests.C, manifests.B)
    found = stored(store, CHILD, other)
    assert source.choose(store, NODE, CHILD) == found


def test_by_name_of_this_node_only():
    store = MemoryStore()
    found = stored(store, manifests.A, name='golden')
    stored(store, CHILD, layout.Lineage(manifests.C, manifests.B),
           name='golden')
    assert source.choose(store, NODE, 'golden') == found
    # Of an earlier deployment as well.
    earlier = layout.Lineage(manifests.B, manifests.OLDER)
    found = stored(store, manifests.PARENT, earlier, name='older')
    assert source.choose(store, NODE, 'older') == found


def test_by_name_of_another_node():
    store = MemoryStore()
    stored(store, manifests.A, name='golden')
    other = stored(store, CHILD, layout.Lineage(manifests.C, manifests.B),
                   name='golden')
    assert source.choose(store, NODE, 'golden', manifests.C) == other


def test_name_that_looks_like_an_id():
    store = MemoryStore()
    found = stored(store, manifests.A, name=CHILD)
    assert source.choose(store, NODE, CHILD) == found


def test_ambiguous_name():
    store = MemoryStore()
    stored(store, manifests.A, name='golden')
    stored(store, CHILD, name='golden')
    with pytest.raises(errors.SnapshotAmbiguous) as caught:
        source.choose(store, NODE, 'golden')
    for id in (manifests.A, CHILD):
        assert id in str(caught.value)
    assert source.choose(store, NODE, CHILD).id == CHILD


@pytest.mark.parametrize('wanted', [manifests.A, 'golden'])
def test_of_another_project(wanted):
    """The same as if there were none."""
    store = MemoryStore()
    texts = set()
    for _time in range(2):
        with pytest.raises(errors.SnapshotMissing) as caught:
            source.choose(store, NODE, wanted)
        texts.add(str(caught.value))
        stored(store, manifests.A, project='q')
    assert len(texts) == 1


def test_damaged():
    store = MemoryStore()
    stored(store, manifests.A)
    name = layout.manifest_name(manifests.LINEAGE, manifests.A)
    data = bytearray(store.get(name, document.MAX_SIZE))
    data[50] ^= 1
    store.put(name, data)
    with pytest.raises(errors.SnapshotUnsuitable, match='is damaged'):
        source.choose(store, NODE, manifests.A)


def test_condemned(monkeypatch):
    store = MemoryStore()
    found = stored(store, manifests.A)
    monkeypatch.setattr(prune, 'condemned', lambda store: {found.head.name})
    with pytest.raises(errors.SnapshotUnsuitable, match='about to delete'):
        source.choose(store, NODE, manifests.A)


def test_read_again():
    store = MemoryStore()
    found = stored(store, manifests.A)
    described = source.describe(found)
    assert source.read_again(store, manifests.A, described) == found
    stored(store, manifests.A, name='another')
    with pytest.raises(errors.Corrupted, match='not what it was'):
        source.read_again(store, manifests.A, described)
    store.delete(layout.manifest_name(manifests.LINEAGE, manifests.A))
    with pytest.raises(errors.ObjectMissing):
        source.read_again(store, manifests.A, described)


def test_nothing_of_it_is_there():
    store = MemoryStore()
    with pytest.raises(errors.SnapshotUnsuitable, match='is damaged: object'):
        source.verify(store, stored(store, manifests.A))
