# SPDX-License-Identifier: Apache-2.0
"""Hints of thin pools, from real metadata read by the real tools.

The pool is the model of tests/thin_pool.py; ``thin_restore`` makes its
metadata, which lie with its blocks in a volume group on a disk.
"""

import logging
import os
import re
import shutil
import subprocess
import tempfile

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.units import KiB
from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.hints import sources
from ipa_snapshot_hardware.hints import thin_metadata
from ipa_snapshot_hardware.survey import survey
from ipa_snapshot_hardware.survey import tool
from tests import disks
from tests import physical_volume
from tests import thin_pool
from tests.contract import capture_requests
from tests.contract import filesystems
from tests.thin_pool import CHUNK

pytestmark = pytest.mark.skipif(
    not all(shutil.which(name, path='/usr/sbin:/sbin:/usr/bin:/bin')
            for name in ('sfdisk', 'blkid', 'thin_check', 'thin_dump',
                         'thin_restore', 'thin_delta')),
    reason='thin-provisioning-tools, fdisk or util-linux is not installed')

DISK = 32 * MiB
START = 1 * MiB
LENGTH = 30 * MiB
#: In extents of 1 MiB, first and count.
META = ((2, 1), (9, 1))
DATA = ((12, 12), (3, 6))
BLOCKS = 18 * MiB // CHUNK


class Image:
    """A disk with a thin pool.

    :param pool: the model.
    :param group: changes what LVM has written, a function of its text.
    """

    def __init__(self, path, pool, *, data=DATA, whole=False, group=None,
                 transaction=None):
        self.path = path
        self._start = 0 if whole else START
        filesystems.create(path, DISK)
        if not whole:
            subprocess.run(
                ['/usr/sbin/sfdisk', '--quiet', path], check=True, text=True,
                input='label: gpt\nstart=1MiB, size=30MiB\n')
        text = physical_volume.group(
            *volumes(pool, data, transaction),
            devices=physical_volume.device(count=28))
        self._write(0, physical_volume.label(size=LENGTH), 512)
        self._write(0, physical_volume.area(group(text) if group else text),
                    physical_volume.AREA[0])
        metadata = restored(path.with_suffix('.meta'), pool)
        for number, (first, _) in enumerate(META):
            self._write(first, metadata[number * MiB : (number + 1) * MiB])
        places = [first * 16 + each for first, count in data
                  for each in range(count * 16)]
        for place, content in zip(places, pool.content, strict=False):
            if content:
                self._write(place // 16, disks.random_bytes(CHUNK, content),
                            place % 16 * CHUNK)

    def find(self):
        with block.BlockDisk(str(self.path)) as disk:
            return find(disk)

    def read(self, start, end):
        with open(self.path, 'rb') as file:
            file.seek(start)
            return file.read(end - start)

    def _write(self, extent, data, offset=0):
        at = self._start + offset
        if offset not in (512, physical_volume.AREA[0]) or extent:
            at += MiB + extent * MiB
        with open(self.path, 'r+b') as file:
            file.seek(at)
            file.write(data)


def find(disk, watch=lambda: None):
    found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    return sources.find(disk, found.regions, watch)


def volumes(pool, data, transaction=None):
    """Give LVM's description of a pool's volumes."""
    linear = physical_volume.linear
    parts = {'pool_tmeta': META, 'pool_tdata': data}
    found = [physical_volume.volume('pool', physical_volume.segment(
        1, 'thin-pool', metadata='"pool_tmeta"', pool='"pool_tdata"',
        transaction_id=pool.transaction if transaction is None
        else transaction, chunk_size=CHUNK // 512, discards='"passdown"',
        zero_new_blocks=1), uuid='uuid-of-the-pool')]
    for name, pieces in parts.items():
        segments, start = [], 0
        for number, (first, count) in enumerate(pieces, 1):
            segments.append(linear(first, count, number=number, start=start))
            start += count
        found.append(physical_volume.volume(
            name, *segments, status='"READ", "WRITE"'))
    for number, device in pool.devices.items():
        found.append(physical_volume.volume(
            f'thin{number}', physical_volume.segment(
                1, 'thin', thin_pool='"pool"', device_id=number,
                transaction_id=device.transaction), uuid=device.uuid))
    return found


