# SPDX-License-Identifier: Apache-2.0
"""The identity of systems that real tools have installed on real disks.

Every test looks at all files of all file systems before and after: what is
not of the identity must be the same. Logical volumes need the kernel's
device mapper and are in tests/functional/test_identity_reset.py.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from ironic_snapshot_core import errors
from ipa_snapshot_hardware.system_identity import reset
from tests import disks
from tests.contract import filesystems

MIB = 1 << 20

pytestmark = disks.needs_loop

#: What a system holds, by path; a folder where the path ends so.
IDENTITY = {
    'etc/machine-id': b'0123456789abcdef0123456789abcdef\n',
    'etc/ssh/ssh_host_rsa_key': b'private',
    'etc/ssh/ssh_host_rsa_key.pub': b'public',
    'etc/ssh/ssh_host_rsa_key-cert.pub': b'certified',
    'etc/udev/rules.d/70-persistent-net.rules': b'SUBSYSTEM=="net"',
    'var/lib/cloud/instances/i-1/user-data.txt': b'#cloud-config',
    'var/lib/cloud/instances/i-1/sem/config_ssh': b'',
    'var/lib/cloud/data/instance-id': b'i-1\n',
    'var/lib/cloud/sem/config_scripts': b'',
    'var/lib/dhcp/dhclient.eth0.leases': b'lease {}',
    'var/lib/dhclient/dhclient--eth0.lease': b'lease {}',
    'var/lib/NetworkManager/internal-1-eth0.lease': b'ADDRESS=',
    'var/lib/NetworkManager/secret_key': b'nm-v2:',
    'var/lib/systemd/random-seed': b'r' * 512,
}
KEPT = {
    'etc/fstab': b'# nothing\n',
    'etc/hostname': b'source\n',
    'etc/os-release': b'ID=debian\n',
    'etc/passwd': b'root:x:0:0::/root:/bin/sh\n',
    'etc/ssh/sshd_config': b'Port 22\n',
    'etc/ssh/ssh_config': b'Host *\n',
    'etc/udev/rules.d/80-mine.rules': b'#',
    'var/lib/cloud/seed/nocloud/meta-data': b'instance-id: x\n',
    'var/lib/cloud/scripts/per-boot/mine.sh': b'#!/bin/sh\n',
    'var/lib/dhcp/dhcpd.leases': b'lease 10.0.0.1 {}',
    'var/lib/NetworkManager/timestamps': b'[timestamps]',
    'var/lib/systemd/catalog': b'catalog',
    'home/user/notes': b'kept ' * 5000,
}
FOUND = (
    'machine-id, SSH host keys (3), cloud-init state (4), random seed, '
    'names of network interfaces, DHCP leases (3), NetworkManager secret key'
)
MACHINE_ID = 'etc/machine-id'


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def install(folder, fstab=KEPT['etc/fstab']):
    """Install a system in a folder."""
    write(folder, {**IDENTITY, **KEPT, 'etc/fstab': fstab})
    (folder / 'var/lib/cloud/instance').symlink_to('instances/i-1')
    (folder / 'var/lib/dbus').mkdir()
    (folder / 'var/lib/dbus/machine-id').symlink_to('/etc/machine-id')


def expected(before):
    """Give what is left of the files of a system."""
    gone = [name for name in IDENTITY if name != MACHINE_ID]
    gone += ['var/lib/cloud/instance']
    gone += [
        f'var/lib/cloud/{name}' for name in
        ('instances', 'instances/i-1', 'instances/i-1/sem', 'data', 'sem')
    ]
    after = {
        name: found for name, found in before.items() if name not in gone
    }
    if MACHINE_ID in after:
        mode, _ = before[MACHINE_ID]
        after[MACHINE_ID] = (mode, hashlib.sha256().hexdigest())
    return after


@dataclasses.dataclass
class Disk:
    """A disk's file with partitions, by number: (start, length)."""

    path: pathlib.Path
    folder: pathlib.Path
    partitions: dict[int, tuple[int, int]]
    sector_size: int = 512

    def part(self, number):
        return filesystems.loop(
            self.path, *self.partitions[number], self.sector_size)

    def make(self, number, kind, *options):
        with self.part(number) as device:
            command = filesystems.MKFS.get(kind, (f'mkfs.{kind}',))
            filesystems.run(*command, *options, device)

    @contextlib.contextmanager
    def mounted(self, number, kind, options='defaults'):
        with self.part(number) as device, filesystems.mounted(
                device, self.folder / 'mounted', kind, options) as folder:
            yield folder

    def tree(self, number, kind, options='defaults'):
        with self.mounted(number, kind, options) as folder:
            return filesystems.tree(folder)

    def property(self, number, tag):
        with self.part(number) as device:
            return filesystems.run(
                'blkid', '--probe', '--match-tag', tag, '--output', 'value',
                device).strip()

    def reset(self, **options):
        """Reset as the agent does, and check that nothing is left behind."""
        descriptors = os.listdir('/proc/self/fd')
        with disks.loop_device(self.path, self.sector_size) as device:
            try:
                found = reset.reset(device, **options)
            finally:
                node = device.removeprefix('/dev/')
                # Nobody has the disk or a partition of it any more.
                for path in ('', *(f'p{each}' for each in self.partitions)):
                    if os.path.exists(device + path):
                        os.close(os.open(
                            device + path, os.O_RDWR | os.O_EXCL))
                assert device not in pathlib.Path(
                    '/proc/self/mountinfo').read_text()
                assert len(os.listdir('/proc/self/fd')) == len(descriptors)
        assert not filesystems.run('losetup', '--associated', self.path)
        return [str(each).replace(node, 'disk') for each in found]

    def refuse(self, text):
        """Reset, which must fail with a reason that contains a text."""
        with pytest.raises(errors.IdentityNotReset) as raised:
            self.reset()
        assert text in str(raised.value)
        return str(raised.value)


