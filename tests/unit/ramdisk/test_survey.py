# SPDX-License-Identifier: Apache-2.0
"""Which parts of a disk are data: tables, gaps, doubts, and the rules."""

import json
import pathlib
import random
import shutil
import struct
import subprocess
import zlib

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.disk import memory
from ipa_snapshot_hardware.survey import access
from ipa_snapshot_hardware.survey import btrfs
from ipa_snapshot_hardware.survey import domain
from ipa_snapshot_hardware.survey import ext
from ipa_snapshot_hardware.survey import f2fs
from ipa_snapshot_hardware.survey import fat
from ipa_snapshot_hardware.survey import filesystem
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import probe
from ipa_snapshot_hardware.survey import sparse
from ipa_snapshot_hardware.survey import survey
from ipa_snapshot_hardware.survey import table
from ipa_snapshot_hardware.survey import tool

pytestmark = pytest.mark.skipif(
    shutil.which('sfdisk', path='/usr/sbin:/sbin:/usr/bin') is None,
    reason='sfdisk is not installed')

MIB = 1 << 20
SIZE = 256 * MIB


def unwatched():
    """Nobody watches."""


@pytest.fixture
def path(tmp_path):
    found = tmp_path / 'disk'
    with open(found, 'wb') as file:
        file.truncate(SIZE)
    return found


def partition(path, script):
    subprocess.run(
        ['/usr/sbin/sfdisk', '--quiet', str(path)], input=script, text=True,
        check=True, capture_output=True)


def write(path, offset, data):
    with open(path, 'r+b') as file:
        file.seek(offset)
        file.write(data)


def look_at(path, *, all_blocks=False, skip_gaps=False, watch=None):
    with block.BlockDisk(str(path)) as disk:
        return survey.survey(
            disk, all_blocks=all_blocks, skip_gaps=skip_gaps, watch=watch)


def outline(found):
    return [(each.name, each.method, each.reason) for each in found.regions]


