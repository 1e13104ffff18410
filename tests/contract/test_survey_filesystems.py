# SPDX-License-Identifier: Apache-2.0
"""What a survey calls data is all that a file system needs.

Real file systems, aged; the proof is a copy of the disk that holds nothing
but what the survey says, and garbage elsewhere: mounted, it has the same
files as the source.
"""

import contextlib
import os
import shutil
import struct

import pytest

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.survey import access
from ipa_snapshot_hardware.survey import domain
from ipa_snapshot_hardware.survey import ext
from ipa_snapshot_hardware.survey import look as looks
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import survey
from tests.contract import filesystems

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason='mounting file systems needs root'),
    pytest.mark.skipif(
        shutil.which('partclone.xfs') is None,
        reason='partclone is not installed'),
]

MIB = 1 << 20
GPT = 'label: gpt\n,,\n'
# The file system is the second logical partition.
DOS = 'label: dos\n,4M\n,4M\n,4M\n,,E\n,4M\n,,\n'


# No XFS is smaller.
XFS_SIZE = 330 * MIB


@pytest.fixture
def disk_file(tmp_path, request):
    case = getattr(request.node, 'callspec', None)
    is_xfs = case is not None and case.params.get('kind') == 'xfs'
    return filesystems.create(
        tmp_path / 'disk', XFS_SIZE if is_xfs else 160 * MIB)


@pytest.fixture
def xfs_disk(tmp_path):
    """A disk with an XFS in its one partition, and where that is."""
    path = filesystems.create(tmp_path / 'disk', XFS_SIZE)
    (where,) = filesystems.partition(path, GPT).values()
    with filesystems.loop(path, *where) as device:
        filesystems.run(*filesystems.MKFS['xfs'], device)
    return path, where


@pytest.fixture
def place(tmp_path):
    return tmp_path / 'mounted'


def look(path, sector_size=512, **options):
    """Survey a disk as the kernel shows it; nothing may have changed."""
    before = filesystems.digest(path)
    # A device, not the file: its holes are of no help then.
    with filesystems.loop(path, sector_size=sector_size) as device:
        with block.BlockDisk(device) as disk:
            found = survey.survey(
                disk, all_blocks=False, skip_gaps=False, **options)
    assert filesystems.digest(path) == before
    check_regions(found, os.stat(path).st_size)
    return found


def check_regions(found, size):
    at = 0
    for region in found.regions:
        assert region.start == at
        at += region.length
    assert at == size
    assert sum(each.used_bytes for each in found.regions) == (
        found.extents.size)


def region_at(found, start):
    return next(each for each in found.regions if each.start == start)


def files_after_replay(path, where, kind, place, sector_size=512):
    """Mount part of a disk, check it afterwards, and give its files."""
    start, length = where
    with filesystems.loop(path, start, length, sector_size) as device:
        with filesystems.mounted(device, place, kind):
            found = filesystems.tree(place)
    # Another device: the kernel may not be quite done with that one.
    with filesystems.loop(path, start, length, sector_size) as device:
        filesystems.run(*filesystems.CHECK[kind], device)
    return found


def make(path, kind, table, sector_size, place, *, total=16 * MIB):
    """Make a disk with an aged file system in its last partition."""
    found = filesystems.partition(path, table, sector_size)
    number, where = max(found.items())
    assert number == (6 if table == DOS else 1)
    with filesystems.loop(path, *where, sector_size) as device:
        filesystems.run(*filesystems.MKFS[kind], device)
        with filesystems.mounted(device, place, kind):
            filesystems.Writer(place).age(total)
    return where


@pytest.mark.parametrize(
    ('kind', 'table', 'sector_size'),
    [
        ('ext2', GPT, 512),
        ('ext3', DOS, 512),
        ('ext4', GPT, 4096),
        ('ext4', DOS, 512),
        ('xfs', GPT, 512),
        ('xfs', GPT, 4096),
        ('btrfs', GPT, 512),
        ('btrfs', DOS, 4096),
        ('ntfs', GPT, 512),
    ],
    ids=lambda value: value.split()[1] if ' ' in str(value) else None,
)
def test_clean_file_system_is_looked_through(
    disk_file, place, tmp_path, kind, table, sector_size
):
    where = make(disk_file, kind, table, sector_size, place)
    found = look(disk_file, sector_size)
    region = region_at(found, where[0])
    assert (region.content, region.method, region.reason) == (
        kind, manifest.ALLOCATED, '')
    assert 10 * MIB < region.used_bytes < 100 * MIB < region.length
    copy = filesystems.scrubbed(
        disk_file, found.extents, tmp_path / 'scrubbed')
    expected = files_after_replay(
        disk_file, where, kind, place, sector_size)
    assert len(expected) > 40
    assert files_after_replay(
        copy, where, kind, place, sector_size) == expected