@pytest.fixture
def make_disk(tmp_path):
    def make(*sizes, sector_size=512, label='gpt'):
        path = filesystems.create(
            tmp_path / 'disk', (sum(sizes) + 8) * MIB)
        script = f'label: {label}\n' + ''.join(
            f'size={size}MiB\n' for size in sizes)
        return Disk(path, tmp_path, filesystems.partition(
            path, script, sector_size), sector_size)
    return make


@pytest.fixture
def root_disk(make_disk):
    """A small disk with a system on its only partition, an ext4."""
    disk = make_disk(16)
    disk.make(1, 'ext4')
    with disk.mounted(1, 'ext4') as folder:
        install(folder)
    return disk


@pytest.mark.parametrize(('kind', 'size', 'sector_size', 'label'), [
    ('ext4', 16, 512, 'gpt'), ('ext4', 16, 4096, 'gpt'),
    ('ext3', 16, 512, 'dos'), ('xfs', 320, 512, 'gpt'),
    ('btrfs', 120, 512, 'gpt')])
def test_root(make_disk, kind, size, sector_size, label):
    disk = make_disk(size, 8, sector_size=sector_size, label=label)
    disk.make(1, kind)
    disk.make(2, 'ext4')
    with disk.mounted(2, 'ext4') as folder:
        write(folder, {'etc/machine-id': b'no system', 'lib/cloud/sem/x': b''})
    data = disk.tree(2, 'ext4')
    with disk.mounted(1, kind) as folder:
        install(folder)
        before = filesystems.tree(folder)
    assert disk.reset() == [f'diskp1 {kind}: {FOUND}']
    assert disk.tree(1, kind) == expected(before)
    assert disk.tree(2, 'ext4') == data
    # Once more, as after an interruption.
    assert disk.reset() == [f'diskp1 {kind}: nothing left']
    assert disk.tree(1, kind) == expected(before)
    with disk.part(1) as device:
        filesystems.run(*filesystems.CHECK[kind], device)


def test_disk_without_partitions(tmp_path):
    disk = Disk(filesystems.create(tmp_path / 'disk', 16 * MIB), tmp_path,
                {1: (0, 16 * MIB)})
    disk.make(1, 'ext4')
    with disk.mounted(1, 'ext4') as folder:
        install(folder)
    assert disk.reset() == [f'disk ext4: {FOUND}']


