# SPDX-License-Identifier: Apache-2.0
"""Telling partition tables apart, from what sfdisk writes."""

import shutil
import subprocess

import pytest

from ipa_snapshot_hardware.disk import partition_table

needs_sfdisk = pytest.mark.skipif(
    not shutil.which('sfdisk'), reason='sfdisk is not installed'
)


@needs_sfdisk
@pytest.mark.parametrize('label', ['gpt', 'dos'])
def test_detects_what_sfdisk_writes(tmp_path, label):
    path = tmp_path / 'disk'
    with open(path, 'wb') as file:
        file.truncate(8 * 1024 * 1024)
    subprocess.run(
        ['sfdisk', '--quiet', path],
        input=f'label: {label}\n,1M\n'.encode(),
        check=True,
    )
    start = path.read_bytes()[: partition_table.size_needed(512)]
    assert partition_table.detect(start, 512) == label
    if label == 'dos':
        # sfdisk begins the first at 1 MiB.
        assert partition_table.dos_end(start, 512) == 2 * 1024 * 1024


def test_gpt_is_looked_for_in_the_second_sector():
    start = bytearray(4096 + 8)
    start[510:512] = b'\x55\xaa'
    start[4096:] = b'EFI PART'
    assert partition_table.detect(bytes(start), 4096) == 'gpt'
    assert partition_table.detect(bytes(start), 512) == 'dos'


@pytest.mark.parametrize(
    'start', [b'', bytes(511), bytes(4096), b'\xff' * 600]
)
def test_anything_else_has_none(start):
    assert partition_table.detect(start, 512) is None