@pytest.mark.parametrize('kind', ['ext4', 'xfs'])
def test_unreplayed_journal_is_never_looked_past(
    disk_file, place, tmp_path, kind
):
    (where,) = filesystems.partition(disk_file, GPT).values()
    with filesystems.loop(disk_file, *where) as device:
        filesystems.run(*filesystems.MKFS[kind], device)
        with filesystems.mounted(device, place, kind):
            writer = filesystems.Writer(place)
            writer.age(8 * MIB, rounds=2)
            for number in range(20):
                with open(place / f'late{number}', 'wb') as file:
                    file.write(os.urandom(9000))
                    os.fsync(file.fileno())
            source = filesystems.copy(disk_file, tmp_path / 'crashed')
    found = look(source)
    region = region_at(found, where[0])
    assert (region.method, region.reason) == (
        manifest.WHOLE, 'dirty journal')
    assert region.used_bytes == region.length
    copy = filesystems.scrubbed(source, found.extents, tmp_path / 'scrubbed')
    expected = files_after_replay(source, where, kind, place)
    assert 'late19' in expected
    assert files_after_replay(copy, where, kind, place) == expected


@pytest.mark.parametrize('synced', [True, False])
def test_mounted_btrfs_is_as_of_its_last_commit(
    disk_file, place, tmp_path, synced
):
    (where,) = filesystems.partition(disk_file, GPT).values()
    with filesystems.loop(disk_file, *where) as device:
        filesystems.run(*filesystems.MKFS['btrfs'], device)
        with filesystems.mounted(device, place, 'btrfs', 'commit=300'):
            filesystems.Writer(place).age(8 * MIB, rounds=2)
            with open(place / 'late', 'wb') as file:
                file.write(os.urandom(90000))
                if not synced:
                    # Into the log tree, until the next commit.
                    os.fsync(file.fileno())
            if synced:
                filesystems.run('btrfs', 'filesystem', 'sync', place)
            source = filesystems.copy(disk_file, tmp_path / 'crashed')
    found = look(source)
    region = region_at(found, where[0])
    if synced:
        assert (region.method, region.reason) == (manifest.ALLOCATED, '')
    else:
        assert (region.method, region.reason) == (
            manifest.WHOLE, 'dirty journal')
    copy = filesystems.scrubbed(source, found.extents, tmp_path / 'scrubbed')
    expected = files_after_replay(source, where, 'btrfs', place)
    assert expected['late'][1]
    assert files_after_replay(copy, where, 'btrfs', place) == expected


@pytest.mark.parametrize('bits', [16, 32])
def test_fat_is_looked_through(disk_file, tmp_path, bits):
    """By mtools; this machine's kernel may not know FAT."""
    start, length = filesystems.partition(disk_file, GPT)[1]
    with filesystems.loop(disk_file, start, length) as device:
        filesystems.run(
            'mkfs.vfat', '-F', bits, '-s', 2 if bits == 32 else 8, device)
    content = tmp_path / 'content'
    content.mkdir()
    volume = f'{disk_file}@@{start}'
    writer = filesystems.Writer(content)
    for _ in range(2):
        writer.fill(12 * MIB)
        before = filesystems.tree(content)
        filesystems.run('mcopy', '-o', '-s', '-i', volume,
                        *content.iterdir(), '::')
        writer.delete(0.6)
        for name in before.keys() - filesystems.tree(content).keys():
            filesystems.run('mdel', '-i', volume, f'::{name}')
    found = look(disk_file)
    region = region_at(found, start)
    assert (region.content, region.method, region.reason) == (
        'vfat', manifest.ALLOCATED, '')
    assert 4 * MIB < region.used_bytes < 40 * MIB
    copy = filesystems.scrubbed(
        disk_file, found.extents, tmp_path / 'scrubbed')
    restored = tmp_path / 'restored'
    restored.mkdir()
    filesystems.run('mcopy', '-s', '-i', f'{copy}@@{start}', '::',
                    restored)
    hashes = {path: value[1] for path, value in
              filesystems.tree(restored).items() if value[1]}
    assert hashes == {path: value[1] for path, value in
                      filesystems.tree(content).items() if value[1]}
    assert len(hashes) > 30
    with filesystems.loop(copy, start, length) as device:
        filesystems.run(*filesystems.CHECK['vfat'], device)


