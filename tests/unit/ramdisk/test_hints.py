# SPDX-License-Identifier: Apache-2.0
"""What a thin pool's hint calls unchanged never has changed.

The pool is a model; real metadata and the real tools are in
tests/contract/test_hints_dm_thin.py, a real kernel in
tests/functional/test_hints.py.
"""

import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.hints import dm_thin
from ipa_snapshot_hardware.hints import thin_metadata
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm_thin
from tests import thin_pool
from tests.thin_pool import CHUNK

#: Where the pool's data is, in blocks: two pieces, the second one first.
PIECES = ((0, 100, 10), (10, 50, 14))
BLOCKS = 24


def described(pool, pieces=PIECES):
    """Give a pool as LVM describes it."""
    return lvm_thin.Pool(
        'vg/pool', 'uuid-of-pool', CHUNK, pool.transaction,
        tuple(lvm_thin.Piece(*(each * CHUNK for each in piece))
              for piece in pieces),
        (), {number: lvm_thin.Volume(device.uuid, device.transaction)
             for number, device in pool.devices.items()})


def hint(pool, **options):
    lvm = described(pool, **options)
    return dm_thin.DmThin(lvm, thin_metadata.parse(
        pool.xml().encode().splitlines(), lvm))


def unchanged(pool, records):
    """Give the pool's blocks that the hint calls unchanged, or None."""
    found = hint(pool).unchanged(records)
    return None if found is None else blocks(found)