@pytest.mark.parametrize('kind', ['ext4', 'xfs'])
def test_journal_is_replayed(make_disk, kind):
    disk = make_disk(320)
    disk.make(1, kind)
    with disk.mounted(1, kind) as folder:
        install(folder)
        filesystems.flush(folder)
        # As after a power cut.
        filesystems.run('mv', folder / 'home', folder / 'moved')
        if kind == 'xfs':
            filesystems.run('xfs_io', '-x', '-c', 'shutdown -f', folder)
        else:
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            copy = filesystems.copy(disk.path, disk.folder / 'copy')
    if kind == 'ext4':
        copy.replace(disk.path)
    assert disk.reset() == [f'diskp1 {kind}: {FOUND}']
    assert 'moved/user/notes' in disk.tree(1, kind)


def test_btrfs_subvolumes(make_disk):
    """As Ubuntu and openSUSE lay them out, with snapshots of each."""
    disk = make_disk(200)
    disk.make(1, 'btrfs')
    btrfs = ('btrfs', 'subvolume')
    with disk.mounted(1, 'btrfs') as folder:
        filesystems.run(*btrfs, 'create', folder / '@')
        uuid = disk.property(1, 'UUID')
        install(folder / '@', f'UUID={uuid} / btrfs subvol=@ 0 0\n'.encode())
        filesystems.run(
            *btrfs, 'snapshot', '-r', folder / '@', folder / '@before')
        filesystems.run(*btrfs, 'create', folder / '@suse')
        filesystems.run(*btrfs, 'create', folder / '@suse/var')
        fstab = f'UUID={uuid} /var btrfs subvol=/@suse/var 0 0\n'
        install(folder / 'installed', fstab.encode())
        filesystems.run(
            'cp', '-aT', folder / 'installed/var', folder / '@suse/var')
        shutil.rmtree(folder / 'installed/var')
        (folder / 'installed/var').mkdir()
        (folder / 'deep').mkdir()
        filesystems.run(*btrfs, 'create', folder / 'deep/root')
        filesystems.run(
            'cp', '-aT', folder / 'installed', folder / 'deep/root')
        shutil.rmtree(folder / 'installed')
        filesystems.run(*btrfs, 'set-default', folder / 'deep/root')
    top = 'subvolid=5'
    before = disk.tree(1, 'btrfs', top)
    assert disk.reset() == [
        f'diskp1 btrfs: {FOUND}', f'diskp1 btrfs @: {FOUND}']
    after = disk.tree(1, 'btrfs', top)
    for place in ('@', '@before', 'deep/root', '@suse'):
        def below(files, place=place):
            return {name.removeprefix(f'{place}/'): found
                    for name, found in files.items()
                    if name.startswith(f'{place}/')}
        assert below(before)
        wanted = below(before)
        assert below(after) == (
            wanted if place == '@before' else expected(wanted)), place


@pytest.mark.parametrize('source', [
    'UUID={UUID}', 'LABEL=variable', 'PARTUUID={PART_ENTRY_UUID}',
    '/dev/disk/by-uuid/{UUID}', '/dev/sda2'])
def test_separate_var(make_disk, source):
    disk = make_disk(16, 16)
    disk.make(1, 'ext4')
    disk.make(2, 'ext4', '-L', 'variable')
    if '{' in source:
        tag = source[source.index('{') + 1:-1]
        with disks.loop_device(disk.path) as device:
            filesystems.run('partx', '--update', device)
            source = source.format(**{tag: filesystems.run(
                'blkid', '--probe', '--match-tag', tag, '--output', 'value',
                f'{device}p2').strip()})
    fstab = f'/dev/sda1 / ext4\n{source} /var ext4\ntmpfs /tmp tmpfs\n'
    with disk.mounted(1, 'ext4') as folder:
        install(folder, fstab.encode())
        installed = filesystems.tree(folder)
        var = disk.folder / 'var'
        filesystems.run('cp', '-a', folder / 'var', var)
        shutil.rmtree(folder / 'var')
        (folder / 'var').mkdir()
    with disk.mounted(2, 'ext4') as folder:
        filesystems.run('cp', '-aT', var, folder)
    assert disk.reset() == [f'diskp1 ext4: {FOUND}']
    after = disk.tree(1, 'ext4')
    after.update((f'var/{name}', found)
                 for name, found in disk.tree(2, 'ext4').items())
    assert after == expected(installed)


