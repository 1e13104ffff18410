# SPDX-License-Identifier: Apache-2.0
"""Reading the image of a snapshot from what it is made of."""

import dataclasses
import random

import pytest

from ironic_snapshot_core import committed
from ironic_snapshot_core import errors
from ironic_snapshot_core import image_stream
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parallel
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.units import MiB
from tests import handmade

C = handmade.C
WORKERS = parallel.Workers(2)


def to_disk(numbers):
    return b''.join(random.Random(number).randbytes(C) for number in numbers)


@pytest.fixture
def store():
    return memory.MemoryStore()


@pytest.fixture
def snapshot(store):
    """One with the middle of an older pack, and a spare."""
    history = handmade.History(store, clusters=4)
    first = history.capture(to_disk(range(8)))
    found = history.capture(
        to_disk((0, 21, 2, 3, 24, 5, 6, 27)), first,
        again=[(first.id, first.packs[0].name)])
    assert {each.spare for each in found.packs} == {True, False}
    assert any(0 < each.start for each in found.packs)
    return found


def change(store, name):
    """Put another object there, as good as the first."""
    data = bytearray(store.get(name, MiB))
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))


def test_it_is_what_the_store_would_serve(store, snapshot):
    pieces = list(image_stream.read(store, snapshot))
    assert b''.join(pieces) == store.get(snapshot.image.name, 4 * MiB)
    offsets = [each.offset for each in image_stream.parts(snapshot)]
    assert offsets[0] == snapshot.head.size == len(pieces[0])
    assert offsets == sorted(set(offsets))
    image_stream.check(store, snapshot, WORKERS)


@pytest.mark.parametrize('what', ['head', 'pack'])
def test_another_object_is_found_beforehand(store, snapshot, what):
    name = (snapshot.head.name if what == 'head'
            else image_stream.parts(snapshot)[-1].segment.name)
    change(store, name)
    for read in (lambda: list(image_stream.read(store, snapshot)),
                 lambda: image_stream.check(store, snapshot, WORKERS)):
        with pytest.raises(errors.Corrupted, match=name):
            read()
    store.delete(name)
    with pytest.raises(errors.ObjectMissing):
        image_stream.check(store, snapshot, WORKERS)


def test_spares_are_of_no_importance(store, snapshot):
    for segment in committed.packs(snapshot):
        if not segment.used:
            store.delete(segment.name)
    image_stream.check(store, snapshot, WORKERS)
    assert sum(map(len, image_stream.read(store, snapshot))) == (
        snapshot.image.size)


def test_the_parts_must_make_up_the_image(store, snapshot):
    wrong = dataclasses.replace(snapshot, image=manifests.ImageRecord(
        snapshot.image.name, snapshot.image.size + C))
    with pytest.raises(errors.Corrupted, match='its parts have'):
        list(image_stream.read(store, wrong))
