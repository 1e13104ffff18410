# SPDX-License-Identifier: Apache-2.0
"""What is captured."""

import pytest

from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_cli import source


def disk(start=b'', **options):
    return memory.MemoryDisk(start.ljust(512, b'\0'), **options)


def test_a_lineage_never_changes():
    """Or later snapshots of a disk would not find the earlier ones."""
    found = source.lineage(disk(serial='S1'))
    assert found.node == '3a1c3977-dd0d-5624-acca-87da503a209c'
    assert found.generation == '858340da-8fe8-530e-9459-2fb6f0b1fa13'


def test_a_disk_is_known_by_what_is_most_its_own():
    by_wwn = source.lineage(disk(wwn='W1', serial='S1', name='/dev/a'))
    assert by_wwn == source.lineage(disk(wwn='W1', name='/dev/b'))
    by_serial = source.lineage(disk(serial='S1', name='/dev/a'))
    assert by_serial == source.lineage(disk(serial='S1', name='/dev/b'))
    by_path = source.lineage(disk(name='/dev/a'))
    assert by_path == source.lineage(disk(name='/dev/../dev/a'))
    assert by_path != source.lineage(disk(name='/dev/b'))
    assert len({by_wwn, by_serial, by_path}) == 3


@pytest.mark.parametrize(
    'start, found',
    [
        (b'QFI\xfb\0\0\0\3', 'qcow2'),
        (b'KDMV', 'vmdk'),
        (b'vhdxfile', 'vhdx'),
        (b'\xeb\x63\x90', None),
        (b'', None),
    ],
)
def test_files_of_images_are_told_apart(tmp_path, start, found):
    path = tmp_path / 'disk'
    path.write_bytes(start)
    assert source.container_format(str(path)) == found


@pytest.mark.parametrize('path', ['/dev/zero', '/', '/nowhere'])
def test_only_files_are_looked_at(path):
    assert source.container_format(path) is None