@pytest.mark.parametrize(('line', 'reason'), [
    ('/dev/mapper/crypt /var ext4', '/var is on /dev/mapper/crypt'),
    ('/dev/sdb1 /var ext4', '/var is on /dev/sdb1'),
    ('UUID=1234 /var/lib xfs', '/var/lib is on UUID=1234'),
    ('/srv/var /var none bind', '/var is on /srv/var'),
    ('/dev/sda9 /var/lib/cloud/instances ext4',
     '/var/lib/cloud/instances is a file system of its own')])
def test_place_that_is_not_on_the_disk(root_disk, line, reason):
    with root_disk.mounted(1, 'ext4') as folder:
        (folder / 'etc/fstab').write_text(f'/dev/sda1 / ext4\n{line}\n')
        before = filesystems.tree(folder)
    root_disk.refuse(reason)
    assert root_disk.tree(1, 'ext4') == before


def test_places_that_do_not_matter(root_disk):
    with root_disk.mounted(1, 'ext4') as folder:
        (folder / 'etc/fstab').write_text(
            '/dev/sdb1 /home xfs\n/dev/sda9 /boot/efi vfat\n'
            'server:/var /srv nfs\n/dev/sda8 none swap\n'
            'tmpfs /var/lib/dhcp tmpfs\n/swap none swap sw 0 0\n')
    [account] = root_disk.reset()
    assert account == f'diskp1 ext4: {FOUND}'.replace('leases (3)',
                                                   'leases (2)')


#: What is done to a system, and why it is then refused; the place that links
#: lead to is outside of it.
ATTACKS = {
    'machine-id': ('etc/machine-id', 'machine-id is no regular file'),
    'host key': ('etc/ssh/ssh_host_rsa_key', 'ssh_host_rsa_key is no'),
    'ssh': ('etc/ssh', '/etc/ssh is a symbolic link'),
    'cloud': ('var/lib/cloud', '/var/lib/cloud is a symbolic link'),
    'library': ('var/lib', '/var/lib is a symbolic link'),
    'dbus': ('var/lib/dbus/machine-id', '/var/lib/dbus: machine-id is no'),
    'seed': ('var/lib/systemd/random-seed', 'random-seed is no regular'),
    'rules': ('etc/udev/rules.d/70-persistent-net.rules', '70-persistent'),
    'table': ('etc/fstab', 'fstab is no regular file'),
}


@pytest.mark.parametrize('way', ['absolute', 'relative'])
@pytest.mark.parametrize(('name', 'reason'), ATTACKS.values(),
                         ids=ATTACKS.keys())
def test_links_are_not_followed(root_disk, tmp_path, name, reason, way):
    """Not to what is outside, nor to what is in the same file system."""
    outside = tmp_path / 'outside'
    install(outside)
    target = outside / name
    with root_disk.mounted(1, 'ext4') as folder:
        install(folder / 'inside')
        if way == 'relative':
            target = '../' * name.count('/') + 'inside/' + name
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        path.symlink_to(target)
    elsewhere = filesystems.tree(outside)
    root_disk.refuse(reason)
    assert filesystems.tree(outside) == elsewhere
    with root_disk.mounted(1, 'ext4') as folder:
        assert (folder / name).is_symlink()
        assert filesystems.tree(folder / 'inside') == elsewhere


def test_root_whose_folder_is_a_link(root_disk, tmp_path):
    install(tmp_path / 'outside')
    elsewhere = filesystems.tree(tmp_path / 'outside')
    with root_disk.mounted(1, 'ext4') as folder:
        shutil.rmtree(folder / 'etc')
        (folder / 'etc').symlink_to(tmp_path / 'outside/etc')
    root_disk.refuse('no Linux system was found')
    assert filesystems.tree(tmp_path / 'outside') == elsewhere


def test_links_below_what_is_removed(root_disk, tmp_path):
    install(tmp_path / 'outside')
    elsewhere = filesystems.tree(tmp_path / 'outside')
    with root_disk.mounted(1, 'ext4') as folder:
        before = filesystems.tree(folder)
        instances = folder / 'var/lib/cloud/instances'
        (instances / 'out').symlink_to(tmp_path / 'outside')
        (instances / 'up').symlink_to('../../../../home')
        (folder / 'var/lib/dhclient/etc').symlink_to('/etc')
        os.mkfifo(instances / 'pipe')
        os.mknod(instances / 'null', 0o20666, os.makedev(1, 3))
    assert len(root_disk.reset()) == 1
    assert filesystems.tree(tmp_path / 'outside') == elsewhere
    assert root_disk.tree(1, 'ext4') == expected(before)


