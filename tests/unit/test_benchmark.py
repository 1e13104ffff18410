# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmark that need no minutes."""

import dataclasses
import errno
import functools
import http.server
import json
import pathlib
import random
import shutil
import sqlite3
import subprocess
import threading

import pytest

from ironic_snapshot_core.store import directory
from tests import handmade
from tests.benchmark import bars
from tests.benchmark import content
from tests.benchmark import disks
from tests.benchmark import filetree
from tests.benchmark import limits
from tests.benchmark import measure
from tests.benchmark import metadata
from tests.benchmark import peers
from tests.benchmark import restores
from tests.benchmark import results
from tests.benchmark import rollback
from tests.benchmark import rounds
from tests.benchmark import tables
from tests.functional.lab import paths
from tests.functional.lab import process

MIB = 1 << 20

needs_time = pytest.mark.skipif(
    not shutil.which('time'), reason='GNU time is not installed')


def series(program, walls, *, disk='root', kind='peer', compresses=False,
           stored=None, peak=10 * MIB):
    return results.Series(
        disk, program, program, kind, compresses,
        samples=[measure.Sample(wall, wall * 2, peak, stored)
                 for wall in walls])


def found_of(*all_series, **facts):
    return results.Results(
        '2026-01-02T03:04:05+00:00', {'processor': '2 cores'},
        {'borg': 'borg 1'}, {'rounds': 3, 'scale': 1.0, 'cold': False},
        {name: {'virtual': 4 << 30, 'allocated': 3 << 30}
         for name in ('root', 'changed', 'unchanged', 'restored', 'small',
                      'empty')},
        list(all_series), facts)


def judged(found):
    return {bar.text: bar for bar in bars.evaluate(found)}


class TestResults:

    def test_median_and_spread(self):
        tested = series('borg', [3.0, 1.0, 8.0], stored=5)
        assert tested.wall == 3.0
        assert tested.spread == (1.0, 8.0)
        assert tested.cpu == 6.0
        assert tested.stored == 5

    def test_peak_is_that_of_the_worst_run(self):
        tested = series('borg', [1.0], peak=7)
        tested.samples.append(measure.Sample(1.0, 1.0, 9))
        assert tested.peak == 9

    def test_fastest_peer_is_one_that_compresses(self):
        found = found_of(
            series('plain', [1.0]), series('borg', [4.0], compresses=True),
            series('zstd', [3.0], compresses=True),
            series('zstd', [2.0], compresses=True, disk='aged'),
            series('none', [], compresses=True))
        assert found.fastest_peer('root').wall == 3.0
        assert found.fastest_peer('empty') is None

    def test_json_is_read_back(self):
        found = found_of(series('borg', [1.0, 2.0], stored=3), help_seconds=1)
        text = json.dumps(found.to_dict() | {'bars': []})
        assert json.loads(text)['series'][0]['median']['wall'] == 1.5
        assert results.from_dict(json.loads(text)) == found

    def test_other_versions_are_refused(self):
        with pytest.raises(ValueError, match='version 1'):
            results.from_dict(found_of().to_dict() | {'version': 2})


