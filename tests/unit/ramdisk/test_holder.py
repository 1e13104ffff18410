# SPDX-License-Identifier: Apache-2.0
"""Who uses a disk, told from pictures of sysfs and procfs."""

import pathlib

import pytest

from ipa_snapshot_hardware.disk import holder


class Host:
    """A drawn host: disk sda (8:0) with partitions sda1 and sda2."""

    def __init__(self, root):
        self.sys = root / 'sys'
        self.proc = root / 'proc'
        self.write('sys/class/block/sda/dev', '8:0\n', root)
        for number in (1, 2):
            folder = f'sys/class/block/sda/sda{number}'
            self.write(f'{folder}/partition', f'{number}\n', root)
            flat = f'sys/class/block/sda{number}'
            self.write(f'{flat}/dev', f'8:{number}\n', root)
        self.write('proc/self/mountinfo', '', root)
        self.write(
            'proc/swaps', 'Filename\tType\tSize\tUsed\tPriority\n', root
        )
        self.root = root

    @staticmethod
    def write(name, text, root):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def add(self, name, text=''):
        self.write(name, text, self.root)

    def find(self, name='sda'):
        return holder.find_holders(name, self.sys, self.proc)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_a_disk_nobody_uses(host):
    assert host.find() == []


def test_a_mounted_partition(host):
    host.add(
        'proc/self/mountinfo',
        '21 1 0:20 / /proc rw - proc proc rw\n'
        '30 1 8:2 / /mnt/my\\040data rw shared:1 - ext4 /dev/sda2 rw\n',
    )
    assert host.find() == ['sda2 is mounted at /mnt/my data']


def test_a_mount_with_a_made_up_number_is_found_by_its_source(host):
    host.add(
        'proc/self/mountinfo',
        '30 1 0:41 / /mnt rw - btrfs /dev/sda1 rw,subvol=/\n',
    )
    assert host.find() == ['sda1 is mounted at /mnt']


def test_a_mount_of_another_disk_does_not_count(host):
    host.add(
        'proc/self/mountinfo',
        '30 1 8:16 / /mnt rw - ext4 /dev/sdb rw\n'
        '31 1 0:5 / /dev rw - devtmpfs dev rw\n',
    )
    assert host.find() == []


def test_swap(host):
    host.add(
        'proc/swaps',
        'Filename Type Size Used Priority\n/dev/sda2 partition 9 0 -2\n',
    )
    assert host.find() == ['sda2 is used as swap']


@pytest.mark.parametrize(
    ('uuid', 'kind'),
    [
        ('LVM-abc', 'LVM volume'),
        ('mpath-3600', 'multipath device'),
        ('CRYPT-LUKS2-x', 'encrypted volume'),
        ('', 'device-mapper device'),
    ],
)
def test_maps(host, uuid, kind):
    host.add('sys/class/block/sda1/holders/dm-0')
    host.add('sys/class/block/dm-0/dm/uuid', uuid)
    host.add('sys/class/block/dm-0/dm/name', 'vg-root')
    assert host.find() == [f'sda1 is held by {kind} dm-0 (vg-root)']


def test_an_array(host):
    host.add('sys/class/block/sda/holders/md127')
    host.add('sys/class/block/md127/md/sync_action', 'idle\n')
    assert host.find() == ['sda is held by RAID array md127']


def test_an_array_at_work(host):
    host.add('sys/class/block/md127/md/sync_action', 'resync\n')
    assert host.find('md127') == ['array md127 is busy with a resync']
    host.add('sys/class/block/md127/md/sync_action', 'idle\n')
    assert host.find('md127') == []


def test_a_loop_device_over_a_partition(host):
    host.add('sys/class/block/loop0/loop/backing_file', '/dev/sda2\n')
    host.add('sys/class/block/loop1/loop/backing_file', '/srv/sda2\n')
    assert host.find() == ['sda2 is held by loop device loop0']


def test_a_loop_device_over_a_file(host, tmp_path):
    image = tmp_path / 'disk.img'
    image.touch()
    host.add('sys/class/block/loop3/loop/backing_file', f'{image}\n')
    assert holder.find_loops_of(str(image), host.sys) == [
        'it is held by loop device loop3'
    ]
    other = str(tmp_path / 'other.img')
    assert holder.find_loops_of(other, host.sys) == []


def test_partitions_of_a_multipath_disk_are_no_holders(host):
    host.add('sys/class/block/dm-0/dev', '252:0')
    host.add('sys/class/block/dm-0/holders/dm-1')
    host.add('sys/class/block/dm-1/dev', '252:1')
    host.add('sys/class/block/dm-1/dm/uuid', 'part1-mpath-3600\n')
    assert holder.mapped_partitions('dm-0', host.sys) == ['dm-1']
    assert host.find('dm-0') == []
    host.add('sys/class/block/dm-1/holders/dm-2')
    host.add('sys/class/block/dm-2/dm/uuid', 'LVM-abc\n')
    assert host.find('dm-0') == ['dm-1 is held by LVM volume dm-2']


def test_the_root_file_system_of_this_host_is_found():
    devices = {
        line.split()[2]: line
        for line in pathlib.Path('/proc/self/mountinfo')
        .read_text()
        .splitlines()
        if line.split()[4] == '/'
    }
    (number,) = devices
    link = pathlib.Path('/sys/dev/block') / number
    if not link.exists():
        pytest.skip('the root file system is not on a block device here')
    name = link.resolve().name
    assert any(
        phrase.startswith(f'{name} is mounted at /')
        for phrase in holder.find_holders(name)
    )