@pytest.mark.parametrize('name', [MACHINE_ID, 'var/lib/systemd/random-seed'])
@pytest.mark.parametrize('make', [
    os.mkfifo, os.mkdir,
    lambda path: os.mknod(path, 0o60666, os.makedev(7, 0)),
], ids=['pipe', 'folder', 'device'])
def test_what_should_be_a_file(root_disk, name, make):
    with root_disk.mounted(1, 'ext4') as folder:
        (folder / name).unlink()
        make(folder / name)
    root_disk.refuse(f'{name.rsplit("/")[-1]} is no regular file')
    # All else is reset, so that once more suffices.
    left = root_disk.tree(1, 'ext4')
    assert not [each for each in left if 'ssh_host' in each]


def test_folder_that_is_too_deep(root_disk):
    with root_disk.mounted(1, 'ext4') as folder:
        deep = folder / 'var/lib/cloud/instances' / '/'.join('d' * 80)
        deep.mkdir(parents=True)
    root_disk.refuse('/var/lib/cloud: d is too deep to remove')


def test_file_that_cannot_be_changed(root_disk):
    with root_disk.mounted(1, 'ext4') as folder:
        filesystems.run('chattr', '+i', folder / MACHINE_ID)
    root_disk.refuse('/etc/machine-id: Operation not permitted')


def test_reasons_are_all_named_up_to_a_limit(root_disk):
    with root_disk.mounted(1, 'ext4') as folder:
        for name in [each for each, _ in ATTACKS.values()
                     if each not in ('etc/fstab', 'etc/ssh', 'var/lib',
                                     'var/lib/cloud')]:
            (folder / name).unlink()
            (folder / name).mkdir()
        (folder / 'var/lib/NetworkManager/secret_key').unlink()
        (folder / 'var/lib/NetworkManager/secret_key').mkdir()
    assert root_disk.refuse('/etc: machine-id is').count(' is no ') == 5
    assert 'and 1 more' in root_disk.refuse('/etc: machine-id is')


def test_no_system_that_could_be_reset(make_disk):
    disk = make_disk(24, 24, 8)
    disk.make(1, 'ntfs')
    with disk.part(2) as device:
        filesystems.run('cryptsetup', 'luksFormat', '--batch-mode', '--type',
                        'luks1', '--pbkdf-force-iterations', '1000', device,
                        input='secret')
    disk.make(3, 'ext4')
    text = disk.refuse('(there is: crypto_LUKS, ext4, ntfs)')
    assert 'identity "keep"' in text


def test_empty_disk(tmp_path):
    disk = Disk(filesystems.create(tmp_path / 'disk', MIB), tmp_path, {})
    disk.refuse('nothing known')


def test_file_system_that_cannot_be_mounted(root_disk):
    start, _ = root_disk.partitions[1]
    with open(root_disk.path, 'r+b') as file:
        # The group descriptors, next to the superblock.
        file.seek(start + 2048)
        file.write(b'\xff' * 64)
    root_disk.refuse('cannot be mounted: ')


def test_journal_on_another_device(make_disk):
    disk = make_disk(16, 16)
    with disk.part(2) as journal:
        filesystems.run('mke2fs', '-q', '-F', '-O', 'journal_dev', '-b',
                        '4096', journal)
        disk.make(1, 'ext4', '-b', '4096', '-J', f'device={journal}')
    disk.refuse('is on another device')


def test_btrfs_on_two_devices(make_disk):
    disk = make_disk(120, 120)
    with disk.part(2) as second:
        disk.make(1, 'btrfs', second)
        filesystems.run('btrfs', 'device', 'scan', '--forget')
    disk.refuse('is on 2 devices')