class TestBars:

    def test_without_figures_there_is_none(self):
        assert bars.evaluate(found_of()) == []

    @pytest.mark.parametrize('ours,met', [(4.5, True), (4.6, False)])
    def test_against_the_fastest_peer(self, ours, met):
        found = found_of(series('ours', [ours], kind='ours'),
                         series('borg', [10.0], compresses=True),
                         series('dd', [20.0], compresses=True))
        bar, = (bar for text, bar in judged(found).items()
                if 'fastest compressing peer' in text)
        assert bar.met is met
        assert bar.value == pytest.approx(ours / 10)
        assert 'borg: 10.00 s' in bar.detail

    @pytest.mark.parametrize('size,met', [(103, True), (104, False)])
    def test_stored_bytes(self, size, met):
        found = found_of(series('ours', [1.0], kind='ours', stored=size),
                         series('qemu-zstd', [1.0], stored=100))
        assert judged(found)['stored bytes, of qemu-img -c zstd'].met is met

    @pytest.mark.parametrize('wall,met', [(2.5, True), (2.6, False)])
    def test_against_memory(self, wall, met):
        """More is better here, unlike in all the others."""
        found = found_of(series('ours-null', [wall], kind='ours'),
                         series('compress', [2.0], kind='limit'))
        bar, = (bar for text, bar in judged(found).items()
                if 'digest + compress' in text)
        assert bar.met is met

    @pytest.mark.parametrize('null,put,met', [
        (4.0, 1.0, True), (1.0, 4.0, True), (3.0, 3.9, False)])
    def test_swift_is_judged_by_the_slower(self, null, put, met):
        found = found_of(series('ours-swift', [5.0], kind='ours'),
                         series('ours-null', [null], kind='ours'),
                         series('put', [put], kind='limit'))
        bar, = (bar for text, bar in judged(found).items()
                if 'into Swift' in text)
        assert bar.met is met
        assert 'processors' not in bar.detail

    def test_swift_shares_the_cores(self):
        found = found_of(
            series('ours-swift', [5.0], kind='ours'),       # 10 s of processor
            series('ours-null', [3.0], kind='ours'),
            series('put', [1.0], kind='limit'),
            swift_cpu_seconds=2.5, cores=2)
        bar, = (bar for text, bar in judged(found).items()
                if 'into Swift' in text)
        assert bar.detail == (
            '5.00 s; 3.00 s; 1.00 s; processors alone: 6.25 s')
        assert bar.limit == 1.25

    @pytest.mark.parametrize('wall,met', [(5.0, True), (5.1, False)])
    def test_swift_over_a_line(self, wall, met):
        found = found_of(series('ours-swift-line', [wall], kind='ours'),
                         series('put-line', [4.0], kind='limit'))
        bar, = (bar for text, bar in judged(found).items()
                if '1 Gbit/s' in text)
        assert bar.met is met

    def judged_day(self, of, *all_series, **facts):
        bar, = (bar for text, bar in judged(found_of(
            *all_series, **facts)).items()
            if text.startswith('a day later') and of in text)
        return bar

    @pytest.mark.parametrize('size,met', [(1500, True), (1501, False)])
    def test_uploaded_after_a_day(self, size, met):
        bar = self.judged_day(
            'uploaded', series('ours-day', [1.0], kind='ours', stored=size,
                               disk='changed'),
            series('changes', [1.0], kind='limit', stored=1000,
                   disk='changed'), changed_clusters=10)
        assert bar.met is met
        assert '10 clusters' in bar.detail

    @pytest.mark.parametrize('borg,restic,met', [
        (10.0, 9.9, False), (9.9, 10.0, False), (10.0, 10.0, True),
        (None, 10.0, True), (9.9, None, False)])
    def test_the_faster_second_run_counts(self, borg, restic, met):
        others = [series(f'{name}-day', [wall], disk='changed')
                  for name, wall in (('borg', borg), ('restic', restic))
                  if wall]
        bar = self.judged_day(
            'second runs',
            series('ours-day', [6.0], kind='ours', disk='changed'), *others)
        assert bar.met is met

    @pytest.mark.parametrize('full,met', [(4.0, True), (3.9, False)])
    def test_a_day_against_a_full_capture(self, full, met):
        bar = self.judged_day(
            'full', series('ours', [full], kind='ours'),
            series('ours-day', [2.0], kind='ours', disk='changed'))
        assert bar.met is met

    @pytest.mark.parametrize('size,wall,met', [
        (64 << 10, 1.3, [True, True]), ((64 << 10) + 1, 1.31, [False] * 2)])
    def test_an_unchanged_disk(self, size, wall, met):
        found = found_of(
            series('ours-unchanged', [wall], kind='ours', stored=size,
                   disk='unchanged'),
            series('read-hash', [1.0], kind='limit', disk='unchanged'),
            read_hash_program_seconds=1.25)
        bars = [bar for text, bar in judged(found).items()
                if text.startswith('an unchanged disk')]
        assert [bar.met for bar in bars] == met
        assert bars[-1].detail == (
            f'{wall:.2f} s; limit 1.00 s, its program as a whole 1.25 s')

    @pytest.mark.parametrize('empty,met', [(3.0, True), (3.1, False)])
    def test_mostly_empty_disk(self, empty, met):
        found = found_of(
            series('ours', [empty], kind='ours', disk='empty'),
            series('ours', [2.0], kind='ours', disk='small'))
        bar, = (bar for text, bar in judged(found).items()
                if 'mostly empty' in text)
        assert bar.met is met

    def test_memory_of_ours_alone_counts(self):
        found = found_of(series('ours', [1.0], kind='ours', peak=300 * MIB),
                         series('restic', [1.0], peak=900 * MIB),
                         memory_bound_root=200 * MIB)
        bar = judged(found)['peak memory, 4 GiB disk, MiB']
        assert (bar.value, bar.met) == (300, True)
        bar = judged(found)['peak memory, 4 GiB disk, of the stated formula']
        assert (bar.value, bar.met) == (1.5, False)

    def test_memory_of_each_state_of_a_disk_counts(self):
        found = found_of(
            series('ours', [1.0], kind='ours', peak=200 * MIB),
            series('ours-day', [1.0], kind='ours', peak=401 * MIB,
                   disk='changed'),
            memory_bound_root=100 * MIB, memory_bound_changed=401 * MIB)
        bar = judged(found)['peak memory, 4 GiB disk, MiB']
        assert (bar.value, bar.met) == (401, False)
        bar = judged(found)['peak memory, 4 GiB disk, of the stated formula']
        assert (bar.value, bar.detail) == (2, 'formula: 100, 401 MiB')

    @pytest.mark.parametrize('empty,met', [(110, True), (112, False)])
    def test_memory_does_not_grow_with_the_disk(self, empty, met):
        found = found_of(
            series('ours', [1.0], kind='ours', peak=100 * MIB),
            series('ours', [1.0], kind='ours', peak=empty * MIB,
                   disk='empty'))
        bar = judged(found)['peak memory: 1 TiB disk, of that of 4 GiB']
        assert bar.met is met

    def judged_restore(self, of, *all_series, **facts):
        bar, = (bar for text, bar in judged(found_of(*(
            dataclasses.replace(each, disk='restored')
            for each in all_series), **facts)).items() if of in text)
        return bar

    @pytest.mark.parametrize('borg,restic,met', [
        (10.0, 9.9, False), (9.9, 10.0, False), (10.0, 10.0, True),
        (None, 10.0, True), (9.9, None, False)])
    def test_the_faster_restore_counts(self, borg, restic, met):
        others = [series(f'{name}-restore', [wall])
                  for name, wall in (('borg', borg), ('restic', restic))
                  if wall]
        assert self.judged_restore(
            'restic restore', series('ours-restore', [6.0], kind='ours'),
            *others).met is met

    @pytest.mark.parametrize('wall,met', [(4.0, True), (4.1, False)])
    def test_a_restore_against_qemu(self, wall, met):
        assert self.judged_restore(
            'qemu-img', series('ours-restore', [wall], kind='ours'),
            series('qemu-restore', [4.0])).met is met

    @pytest.mark.parametrize('local,get,met', [
        (4.0, 1.0, True), (1.0, 4.0, True), (3.0, 3.9, False)])
    def test_a_restore_from_swift(self, local, get, met):
        assert self.judged_restore(
            'from Swift', series('ours-restore-swift', [5.0], kind='ours'),
            series('ours-restore', [local], kind='ours'),
            series('get', [get], kind='limit')).met is met

    @pytest.mark.parametrize('wall,met', [(5.0, True), (5.1, False)])
    def test_a_restore_over_a_line(self, wall, met):
        assert self.judged_restore(
            '1 Gbit/s', series('ours-restore-swift-line', [wall], kind='ours'),
            series('get-line', [4.0], kind='limit')).met is met

    @pytest.mark.parametrize('peak,met', [(100, True), (101, False)])
    @pytest.mark.parametrize('where', ['a directory', 'Swift'])
    def test_memory_of_all_restores_of_ours_counts(self, peak, met, where):
        program = {'Swift': 'ours-restore-swift'}.get(where, 'ours-rollback')
        bar = self.judged_restore(
            f'memory of a restore from {where}',
            series('ours-restore', [1.0], kind='ours'),
            series('ours-restore-swift-line', [1.0], kind='ours'),
            series(program, [1.0], kind='ours', peak=peak * MIB),
            series('restic-restore', [1.0], peak=900 * MIB),
            memory_bound_restored=100 * MIB,
            memory_bound_restored_swift=100 * MIB)
        assert (bar.value, bar.met) == (peak / 100, met)

    @pytest.mark.parametrize('wall,written,met', [
        (2.0, 1050, [True, True]), (2.1, 1051, [False, False])])
    def test_a_rollback(self, wall, written, met):
        series_of = [
            dataclasses.replace(series(name, [seconds], kind='ours'),
                                disk='restored')
            for name, seconds in (('ours-restore-slow', 10.0),
                                  ('ours-rollback', wall))]
        found = judged(found_of(
            *series_of, rollback_differing_bytes=1000,
            rollback_written_bytes=written, rollback_virtual_bytes=40_000))
        bars = [bar for text, bar in found.items() if 'rollback' in text]
        assert [bar.met for bar in bars] == met
        assert '2.5% of the disk differ' in bars[0].detail

    def test_facts(self):
        found = found_of(
            help_seconds=0.31, import_seconds=0.2, metadata_gathered=199e6,
            metadata_most=300e6, metadata_gathering=6.0, metadata_writing=5.0)
        assert [bar.met for bar in bars.evaluate(found)] == [
            False, True, True, False]