class TestSurvey:
    def test_regions_cover_the_disk_in_order(self, path):
        partition(path, 'label: gpt\nstart=10M,size=20M\n'
                        'start=64M,size=30M\n')
        found = look_at(path)
        assert [(each.name, each.start // MIB) for each in found.regions] == [
            ('gap', 0), ('partition 1', 10), ('gap', 30),
            ('partition 2', 64), ('gap', 94)]
        at = 0
        for region in found.regions:
            assert region.start == at
            at += region.length
        assert at == SIZE
        assert sum(each.used_bytes for each in found.regions) == (
            found.extents.size)

    def test_logical_partitions_are_found(self, path):
        partition(path, 'label: dos\n,10M\n,10M\n,10M\n'
                        ',200M,E\n,20M\n,30M\n')
        names = [each.name for each in look_at(path).regions]
        assert names == [
            'gap', 'partition 1', 'partition 2', 'partition 3', 'gap',
            'partition 5', 'gap', 'partition 6', 'gap']

    def test_all_blocks_asks_nobody(self, path, monkeypatch):
        partition(path, 'label: gpt\n,,\n')
        monkeypatch.setattr(tool, 'run', None)
        found = look_at(path, all_blocks=True)
        assert outline(found) == [('disk', manifest.WHOLE, 'all_blocks')]
        assert list(found.extents) == [(0, SIZE)]

    def test_disk_without_a_path_is_read_whole(self):
        disk = memory.MemoryDisk(bytes(MIB))
        found = survey.survey(disk, all_blocks=False, skip_gaps=False)
        assert outline(found) == [('disk', manifest.WHOLE, 'no device')]
        assert list(found.extents) == [(0, MIB)]

    def test_empty_disk_is_unknown(self, path):
        assert outline(look_at(path)) == [
            ('disk', manifest.WHOLE, 'unknown content')]

    def test_holes_of_a_file_are_no_data(self, path):
        write(path, 100 * MIB, b'x' * MIB)
        found = look_at(path)
        assert list(found.extents) == [(100 * MIB, 101 * MIB)]
        assert found.regions[0].used_bytes == MIB

    def test_luks_and_the_like_are_read_whole(self, path):
        write(path, 0, b'LUKS\xba\xbe\x00\x01' + bytes(1000))
        (region,) = look_at(path).regions
        assert (region.content, region.reason) == ('crypto_LUKS', 'luks')

    def test_file_system_without_a_map(self, path):
        write(path, 0, b'hsqs' + bytes(24) + struct.pack('<HH', 4, 0))
        (region,) = look_at(path).regions
        assert (region.content, region.reason) == ('squashfs', 'no map')

    def test_fat_on_the_whole_disk_is_no_table(self, path):
        """Its boot sector ends like an MBR."""
        subprocess.run(['/usr/sbin/mkfs.vfat', '-F', '32', str(path)],
                       check=True, capture_output=True)
        (region,) = look_at(path).regions
        assert (region.name, region.content) == ('disk', 'vfat')

    def test_table_and_file_system_at_once(self, path):
        subprocess.run(['/usr/sbin/mkfs.ext4', '-qF', str(path)], check=True)
        partition(path, 'label: dos\nstart=64M,size=30M\n')
        assert outline(look_at(path)) == [
            ('disk', manifest.WHOLE, 'ambiguous signatures')]

    def test_swap_is_a_header(self, path):
        subprocess.run(['/usr/sbin/mkswap', str(path)], check=True,
                       capture_output=True)
        (region,) = look_at(path).regions
        assert (region.content, region.method) == ('swap', manifest.HEADER)

    def test_unreadable_sectors_are_left_to_the_capture(
        self, path, monkeypatch
    ):
        subprocess.run(['/usr/sbin/mkfs.ext4', '-qF', str(path)], check=True)

        def fail(disk, offset, buffer):
            raise errors.DiskReadError(
                disk.name, 'S1', offset, len(buffer), 512, 'I/O error')

        with block.BlockDisk(str(path)) as disk:
            monkeypatch.setattr(block.BlockDisk, 'read_into', fail)
            found = survey.survey(disk, all_blocks=False, skip_gaps=False)
        assert outline(found) == [('disk', manifest.WHOLE, 'read error')]

    def test_missing_tools_cost_only_time(self, path, monkeypatch):
        partition(path, 'label: gpt\n,,\n')
        monkeypatch.setattr(tool, '_PATH', '/nowhere')
        assert outline(look_at(path)) == [
            ('disk', manifest.WHOLE, 'tool missing: prlimit')]

    def test_whoever_watches_may_give_up(self, path):
        partition(path, 'label: gpt\n,,\n')

        def watch():
            raise errors.Cancelled()

        with pytest.raises(errors.Cancelled):
            look_at(path, watch=watch)


class TestGaps:
    @pytest.fixture
    def gapped(self, path):
        partition(path, 'label: gpt\nstart=1M,size=20M\n'
                        'start=100M,size=20M\n')
        # As on a device, which has no holes to skip.
        with open(path, 'r+b') as file:
            data = file.read()
            file.seek(0)
            file.write(data)
        return path

    def test_are_read_whole(self, gapped):
        found = look_at(gapped)
        assert found.extents.size == SIZE

    def test_large_ones_can_be_skipped(self, gapped):
        found = look_at(gapped, skip_gaps=True)
        assert [(each.name, each.method, each.reason, each.used_bytes)
                for each in found.regions] == [
            ('gap', manifest.WHOLE, '', MIB),
            ('partition 1', manifest.WHOLE, 'unknown content', 20 * MIB),
            ('gap', manifest.SKIPPED, 'skip_gaps', 2 * MIB),
            ('partition 2', manifest.WHOLE, 'unknown content', 20 * MIB),
            ('gap', manifest.SKIPPED, 'skip_gaps', 2 * MIB)]
        assert list(found.extents) == [
            (0, 22 * MIB), (99 * MIB, 121 * MIB), (SIZE - MIB, SIZE)]

    def test_copy_of_the_table_is_kept_wherever_it_is(self, gapped):
        """The disk is larger than the image it was made from."""
        with open(gapped, 'ab') as file:
            file.write(bytes(SIZE))
        found = look_at(gapped, skip_gaps=True)
        assert list(found.extents)[-2:] == [
            (SIZE - 512 - MIB, SIZE), (2 * SIZE - MIB, 2 * SIZE)]


class TestTable:
    """What sfdisk says is taken only when nothing contradicts it."""

    DAMAGED = [('disk', manifest.WHOLE, 'damaged partition table')]

    @pytest.fixture
    def gpt(self, path):
        partition(path, 'label: gpt\nstart=10M,size=20M\n')
        return path

    def test_image_smaller_than_the_disk(self, gpt):
        with open(gpt, 'ab') as file:
            file.truncate(2 * SIZE)
        assert [each.name for each in look_at(gpt).regions] == [
            'gap', 'partition 1', 'gap']

    def test_damaged_copy(self, gpt):
        write(gpt, SIZE - 512, bytes(512))
        assert [each.name for each in look_at(gpt).regions] == [
            'gap', 'partition 1', 'gap']

    def test_damaged_entries_have_a_copy(self, gpt):
        write(gpt, 1024 + 40, b'\xff')
        assert [each.name for each in look_at(gpt).regions] == [
            'gap', 'partition 1', 'gap']

    def test_first_header_gone(self, gpt):
        """Whether others look at the copy is not known."""
        write(gpt, 512, bytes(512))
        assert outline(look_at(gpt)) == self.DAMAGED

    def test_table_of_a_disk_with_other_sectors(self, gpt):
        """For 4096 bytes, the first header is where none is looked for."""
        data = gpt.read_bytes()
        write(gpt, 512, bytes(4096 - 512) + data[512:40 * 512])
        write(gpt, SIZE - 512, bytes(512))
        assert outline(look_at(gpt)) == self.DAMAGED

    def test_both_headers_gone(self, gpt):
        write(gpt, 512 + 20, b'\xff')
        write(gpt, SIZE - 512 + 20, b'\xff')
        assert outline(look_at(gpt)) == self.DAMAGED

    def test_partition_beyond_the_end(self, path):
        partition(path, 'label: dos\nstart=10M,size=200M\n')
        with open(path, 'r+b') as file:
            file.truncate(SIZE // 2)
        assert look_at(path).regions[0].reason in (
            'damaged partition table',)

    def test_overlapping_partitions(self, path):
        partition(path, 'label: dos\nstart=10M,size=20M\n'
                        'start=40M,size=20M\n')
        # The second entry's first sector.
        write(path, 446 + 16 + 8, struct.pack('<I', 20 * 2048))
        (region,) = look_at(path).regions
        assert region.reason in (
            'overlapping partitions', 'damaged partition table')

    def test_order_of_the_entries_is_free(self, path):
        partition(path, 'label: dos\nstart=100M,size=10M\n'
                        'start=20M,size=10M\n')
        assert [each.name for each in look_at(path).regions] == [
            'gap', 'partition 2', 'gap', 'partition 1', 'gap']

    def test_other_kinds(self, path):
        partition(path, 'label: sun\nsize=20M\n')
        assert outline(look_at(path)) == [
            ('disk', manifest.WHOLE, 'unknown partition table')]

    @pytest.mark.parametrize('changed', [
        {'start': -1}, {'start': 'x'}, {'size': 0}, {'node': 'other'},
        {'size': 1 << 60}, {'start': None}])
    def test_answers_that_make_no_sense(self, gpt, monkeypatch, changed):
        answer = tool.run('sfdisk', '--json', str(gpt), watch=unwatched)
        said = json.loads(answer.text)
        said['partitiontable']['partitions'][0].update(changed)
        monkeypatch.setattr(tool, 'run', lambda *a, **b: answer._replace(
            output=json.dumps(said).encode()))
        with block.BlockDisk(str(gpt)) as disk:
            with pytest.raises(look.Doubt, match='damaged'):
                table.read(disk, str(gpt), unwatched)


class TestTool:
    """Programs are held to limits."""

    def program(self, folder, monkeypatch, text):
        file = folder / 'program'
        file.write_text('#!/bin/sh\n' + text)
        file.chmod(0o755)
        monkeypatch.setattr(tool, '_PATH', f'{folder}:{tool._PATH}')
        return 'program'

    def test_output_and_code(self, tmp_path, monkeypatch):
        name = self.program(
            tmp_path, monkeypatch, 'echo "$LC_ALL $*"; echo no >&2; exit 3')
        answer = tool.run(name, 'a b', watch=unwatched)
        assert (answer.text, answer.tool.code, answer.tool.errors) == (
            'C a b\n', 3, 'no\n')

    def test_time(self, tmp_path, monkeypatch):
        name = self.program(tmp_path, monkeypatch, 'exec sleep 60')
        with pytest.raises(look.Doubt, match='program timed out'):
            with tool.Tool([name], watch=unwatched, seconds=1) as running:
                list(running.output())

    def test_memory(self, tmp_path, monkeypatch):
        name = self.program(tmp_path, monkeypatch, 'ulimit -v')
        answer = tool.run(name, watch=unwatched)
        assert int(answer.text) * 1024 == tool.MEMORY_BYTES

    def test_output_is_not_collected_for_ever(self, tmp_path, monkeypatch):
        name = self.program(tmp_path, monkeypatch, 'exec yes')
        answer = tool.run(name, watch=unwatched, limit=1000)
        assert len(answer.output) == 1000

    def test_errors_are_not_collected_for_ever(self, tmp_path, monkeypatch):
        name = self.program(
            tmp_path, monkeypatch, 'head -c 1000000 /dev/zero >&2')
        answer = tool.run(name, watch=unwatched)
        assert answer.tool.code == 0
        assert 0 < len(answer.tool.errors) < 64 << 10

    def test_giving_up_ends_it(self, tmp_path, monkeypatch):
        marker = tmp_path / 'pid'
        name = self.program(
            tmp_path, monkeypatch, f'echo $$ > {marker}; exec sleep 60')

        def watch():
            if marker.exists() and marker.read_text():
                raise errors.Cancelled()

        with pytest.raises(errors.Cancelled):
            tool.run(name, watch=watch)
        pid = int(marker.read_text())
        assert not pathlib.Path(f'/proc/{pid}').exists()


class TestDomain:
    MAP = (b'# comment\n0x3000     ?\n0x0000  0x1000  +\n'
           b'0x1000  0x1000  ?\n0x2000  0x1000  +\n')

    def parse(self, *pieces):
        ranges = []
        parsing = domain.parse(pieces)
        while True:
            try:
                ranges.append(next(parsing))
            except StopIteration as stop:
                return ranges, stop.value

    def test_map(self):
        assert self.parse(self.MAP) == (
            [(0, 0x1000), (0x2000, 0x3000)], 0x3000)

    def test_pieces_end_anywhere(self):
        for at in range(len(self.MAP)):
            assert self.parse(self.MAP[:at], self.MAP[at:]) == (
                self.parse(self.MAP))

    @pytest.mark.parametrize('lines', range(5))
    def test_map_that_ends_early_is_none(self, lines):
        text = b''.join(self.MAP.splitlines(keepends=True)[:lines])
        assert self.parse(text)[1] is None

    @pytest.mark.parametrize('wrong', [
        MAP.replace(b'0x2000  0x1', b'0x1800  0x1'),
        MAP.replace(b'0x1000  ?', b'0x1000  /'),
        MAP.replace(b'0x1000  ?', b'0x0000  ?'),
        MAP.replace(b'0x1000  ?', b'-0x100  ?'),
        MAP.replace(b'0x1000  ?', b'nothing'),
        b'x' * 1000,
        b'free\n',
    ])
    def test_nonsense(self, wrong):
        with pytest.raises(look.Doubt, match='map does not fit'):
            self.parse(wrong)


class TestSparse:
    def test_intersection(self):
        chance = random.Random(7)
        for _ in range(300):
            one, other = (
                sorted(chance.sample(range(40), chance.choice((0, 2, 6, 10))))
                for _ in range(2))
            one, other = (
                list(zip(each[::2], each[1::2], strict=True))
                for each in (one, other))
            expected = {
                at for start, end in one for at in range(start, end)
            } & {at for start, end in other for at in range(start, end)}
            found = list(sparse.intersect(one, other))
            assert {at for start, end in found
                    for at in range(start, end)} == expected
            assert found == sorted(found)
            assert all(start < end for start, end in found)


class TestLook:
    def test_edges_are_data_whatever_the_map_says(self):
        found = look.allocated(
            10 * MIB, 10 * MIB, 'xfs', [(4 * MIB, 5 * MIB)])
        assert list(found.extents) == [
            (10 * MIB, 11 * MIB), (14 * MIB, 15 * MIB), (19 * MIB, 20 * MIB)]

    def test_small_parts_are_edges(self):
        found = look.allocated(MIB, 512, 'vfat', [(0, 512)])
        assert list(found.extents) == [(MIB, MIB + 512)]

    def test_range_that_reaches_into_the_last_edge(self):
        found = look.allocated(
            0, 10 * MIB, 'xfs',
            [(8 * MIB, 9 * MIB + 5), (9 * MIB + 7, 9 * MIB + 9)])
        assert list(found.extents) == [(0, MIB), (8 * MIB, 10 * MIB)]


    def test_map_is_followed_to_its_end(self):
        def ranges():
            yield 0, MIB
            yield 10 * MIB - 1, 10 * MIB
            raise look.Doubt('map does not fit')

        with pytest.raises(look.Doubt):
            look.allocated(0, 10 * MIB, 'xfs', ranges())


class TestExt:
    def test_bits(self):
        chance = random.Random(3)
        for _ in range(200):
            bits = [chance.random() < chance.choice((0.1, 0.9))
                    for _ in range(64)]
            bitmap = bytes(
                sum(bits[at + bit] << bit for bit in range(8))
                for at in range(0, 64, 8))
            count = chance.choice((64, 57, 8, 3))
            found = [at for start, end in ext._runs(bitmap, count)
                     for at in range(start, end)]
            assert found == [at for at in range(count) if bits[at]]

    def test_subtraction(self):
        chance = random.Random(5)
        for _ in range(300):
            one, other = (
                sorted(chance.sample(range(40), 8)) for _ in range(2))
            one, other = (
                list(zip(each[::2], each[1::2], strict=True))
                for each in (one, other))
            expected = [at for start, end in one for at in range(start, end)
                        if not any(a <= at < b for a, b in other)]
            found = [at for start, end in ext._subtract(
                iter(one), iter(other)) for at in range(start, end)]
            assert found == expected

    @pytest.mark.parametrize(('offset', 'value', 'reason'), [
        (58, b'\x03\x00', 'not clean'),
        (58, b'\x00\x00', 'not clean'),
        (96, b'\xc6\x02\x00\x00', 'dirty journal'),
        (96, b'\xca\x02\x00\x00', 'external journal'),
        (228, b'\x01', 'external journal'),
        (98, b'\x80', 'unknown features'),
        (101, b'\x02', 'unknown features'),
        (102, b'\x01', 'dirty journal'),
        (32, b'\x00\x00\x00\x00', 'damaged'),
        (24, b'\xff', 'damaged'),
        (254, b'\x07', 'damaged'),
        (5, b'\xff\xff\xff', 'damaged'),
    ])
    def test_superblocks_in_doubt(self, path, offset, value, reason):
        subprocess.run(
            ['/usr/sbin/mke2fs', '-qF', '-t', 'ext4', '-O', '^metadata_csum',
             str(path)], check=True)
        assert self.doubt(path) == ''
        write(path, 1024 + offset, value)
        assert self.doubt(path) == reason

    def doubt(self, path):
        with block.BlockDisk(str(path)) as disk:
            try:
                list(ext.used_ranges(
                    part.Part(disk, 0, disk.size), unwatched))
            except look.Doubt as found:
                return found.reason
        return ''


class TestFat:
    @pytest.mark.parametrize(('bits', 'clean', 'dirty', 'state'), [
        (32, b'\xff\xff\xff\x0f', b'\xff\xff\xff\x07', 65),
        (32, b'\xff\xff\xff\x0f', b'\xff\xff\xff\x0b', 65),
        (16, b'\xff\xff', b'\xff\x7f', 37),
        (16, b'\xff\xff', b'\xff\xbf', 37),
    ])
    def test_dirty(self, path, bits, clean, dirty, state):
        subprocess.run(
            ['/usr/sbin/mkfs.vfat', '-F', str(bits), '-R', '32', str(path)],
            check=True, capture_output=True)
        entry = 32 * 512 + bits // 8
        write(path, entry, clean)
        assert self.doubt(path) == ''
        write(path, entry, dirty)
        assert self.doubt(path) == 'not clean'
        write(path, entry, clean)
        write(path, state, b'\x01')
        assert self.doubt(path) == 'not clean'

    def test_fat12_has_no_flag(self, path):
        with open(path, 'r+b') as file:
            file.truncate(2 * MIB)
        subprocess.run(['/usr/sbin/mkfs.vfat', '-F', '12', str(path)],
                       check=True, capture_output=True)
        assert self.doubt(path) == 'FAT12'

    def test_one_table_of_two_in_use(self, path):
        subprocess.run(['/usr/sbin/mkfs.vfat', '-F', '32', str(path)],
                       check=True, capture_output=True)
        write(path, 40, b'\x81')
        assert self.doubt(path) == 'unknown features'

    def doubt(self, path):
        with block.BlockDisk(str(path)) as disk:
            try:
                fat.check(part.Part(disk, 0, disk.size))
            except look.Doubt as found:
                return found.reason
        return ''


@pytest.mark.skipif(
    shutil.which('mkfs.f2fs', path='/usr/sbin:/sbin') is None,
    reason='f2fs-tools are not installed')
class TestF2fs:
    @pytest.fixture
    def made(self, path):
        with open(path, 'r+b') as file:
            file.truncate(64 * MIB)
        subprocess.run(['/usr/sbin/mkfs.f2fs', '-qf', str(path)],
                       check=True, capture_output=True)
        return path

    def doubt(self, path):
        with block.BlockDisk(str(path)) as disk:
            try:
                f2fs.check(part.Part(disk, 0, disk.size))
            except look.Doubt as found:
                return found.reason
        return ''

    def write_flags(self, path, number, flags):
        """Change the flags of one checkpoint, with its checksum."""
        data = bytearray(path.read_bytes())
        (first,) = struct.unpack_from('<I', data, 1024 + 76)
        at = (first + number * 512) * 4096
        (blocks,) = struct.unpack_from('<I', data, at + 136)
        for copy in (at, at + (blocks - 1) * 4096):
            page = data[copy:copy + 4096]
            struct.pack_into('<I', page, 132, flags)
            (offset,) = struct.unpack_from('<I', page, 164)
            seed = 0xF2F52010 ^ 0xFFFFFFFF
            crc = zlib.crc32(page[:offset], seed) ^ 0xFFFFFFFF
            struct.pack_into('<I', page, offset, crc)
            write(path, copy, page)

    def test_clean(self, made):
        assert self.doubt(made) == ''

    @pytest.mark.parametrize('flags', [0, 0x3, 0x9, 0x11, 0x1001])
    def test_newest_checkpoint_is_not_clean(self, made, flags):
        self.write_flags(made, 0, flags)
        assert self.doubt(made) == 'not clean'

    def test_no_valid_checkpoint(self, made):
        data = made.read_bytes()[:8192]
        (first,) = struct.unpack_from('<I', data, 1024 + 76)
        for number in range(2):
            write(made, (first + number * 512) * 4096 + 20, b'\xff')
        assert self.doubt(made) == 'damaged'


class TestHostile:
    """Whatever is on a disk, there is an answer or a doubt."""

    PARSERS = {
        'ext': lambda area: filesystem._look(
            area, 'ext4', ext.used_ranges(area, unwatched)),
        'btrfs': lambda area: filesystem._look(
            area, 'btrfs', btrfs.used_ranges(area, unwatched)),
        'fat': fat.check,
        'f2fs': f2fs.check,
    }
    MAGIC = {
        'ext': (1024 + 56, b'\x53\xef\x01\x00'),
        'btrfs': (65536 + 48, struct.pack('<QQ', 65536, 1) + b'_BHRfS_M'),
        'fat': (11, struct.pack('<HBHBH', 512, 1, 32, 2, 0)),
        'f2fs': (1024, struct.pack('<I', 0xF2F52010)),
    }

    @pytest.mark.parametrize('kind', PARSERS)
    def test_noise_behind_a_magic_number(self, kind):
        chance = random.Random(11)
        disk = memory.MemoryDisk(bytes(MIB))
        area = part.Part(disk, 0, MIB)
        for _ in range(300):
            # Small numbers get further than large ones.
            disk.content[:] = bytes(
                chance.choice((0, 0, 0, 1, 2, 64, 255))
                if chance.random() < 0.7 else 0 for _ in range(4096)
            ) * (MIB // 4096)
            at, magic = self.MAGIC[kind]
            disk.content[at:at + len(magic)] = magic
            with pytest.raises(look.Doubt):
                self.PARSERS[kind](area)

    @pytest.mark.parametrize('options', [
        ['-O', '^metadata_csum'], ['-O', '^metadata_csum,^uninit_bg']])
    def test_flipped_bits(self, path, options):
        with open(path, 'r+b') as file:
            file.truncate(16 * MIB)
        subprocess.run(['/usr/sbin/mke2fs', '-qF', '-t', 'ext4', *options,
                        str(path)], check=True)
        chance = random.Random(13)
        disk = memory.MemoryDisk(path.read_bytes())
        area = part.Part(disk, 0, disk.size)
        doubts = 0
        for _ in range(300):
            # What matters of the superblock; the first descriptors.
            at = chance.choice((1024, 2048)) + chance.randrange(104)
            before = disk.content[at]
            disk.content[at] ^= 1 << chance.randrange(8)
            try:
                self.PARSERS['ext'](area)
            except look.Doubt:
                doubts += 1
            disk.content[at] = before
        assert 20 < doubts < 280


def test_probe_tells_nothing_from_something(path):
    assert probe.probe(str(path), 0, SIZE, unwatched) == probe.Probe('', '')
    subprocess.run(['/usr/sbin/mkswap', '-o', str(32 * MIB), str(path)],
                   capture_output=True)
    subprocess.run(['/usr/sbin/mkfs.ext4', '-qF', '-E',
                    f'offset={32 * MIB}', str(path), '100M'], check=True)
    found = probe.probe(str(path), 32 * MIB, 100 * MIB, unwatched)
    assert found.content == 'ext4'


def test_file_has_no_partition_nodes(path):
    assert access.partition_node(str(path), MIB, MIB) is None