def restored(path, pool):
    """Give a pool's metadata as thin_restore makes them."""
    xml = path.with_suffix('.xml')
    xml.write_text(pool.xml())
    filesystems.create(path, len(META) * MiB)
    filesystems.run('thin_restore', '-i', xml, '-o', path)
    # What the model prints, is what the tool prints.
    assert filesystems.run('thin_dump', path) == pool.xml()
    return path.read_bytes()


def used_pool(root=200):
    """A root of some blocks, and a snapshot of it."""
    return thin_pool.used(
        BLOCKS, [each * 7 % root for each in range(root)])


@pytest.fixture
def pool():
    return used_pool()


@pytest.fixture
def parent(tmp_path, pool):
    return Image(tmp_path / 'parent', pool)


@pytest.fixture
def records(parent):
    [hint] = parent.find()
    found = hint.records()
    assert len(found) == 2
    return found


def unchanged(image, records):
    [hint] = image.find()
    return hint.unchanged(records)


def really_unchanged(image, parent, records):
    """Give what is called unchanged, having checked that it is."""
    extents = unchanged(image, records)
    for start, end in extents:
        assert image.read(start, end) == parent.read(start, end)
    return extents


def same_by_delta(image):
    """Give the bytes that thin_delta finds in both devices."""
    shown = filesystems.run('thin_delta', '--snap1', 2, '--snap2', 1,
                            image.path.with_suffix('.meta'))
    return CHUNK * sum(
        int(length) for length in re.findall(
            r'<same begin="\d+" length="(\d+)"/>', shown))


@pytest.mark.parametrize('whole', [False, True], ids=['partition', 'disk'])
def test_root_of_which_some_was_written(tmp_path, pool, whole):
    """The common case: a snapshot kept, 3 % written since."""
    parent = Image(tmp_path / 'parent', pool, whole=whole)
    before = filesystems.digest(parent.path)
    [hint] = parent.find()
    assert filesystems.digest(parent.path) == before
    records = hint.records()
    for each in range(0, 200, 33):
        pool.write(1, each)
    now = Image(tmp_path / 'now', pool, whole=whole)
    extents = really_unchanged(now, parent, records)
    assert extents.size >= 0.9 * 200 * CHUNK
    assert extents.size == same_by_delta(now) == (200 - 7) * CHUNK
    assert all(start % CHUNK == 0 == end % CHUNK for start, end in extents)
    # In the order of the disk, which is not that of the volume.
    assert list(extents) == sorted(extents)


def test_next_snapshot_takes_over(tmp_path, pool):
    """What an operator does: a new one, a capture, the old one removed."""
    first = Image(tmp_path / 'first', pool)
    records = first.find()[0].records()
    pool.write(1, 5)
    pool.snapshot(1, 3)
    second = Image(tmp_path / 'second', pool)
    found = really_unchanged(second, first, records)
    assert found.size == 199 * CHUNK
    records = second.find()[0].records()
    pool.delete(2)
    pool.write(1, 6)
    pool.snapshot(1, 2)
    third = Image(tmp_path / 'third', pool)
    found = really_unchanged(third, second, records)
    assert found.size == 199 * CHUNK


def test_blocks_freed_and_used_again(tmp_path, pool, parent, records):
    pool.create(3)
    for each in range(20):
        pool.discard(1, each)
        pool.discard(2, each)
        pool.write(3, each)
    now = Image(tmp_path / 'now', pool)
    # The snapshot is not what it was: even of the rest, nothing is said.
    assert unchanged(now, records) is None


def test_blocks_of_the_root_discarded(tmp_path, pool, parent, records):
    for each in range(20):
        pool.discard(1, each)
    for each in range(300, 310):
        pool.write(1, each)
    pool.snapshot(1, 3)
    now = Image(tmp_path / 'now', pool)
    found = really_unchanged(now, parent, records)
    assert found.size == 180 * CHUNK


def test_snapshot_deleted_and_made_again(tmp_path, pool, parent, records):
    pool.delete(2)
    for each in range(0, 200, 2):
        pool.write(1, each)
    pool.snapshot(1, 2)
    assert unchanged(Image(tmp_path / 'now', pool), records) is None


def test_snapshot_made_after_the_parent(tmp_path, pool):
    pool.delete(2)
    parent = Image(tmp_path / 'parent', pool)
    records = parent.find()[0].records()
    pool.write(1, 5)
    pool.snapshot(1, 2)
    assert unchanged(Image(tmp_path / 'now', pool), records) is None