class TestTables:

    def tables_of(self):
        found = found_of(
            series('ours', [2.0, 3.0], kind='ours', stored=10_000_000),
            series('borg', [5.0], compresses=True, stored=20_000_000),
            series('read', [1.0], kind='limit'), help_seconds=0.4)
        return found, bars.evaluate(found)

    def test_terminal(self):
        lines = tables.text(*self.tables_of()).splitlines()
        borg, = (line for line in lines if line.startswith('  borg'))
        assert borg.split() == ['borg', '1', '5.00', '5.00-5.00', '10.00',
                                '10', '20', '2.00', '2.00']
        assert any(line.startswith('  MISSED') and '--help' in line
                   for line in lines)

    def test_documentation(self):
        text = tables.rst(*self.tables_of())
        cells = text.count(f'   * - {tables.HEADER[0]}\n'), text.count('* - ')
        # 2 facts; a header and 3 rows each.
        assert cells == (1, 2 + 4 + 4)
        assert '- **missed**' in text
        assert not [line for line in text.splitlines()
                    if line != line.rstrip()]

    def test_a_later_run_is_compared_with_ours_of_the_same_state(self):
        found = found_of(
            series('ours', [9.0], kind='ours'),
            series('ours-unchanged', [2.0], kind='ours', stored=30_000,
                   disk='unchanged'),
            series('borg-unchanged', [5.0], stored=60_000, disk='unchanged'))
        borg, = (line for line in tables.text(found, []).splitlines()
                 if line.startswith('  borg'))
        assert borg.split()[-3:] == ['0.060', '2.50', '2.00']

    def test_a_scaled_run_is_no_verdict(self):
        found, _ = self.tables_of()
        assert 'no verdict' not in tables.conditions(found)
        found.options['scale'] = 0.1
        assert 'no verdict' in tables.conditions(found)


