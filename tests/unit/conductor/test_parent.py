# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import pytest

from ironic_snapshot import parent
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.store.memory import MemoryStore
from tests.unit.core import test_manifest as manifests

CHILD = '77777777-0000-4000-8000-000000000007'
KEY = b'k' * 32
FULL = parent.Parent(None, 'asked for')


def stored(store, manifest):
    """The parent that a choice of this manifest would give."""
    data = manifest.to_bytes(KEY)
    store.put(layout.manifest_name(manifest.lineage, manifest.id), data)
    return parent.Parent({
        'snapshot': manifest.id,
        'lineage': dataclasses.asdict(manifest.lineage),
        'manifest': {'size': len(data),
                     'digest': DEFAULT_DIGEST.digest(data).hex()}}, None)


@pytest.mark.parametrize('record', [
    FULL, stored(MemoryStore(), manifests.make())], ids=['full', 'parent'])
def test_is_kept_in_the_options(record):
    options = json.loads(json.dumps(record.to_options()))
    assert parent.Parent.of(options) == record
    # Small, as the node record is.
    assert len(json.dumps(options)) < 400


def test_options_of_an_earlier_release():
    assert parent.Parent.of({}).read(MemoryStore(), CHILD) is None


def test_reads_the_manifest_again():
    store = MemoryStore()
    manifest = manifests.make(manifests.INCREMENTAL)
    assert stored(store, manifest).read(store, CHILD) == manifest
    assert FULL.read(store, CHILD) is None


def test_is_gone():
    store = MemoryStore()
    record = stored(store, manifests.make())
    store.delete(layout.manifest_name(manifests.LINEAGE, manifests.A))
    with pytest.raises(errors.ParentGone) as caught:
        record.read(store, CHILD)
    assert CHILD in str(caught.value)
    assert f'{manifests.A} is not there any more' in str(caught.value)


def test_is_another():
    store = MemoryStore()
    record = stored(store, manifests.make())
    # Authentic, and of the same id.
    stored(store, manifests.make(name='other'))
    with pytest.raises(errors.ParentGone, match='not what it was'):
        record.read(store, CHILD)


def test_says_what_it_is():
    assert parent.describe(None, 'asked for') == 'full (asked for)'
    assert parent.describe(
        CHILD, None) == f'incremental to snapshot {CHILD}'


def test_a_ramdisk_s_reason_is_one_short_line():
    assert parent.plain('a\nb\x1b[0m' + 9999 * 'x') == (
        'a?b?[0m' + 493 * 'x')
    assert '\n' not in parent.describe(None, 'a\nb')