def test_new_block_in_a_hole_of_both(tmp_path, pool, parent, records):
    """It gets zeros first, and then is of one device alone."""
    pool.write(1, 250)
    pool.write(2, 251)
    pool.snapshot(1, 3)
    now = Image(tmp_path / 'now', pool)
    found = unchanged(now, records)
    assert found is None
    pool.delete(2)
    assert unchanged(Image(tmp_path / 'then', pool), records) is None


def test_metadata_put_back(tmp_path, pool, parent, records):
    older = pool.copy()
    older.time -= 1
    for device in older.devices.values():
        device.created = device.snapped = 0
    assert unchanged(Image(tmp_path / 'now', older), records) is None


def test_lvm_that_is_ahead_of_the_pool(tmp_path, pool, records):
    """LVM's own sign that metadata were put back."""
    now = Image(tmp_path / 'now', pool, transaction=pool.transaction + 1)
    assert now.find() == []


def test_data_moved_and_extended(tmp_path, pool, parent, records):
    now = Image(tmp_path / 'now', pool,
                data=((12, 12), (24, 2), (5, 4), (2 + 24, 2)))
    # Of the second piece four extents are where they were.
    found = really_unchanged(now, parent, records)
    assert found.size == 200 * CHUNK - sum(
        data in range(192, 224) for data, _ in pool.devices[1].map.values()
    ) * CHUNK


def test_another_pool(tmp_path, pool, records):
    now = Image(tmp_path / 'now', pool, group=lambda text: text.replace(
        'uuid-of-the-pool', 'uuid-of-another'))
    assert unchanged(now, records) is None


CHANGES = {
    'origin outside': (
        'device_id = 2', 'device_id = 2\nexternal_origin = "other"'),
    'merging': ('device_id = 2', 'device_id = 2\nmerge = 1'),
    'message': ('zero_new_blocks = 1',
                'zero_new_blocks = 1\nmessage1 { create = "thin3" }'),
    'being moved': ('"READ", "WRITE"]', '"READ", "WRITE", "LOCKED"]'),
    'on a mirror': ('start_extent = 12\n        extent_count = 6\n'
                    '        type = "striped"',
                    'start_extent = 12\n        extent_count = 6\n'
                    '        type = "raid1"'),
    'striped': ('stripe_count = 1    # linear\n        '
                'stripes = ["pv0", 3]',
                'stripe_count = 2\nstripe_size = 128\n'
                'stripes = ["pv0", 3, "pv0", 24]'),
    'moved by pvmove': ('stripes = ["pv0", 3]', 'stripes = ["pvmove0", 0]'),
    'without metadata': ('metadata = "pool_tmeta"', 'metadata = "gone"'),
    'other chunks': ('chunk_size = 128', 'chunk_size = 256'),
    'twice': ('device_id = 2', 'device_id = 1'),
    'exported': ('"RESIZEABLE"', '"EXPORTED"'),
    'gap in the volume': ('start_extent = 12', 'start_extent = 13'),
}


@pytest.mark.parametrize('change', CHANGES)
def test_pool_that_is_more_than_segments(tmp_path, pool, change, caplog):
    old, new = CHANGES[change]

    def changed(text):
        assert old in text
        return text.replace(old, new)

    with caplog.at_level(logging.INFO):
        assert Image(tmp_path / 'now', pool, group=changed).find() == []
    assert 'hint' in caplog.text


def test_metadata_that_do_not_pass_the_check(tmp_path, pool, parent, caplog):
    # A node of a tree; the superblock alone would do.
    with open(parent.path, 'r+b') as file:
        file.seek(START + MiB + META[0][0] * MiB + 5 * 4 * KiB + 100)
        file.write(b'\xff' * 200)
    with caplog.at_level(logging.INFO):
        assert parent.find() == []
    assert 'thin_check failed' in caplog.text


def test_metadata_that_cannot_be_read(parent, monkeypatch, caplog):
    read_into = block.BlockDisk.read_into

    def fail(disk, offset, buffer):
        if offset == START + MiB + META[1][0] * MiB:
            raise errors.DiskReadError(
                disk.name, 'S1', offset, len(buffer), 512, 'I/O error')
        read_into(disk, offset, buffer)

    monkeypatch.setattr(block.BlockDisk, 'read_into', fail)
    with caplog.at_level(logging.INFO):
        assert parent.find() == []
    assert 'I/O error' in caplog.text