def test_ext2_in_use_is_not_clean(disk_file, place, tmp_path):
    with filesystems.loop(disk_file) as device:
        filesystems.run(*filesystems.MKFS['ext2'], device)
        with filesystems.mounted(device, place, 'ext2'):
            filesystems.Writer(place).fill(MIB)
            filesystems.flush(place)
            source = filesystems.copy(disk_file, tmp_path / 'crashed')
    (region,) = look(source).regions
    assert (region.name, region.content, region.method, region.reason) == (
        'disk', 'ext2', manifest.WHOLE, 'not clean')


def test_ntfs_that_wants_a_check_is_not_clean(disk_file):
    with filesystems.loop(disk_file) as device:
        filesystems.run(*filesystems.MKFS['ntfs'], device)
        # It sets the flag for Windows to check the volume.
        filesystems.run('ntfsfix', device)
    (region,) = look(disk_file).regions
    assert (region.content, region.method, region.reason) == (
        'ntfs', manifest.WHOLE, 'not clean')


def test_hibernated_windows_is_read_whole(disk_file, place):
    with filesystems.loop(disk_file) as device:
        filesystems.run(*filesystems.MKFS['ntfs'], device)
        with filesystems.mounted(device, place, 'ntfs'):
            (place / 'hiberfil.sys').write_bytes(b'hibr' + bytes(4092))
    (region,) = look(disk_file).regions
    assert (region.method, region.reason) == (
        manifest.WHOLE, 'hibernated')


# Geometry and features that move metadata about.
EXT_VARIANTS = {
    'small blocks': ('ext4', '-b', '1024'),
    'no flex_bg': ('ext4', '-O', '^flex_bg'),
    'meta_bg': ('ext4', '-b', '1024', '-O',
                'meta_bg,^resize_inode,^flex_bg'),
    'crc16': ('ext4', '-O', '^metadata_csum,uninit_bg'),
    '32 bits': ('ext4', '-O', '^64bit,^metadata_csum,uninit_bg'),
    'no checksums': ('ext4', '-O', '^metadata_csum,^uninit_bg'),
    'two copies': ('ext4', '-O', 'sparse_super2'),
    'many copies': ('ext4', '-O', '^sparse_super,^resize_inode'),
    'seed': ('ext4', '-O', 'metadata_csum_seed'),
    'ext2': ('ext2',),
    'ext3': ('ext3', '-b', '2048'),
    'oldest': ('ext2', '-r', '0'),
}


@pytest.mark.parametrize('variant', EXT_VARIANTS)
def test_ext_map_is_that_of_libext2fs(tmp_path, variant):
    kind, *options = EXT_VARIANTS[variant]
    content = tmp_path / 'content'
    content.mkdir()
    filesystems.Writer(content).fill(8 * MIB)
    # As large as to have groups that were never used, and odd at its end.
    path = filesystems.create(tmp_path / 'disk', 2000 * MIB + 4096)
    filesystems.run(
        'mke2fs', '-q', '-F', '-t', kind, '-d', content, *options, path)
    filesystems.run('e2fsck', '-fp', path)
    with block.BlockDisk(str(path)) as disk:
        file_system = ext._FileSystem(part.Part(disk, 0, disk.size))
        file_system.check()
        ours = extent.DataExtents()
        for start, end in file_system.blocks_in_use(lambda: None):
            ours.add(start, end)
    theirs = extent.DataExtents()
    for start, end in domain.used_ranges(
            'partclone.extfs', str(path), disk.size, lambda: None):
        theirs.add(start, end)
    assert len(theirs) > 1
    assert list(ours) == list(theirs)


def test_ext4_of_a_tebibyte_costs_what_is_in_use(tmp_path):
    path = filesystems.create(tmp_path / 'disk', 1 << 40)
    filesystems.run(*filesystems.MKFS['ext4'], path)
    with filesystems.loop(path, read_only=True) as device:
        with block.BlockDisk(device) as disk:
            found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    (region,) = found.regions
    assert region.method == manifest.ALLOCATED
    # The journal is a gibibyte; the inode tables would be sixteen.
    assert found.extents.size < 1400 * MIB


