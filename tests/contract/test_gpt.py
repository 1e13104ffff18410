# SPDX-License-Identifier: Apache-2.0
"""Moved partition tables, as those see them who know them best."""

import shutil
import subprocess

import pytest

from ironic_snapshot_core import gpt
from ironic_snapshot_core.units import MiB

SIZE = 16 * MiB

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ('fdisk', 'sfdisk', 'sgdisk'))),
    reason='fdisk, sfdisk and sgdisk are needed')


def fdisk(path, sector, *commands):
    """Give what it prints, remarks included."""
    return subprocess.run(
        ['fdisk', f'--sector-size={sector}', path], check=True,
        input='\n'.join([*commands, '']).encode(), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=30).stdout.decode()


def table(path, sector):
    """Give partitions and identifiers, without what tells of the size."""
    return [line for line in fdisk(path, sector, 'p', 'q').splitlines()
            if line.startswith((str(path), 'Disk identifier'))]


@pytest.mark.parametrize('sector', [512, 4096])
@pytest.mark.parametrize('new_size', [
    SIZE, SIZE + MiB, 100 * SIZE, SIZE * 3 // 4])
def test_a_moved_table_is_sound(tmp_path, sector, new_size):
    path = tmp_path / 'disk'
    with open(path, 'wb') as file:
        file.truncate(SIZE)
    # The last partition ends at 9 MiB.
    fdisk(path, sector, 'g', 'n', '1', str(2 * MiB // sector), '+3M',
          'n', '7', '', '+4M', 'w')
    before = table(path, sector)
    with open(path, 'r+b') as file:
        start = file.read(MiB)
        start = start[:gpt.size_needed(start, sector)]
        assert gpt.last_used(start, sector) == 9 * MiB
        made = gpt.relocate(start, SIZE, new_size, sector)
        file.truncate(new_size)
        file.seek(0)
        file.write(made.primary)
        file.seek(made.backup_offset)
        file.write(made.backup)
    checked = fdisk(path, sector, 'v', 'q')
    assert 'No errors detected' in checked
    assert 'will be corrected' not in checked
    assert 'not on the end' not in checked
    assert len(before) == 3
    assert table(path, sector) == before
    if sector == 512:
        # These take a file for a disk of such sectors.
        found = subprocess.run(
            ['sgdisk', '--verify', path], check=True, capture_output=True)
        assert b'No problems found' in found.stdout
        found = subprocess.run(
            ['sfdisk', '--verify', path], check=True, capture_output=True)
        assert b'No errors detected' in found.stdout
        assert not found.stderr
