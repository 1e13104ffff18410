# SPDX-License-Identifier: Apache-2.0
"""Captures with real parts: disks, Swift, qemu-img as the judge."""

import hashlib
import json
import subprocess
import sys
import threading

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.disk import memory as memory_disk
from ipa_snapshot_hardware.survey import survey as surveys
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import memory as memory_store
from tests import agent_log
from tests import disks
from tests.contract import capture_requests as requests

MiB = units.MiB
C = requests.SMALL

pytestmark = pytest.mark.usefixtures('no_thread_left')


def sha256(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(MiB):
            digest.update(chunk)
    return digest.hexdigest()


PICTURES = [
    'A',
    '-',
    '--------',
    'AAAA',
    'aaaa',
    'A-a-',
    'abcABC--AbC',
    '-A' * 20,
    'abcdefghijklmnopqrstuvwxyz' * 3,
]


@disks.needs_qemu_img
class TestImage:
    """The objects join to an image that qemu takes for the disk."""

    @pytest.mark.parametrize('codec', ['zstd', 'zlib', 'none'])
    @pytest.mark.parametrize('picture', PICTURES)
    def test_pictures(self, tmp_path, picture, codec):
        content = disks.draw(picture, C)
        (tmp_path / 'disk').write_bytes(content)
        store = memory_store.MemoryStore()
        found = requests.run(
            memory_disk.MemoryDisk(content),
            store,
            codec=codec,
            codec_level=None,
            pack_size=MiB,
        )
        requests.judge(store, found.report, tmp_path / 'disk', tmp_path)
        distinct = len(set(picture) - {'-'})
        totals = found.report.totals
        assert totals.new_clusters == distinct
        assert totals.clusters == len(picture) - picture.count('-')
        assert totals.zero_bytes == picture.count('-') * C
        assert totals.zero_bytes + totals.data_bytes == len(content)

    @pytest.mark.parametrize('size', [64 * 1024, MiB, 2 * MiB])
    def test_cluster_sizes(self, tmp_path, size):
        content = disks.draw('abA-', size) + bytes(512)
        (tmp_path / 'disk').write_bytes(content)
        store = memory_store.MemoryStore()
        found = requests.run(
            memory_disk.MemoryDisk(content), store, cluster_size=size
        )
        requests.judge(store, found.report, tmp_path / 'disk', tmp_path)

    @pytest.mark.parametrize('tail', [512, C - 512, C + 512])
    def test_a_last_cluster_that_sticks_out(self, tmp_path, tail):
        content = disks.draw('Aa', C) + disks.random_bytes(tail)
        (tmp_path / 'disk').write_bytes(content)
        store = memory_store.MemoryStore()
        found = requests.run(memory_disk.MemoryDisk(content), store)
        requests.judge(store, found.report, tmp_path / 'disk', tmp_path)
        assert found.report.totals.data_bytes == len(content)

    def test_many_packs(self, tmp_path):
        content = disks.random_bytes(24 * MiB)
        (tmp_path / 'disk').write_bytes(content)
        (tmp_path / 'store').mkdir()
        store = directory.DirectoryStore(tmp_path / 'store')
        found = requests.run(
            memory_disk.MemoryDisk(content), store, pack_size=MiB
        )
        assert [pack.name for pack in found.report.packs] == [
            layout.pack_name(number) for number in range(1, 25)
        ]
        requests.judge(store, found.report, tmp_path / 'disk', tmp_path)


class TestObjects:
    """What is stored, where, and that it is always the same."""

    def test_all_of_them_and_nothing_else(self):
        store = memory_store.MemoryStore()
        found = requests.run(
            memory_disk.MemoryDisk(disks.draw('Ab-', MiB)), store
        )
        names = [info.name for info in store.list('')]
        assert names == sorted(
            requests.PREFIX + name
            for name in ('head', 'index', 'map', 'pack-000001', 'report')
        )
        report = store.get(requests.PREFIX + 'report', MiB)
        assert manifest.CaptureReport.from_bytes(report) == found.report
        for name, record in (
            ('report', found.record),
            ('index', found.report.attempts[0].index),
            ('map', found.report.map),
            ('head', found.report.head),
        ):
            data = store.get(requests.PREFIX + name, MiB)
            assert record.size == len(data)
            assert record.etag == hashlib.md5(data).hexdigest()
            assert record.digest == requests.blake3(data)
        (pack,) = found.report.packs
        data = store.get(requests.PREFIX + pack.name, 8 * MiB)
        assert pack.etag == hashlib.md5(data).hexdigest()
        assert pack.size == len(data)
        assert pack.live_bytes < pack.size

    def test_the_report_is_last(self):
        order = []

        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                order.append(name.removeprefix(requests.PREFIX))
                return super().put(name, data)

        disk = memory_disk.MemoryDisk(disks.random_bytes(4 * MiB))
        requests.run(disk, Store(), pack_size=MiB)
        assert order[-4:] == ['map', 'head', 'index', 'report']
        assert len(order) == 8

    def test_a_disk_of_zeroes_has_no_pack(self):
        store = memory_store.MemoryStore()
        disk = memory_disk.MemoryDisk(bytes(4 * MiB))
        found = requests.run(disk, store)
        assert found.report.packs == ()
        assert found.report.totals.stored_bytes == 0
        assert requests.read_back(store, found.report) == bytes(4 * MiB)

    def test_the_result_is_small(self):
        disk = memory_disk.MemoryDisk(disks.draw('Ab-', MiB))
        found = requests.run(disk, memory_store.MemoryStore())
        assert len(json.dumps(capture.summarise(found))) < 1500

    def test_facts_about_the_disk(self):
        disk = memory_disk.MemoryDisk(
            disks.draw('A', MiB), serial='S', wwn='W', model='M'
        )
        found = requests.run(disk, memory_store.MemoryStore())
        assert found.report.disk == manifest.Disk(
            size=MiB,
            logical_sector_size=512,
            physical_sector_size=4096,
            serial='S',
            wwn='W',
            model='M',
            partition_table='',
            name='/dev/memory',
        )
        assert found.report.software == {'test': '1'}
        assert set(found.report.timings) == {
            *('survey', 'clusters', 'sample', 'documents', 'total')
        }

    def test_another_disk_replaces_what_was_there(self):
        store = memory_store.MemoryStore()
        requests.run(memory_disk.MemoryDisk(disks.draw('Ab', MiB)), store)
        other = disks.draw('cDe', MiB)
        found = requests.run(memory_disk.MemoryDisk(other), store)
        assert requests.read_back(store, found.report) == other

    @hypothesis.given(
        sectors=strategies.lists(
            strategies.tuples(
                strategies.sampled_from('-aAbB'), strategies.integers(1, 400)
            ),
            min_size=1,
            max_size=12,
        ),
        workers=strategies.integers(1, 5),
        power=strategies.integers(16, 18),
        codec=strategies.sampled_from(['zstd', 'none']),
    )
    @hypothesis.settings(deadline=None, max_examples=40)
    def test_any_disk_any_number_of_workers(
        self, sectors, workers, power, codec
    ):
        content = b''.join(
            disks.draw(letter, 512) * count for letter, count in sectors
        )
        options = {
            'cluster_size': 1 << power,
            'codec': codec,
            'codec_level': None,
            'pack_size': MiB,
        }
        alone = memory_store.MemoryStore()
        requests.run(
            memory_disk.MemoryDisk(content), alone, workers=1, **options
        )
        store = memory_store.MemoryStore()
        found = requests.run(
            memory_disk.MemoryDisk(content), store, workers=workers, **options
        )
        assert requests.read_back(store, found.report) == content
        assert requests.objects(store) == requests.objects(alone)

    def test_slow_uploads_change_nothing(self):
        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                if name.endswith('pack-000001'):
                    # The others overtake it.
                    threading.Event().wait(0.2)
                return super().put(name, data)

        content = disks.random_bytes(8 * MiB) + disks.draw('ab', MiB)
        slow, fast = Store(), memory_store.MemoryStore()
        for store in (slow, fast):
            disk = memory_disk.MemoryDisk(content)
            requests.run(disk, store, pack_size=MiB)
        assert requests.objects(slow) == requests.objects(fast)


@disks.needs_loop
@disks.needs_qemu_img
class TestSwift:
    """A loop device into a real Swift, with nothing but a grant."""

    def test_a_disk_with_a_file_system(self, target, tmp_path):
        source = tmp_path / 'disk'
        with open(source, 'wb') as file:
            file.truncate(96 * MiB)
        subprocess.run(
            ['sfdisk', '--quiet', source],
            input=b'label: gpt\n,,L\n',
            check=True,
        )
        folder = tmp_path / 'mnt'
        folder.mkdir()
        with (
            disks.loop_device(source) as device,
            disks.partition(device, sectors=2048 * 90) as part,
            disks.mounted(part, folder),
        ):
            for number in range(20):
                name = folder / f'file{number}'
                name.write_bytes(disks.random_bytes(MiB, seed=number))
        before = sha256(source)
        with (
            disks.loop_device(source) as device,
            block.BlockDisk(device) as disk,
        ):
            found = requests.run(disk, target.grant_store())
        assert found.report.disk.partition_table == 'gpt'
        assert sha256(source) == before
        requests.judge(target.token_store(), found.report, source, tmp_path)

    def test_a_failing_sector(self, target, tmp_path):
        source = tmp_path / 'disk'
        source.write_bytes(disks.random_bytes(32 * MiB))
        with (
            disks.failing_disk(source, 40000, tmp_path) as device,
            block.BlockDisk(device, serial='S3R1AL') as disk,
        ):
            with pytest.raises(errors.DiskReadError) as caught:
                requests.run(disk, target.grant_store(), pack_size=MiB)
        error = caught.value
        assert error.first_sector <= 40000 <= error.last_sector
        assert 'S3R1AL' in str(error)
        names = {info.name for info in target.token_store().list('')}
        assert all('pack-' in name for name in names)

    def test_no_signature_is_logged(self, target, monkeypatch):
        disk = memory_disk.MemoryDisk(disks.draw('Ab', MiB))
        output = agent_log.start(monkeypatch)
        requests.run(disk, target.grant_store())
        assert 'temp_url_sig=***' in output.getvalue()
        secret = target.mint().permissions[0].secret
        assert secret not in output.getvalue()


@pytest.fixture
def in_use(monkeypatch):
    """Say what of a disk is in use, in place of the survey."""

    def choose(*ranges):
        extents = extent.DataExtents()
        for start, end in ranges:
            extents.add(start, end)
        regions = tuple(
            manifest.Region(
                start, end - start, 'gap', '', 'whole', '', end - start
            )
            for start, end in ranges
        )
        monkeypatch.setattr(
            surveys,
            'survey',
            lambda disk, **options: surveys.Survey(extents, regions),
        )

    return choose


class TestInUse:
    """Only what is in use is read, and nothing else is in the image."""

    CONTENT = disks.random_bytes(16 * MiB)
    RANGES = (
        (0, 4096),
        (C, C + 512),
        (5 * C - 1024, 6 * C + 512),
        (8 * MiB, 13 * MiB + 4096),
    )

    def masked(self):
        content = bytearray(len(self.CONTENT))
        for start, end in self.RANGES:
            content[start:end] = self.CONTENT[start:end]
        return bytes(content)

    def test_the_rest_is_zero(self, in_use):
        in_use(*self.RANGES)
        store = memory_store.MemoryStore()
        found = requests.run(memory_disk.MemoryDisk(self.CONTENT), store)
        assert requests.read_back(store, found.report) == self.masked()
        totals = found.report.totals
        assert totals.virtual_bytes == len(self.CONTENT)
        assert totals.used_bytes == sum(e - s for s, e in self.RANGES)
        clusters = 1 + 1 + 3 + 5 * MiB // C + 1
        assert totals.read_bytes == totals.data_bytes == clusters * C
        assert totals.zero_bytes == len(self.CONTENT) - clusters * C
        assert [region.start for region in found.report.regions] == [
            start for start, _ in self.RANGES
        ]

    def test_what_is_not_in_use_is_not_read(self, in_use):
        class Disk(memory_disk.MemoryDisk):
            def read_into(self, offset, buffer):
                assert offset + len(buffer) <= 6 * C + C or offset >= 8 * MiB
                assert offset + len(buffer) <= 13 * MiB + C
                super().read_into(offset, buffer)

        in_use(*self.RANGES)
        requests.run(Disk(self.CONTENT), memory_store.MemoryStore())

    def test_it_may_be_written_to_meanwhile(self, in_use):
        in_use(*self.RANGES)
        disk = memory_disk.MemoryDisk(self.CONTENT)

        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                disk.content[4096] ^= 1
                disk.content[7 * MiB] ^= 1
                return super().put(name, data)

        requests.run(disk, Store())

        before = self.CONTENT

        class Writer(memory_store.MemoryStore):
            def put(self, name, data):
                disk.content[C + 511] = 255 - before[C + 511]
                return super().put(name, data)

        with pytest.raises(errors.DiskChanged):
            requests.run(disk, Writer())

    def test_a_disk_without_anything(self, in_use):
        in_use()
        store = memory_store.MemoryStore()
        found = requests.run(memory_disk.MemoryDisk(self.CONTENT), store)
        assert found.report.packs == ()
        assert found.report.totals.read_bytes == 0
        assert not any(requests.read_back(store, found.report))

    def test_a_tebibyte_with_little_in_it(self, in_use, tmp_path):
        source = tmp_path / 'disk'
        with open(source, 'wb') as file:
            file.truncate(units.TiB)
            for offset in (0, units.TiB // 2, units.TiB - MiB):
                file.seek(offset)
                file.write(disks.random_bytes(MiB, seed=offset))
        in_use(
            (0, MiB),
            (units.TiB // 2, units.TiB // 2 + MiB),
            (units.TiB - MiB, units.TiB),
        )
        store = memory_store.MemoryStore()
        with block.BlockDisk(str(source)) as disk:
            found = requests.run(disk, store, memory_limit=280 * MiB)
        totals = found.report.totals
        assert totals.virtual_bytes == units.TiB
        assert totals.read_bytes == totals.data_bytes == 3 * MiB
        # Nothing that is made of it grows with what is not there.
        assert found.report.map.size < 1024
        assert found.report.head.size < 2 * MiB

    def test_all_blocks_reads_all(self):
        store = memory_store.MemoryStore()
        found = requests.run(
            memory_disk.MemoryDisk(self.CONTENT),
            store,
            fields={'all_blocks': True},
        )
        assert found.report.totals.used_bytes == len(self.CONTENT)
        assert requests.read_back(store, found.report) == self.CONTENT


class TestAdaptiveLevel:
    def test_a_slow_store_is_compressed_for(self, tmp_path):
        clock = clocks.ManualClock()

        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                clock.advance(5)
                threading.Event().wait(0.02)
                return super().put(name, data)

        content = disks.draw('abcdefgh', MiB) + disks.random_bytes(30 * MiB)
        (tmp_path / 'disk').write_bytes(content)
        store = Store()
        found = requests.run(
            memory_disk.MemoryDisk(content),
            store,
            clock=clock,
            pack_size=MiB,
            codec_level=None,
            fields={'adaptive_level': True},
        )
        assert found.report.codec_level is None
        assert requests.read_back(store, found.report) == content


class TestBadSectors:
    """Allowed by the user: recorded, zero, and never in silence."""

    BAD = ((3 * MiB + 512, 512), (9 * MiB, 3 * 512))
    CONTENT = disks.random_bytes(16 * MiB)

    def expected(self):
        content = bytearray(self.CONTENT)
        for start, length in self.BAD:
            content[start : start + length] = bytes(length)
        return bytes(content)

    def test_they_are_recorded_exactly(self, caplog):
        store = memory_store.MemoryStore()
        found = requests.run(
            memory_disk.MemoryDisk(self.CONTENT, bad=self.BAD),
            store,
            fields={'allow_bad_sectors': True},
        )
        assert [
            (run.start, run.length) for run in found.report.unreadable
        ] == list(self.BAD)
        assert requests.read_back(store, found.report) == self.expected()
        assert '2048 bytes in 2 runs cannot be read' in caplog.text

    def test_a_good_disk_is_not_degraded(self):
        found = requests.run(
            memory_disk.MemoryDisk(self.CONTENT),
            memory_store.MemoryStore(),
            fields={'allow_bad_sectors': True},
        )
        assert found.report.unreadable == ()

    def test_too_many(self, monkeypatch):
        monkeypatch.setattr(manifest, 'MAX_UNREADABLE', 1)
        disk = memory_disk.MemoryDisk(
            self.CONTENT, bad=self.BAD, serial='S3R1AL'
        )
        with pytest.raises(errors.DiskReadError, match='S3R1AL.*more than 1'):
            requests.run(
                disk,
                memory_store.MemoryStore(),
                fields={'allow_bad_sectors': True},
            )

    @disks.needs_failing_disk
    def test_a_real_one(self, tmp_path):
        source = tmp_path / 'disk'
        source.write_bytes(self.CONTENT)
        store = memory_store.MemoryStore()
        with (
            disks.failing_disk(source, 10000, tmp_path) as device,
            block.BlockDisk(device) as disk,
        ):
            found = requests.run(
                disk, store, fields={'allow_bad_sectors': True}
            )
        (run,) = found.report.unreadable
        # The kernel may give up a page for a sector.
        assert run.start <= 10000 * 512 < run.start + run.length
        assert run.length <= 4096
        expected = bytearray(self.CONTENT)
        expected[run.start : run.start + run.length] = bytes(run.length)
        assert requests.read_back(store, found.report) == expected


class TestDiskErrors:
    def test_a_bad_sector_is_one_clear_error(self):
        store = memory_store.MemoryStore()
        disk = memory_disk.MemoryDisk(
            disks.random_bytes(8 * MiB),
            serial='S3R1AL',
            bad=[(5 * MiB + 1024, 512)],
        )
        with pytest.raises(errors.DiskReadError) as caught:
            requests.run(disk, store, pack_size=MiB)
        assert (caught.value.offset, caught.value.length) == (
            5 * MiB + 1024,
            512,
        )
        assert 'report' not in requests.objects(store)

    def test_a_writer_is_noticed(self):
        disk = memory_disk.MemoryDisk(disks.random_bytes(8 * MiB))

        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                if name.endswith('pack-000002'):
                    disk.content[MiB] ^= 1
                return super().put(name, data)

        store = Store()
        with pytest.raises(errors.DiskChanged, match='written to'):
            requests.run(disk, store, pack_size=MiB)
        names = {info.name for info in store.list('')}
        assert all('pack-' in name for name in names)

    @disks.needs_loop
    def test_a_writer_behind_the_device_is_noticed(self, tmp_path):
        # As another host on shared storage: no lock of this one keeps it out.
        source = tmp_path / 'disk'
        source.write_bytes(disks.random_bytes(8 * MiB))

        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                with open(source, 'r+b') as file:
                    file.seek(MiB)
                    file.write(bytes(C))
                return super().put(name, data)

        with (
            disks.loop_device(source) as device,
            block.BlockDisk(device) as disk,
        ):
            with pytest.raises(errors.DiskChanged, match=device):
                requests.run(disk, Store(), pack_size=MiB)

    def test_a_disk_that_shrinks(self):
        disk = memory_disk.MemoryDisk(disks.random_bytes(8 * MiB))

        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                disk.content += bytes(512)
                return super().put(name, data)

        with pytest.raises(errors.DiskChanged, match='size'):
            requests.run(disk, Store())


class TestCancel:
    @pytest.mark.parametrize('when', ['pack-000001', 'pack-000004', 'index'])
    def test_it_ends_soon_and_commits_nothing(self, when):
        stop = executor.Stop()

        class Store(memory_store.MemoryStore):
            def put(self, name, data):
                if name.endswith(when):
                    stop.set()
                return super().put(name, data)

        store = Store()
        disk = memory_disk.MemoryDisk(disks.random_bytes(8 * MiB))
        with pytest.raises(errors.Cancelled):
            requests.run(disk, store, stop, pack_size=MiB)
        assert 'report' not in {
            info.name.removeprefix(requests.PREFIX) for info in store.list('')
        }


class TestMemory:
    """The bound holds, measured from outside."""

    # Large enough for the bound to be of use, small enough for a test.
    SIZE = 640 * MiB

    @pytest.fixture(scope='class')
    def image(self, tmp_path_factory):
        """Random, sparse, and everything in between."""
        path = tmp_path_factory.mktemp('memory') / 'disk'
        with open(path, 'wb') as file:
            file.truncate(self.SIZE)
            for number in range(0, self.SIZE // MiB, 2):
                share = number % 5 * 200 * 1024
                file.seek(number * MiB)
                file.write(disks.random_bytes(MiB - share, seed=number))
        return path

    def run(self, image, *options):
        found = subprocess.run(
            [
                *(sys.executable, '-m', 'tests.contract.capture_process'),
                *(str(image), *options),
            ],
            check=True,
            capture_output=True,
        )
        return json.loads(found.stdout)

    @pytest.mark.parametrize(
        'options',
        [
            ['--workers=2', '--delay=0.3'],
            ['--workers=8', '--delay=0.1', '--pack-size=16777216'],
            ['--workers=2', f'--memory-limit={64 * MiB}'],
            ['--workers=2', '--delay=0.3', '--pack-size=16777216',
             '--cluster-size=2097152', '--codec=zlib'],
        ],
    )
    def test_peak_is_below_the_bound(self, image, options):
        found = self.run(image, *options)
        taken = found['peak'] - found['baseline']
        assert taken <= found['bound']
        # The bound is of use only if it is not far above.
        assert found['bound'] - taken < 112 * MiB
        # A heartbeat thread gets its turn all the time.
        assert found['late_heartbeat_s'] < 2


class TestMetadata:
    """Flat memory, and little time, for many clusters."""

    CLUSTERS = 500_000
    # What four million are allowed: 10 s, and 200 MB while they are read.
    SHARE = CLUSTERS / 4_000_000

    def test_time_and_memory(self):
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'tests.benchmark.metadata'),
                *(str(self.CLUSTERS), '--stretch', '1'),
            ],
            check=True,
            capture_output=True,
        )
        found = json.loads(done.stdout)
        assert found['gathered'] <= 200 * MiB * self.SHARE + MiB
        bound = budget.GATHERED_PER_CLUSTER + budget.ENCODING_PER_CLUSTER
        assert found['most'] <= self.CLUSTERS * bound + 12 * MiB
        assert found['writing'] <= 10 * self.SHARE

    def test_those_of_a_parent(self):
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'tests.benchmark.metadata'),
                *(str(self.CLUSTERS), 'shared'),
            ],
            check=True,
            capture_output=True,
        )
        found = json.loads(done.stdout)
        # Nothing is new: of what is gathered there is no digest, and of its
        # places in the table only that they are empty.
        bound = budget.SHARED_PER_CLUSTER + budget.GATHERED_PER_CLUSTER - 32
        assert found['gathered'] <= self.CLUSTERS * bound + 4 * MiB
        assert found['most'] <= (
            self.CLUSTERS * (bound + budget.ENCODING_PER_CLUSTER) + 12 * MiB
        )
        assert found['gathering'] <= 4 * self.SHARE
        assert found['writing'] <= 10 * self.SHARE


class TestPreflight:
    """A store that is closed to us is noticed before the disk is read."""

    class UnreadDisk(memory_disk.MemoryDisk):
        def read_into(self, offset, buffer):
            raise AssertionError('the disk was read')

    def test_an_expired_grant(self, target):
        disk = self.UnreadDisk(bytes(MiB))
        with pytest.raises(errors.GrantExpired):
            requests.run(disk, target.grant_store(lifetime_s=-3600))

    def test_a_wrong_key(self, target):
        target.url = target.url.replace('snapshots-', 'others-')
        disk = self.UnreadDisk(bytes(MiB))
        with pytest.raises(errors.AccessDenied):
            requests.run(disk, target.grant_store())