@pytest.fixture
def boot_disk(make_disk):
    """A disk with an EFI system partition and a config drive."""
    disk = make_disk(16, 4, 4)
    disk.make(1, 'ext4')
    with disk.mounted(1, 'ext4') as folder:
        install(folder)
    with disk.part(2) as device:
        filesystems.run('mkfs.vfat', device)
        for name in ('EFI', 'loader'):
            filesystems.run('mmd', '-i', device, f'::/{name}')
        for name in ('EFI/kept', 'loader/loader.conf', 'loader/random-seed'):
            filesystems.run('mcopy', '-i', device, __file__, f'::/{name}')
    return disk


def files_of_fat(disk, number):
    with disk.part(number) as device:
        listed = filesystems.run('mdir', '-/', '-b', '-i', device).split()
        return {
            name: filesystems.run('mtype', '-i', device, name)
            for name in listed if not name.endswith('/')}


def test_seed_of_the_boot_loader(boot_disk):
    before = files_of_fat(boot_disk, 2)
    assert boot_disk.reset() == [
        f'diskp1 ext4: {FOUND}', 'diskp2 vfat: random seed']
    after = files_of_fat(boot_disk, 2)
    assert set(before) - set(after) == {'::/loader/random-seed'}
    assert all(before[name] == after[name] for name in after)
    assert len(after) == 2
    assert boot_disk.reset() == ['diskp1 ext4: nothing left']


@pytest.mark.parametrize('follows', [False, True])
@pytest.mark.parametrize('kind', ['iso9660', 'vfat'])
def test_config_drive(boot_disk, kind, follows):
    secret = b'the password of the source'
    drive = boot_disk.folder / 'drive/openstack'
    drive.mkdir(parents=True)
    (drive / 'user_data').write_bytes(secret)
    with boot_disk.part(3) as device:
        if kind == 'vfat':
            filesystems.run('mkfs.vfat', '-n', 'CONFIG-2', device)
            filesystems.run('mcopy', '-s', '-i', device, drive, '::')
        else:
            filesystems.run('genisoimage', '-quiet', '-R', '-V', 'config-2',
                            '-o', device, drive.parent)
    data = boot_disk.path.read_bytes()
    start, length = boot_disk.partitions[3]
    assert secret in data[start:start + length]
    assert boot_disk.reset(config_drive_follows=follows)[-1] == (
        f'diskp3 {kind}: config drive')
    left = boot_disk.path.read_bytes()
    if follows:
        # Where ironic-python-agent looks for it.
        assert boot_disk.property(3, 'LABEL') == 'CONFIG-2'
        with boot_disk.part(3) as device:
            filesystems.run('fsck.vfat', '-n', device)
        assert secret not in left[start:start + length]
    else:
        assert left[start:start + length] == bytes(length)
    assert left[start + length:] == data[start + length:]


MOUNT = '''
import sys
from ipa_snapshot_hardware.system_identity import mount
with mount.mounted(sys.argv[1], 'ext4'):
    print('mounted', flush=True)
    sys.stdin.read()
'''


def test_mount_ends_with_its_process(root_disk):
    with root_disk.part(1) as device:
        with subprocess.Popen(
                [sys.executable, '-c', MOUNT, device],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b'mounted\n'
            assert device not in pathlib.Path(
                f'/proc/{process.pid}/mountinfo').read_text()
            with pytest.raises(OSError, match='busy'):
                os.open(device, os.O_RDWR | os.O_EXCL)
            process.send_signal(signal.SIGKILL)
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))


@pytest.mark.skipif(not shutil.which('lvm'), reason='lvm2 is not installed')
def test_volume_group_that_is_not_all_on_the_disk(make_disk, tmp_path):
    disk = make_disk(32)
    other = filesystems.create(tmp_path / 'other', 32 * MIB)
    with disk.part(1) as one, filesystems.loop(other) as two:
        config = (
            f'devices {{ filter=["a|^{one}$|", "a|^{two}$|", "r|.*|"] '
            'use_devicesfile=0 obtain_device_list_from_udev=0 } '
            'activation { udev_sync=0 udev_rules=0 monitoring=0 } '
            'backup { backup=0 archive=0 }')
        for command in (('pvcreate', '-y', one), ('pvcreate', '-y', two),
                        ('vgcreate', 'vg', one, two)):
            subprocess.run(
                ['lvm', *command, '--config', config, '--driverloaded', 'n'],
                check=True, capture_output=True)
    disk.refuse('the volume group vg is not complete on this disk')
