# SPDX-License-Identifier: Apache-2.0
"""Snapshots back on a disk, or on another: real Ironic, ramdisk and Swift.

The tests share a node with those of snapshots, and go on from their end.
"""
import hashlib
import subprocess

import pytest

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import layout
from ironic_snapshot_core import units
from tests.functional import test_snapshot
from tests.functional.lab import ironic
from tests.functional.lab import machine
from tests.functional.lab import process

# An interrupted restore boots the ramdisk twice.
pytestmark = pytest.mark.timeout(900)

# Without its kernel no system starts.
REMOVE_KERNEL = 'rm /boot/vmlinuz-*; echo stray > /srv/stray; sync'

# Removing files leaves their blocks as they are, writing into them does not.
# None of these file systems is one of this machine's.
DRIVERS = 'cd /usr/lib/modules/*/kernel/fs && find . -size +400k'
OVERWRITE_DRIVERS = (
    f'{DRIVERS} | while read each; do '
    'head -c $(stat -c %s $each) /dev/urandom > /run/noise && '
    'dd if=/run/noise of=$each bs=1M conv=notrunc status=none; '
    'done; rm /run/noise; sync')
SHOW_DRIVERS = f'{DRIVERS} | sort | xargs cat | md5sum'

# Data, an identity, and a root file system that takes all of any disk, as
# that of cloud images does.
DATA = b'somebody\n' * units.MiB
BECOME_SOMEBODY = (
    f'yes somebody | head -n {units.MiB} > /srv/data; '
    'mkdir -p /etc/ssh /etc/repart.d; '
    'echo secret > /etc/ssh/ssh_host_ed25519_key; '
    'printf "[Partition]\\nType=linux-generic\\n" '
    '> /etc/repart.d/50-root.conf; '
    'sed -i "s| / ext4 defaults | / ext4 defaults,x-systemd.growfs |" '
    '/etc/fstab; sync')
ROOT_BYTES = 'df --output=size -B1 / | tail -n 1'

# Long enough for the power to fail meanwhile.
STALL_S = 5
MARKER = b'ironic-snapshot: restore of '
SECTOR = 512
BOOT_SIGNATURE = b'\x55\xaa'
# Sectors of the second partition table.
BACKUP = 33
# What UEFI says when it has found nothing to start.
NOTHING_TO_BOOT = 'No bootable option or device|UEFI Interactive Shell'


@pytest.fixture
def golden(lab, node):
    """A snapshot of the node from when all was well."""
    found = _named(lab, node, 'golden')
    if found is None:   # the tests are run without those of snapshots
        found = _take(lab, node, name='golden')
    return found


def _named(lab, node, name):
    """The snapshot of this name, or None."""
    if 'snapshot' not in node.show()['driver_internal_info']:
        return None     # there is no container yet
    found = [
        entry.manifest for entry in catalogue.entries(
            lab.store(), lab.manifest_key.encode(),
            layout.node_prefix(node.uuid))
        if entry.manifest.name == name]
    return found[0] if found else None


def _take(lab, node, **arguments):
    since = node.console.mark()
    node.snapshot(**arguments)
    node.wait('active')
    node.console.wait_up(since)
    return _named(lab, node, arguments['name'])


def _record(node):
    return node.show()['driver_internal_info']['restore']


def _start(node):
    """Sector 0 of its disk."""
    with node.disk_path.open('rb') as disk:
        return disk.read(SECTOR)


def _assert_repaired(node, since):
    """It has started by itself, and is what it was."""
    node.console.wait_up(since)
    assert node.shell('ls /boot/vmlinuz-* | wc -l').strip() == '1'
    assert 'stray' not in node.shell('ls /srv')
    shown = node.show()
    assert not shown['maintenance']
    assert not shown['maintenance_reason']


def _assert_unbootable(lab, node):
    """Neither sector 0 nor the second partition table is one."""
    with node.disk_path.open('rb') as disk:
        disk.seek(node.machine.disk_bytes - BACKUP * SECTOR)
        end = disk.read()
    assert _start(node).startswith(MARKER)
    assert not _start(node).endswith(BOOT_SIGNATURE)
    assert end == bytes(len(end))
    with lab.boot_image(node.disk_path, 'second', uefi=True) as second:
        second.console.wait(NOTHING_TO_BOOT)
        assert not test_snapshot.boots(second, 0)