class Copier(peers.Program):
    """Keeps the states of a disk beside each other."""

    name = 'copy'
    title = 'cp'
    incremental = True

    def __init__(self):
        self.seen = []

    def verify(self, disk, folder):
        return ' '.join(sorted(path.name for path in folder.iterdir()))

    def _stages(self, disk, folder, stack):
        self.seen.append((disk.raw, disk.raw.read_bytes()))
        return [['cp', str(disk.raw), str(folder / disk.name)]]


class CopyBack(restores.Restore):
    """Gets back what that has stored."""

    name = 'copy-restore'
    title = 'cp'
    of = 'copy'
    keeps_all = True

    def __init__(self, command):
        self._copy = command.split()

    def image(self, disk, out):
        return out / disk.name

    def _command(self, program, disk, folder, out):
        return [*self._copy, str(folder / disk.name), str(out)]


class TestRounds:

    @pytest.fixture
    def copier(self, monkeypatch, tmp_path):
        def build(name, scale):
            raw = tmp_path / name
            raw.write_bytes(name.encode())
            return disks.Disk(name, raw, 0, len(name), 'ext4')

        copier = Copier()
        monkeypatch.setattr(disks, 'build', build)
        monkeypatch.setattr(peers, 'peers', lambda: [copier])
        monkeypatch.setattr(peers, 'versions', dict)
        monkeypatch.setattr(
            rounds.Benchmark, '_measure_starts', lambda self: None)
        return copier

    @needs_time
    @pytest.mark.parametrize('only,contents', [
        ('copy', [b'root']),
        ('copy-day', [b'root', b'changed']),
        ('copy-unchanged', [b'root', b'changed', b'changed'])])
    @pytest.mark.parametrize('one_file_system', [True, False])
    def test_states_of_a_disk_come_one_after_another(
            self, copier, monkeypatch, tmp_path, only, contents,
            one_file_system):
        if not one_file_system:
            def refuse(path, target):
                raise OSError(errno.EXDEV, 'Invalid cross-device link')

            monkeypatch.setattr(pathlib.Path, 'hardlink_to', refuse)
        (tmp_path / 'scratch').mkdir()
        found = rounds.Benchmark(
            tmp_path / 'scratch', 2, 1, False, [only]).run()
        assert [content for _, content in copier.seen] == contents * 2
        assert len({path for path, _ in copier.seen}) == 1
        kept = ['root', 'changed root', 'changed root unchanged']
        assert [(each.disk, each.program, len(each.samples), each.stored,
                 each.verified) for each in found.series] == [
            (disk, f'copy{turn}', 2, len(content), verified)
            for (turn, disk), content, verified in zip(
                rounds.TURNS.items(), contents, kept, strict=False)]
        last = tmp_path / contents[-1].decode()
        assert last.stat().st_nlink == (2 if one_file_system else 1)

    def test_what_is_restored_has_to_be_stored(self):
        stored = {name for name in rounds.NAMES
                  if name not in restores.NEEDS}
        assert set(restores.NEEDS.values()) <= stored

    @needs_time
    @pytest.mark.parametrize('command', ['cp', 'cp --attributes-only'])
    def test_what_is_restored_is_compared(
            self, copier, monkeypatch, tmp_path, command):
        copy_back = CopyBack(command)
        monkeypatch.setattr(
            restores, 'of',
            lambda program: [copy_back] if program is copier else [])
        monkeypatch.setitem(restores.NEEDS, copy_back.name, copier.name)
        scratch = tmp_path / 'scratch'
        scratch.mkdir()
        benchmark = rounds.Benchmark(scratch, 2, 1, False, [copy_back.name])
        if command != 'cp':
            with pytest.raises(process.LabError, match='cmp'):
                benchmark.run()
            return
        found = benchmark.run()
        assert [(each.disk, each.program, len(each.samples), each.verified)
                for each in found.series] == [
            ('root', 'copy', 2, 'root'),
            ('restored', 'copy-restore', 2, 'every byte (cmp)')]

    def test_all_that_can_be_asked_for(self):
        assert {'ours', 'ours-day', 'ours-unchanged', 'borg-day',
                'restic-unchanged', 'dd', 'changes'} <= set(rounds.NAMES)
        assert not {'dd-day', 'ours-null-day'} & set(rounds.NAMES)
        assert len(rounds.NAMES) == len(set(rounds.NAMES))


