# SPDX-License-Identifier: Apache-2.0
"""Which system a disk holds, on real file systems that are not mounted."""

import os
import random

import pytest

from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.survey import os_release
from ipa_snapshot_hardware.survey import survey
from tests.contract import filesystems

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason='mounting file systems needs root')

MIB = 1 << 20
SIZES = {'ext2': 8 * MIB, 'ext4': 32 * MIB, 'xfs': 330 * MIB,
         'btrfs': 120 * MIB}
GPT = 'label: gpt\n,,\n'
DEBIAN = 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n'
MACHINE = manifest.SystemRecord(
    architecture='x86_64', firmware='uefi', secure_boot=True)


def write_linked(root, text):
    """As distributions have it."""
    (root / 'usr/lib').mkdir(parents=True)
    (root / 'usr/lib/os-release').write_text(text)
    (root / 'etc').mkdir()
    (root / 'etc/os-release').symlink_to('../usr/lib/os-release')


def write_plain(root, text):
    """As an administrator may have it, who has the last word."""
    (root / 'usr/lib').mkdir(parents=True)
    (root / 'usr/lib/os-release').write_text('ID=vendor\n')
    (root / 'etc').mkdir()
    (root / 'etc/os-release').write_text(text)


def make(folder, kind, write=write_linked, text=DEBIAN, script=GPT,
         partitions=(1,)):
    """Make a disk with a system in some of its partitions."""
    path = filesystems.create(
        folder / 'disk', SIZES[kind] * len(partitions) + 4 * MIB)
    found = filesystems.partition(path, script)
    for number in partitions:
        with filesystems.loop(path, *found[number]) as device:
            filesystems.run(*filesystems.MKFS[kind], device)
            with filesystems.mounted(device, folder / 'root', kind) as root:
                write(root, text if isinstance(text, str)
                      else text[number - 1])
    return path


def describe(path, all_blocks=False):
    """Describe a disk; nothing may have changed."""
    before = filesystems.digest(path)
    with block.BlockDisk(path) as disk:
        found = survey.survey(
            disk, all_blocks=all_blocks, skip_gaps=False)
        system = os_release.describe(
            disk, found.regions, lambda: None, MACHINE)
    assert filesystems.digest(path) == before
    assert (system.architecture, system.firmware, system.secure_boot) == (
        'x86_64', 'uefi', True)
    return system.distro, system.version


@pytest.mark.parametrize('write', [write_linked, write_plain])
@pytest.mark.parametrize('kind', ['ext2', 'ext4', 'xfs'])
def test_a_system_is_known_by_its_os_release(tmp_path, kind, write):
    assert describe(make(tmp_path, kind, write)) == ('debian', '12')


@pytest.mark.parametrize(('kind', 'all_blocks'), [
    pytest.param('btrfs', False, id='no program reads it unmounted'),
    pytest.param('ext4', True, id='no program is asked')])
def test_what_is_not_looked_into_is_not_known(tmp_path, kind, all_blocks):
    assert describe(make(tmp_path, kind), all_blocks) == ('', '')


@pytest.mark.parametrize('kind', ['ext4', 'xfs'])
@pytest.mark.parametrize(('text', 'found'), [
    pytest.param('ID=debian\nVERSION_ID="1 2; rm -rf /"\n', ('debian', ''),
                 id='more than a word'),
    pytest.param(f'ID={"x" * 65}\nVERSION_ID=1\n', ('', ''), id='long'),
    pytest.param(f'ID=debian\n#{"x" * os_release.MAX_SIZE}\n', ('', ''),
                 id='large'),
    pytest.param('', ('', ''), id='empty')])
def test_only_words_of_a_small_file_are_taken(tmp_path, kind, text, found):
    assert describe(make(tmp_path, kind, text=text)) == found


def write_folder(root, text):
    (root / 'etc/os-release').mkdir(parents=True)


def write_device(root, text):
    (root / 'etc').mkdir()
    os.mkfifo(root / 'etc/os-release')
    os.symlink('/usr', root / 'usr')


def write_link_of_links(root, text):
    (root / 'etc').symlink_to('/usr')
    (root / 'usr').symlink_to('/etc')


@pytest.mark.parametrize('kind', ['ext4', 'xfs'])
@pytest.mark.parametrize('write', [
    write_folder, write_device, write_link_of_links])
def test_what_is_no_file_says_nothing(tmp_path, kind, write):
    assert describe(make(tmp_path, kind, write)) == ('', '')


@pytest.mark.parametrize(('texts', 'found'), [
    pytest.param((DEBIAN, DEBIAN), ('debian', '12'), id='twice'),
    pytest.param((DEBIAN, 'ID=fedora\n'), ('', ''), id='two'),
    pytest.param((DEBIAN, 'none'), ('debian', '12'), id='beside data')])
def test_two_systems_are_none(tmp_path, texts, found):
    path = make(tmp_path, 'ext4', text=texts, partitions=(1, 2),
                script='label: gpt\n,32M\n,32M\n')
    assert describe(path) == found


def test_a_disk_without_partitions(tmp_path):
    path = filesystems.create(tmp_path / 'disk', SIZES['ext4'])
    with filesystems.loop(path) as device:
        filesystems.run(*filesystems.MKFS['ext4'], device)
        with filesystems.mounted(device, tmp_path / 'root', 'ext4') as root:
            write_linked(root, DEBIAN)
    assert describe(path) == ('debian', '12')


@pytest.mark.parametrize('kind', ['ext4', 'xfs'])
@pytest.mark.parametrize('seed', range(3))
def test_a_damaged_file_system_says_nothing_or_words(tmp_path, kind, seed):
    """Whatever the programs make of it, a survey does not fail."""
    path = make(tmp_path, kind)
    with open(path, 'r+b') as file:
        file.seek(MIB + 4096)
        file.write(random.Random(seed).randbytes(2 * MIB))
    for each in describe(path):
        assert manifest.is_fact(each)
