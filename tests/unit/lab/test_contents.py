# SPDX-License-Identifier: Apache-2.0
"""Comparing the files of two disks, without mounting them."""

import os
import shutil
import subprocess

import pytest

from tests.functional.lab import contents
from tests.functional.lab import process
from tests.functional.lab.build import osimage

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(
        map(shutil.which, ('debugfs', 'mke2fs', 'mcopy', 'sfdisk'))),
    reason='needs e2fsprogs, mtools, sfdisk, and root to restore owners')

MIB = 1 << 20
ESP_MIB, ROOT_MIB = 4, 16


def make_disk(path, files):
    """Make a disk with the partitions of a system."""
    with path.open('wb') as disk:
        disk.truncate((ESP_MIB + ROOT_MIB + 2) * MIB)
    subprocess.run(
        ['sfdisk', '--quiet', path], check=True, text=True,
        input=f'label: gpt\nsize={ESP_MIB}MiB, type={osimage.TYPE_ESP}\n'
              f'size={ROOT_MIB}MiB, type={osimage.TYPE_LINUX}\n')
    esp = f'{path}@@{MIB}'
    subprocess.run(['mformat', '-i', esp, '-T', str(ESP_MIB * 2048), '::'],
                   check=True)
    subprocess.run(['mmd', '-i', esp, '::/EFI'], check=True)
    subprocess.run(
        ['mke2fs', '-q', '-t', 'ext4', '-N', '2048', '-d', files, '-E',
         f'offset={(ESP_MIB + 1) * MIB}', path, f'{ROOT_MIB}M'], check=True)
    return path


@pytest.fixture
def files(tmp_path):
    """As many files as a system has at least, and some of other kinds."""
    folder = tmp_path / 'files'
    folder.mkdir()
    for number in range(contents.FEWEST_FILES):
        (folder / f'{number}').write_text(f'number {number}')
        os.utime(folder / f'{number}', (1, 1))
    (folder / 'link').symlink_to('1')
    (folder / 'folder').mkdir()
    return folder


def test_the_same_files_on_another_disk(tmp_path, files):
    one = make_disk(tmp_path / 'one.raw', files)
    other = make_disk(tmp_path / 'other.raw', files)
    assert one.read_bytes() != other.read_bytes()
    found = contents.files(one, tmp_path / 'scratch')
    assert {'root/7', 'root/link', 'root/folder', 'esp/EFI'} <= found.keys()
    assert contents.differences(
        found, contents.files(other, tmp_path / 'scratch')) == []
    assert not (tmp_path / 'scratch').exists()


def test_every_kind_of_difference(tmp_path, files):
    before = contents.files(
        make_disk(tmp_path / 'one.raw', files), tmp_path / 'scratch')
    (files / '1').write_text('number 3')
    os.utime(files / '1', (1, 1))
    (files / '2').chmod(0o600)
    os.chown(files / '3', 5, os.getgid())
    os.utime(files / '4', (2, 2))
    (files / '5').unlink()
    (files / 'link').unlink()
    (files / 'link').symlink_to('2')
    (files / 'folder').rename(files / 'new')
    after = contents.files(
        make_disk(tmp_path / 'one.raw', files), tmp_path / 'scratch')
    assert contents.differences(before, after) == [
        'root/1', 'root/2', 'root/3', 'root/4', 'root/5', 'root/folder',
        'root/link', 'root/new']


def test_a_damaged_file_system(tmp_path, files):
    disk = make_disk(tmp_path / 'disk.raw', files)
    with disk.open('r+b') as file:
        # Inside the table of inodes.
        file.seek((ESP_MIB + 1) * MIB + 128 * 1024)
        file.write(b'\xa5' * 4096)
    with pytest.raises(process.LabError, match='e2fsck'):
        contents.files(disk, tmp_path / 'scratch')