class TestMeasure:

    def test_parse(self):
        assert measure.parse('1.50 0.25 2048\n') == (1.75, 2 * MIB)

    @needs_time
    def test_pipeline(self, tmp_path):
        sample, printed = measure.run(
            [['sh', '-c', 'sleep 0.2; echo found'], ['cat']])
        assert printed == 'found\n'
        assert 0.2 <= sample.wall < 20
        one, _ = measure.run([['cat']])
        assert sample.peak > one.peak > 100_000
        _, printed = measure.run([['echo', 'kept']], output=tmp_path / 'out')
        assert (printed, (tmp_path / 'out').read_text()) == ('', 'kept\n')

    @needs_time
    @pytest.mark.parametrize('stages', [
        [['sh', '-c', 'echo reason >&2; exit 3']],
        [['sh', '-c', 'echo reason >&2; exit 3'], ['cat']],
        [['true'], ['sh', '-c', 'echo reason >&2; exit 3']]])
    def test_any_program_may_fail(self, stages):
        with pytest.raises(process.LabError, match='with 3:\nreason'):
            measure.run(stages)

    @needs_time
    def test_what_takes_too_long_is_ended(self, monkeypatch, tmp_path):
        monkeypatch.setattr(measure, 'TIMEOUT_S', 1.0)
        with pytest.raises(subprocess.TimeoutExpired):
            measure.run([['sh', '-c', f'echo $$ > {tmp_path}/pid; sleep 60']])
        pid = int((tmp_path / 'pid').read_text())
        process.wait_until(lambda: process.has_ended(pid), 'its end', 5)

    @needs_time
    def test_processor_time_of_children(self):
        busy = 'n=0; while [ $n -lt 200000 ]; do n=$((n+1)); done'
        sample, _ = measure.run([['sh', '-c', f'sh -c "{busy}"; true'.replace(
            '$', r'\$')]])
        assert sample.cpu > 0.05

    def test_processor_time_of_running_processes(self):
        parent = subprocess.Popen(
            ['sh', '-c', 'while :; do :; done & cat; kill $!'],
            stdin=subprocess.PIPE)
        try:
            process.wait_until(
                lambda: measure.processor_seconds([parent.pid]) > 0.2,
                'its child to work', 20)
        finally:
            parent.communicate()
        assert measure.processor_seconds([parent.pid]) == 0

    def test_files_size(self, tmp_path):
        (tmp_path / 'folder').mkdir()
        (tmp_path / 'folder/one').write_bytes(bytes(10))
        with open(tmp_path / 'sparse', 'wb') as file:
            file.truncate(MIB)
        assert measure.files_size(tmp_path) == MIB + 10