def test_rollback(lab, node, golden):
    """What was deleted is there, what was added is not; the rest of the disk
    is not even written.
    """
    node.shell(REMOVE_KERNEL)
    since = node.console.mark()
    node.restore('golden')
    node.wait('active')
    _assert_repaired(node, since)

    record = _record(node)
    assert record['status'] == 'restored'
    assert record['snapshot'] == golden.id
    totals = record['result']['totals']
    assert totals['compared_bytes'] >= node.machine.disk_bytes
    assert 0 < totals['written_bytes'] <= 1.05 * totals['differing_bytes']
    assert totals['written_bytes'] < golden.totals.data_bytes / 2
    assert totals['fetched_bytes'] < golden.totals.data_bytes / 4
    # Nobody asked it for its identity.
    assert record['result']['identity'] == 'keep'
    assert not record['result']['reset']


def test_power_fails_in_the_middle(lab, node, golden):
    """The disk boots nowhere, the node is held, and who runs the restore once
    more gets what he wanted. The snapshot that was taken before stays.
    """
    drivers = node.shell(SHOW_DRIVERS)
    node.shell(BECOME_SOMEBODY)
    node.shell(OVERWRITE_DRIVERS)
    lab.proxy.rule(method='GET', match='/pack-', delay=STALL_S)
    node.restore('golden', before_restore='somebody')
    # Both ends of the disk are looked at before anything is written.
    test_snapshot.wait_for_request(lab, node, 'GET', '/pack-')
    process.wait_until(lambda: _start(node).startswith(MARKER),
                       'the first write')
    lab.bmc.cut_power(node.name)
    lab.ironic.kill()
    lab.proxy.clear()
    lab.ironic.set_options(ironic.IMPATIENT)
    lab.ironic.start()
    _assert_unbootable(lab, node)
    with pytest.raises(process.LabError):
        node.wait('active')
    # The state comes first, then the reason.
    process.wait_until(
        lambda: 'Timeout reached' in _record(node).get('reason', ''),
        'the reason')
    shown = node.show()
    assert shown['provision_state'] == 'service failed'
    assert 'the disk is not bootable' in shown['maintenance_reason']
    assert not shown['maintenance']

    lab.ironic.set_options({})
    lab.ironic.restart()
    since = node.console.mark()
    node.restore('golden')
    node.wait('active')
    _assert_repaired(node, since)
    assert node.shell(SHOW_DRIVERS) == drivers
    assert 'data' not in node.shell('ls /srv')
    # Since the rollback the disk was the restored snapshot's child.
    assert _named(lab, node, 'somebody').parent == golden.id


def test_clone_onto_a_larger_disk(lab, node):
    """Another machine goes on from there as somebody else."""
    source = _named(lab, node, 'somebody')
    if source is None:   # it is run alone
        node.shell(BECOME_SOMEBODY)
        source = _take(lab, node, name='somebody')
    clone = lab.node('node-1')
    clone.enroll()
    clone.deploy(snapshot=source.id)

    assert clone.shell('md5sum < /srv/data').split()[0] == hashlib.md5(
        DATA).hexdigest()
    assert clone.shell('cat /etc/machine-id') != node.shell(
        'cat /etc/machine-id')
    assert clone.shell('ls /etc/ssh') == ''
    # Its root has grown by what the disk is larger, and by what was free.
    assert int(clone.shell(ROOT_BYTES)) > 1.1 * machine.DISK_BYTES
    subprocess.run(['sgdisk', '--verify', clone.disk_path], check=True)
    record = _record(clone)
    assert record['result']['verb'] == 'clone'
    reset = ' '.join(record['result']['reset'])
    assert 'machine-id' in reset
    assert 'SSH host keys' in reset
    assert [info.name for info in lab.store().list('v1/')
            if '/leases/' in info.name] == []
    # The source has noticed nothing.
    assert _named(lab, node, 'somebody') == source
    assert node.show()['provision_state'] == 'active'
