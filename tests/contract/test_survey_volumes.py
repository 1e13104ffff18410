# SPDX-License-Identifier: Apache-2.0
"""Surveys of volumes that the real tools have made: LVM, swap, LUKS.

The kernel here may have no device mapper: LVM only writes what it would
activate, and the volumes are reached by loop devices at the offsets that it
reports. What needs the kernel's drivers (snapshots, thin pools, md) is in
tests/functional/test_survey.py.
"""

import os
import pathlib
import shutil
import struct
import subprocess

import pytest

from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import KiB
from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.survey import survey
from tests import disks
from tests.contract import filesystems

needs_lvm = pytest.mark.skipif(
    not shutil.which('lvm'), reason='lvm2 is not installed')
needs_cryptsetup = pytest.mark.skipif(
    not shutil.which('cryptsetup'), reason='cryptsetup is not installed')

pytestmark = disks.needs_loop

EXTENT = 4 * MiB


class Lvm:
    """LVM with files of its own, and sight of a few devices only."""

    def __init__(self, folder):
        self._folder = folder
        self.devices = []

    def __call__(self, *arguments):
        shown = ''.join(f'"a|^{device}$|", ' for device in self.devices)
        config = (
            f'devices {{ global_filter=[{shown} "r|.*|"] use_devicesfile=0 '
            'obtain_device_list_from_udev=0 } '
            'activation { udev_sync=0 udev_rules=0 monitoring=0 } '
            f'global {{ locking_dir="{self._folder}" use_lvmpolld=0 '
            'event_activation=0 } backup { backup=0 archive=0 }')
        done = subprocess.run(
            ['lvm', *map(str, arguments), '--driverloaded', 'n', '--config',
             config], capture_output=True, text=True, check=False,
            env={**os.environ, 'LC_ALL': 'C', 'LVM_SYSTEM_DIR':
                 str(self._folder), 'LVM_SUPPRESS_FD_WARNINGS': '1'})
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def create(self, name, extents, *more):
        """Make a volume; not activated, so not zeroed either."""
        self('lvcreate', '-an', '-Zn', '-Wn', '-y', '-n', name, '-l',
             extents, *more, 'vg')

    def offset(self, name):
        """Return where a volume begins on its device, in bytes."""
        start = self('lvs', '--noheadings', '-o', 'seg_start_pe,seg_pe_ranges',
                     f'vg/{name}').split(':')[1].split('-')[0]
        first = self('pvs', '--noheadings', '--units', 'b', '--nosuffix',
                     '-o', 'pe_start', self.devices[0])
        return int(first) + int(start) * EXTENT


@pytest.fixture
def lvm(tmp_path):
    folder = tmp_path / 'lvm'
    folder.mkdir()
    return Lvm(folder)


def look(path, sector_size=512):
    """Survey a disk's file as a device; give regions by name, and extents.

    Of a file itself the holes would be left out as well.
    """
    before = filesystems.digest(path)
    with filesystems.loop(path, sector_size=sector_size) as device:
        with block.BlockDisk(device) as disk:
            found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    assert filesystems.digest(path) == before
    return {region.name: region for region in found.regions}, list(
        found.extents)


def is_data(extents, start, end):
    return any(begin <= start and end <= stop for begin, stop in extents)


def files_in(path, start, length, folder, sector_size):
    """Mount a range of a disk, as a volume would be, and hash its files."""
    with filesystems.loop(path, start, length, sector_size) as device:
        with filesystems.mounted(device, folder, 'ext4') as mounted:
            return filesystems.tree(mounted)