def test_btrfs_of_many_nodes_and_two_copies(tmp_path, place):
    path = filesystems.create(tmp_path / 'disk', 256 * MIB)
    with filesystems.loop(path) as device:
        filesystems.run('mkfs.btrfs', '-q', '-m', 'dup', device)
        with filesystems.mounted(device, place, 'btrfs', 'compress=zstd'):
            for number in range(4000):
                (place / f'small{number}').write_bytes(b'x%d' % number * 99)
            filesystems.run(
                'btrfs', 'subvolume', 'snapshot', place, place / 'before')
            for number in range(0, 4000, 3):
                (place / f'small{number}').unlink()
            filesystems.Writer(place).age(8 * MIB, rounds=2)
    found = look(path)
    assert found.regions[0].method == manifest.ALLOCATED
    copy = filesystems.scrubbed(path, found.extents, tmp_path / 'scrubbed')
    where = 0, 256 * MIB
    assert files_after_replay(copy, where, 'btrfs', place) == (
        files_after_replay(path, where, 'btrfs', place))
    # Both copies of the metadata are there: a scrub reads them all.
    with filesystems.loop(copy) as device:
        with filesystems.mounted(device, place, 'btrfs'):
            assert 'no errors found' in filesystems.run(
                'btrfs', 'scrub', 'start', '-B', place)


def test_btrfs_of_several_devices_is_read_whole(tmp_path):
    paths = [filesystems.create(tmp_path / f'disk{each}', 200 * MIB)
             for each in range(2)]
    filesystems.run('mkfs.btrfs', '-q', *paths)
    with block.BlockDisk(str(paths[0])) as disk:
        found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    assert found.regions[0].reason == 'multiple devices'


def test_damaged_btrfs_is_read_whole(tmp_path):
    path = filesystems.create(tmp_path / 'disk', 200 * MIB)
    filesystems.run('mkfs.btrfs', '-q', '-m', 'single', path)
    data = path.read_bytes()
    (root,) = struct.unpack_from('<Q', data, 65536 + 80)
    # A tree block says the file system's UUID, and its own address.
    uuid = data[65536 + 32:65536 + 48]
    at = data.index(uuid + struct.pack('<Q', root), 1 << 20)
    with open(path, 'r+b') as file:
        file.seek(at)
        file.write(bytes(4096))
    with block.BlockDisk(str(path)) as disk:
        found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    assert found.regions[0].reason == 'damaged'


@pytest.mark.parametrize('offset', [0, 12, 18, 28])
def test_ext4_with_a_changed_descriptor_is_read_whole(tmp_path, offset):
    path = filesystems.create(tmp_path / 'disk', 300 * MIB)
    filesystems.run(*filesystems.MKFS['ext4'], '-b', '4096', path)
    with open(path, 'r+b') as file:
        file.seek(4096 + 64 + offset)
        (byte,) = file.read(1)
        file.seek(4096 + 64 + offset)
        file.write(bytes([byte ^ 1]))
    with block.BlockDisk(str(path)) as disk:
        found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    assert found.regions[0].reason == 'damaged'


def test_xfs_with_an_external_log_is_read_whole(tmp_path):
    path = filesystems.create(tmp_path / 'disk', 330 * MIB)
    log = filesystems.create(tmp_path / 'log', 100 * MIB)
    filesystems.run('mkfs.xfs', '-q', '-l', f'logdev={log}', path)
    with block.BlockDisk(str(path)) as disk:
        found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    assert found.regions[0].reason == 'external journal'


def test_partition_the_kernel_knows_needs_no_loop(xfs_disk, monkeypatch):
    """The node is used; without one, and without loop devices, all is."""
    path, where = xfs_disk
    monkeypatch.setattr(access, '_attach', refuse)
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(filesystems.loop(path))
        filesystems.run('partx', '--add', device)
        stack.callback(filesystems.run, 'partx', '--delete', device)
        with block.BlockDisk(device) as disk:
            found = survey.survey(disk, all_blocks=False, skip_gaps=False)
    assert region_at(found, where[0]).method == manifest.ALLOCATED
    region = region_at(look(path), where[0])
    assert (region.method, region.reason) == (
        manifest.WHOLE, 'no loop device: refused')


def refuse(*arguments):
    raise looks.Doubt('no loop device: refused')


def test_no_loop_device_is_left_behind(xfs_disk):
    path, _ = xfs_disk
    look(path)
    # Somebody else's may come and go meanwhile.
    assert str(path) not in filesystems.run('losetup', '--list')
