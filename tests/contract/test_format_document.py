# SPDX-License-Identifier: Apache-2.0
"""The reader of the documentation, written by the format alone."""
import pathlib
import subprocess
import sys
import uuid

from ipa_snapshot_hardware.request import CaptureRequest
from ironic_snapshot_core import layout
from ironic_snapshot_core.codec import get_codec
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.manifest import CaptureReport
from ironic_snapshot_core.manifest import ImageRecord
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.manifest import NodeRecord
from ironic_snapshot_core.store.directory import DirectoryStore
from ironic_snapshot_core.units import KiB, MiB
from tests import handmade
from tests.contract import node_disk

READER = (pathlib.Path(__file__).parents[2]
          / 'doc/source/examples/read_snapshot.py')


def test_reader_of_the_documentation(tmp_path):
    disk = tmp_path / 'disk.raw'
    node_disk.fill(disk, seed=3)
    lineage = layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4()))
    snapshot = str(uuid.uuid4())
    repository = tmp_path / 'repository'
    repository.mkdir()
    store = DirectoryStore(repository)
    node_disk.capture_into(store, disk, CaptureRequest(
        snapshot=snapshot, name='x', lineage=lineage, cluster_size=64 * KiB,
        codec=get_codec('zstd'), digest=DEFAULT_DIGEST, pack_size=MiB,
        workers=0, memory_limit=0))
    report = CaptureReport.from_bytes(store.get(
        layout.attempt_prefix(lineage, snapshot) + layout.REPORT, MiB))
    name = layout.manifest_name(lineage, snapshot)
    store.put(name, Manifest.from_report(
        report, lineage=lineage, sequence=1, name='x', description='',
        project=None, consistency='clean',
        node=NodeRecord(lineage.node, None, None),
        image=ImageRecord(layout.image_name(lineage, snapshot), MiB),
        started_at='2026-01-01T00:00:00Z',
        created_at='2026-01-01T00:00:01Z').to_bytes(None))
    assert read(repository, name, tmp_path) == disk.read_bytes()


def test_it_reads_snapshots_that_are_made_of_several_attempts(tmp_path):
    repository = tmp_path / 'repository'
    repository.mkdir()
    history = handmade.History(DirectoryStore(repository), clusters=3)
    made = None
    for number in range(3):
        disk = tmp_path / 'disk.raw'
        node_disk.fill(disk, seed=number // 2)
        data = bytearray(disk.read_bytes())
        data[number * MiB:number * MiB + 7] = b'changed'
        lineage = layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4()))
        made = history.capture(
            bytes(data), made, [(made.packs[0].attempt, made.packs[0].name)]
            if made else [], lineage)
        name = layout.manifest_name(lineage, made.id)
        assert read(repository, name, tmp_path) == data
    assert len(made.attempts) == 3
    assert any(each.spare for each in made.packs)


def read(repository, name, tmp_path):
    output = tmp_path / 'output.raw'
    subprocess.run([sys.executable, READER, repository, name, output],
                   check=True)
    return output.read_bytes()