@disks.needs_loop
def test_no_room_for_a_copy(tmp_path, parent, monkeypatch, caplog):
    folder = tmp_path / 'small'
    folder.mkdir()
    filesystems.run('mount', '-t', 'tmpfs', '-o', 'size=4k', 'none', folder)
    try:
        monkeypatch.setattr(tempfile, 'tempdir', str(folder))
        with caplog.at_level(logging.INFO):
            assert parent.find() == []
    finally:
        filesystems.run('umount', folder)
    assert 'No space left' in caplog.text


@pytest.mark.parametrize('missing', ['thin_check', 'thin_dump'])
def test_tool_that_is_missing(tmp_path, parent, monkeypatch, missing, caplog):
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('sfdisk', 'blkid', 'prlimit', 'thin_check', 'thin_dump'):
        if name != missing:
            (folder / name).symlink_to(tool.find(name))
    monkeypatch.setattr(tool, '_PATH', str(folder))
    with caplog.at_level(logging.INFO):
        assert parent.find() == []
    assert f'tool missing: {missing}' in caplog.text


def test_metadata_that_are_too_large(parent, monkeypatch, caplog):
    monkeypatch.setattr(thin_metadata, 'MAX_METADATA', 2 * MiB - 1)
    with caplog.at_level(logging.INFO):
        assert parent.find() == []
    assert 'metadata too large' in caplog.text


@disks.needs_loop
def test_copy_where_direct_reading_does_not_work(
        tmp_path, parent, records, monkeypatch):
    """As in a ramdisk: its root knows no O_DIRECT."""
    folder = tmp_path / 'ram'
    folder.mkdir()
    filesystems.run('mount', '-t', 'ramfs', 'none', folder)
    try:
        monkeypatch.setattr(tempfile, 'tempdir', str(folder))
        (folder / 'file').touch()
        with pytest.raises(OSError, match='Invalid argument'):
            os.open(folder / 'file', os.O_RDONLY | os.O_DIRECT)
        assert unchanged(parent, records).size == 200 * CHUNK
        assert os.listdir(folder) == ['file']
        attached = filesystems.run('losetup', '--list', '--noheadings',
                                   '--output', 'BACK-FILE')
        assert str(folder) not in attached
    finally:
        filesystems.run('umount', folder)


class CountingDisk(block.BlockDisk):
    """Counts the bytes that are read."""

    count = 0

    def read_into(self, offset, buffer):
        self.count += len(buffer)
        super().read_into(offset, buffer)


@pytest.mark.parametrize('label', ['', 'label: gpt\nsize=8MiB\nsize=8MiB\n'])
def test_disk_without_a_pool_costs_nothing(tmp_path, label):
    path = filesystems.create(tmp_path / 'disk', DISK)
    if label:
        subprocess.run(['/usr/sbin/sfdisk', '--quiet', path], check=True,
                       input=label, text=True)
    with CountingDisk(str(path)) as disk:
        regions = survey.survey(
            disk, all_blocks=False, skip_gaps=False).regions
        disk.count = 0
        assert sources.find(disk, regions, lambda: None) == []
        assert disk.count == 0


def test_captures_one_upon_the_other(tmp_path, pool):
    """All the way: records in the manifest, and a disk hardly read."""
    store = memory.MemoryStore()
    parent, read_bytes = None, []
    for number in (1, 2, 3):
        image = Image(tmp_path / f'disk{number}', pool)
        with block.BlockDisk(str(image.path)) as disk:
            report = capture_requests.run_child(
                disk, store, parent, number).report
        parent = capture_requests.commit(store, report, sequence=number)
        read_bytes.append(report.totals.read_bytes)
        assert len(report.hints) == len(pool.devices)
        assert capture_requests.read_back(store, report) == (
            image.path.read_bytes())
        for each in range(5):
            pool.write(1, each * 31)
        pool.snapshot(1, number + 2)
    assert read_bytes[0] > 200 * CHUNK
    # The edges of the volume group, the metadata, what was written; and the
    # sample.
    assert max(read_bytes[1:]) < read_bytes[0] // 2


def test_whoever_waits_may_give_up(parent):
    class GivenUp(Exception):
        pass

    def give_up():
        raise GivenUp

    with block.BlockDisk(str(parent.path)) as disk:
        with pytest.raises(GivenUp):
            find(disk, give_up)