@needs_lvm
@pytest.mark.parametrize('dirty', [False, True], ids=['clean', 'dirty'])
@pytest.mark.parametrize('sector_size', [512, 4096])
def test_linear_volumes(lvm, tmp_path, sector_size, dirty):
    disk = filesystems.create(tmp_path / 'disk', 224 * MiB)
    [(start, length)] = filesystems.partition(
        disk, 'label: gpt\nsize=200MiB\n', sector_size).values()
    with filesystems.loop(disk, start, length, sector_size) as device:
        lvm.devices = [device]
        lvm('pvcreate', '-y', '--metadatacopies', 2, device)
        lvm('vgcreate', 'vg', device)
        lvm.create('swap', 4)
        lvm.create('gone', 5)
        lvm.create('root', 25)
        lvm('lvremove', '-y', 'vg/gone')
        swap, root = (start + lvm.offset(name) for name in ('swap', 'root'))
    with filesystems.loop(disk, swap, 4 * EXTENT, sector_size) as device:
        pathlib.Path(device).write_bytes(b'memory ' * (4 * EXTENT // 7))
        filesystems.run('mkswap', device)
    with filesystems.loop(disk, root, 25 * EXTENT, sector_size) as device:
        filesystems.run('mkfs.ext4', '-q', device)
        with filesystems.mounted(device, tmp_path / 'at', 'ext4') as folder:
            writer = filesystems.Writer(folder)
            writer.age(12 * MiB)
            writer.fill(2 * MiB)
            if dirty:
                os.sync()
                writer.delete(0.5)
                source = filesystems.copy(disk, tmp_path / 'source')
        if not dirty:
            source = disk

    regions, extents = look(source, sector_size)
    assert regions['partition 1'].method == manifest.ALLOCATED
    assert regions['partition 1'].content == 'LVM2_member'
    found = regions['volume vg/root']
    assert (found.start, found.length) == (root, 25 * EXTENT)
    assert (found.method, found.reason) == (
        (manifest.WHOLE, 'dirty journal') if dirty
        else (manifest.ALLOCATED, ''))
    assert dirty or found.used_bytes < found.length // 2
    found = regions['volume vg/swap']
    assert (found.start, found.method) == (swap, manifest.HEADER)
    assert found.used_bytes == 4 * KiB
    # What was removed is free; labels and both areas are not.
    assert not any(begin < root and end > swap + 4 * EXTENT
                   for begin, end in extents)
    assert is_data(extents, 0, start + MiB)
    assert is_data(extents, start + length - MiB, 224 * MiB)

    scrubbed = filesystems.scrubbed(source, extents, tmp_path / 'scrubbed')
    expected = files_in(source, root, 25 * EXTENT, tmp_path / 'at',
                        sector_size)
    assert len(expected) > 20
    assert files_in(scrubbed, root, 25 * EXTENT, tmp_path / 'at',
                    sector_size) == expected
    with filesystems.loop(scrubbed, start, length, sector_size) as device:
        lvm.devices = [device]
        lvm('vgck', 'vg')
        assert lvm('lvs', '--noheadings', '-o', 'lv_name').split() == [
            'root', 'swap']


@pytest.fixture
def group(lvm, tmp_path):
    """A group that is all of a disk: two volumes, one of them extended."""
    disk = filesystems.create(tmp_path / 'disk', 100 * MiB)
    with filesystems.loop(disk) as device:
        lvm.devices = [device]
        lvm('pvcreate', '-y', device)
        lvm('vgcreate', 'vg', device)
        lvm.create('data', 4)
        lvm.create('other', 4)
        lvm('lvextend', '-l', '+3', 'vg/data')
        yield disk


@needs_lvm
def test_volume_of_several_segments(lvm, group):
    regions, extents = look(group)
    assert regions['disk'].content == 'LVM2_member'
    assert regions['volume vg/data'].reason == 'lvm: 2 segments'
    first = lvm.offset('other')
    assert is_data(extents, first - 4 * EXTENT, first + 7 * EXTENT)
    assert not is_data(extents, 0, 100 * MiB)


@needs_lvm
def test_volume_of_unknown_content(group):
    regions, _ = look(group)
    assert regions['volume vg/other'].reason == 'unknown content'
    assert regions['volume vg/other'].method == manifest.WHOLE


@needs_lvm
@pytest.mark.parametrize(('command', 'reason'), [
    (('vgexport', 'vg'), 'lvm: exported'),
    (('vgremove', '-f', '-y', 'vg'), 'lvm: no volume group')])
def test_group_that_is_not_looked_through(lvm, group, command, reason):
    lvm(*command)
    regions, extents = look(group)
    assert list(regions) == ['disk']
    assert (regions['disk'].method, regions['disk'].reason) == (
        manifest.WHOLE, reason)
    assert extents == [(0, 100 * MiB)]


@needs_lvm
def test_group_on_two_disks(lvm, group, tmp_path):
    second = filesystems.create(tmp_path / 'second', 50 * MiB)
    with filesystems.loop(second) as device:
        lvm.devices.append(device)
        lvm('pvcreate', '-y', device)
        lvm('vgextend', 'vg', device)
        lvm('lvextend', '-l', '+5', 'vg/other', device)
    for path in (group, second):
        regions, _ = look(path)
        assert regions['disk'].reason == 'lvm: several physical volumes'


@needs_lvm
def test_texts_around_the_end_of_their_area(lvm, group):
    """LVM's own ring: after enough changes it has come around."""
    tags = [f'{number:0900}' for number in range(100)]
    lvm('vgchange', *(part for tag in tags for part in ('--addtag', tag)),
        'vg')
    for number in range(20):
        lvm('vgchange', '--addtag', f'change{number}', 'vg')
        with open(group, 'rb') as file:
            file.seek(4096 + 40)
            offset, length = struct.unpack('<QQ', file.read(16))
        if offset + length > 1 * MiB - 4096:
            break
    else:
        pytest.fail('no text has come to the end of the area')
    regions, _ = look(group)
    assert regions['disk'].method == manifest.ALLOCATED
    assert 'volume vg/data' in regions


@pytest.mark.parametrize('page_size', [4, 64])
def test_swap_partition(tmp_path, page_size):
    disk = filesystems.create(tmp_path / 'disk', 64 * MiB)
    [(start, length)] = filesystems.partition(
        disk, 'label: dos\nsize=48MiB, type=82\n').values()
    with filesystems.loop(disk, start, length) as device:
        pathlib.Path(device).write_bytes(b'memory ' * (length // 7))
        filesystems.run('mkswap', '--pagesize', page_size * KiB, device)
    regions, extents = look(disk)
    found = regions['partition 1']
    assert (found.content, found.method) == ('swap', manifest.HEADER)
    assert found.used_bytes == page_size * KiB
    scrubbed = filesystems.scrubbed(disk, extents, tmp_path / 'scrubbed')
    assert b'memory memory' not in scrubbed.read_bytes()
    assert b'memory memory' in disk.read_bytes()


def test_hibernation_image(tmp_path):
    """The kernel puts another signature in the place of its own."""
    disk = filesystems.create(tmp_path / 'disk', 16 * MiB)
    filesystems.run('mkswap', disk)
    assert look(disk)[0]['disk'].method == manifest.HEADER
    with open(disk, 'r+b') as file:
        file.seek(4086)
        file.write(b'S1SUSPEND\0')
    regions, extents = look(disk)
    assert regions['disk'].reason == 'hibernation image'
    assert extents == [(0, 16 * MiB)]


@needs_cryptsetup
@pytest.mark.parametrize('kind', ['luks1', 'luks2'])
def test_encrypted_partition(tmp_path, kind):
    disk = filesystems.create(tmp_path / 'disk', 40 * MiB)
    [(start, length)] = filesystems.partition(
        disk, 'label: gpt\nsize=32MiB\n').values()
    with filesystems.loop(disk, start, length) as device:
        filesystems.run(
            'cryptsetup', 'luksFormat', '--batch-mode', '--type', kind,
            '--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', 1000,
            '--key-file', '-', device, input='secret')
    regions, extents = look(disk)
    found = regions['partition 1']
    assert (found.content, found.method, found.reason) == (
        'crypto_LUKS', manifest.WHOLE, 'luks')
    assert extents == [(0, 40 * MiB)]