def blocks(extents, pieces=PIECES):
    places = {disk + each: logical + each for logical, disk, count in pieces
              for each in range(count)}
    return {places[at // CHUNK] for start, end in extents
            for at in range(start, end, CHUNK)}


# What may happen to a pool: what, a device, a device or block.
STEPS = st.lists(st.tuples(
    st.sampled_from(['write', 'write', 'write', 'discard', 'discard',
                     'snapshot', 'create', 'delete']),
    st.sampled_from([1, 1, 1, 2, 2, 3, 4]), st.integers(0, 5)), max_size=12)


def used_pool(**options):
    """A root with six blocks, and a snapshot of it."""
    return thin_pool.used(BLOCKS, range(6), **options)


def play(pool, steps):
    for what, number, other in steps:
        if what == 'create' and number not in pool.devices:
            pool.create(number)
        elif what == 'snapshot':
            if number in pool.devices and other not in pool.devices:
                pool.snapshot(number, other)
        elif number in pool.devices:
            if what == 'delete':
                pool.delete(number)
            elif what in ('write', 'discard'):
                getattr(pool, what)(number, other)


def check(parent, records, now):
    for block in unchanged(now, records) or ():
        assert now.content[block] == parent.content[block]


@hypothesis.given(STEPS, STEPS, st.booleans(), st.booleans())
@hypothesis.settings(max_examples=500)
def test_what_is_called_unchanged_is(before, after, eager, nameless):
    """Freed and used again, deleted and made again, discarded: whatever."""
    pool = used_pool(eager=eager, nameless=nameless)
    play(pool, before)
    parent, records = pool.copy(), hint(pool).records()
    play(pool, after)
    check(parent, records, pool)


@hypothesis.given(STEPS, STEPS, STEPS)
@hypothesis.settings(max_examples=500)
def test_disk_that_was_put_back(before, until_parent, after):
    """An older image of the disk was restored behind our back."""
    pool = used_pool()
    play(pool, before)
    older = pool.copy()
    play(pool, until_parent)
    records = hint(pool).records()
    play(older, after)
    check(pool, records, older)


@hypothesis.given(STEPS, STEPS, st.integers(0, 20))
@hypothesis.settings(max_examples=300)
def test_blocks_that_moved(before, after, shift):
    """Only where the data lies as it lay, anything is said."""
    pool = used_pool()
    play(pool, before)
    parent, records = pool.copy(), hint(pool).records()
    play(pool, after)
    pieces = ((0, 100, 4), (4, 104 + shift, 6), (10, 50, 20))
    found = hint(pool, pieces=pieces).unchanged(records)
    for block in blocks(found, pieces) if found is not None else ():
        assert now_and_then_in_place(block, shift)
        assert pool.content[block] == parent.content[block]


def now_and_then_in_place(block, shift):
    return block < 4 or block >= 10 or not shift


def kept_pool(**options):
    """A root of 16 blocks, and a snapshot that is kept."""
    return thin_pool.used(BLOCKS, range(16), **options)


@pytest.fixture
def pool():
    return kept_pool()


@pytest.fixture
def records(pool):
    return hint(pool).records()


def test_what_the_root_has_not_written_since(pool, records):
    pool.write(1, 3)
    pool.write(1, 7)
    assert unchanged(pool, records) == set(range(16)) - {3, 7}


def test_nothing_happened(pool, records):
    assert unchanged(pool, records) == set(range(16))
    assert {each.kind for each in records} == {'dm-thin'}
    assert len(records) == 2


def test_the_kept_snapshot_is_gone(pool, records):
    pool.delete(2)
    assert unchanged(pool, records) is None


def test_snapshot_that_the_parent_has_not_seen(pool):
    """What was written before it was made, was written in place."""
    pool.delete(2)
    records = hint(pool).records()
    pool.write(1, 3)
    pool.snapshot(1, 2)
    assert unchanged(pool, records) is None


def test_snapshot_made_again_under_its_number():
    """Even if LVM's id and count were the same."""
    pool = kept_pool(nameless=True)
    records = hint(pool).records()
    pool.delete(2)
    pool.snapshot(1, 2)
    then, now = (json.loads(each[1].key) for each in (
        records, hint(pool).records()))
    assert [name for name in then if then[name] != now[name]] == [
        'time', 'made']
    assert unchanged(pool, records) is None


def test_volume_made_again_under_its_number(pool, records):
    pool.delete(2)
    pool.create(2)
    pool.write(2, 0)
    assert unchanged(pool, records) is None


def test_snapshot_that_was_written_to(pool, records):
    pool.write(2, 0)
    # The root is as it was, and so may vouch for what both have.
    assert unchanged(pool, records) == set(range(1, 16))
    pool.write(1, 5)
    assert unchanged(pool, records) is None


def test_block_that_only_changed_devices_share(pool):
    """The third one vouches for what it has, and for nothing else."""
    pool.write(1, 16)
    pool.snapshot(1, 3)
    pool.discard(2, 4)
    records = hint(pool).records()
    pool.write(1, 0)
    pool.write(3, 1)
    assert unchanged(pool, records) == set(range(16)) - {4}


def test_blocks_freed_and_used_again(pool, records):
    pool.discard(1, 4)
    pool.discard(2, 4)
    for block in range(16, 25):
        pool.write(1, block)
    pool.snapshot(1, 3)
    assert unchanged(pool, records) is None
    assert len(pool.devices[1].map) == 24


def test_new_blocks_that_are_shared_already(pool, records):
    pool.write(1, 16)
    pool.snapshot(1, 3)
    assert unchanged(pool, records) == set(range(16))


def test_metadata_of_an_older_transaction(pool):
    older = pool.copy()
    pool.create(3)
    assert unchanged(older, hint(pool).records()) is None


def test_metadata_of_an_older_time(pool):
    older = pool.copy()
    pool.snapshot(1, 3)
    pool.delete(3)
    older.transaction = pool.transaction
    assert unchanged(older, hint(pool).records()) is None


def test_metadata_put_back_with_the_same_counters(pool):
    """The snapshot's map is not the one that the parent saw."""
    older = pool.copy()
    for number in (1, 2):
        pool.discard(number, 4)
    pool.write(1, 20)
    records = hint(pool).records()
    # Metadata of before, blocks of after.
    assert pool.content[4] != older.content[4]
    older.content = pool.content
    assert unchanged(older, records) is None


def test_metadata_that_lvm_does_not_expect(pool):
    lvm = dataclasses.replace(described(pool), transaction=1)
    with pytest.raises(look.Doubt, match='another transaction'):
        thin_metadata.parse(pool.xml().encode().splitlines(), lvm)


def test_data_volume_that_has_grown(pool, records):
    found = hint(pool, pieces=(*PIECES, (24, 10, 30))).unchanged(records)
    assert blocks(found) == set(range(16))


def test_data_volume_that_was_moved(pool, records):
    found = hint(pool, pieces=((0, 100, 10), (10, 200, 14))).unchanged(
        records)
    assert list(found) == [(100 * CHUNK, 110 * CHUNK)]


def test_pieces_that_changed_places(pool, records):
    found = hint(pool, pieces=((0, 50, 14), (14, 100, 10))).unchanged(
        records)
    assert list(found) == []


def test_block_across_two_pieces(pool):
    """Of an odd size of blocks: it is not in one place."""
    half = CHUNK // 2
    lvm = dataclasses.replace(described(pool), data=(
        lvm_thin.Piece(0, 0, CHUNK + half),
        lvm_thin.Piece(CHUNK + half, 9 * CHUNK, 40 * CHUNK)))
    here = dm_thin.DmThin(lvm, thin_metadata.parse(
        pool.xml().encode().splitlines(), lvm))
    assert list(here.unchanged(here.records())) == [
        (0, CHUNK), (9 * CHUNK + half, 23 * CHUNK + half)]


def test_more_ranges_than_are_kept_apart(pool, records, monkeypatch):
    """Joining two would call what is between them unchanged."""
    for block in range(0, 16, 3):
        pool.write(1, block)
    monkeypatch.setattr(extent, 'MAX_RANGES', 2)
    found = unchanged(pool, records)
    assert found and found < set(range(16)) - set(range(0, 16, 3))


def change(record, **fields):
    return manifest.HintRecord(
        record.kind, json.dumps({**json.loads(record.key), **fields}))


@pytest.mark.parametrize('fields', [
    {'pool': 'another'}, {'version': 2}, {'surprise': 1}, {'map': 7},
    {'made': [1]}, {'made': [1, '2']}, {'data': [[1]]}, {'data': [1]},
    {'data': [[0, -1]]}, {'volume': 'another'}, {'device': 7},
    {'device': True}, {'chunk': CHUNK * 2}, {'time': 99},
    {'transaction': 99}, {'data': [[0, CHUNK]]}])
def test_record_that_is_not_of_this_device(pool, records, fields):
    assert unchanged(pool, [records[0], change(records[1], **fields)]) is None


@pytest.mark.parametrize('record', [
    manifest.HintRecord('other', '{}'), manifest.HintRecord('dm-thin', 'x'),
    manifest.HintRecord('dm-thin', '[]'), manifest.HintRecord('dm-thin', '')])
def test_records_of_others_are_passed_over(pool, records, record):
    assert unchanged(pool, [record, *records]) == set(range(16))
    assert unchanged(pool, [record]) is None


def test_device_that_lvm_does_not_know(pool):
    """Made by hand: there is no id to tell it by."""
    lvm = described(pool)
    del lvm.volumes[2]
    here = dm_thin.DmThin(lvm, thin_metadata.parse(
        pool.xml().encode().splitlines(), lvm))
    assert len(here.records()) == 1
    assert here.unchanged(here.records()) is None


def test_device_that_maps_a_block_twice(pool):
    pool.devices[2].map[20] = (4, 0)
    assert unchanged(pool, hint(pool).records()) is None


def parse(text, pool):
    return thin_metadata.parse(text.encode().splitlines(), described(pool))


def test_runs_count_however_they_are_cut(pool):
    """Programs cut them differently; and some print shared parts once."""
    begin, rest = pool.xml().split('\n', 1)
    shared = (
        '  <def name="7">\n'
        '    <range_mapping origin_begin="4" data_begin="4" length="12" '
        'time="0"/>\n  </def>')
    text = '\n'.join([begin, shared, rest]).replace(
        '<range_mapping origin_begin="0" data_begin="0" length="16" '
        'time="0"/>',
        '<single_mapping origin_block="0" data_block="0" time="0"/>\n'
        '    <range_mapping origin_begin="1" data_begin="1" length="3" '
        'time="0"/>\n    <ref name="7"/>')
    assert text.count('<ref') == 2
    assert parse(text, pool) == parse(pool.xml(), pool)


@pytest.mark.parametrize(('old', 'new'), [
    ('</superblock>', ''), ('</superblock>', '</superblock>\n<device>'),
    ('  </device>\n', ''), ('dev_id="2"', 'dev_id="1"'),
    ('time="0"/>', 'time="9"/>'), ('length="16"', 'length="25"'),
    ('length="16"', 'length="0"'), ('origin_begin', 'begin'),
    ('<range_mapping', 'noise'), ('data_block_size="128"',
                                  'data_block_size="64"'),
    ('nr_data_blocks="24"', 'nr_data_blocks="25"'),
    ('nr_data_blocks="24"', ''), ('time="1"', 'time="16777216"'),
    ('dev_id="2"', 'dev_id="-2"'), ('  <device', '<ref name="1"/>\n<device'),
    ('    <range', '<ref name="1"/>\n    <range'),
    ('<superblock', '<superblock uuid="" time="0">\n<superblock')])
def test_dump_that_is_not_understood(pool, old, new):
    text = pool.xml()
    assert old in text
    with pytest.raises(look.Doubt):
        parse(text.replace(old, new), pool)


@pytest.mark.parametrize(('name', 'value'), [
    ('MAX_RUNS', 1), ('MAX_BLOCKS', 23), ('MAX_DEVICES', 1)])
def test_more_than_memory_is_worth(pool, monkeypatch, name, value):
    monkeypatch.setattr(thin_metadata, name, value)
    with pytest.raises(look.Doubt):
        parse(pool.xml(), pool)