class TestLimits:
    CLUSTER = 64 * 1024

    @pytest.fixture
    def image(self, tmp_path):
        """Clusters: text, zeros that are written, hole, noise, hole, end."""
        path = tmp_path / 'image'
        with open(path, 'wb') as file:
            file.write(b'text' * (self.CLUSTER // 4) + bytes(self.CLUSTER))
            file.seek(64 * self.CLUSTER)
            file.write(random.Random(1).randbytes(self.CLUSTER))
            file.truncate(128 * self.CLUSTER)
            file.seek(0, 2)
            file.write(b'end')
        return path

    def test_compress_takes_what_is_stored(self, image):
        told = limits.compress(image, self.CLUSTER, 2)
        assert (told['bytes'], told['clusters']) == (2 * self.CLUSTER + 3, 3)
        assert self.CLUSTER < told['stored'] < self.CLUSTER + 2000

    def test_read(self, image):
        told = limits.read(image, image, self.CLUSTER)
        assert told['bytes'] == 3 * self.CLUSTER + 3

    def test_read_hash_takes_every_cluster_once(self, image, monkeypatch):
        digest = limits.digests.DEFAULT_DIGEST
        seen = []
        monkeypatch.setattr(limits.digests, 'DEFAULT_DIGEST',
                            dataclasses.replace(digest, digest=lambda data: (
                                seen.append(digest.digest(data)))))
        told = limits.read_hash(image, image, self.CLUSTER, 2)
        assert told['bytes'] == 3 * self.CLUSTER + 3
        clusters = [b'text' * (self.CLUSTER // 4), bytes(self.CLUSTER),
                    random.Random(1).randbytes(self.CLUSTER), b'end']
        assert sorted(seen) == sorted(map(digest.digest, clusters))

    def test_changes_are_what_is_nowhere_in_the_earlier_image(
            self, image, tmp_path):
        after = tmp_path / 'after'
        with open(after, 'wb') as file:
            file.seek(3 * self.CLUSTER)
            file.write(b'text' * (self.CLUSTER // 4))       # has moved
            new = random.Random(2).randbytes(self.CLUSTER)
            file.write(new + bytes(self.CLUSTER) + new + b'other end')
        told = limits.changes(image, after, self.CLUSTER, 2)
        assert (told['clusters'], told['bytes'], told['stored']) == (
            2, self.CLUSTER + 9, self.CLUSTER + 9)
        told = limits.changes(image, image, self.CLUSTER, 2)
        assert (told['clusters'], told['stored']) == (0, 0)

    def test_get(self, tmp_path):
        for number in range(9):
            (tmp_path / f'pack-{number}').write_bytes(bytes(100_000 + number))
        handler = functools.partial(
            http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(
                ('127.0.0.1', 0), handler) as server:
            threading.Thread(target=server.serve_forever).start()
            try:
                url = f'http://127.0.0.1:{server.server_port}'
                names = [f'pack-{number}' for number in range(9)]
                told = limits.get(names, url, 'token')
                with pytest.raises(OSError, match='404'):
                    limits.get(['missing'], url, 'token')
            finally:
                server.shutdown()
        assert told['bytes'] == 9 * 100_000 + sum(range(9))

    def test_runs_are_whole_clusters_once_each(self, image):
        runs = list(limits.runs(image, 4 * self.CLUSTER))
        assert runs == [(0, 4 * self.CLUSTER),
                        (64 * self.CLUSTER, 68 * self.CLUSTER),
                        (128 * self.CLUSTER, 132 * self.CLUSTER)]


def test_a_rollback_is_paced_and_writes_what_differs(tmp_path, monkeypatch):
    paced = []
    monkeypatch.setattr(rollback.limit.RateLimit, 'take',
                        lambda self, size: paced.append(size))
    (tmp_path / 'repo').mkdir()
    store = directory.DirectoryStore(tmp_path / 'repo')
    content = random.Random(1).randbytes(8 * handmade.C) + bytes(handmade.C)
    snapshot = handmade.History(store).capture(content)
    path = tmp_path / 'disk.raw'
    told = rollback.run(str(tmp_path / 'repo'), snapshot.id, str(path))
    assert path.read_bytes() == content
    assert told['written_bytes'] == sum(paced) > 8 * handmade.C
    paced.clear()
    with open(path, 'r+b') as file:
        file.seek(5 * handmade.C)
        file.write(b'changed')
    told = rollback.run(str(tmp_path / 'repo'), snapshot.id, str(path))
    assert path.read_bytes() == content
    assert told['differing_clusters'] == 1
    assert handmade.C < told['written_bytes'] == sum(paced)


class TestChange:

    C = 4096

    @pytest.fixture
    def images(self, tmp_path):
        """200 clusters, of which every second changes."""
        content = random.Random(1).randbytes(200 * self.C)
        before, later = tmp_path / 'before', tmp_path / 'later'
        before.write_bytes(content)
        changed = bytearray(content)
        for start in range(0, 200 * self.C, 2 * self.C):
            changed[start] ^= 1
        later.write_bytes(changed)
        return before, later

    def different(self, one, other):
        one, other = one.read_bytes(), other.read_bytes()
        assert len(one) == len(other)
        return [start // self.C for start in range(0, len(one), self.C)
                if one[start:start + self.C] != other[start:start + self.C]]

    def test_so_much_changes_and_no_more(self, images, tmp_path):
        before, later = images
        image = tmp_path / 'image'
        image.write_bytes(before.read_bytes())
        rollback.change(image, later, self.C)
        changed = self.different(image, before)
        assert len(changed) == 6
        assert len(self.different(image, later)) == 94
        # In all parts of it.
        assert changed[0] < 34 and changed[-1] > 160

    def test_too_little_is_different(self, images):
        before, _ = images
        with pytest.raises(ValueError, match='0 clusters'):
            rollback.change(before, before, self.C)


@pytest.mark.parametrize('shared', [False, True])
def test_metadata(shared):
    told = metadata.measure(2000, shared)
    # Each new cluster has at least its digest in the index.
    assert (told['index_bytes'] > 2000 * 32) is not shared
    assert told['map_bytes'] > 0 and told['head_bytes'] > 0
    assert told['most'] >= told['gathered'] >= 0


class TestContent:

    @pytest.fixture
    def packages(self, tmp_path):
        root = tmp_path / 'packages'
        for number in range(50):
            folder = root / f'folder-{number % 7}'
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f'file-{number}').write_bytes(bytes(1000))
        return root

    def test_choose_has_the_size_and_is_stable(self, packages):
        names = content.choose(packages, 20_000)
        sizes = [(packages / name).stat().st_size for name in names
                 if (packages / name).is_file()]
        assert sum(sizes) == 20_000
        assert names == content.choose(packages, 20_000)
        for name in names:
            parent = str(pathlib.PurePath(name).parent)
            assert parent == '.' or names.index(parent) < names.index(name)

    def test_copy(self, packages, tmp_path):
        (packages / 'folder-1/file-1').chmod(0o4711)
        (packages / 'link').symlink_to('folder-1')
        (tmp_path / 'copy').mkdir()
        content.copy(packages, tmp_path / 'copy',
                     content.choose(packages, MIB))
        assert (filetree.hash_files(tmp_path / 'copy')
                != filetree.hash_files(tmp_path / 'packages/folder-1'))
        assert ((tmp_path / 'copy/folder-1/file-1').stat().st_mode & 0o7777
                == 0o4711)
        assert (tmp_path / 'copy/link').is_symlink()
        assert len(list((tmp_path / 'copy').rglob('file-*'))) == 50

    def test_files_are_those_of_the_seed(self):
        for make in (content.log_text, content.noise):
            made = [make(random.Random(seed), 100_000) for seed in (1, 1, 2)]
            assert made[0] == made[1] != made[2]
            assert len(made[0]) == 100_000

    def test_database_has_about_the_size(self, tmp_path):
        path = tmp_path / 'database'
        content.write_database(path, random.Random(1), 5_000_000)
        assert 4_000_000 < path.stat().st_size < 6_000_000
        with sqlite3.connect(path) as database:
            assert database.execute('PRAGMA quick_check').fetchone() == ('ok',)


    def test_a_day_leaves_links_alone(self, packages, tmp_path):
        (packages / 'link').symlink_to('folder-1/file-1')
        root = tmp_path / 'root'
        root.mkdir()
        content.copy(packages, root, content.choose(packages, MIB))
        (root / 'usr').mkdir()
        (root / 'usr/large').write_bytes(bytes(3 * MIB))
        content.write_files(root / 'srv/media-0', random.Random(1), MIB,
                            content.noise)
        content.write_files(root / 'var/log/old-0', random.Random(1), MIB,
                            content.log_text)
        content.write_database(root / 'var/lib/inventory.db',
                               random.Random(1), MIB)
        logs = measure.files_size(root / 'var/log')
        content.live_a_day(root, packages, 'seed')
        assert (root / 'link').is_symlink()
        assert 1.02 < measure.files_size(root / 'var/log') / logs < 1.06


class TestFileTree:

    @pytest.mark.parametrize('change', [
        lambda root: (root / 'a/file').write_bytes(b'other'),
        lambda root: (root / 'a/file').chmod(0o600),
        lambda root: (root / 'a/file').rename(root / 'a/another'),
        lambda root: (root / 'a/new').symlink_to('file'),
        lambda root: (root / 'b').mkdir()])
    def test_any_change_shows(self, tmp_path, change):
        (tmp_path / 'a').mkdir()
        (tmp_path / 'a/file').write_bytes(b'bytes')
        before = filetree.hash_files(tmp_path)
        assert before == filetree.hash_files(tmp_path)
        change(tmp_path)
        assert filetree.hash_files(tmp_path) != before


def test_profiles_of_system_packages():
    """Peers are installed for the benchmark alone."""
    names = {
        profile: subprocess.run(
            ['bash', '-c', '. tools/setup.sh; wanted_packages $0', profile],
            cwd=paths.REPOSITORY, check=True, capture_output=True,
            text=True).stdout.split()
        for profile in ('', 'benchmark')}
    assert 'qemu-utils' in names['']
    assert 'restic' not in names['']
    assert {*names[''], 'restic', 'borgbackup', 'time'} <= {
        *names['benchmark']}
