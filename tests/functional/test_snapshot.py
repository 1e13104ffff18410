# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a running machine: real Ironic, real ramdisk, real Swift.

The tests share one node and go on from each other's end, as operators do. The
fixture ``node`` begins and ends with it active and its own system running.
"""
import datetime
import itertools
import json
import mmap
import subprocess
import typing

import pytest

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import checkpoint
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units
from tests.functional.lab import contents
from tests.functional.lab import ironic
from tests.functional.lab import machine
from tests.functional.lab import process

# A capture of the lab's disk takes about 20 s on two cores; booting into the
# ramdisk and back about as long again, each.
pytestmark = pytest.mark.timeout(600)

# Long enough to do something while Swift keeps the agent waiting.
STALL_S = 20

# What the survey and the hints call, in the ramdisk.
PROGRAMS = ('blkid', 'debugfs', 'losetup', 'ntfscat', 'prlimit', 'sfdisk',
            'xfs_db', 'xfs_logprint', 'partclone.extfs', 'partclone.f2fs',
            'partclone.ntfs', 'partclone.vfat', 'partclone.xfs',
            'thin_check', 'thin_dump')
COUNT_PROGRAMS = (f'for each in {" ".join(PROGRAMS)}; do '
                  'ldd $(command -v $each); done | grep -c libc.so')

# What the second snapshot must not show any more, and what it must.
WRITE_FILES = ('mkdir -p /srv/state && echo as delivered > /srv/state/state '
               '&& cp -a /etc /srv/state/doomed; sync')
CHANGE_FILES = ('echo changed > /srv/state/state; rm -r /srv/state/doomed; '
                'head -c 4M /dev/urandom > /srv/state/new; sync')
SHOW_FILES = 'cd /srv/state; ls; cat state; md5sum < new'

# Put together by the shell, so that the text is nowhere but in the file.
DELETE_A_FILE = ('yes DELETED-$((6 * 7)) | head -c 32M > /srv/gone; sync; '
                 'rm /srv/gone; sync')
DELETED = b'DELETED-42'


class Snapshot:
    """What the node record and Swift say of the last snapshot."""

    def __init__(self, lab, node):
        self.store = lab.store()
        self._key = lab.manifest_key.encode()
        # None before the first, such as for a test that is run alone.
        self.record = node.show()['driver_internal_info'].get('snapshot', {})
        self.status = self.record.get('status')
        self.id = self.record.get('snapshot')
        if 'generation' in self.record:
            self.lineage = layout.Lineage(node.uuid,
                                          self.record['generation'])

    def manifests(self):
        return [info.name for info in self.store.list(
                    layout.snapshots_prefix(self.lineage))
                if info.name.endswith('/manifest')] if self.id else []

    def manifest(self):
        return catalogue.read(self.store, self.lineage, self.id, self._key)

    def stored(self, kind):
        """Names of the attempt's objects of a kind, such as ``pack-``."""
        return [info.name for info in self.store.list(
            layout.attempt_prefix(self.lineage, self.id) + kind)]

    def packs_of_checkpoints(self):
        """Names of the packs that a capture may go on behind."""
        names = set()
        for name in self.stored('checkpoint-'):
            found = checkpoint.decode(
                self.store.get(name, units.MiB), self.id)
            names.update(pack.name for pack in found.packs)
        return names

    def leases(self):
        return list(self.store.list(f'{self.lineage.prefix}leases/'))

    def download(self, path):
        """One GET of the image."""
        with path.open('wb') as file:
            file.writelines(self.store.iter_bytes(
                layout.image_name(self.lineage, self.id)))
        subprocess.run(['qemu-img', 'check', '-q', path], check=True)
        return path


def boots(node, since):
    return [int(match[1]) for match in node.console.find(
        r'SNAPSHOT-LAB up boot=(\d+)', since)]


def shutdowns(node, since):
    return node.console.find('SNAPSHOT-LAB down clean', since)


def boot_id(node):
    """Return what the node's system drew at random when it booted."""
    return node.shell('cat /proc/sys/kernel/random/boot_id').strip()


def wait_for_request(lab, node, method, match):
    """Wait for a request to Swift on the way to or in a capture."""
    def fail_early():
        shown = node.show()
        assert shown['provision_state'] != 'service failed', node.history()
    lab.proxy.wait_for(method, match, timeout=240, meanwhile=fail_early)


def holds(disk, text):
    """Tell whether the bytes are anywhere on a raw disk."""
    with disk.open('rb') as file, mmap.mmap(
            file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(text) >= 0


def progress(node):
    """Return how far the node says that the capture is."""
    info = node.show()['driver_internal_info']
    return info.get('snapshot', {}).get('progress')


class Beat(typing.NamedTuple):
    """A heartbeat: the interval the agent chose, and how late the next is."""

    interval_s: float
    late_s: float


def heartbeats(node, since):
    """Return the heartbeats of the agent, by its own log."""
    found = [(datetime.datetime.fromisoformat(match[1]), float(match[2]))
             for match in node.console.find(
                 r'^(\S+ [\d:.]+) .*next heartbeat, interval: ([\d.]+)',
                 since)]
    return [Beat(interval, (after - moment).total_seconds() - interval)
            for (moment, interval), (after, _) in itertools.pairwise(found)]


def assert_earlier_snapshots_are_whole(lab, node, before, tmp_path):
    """What was listed before is listed still, and reads as it did."""
    snapshot = Snapshot(lab, node)
    assert set(before) <= set(snapshot.manifests())
    for name in before:
        lineage, snapshot.id = layout.parse_manifest_name(name)
        snapshot.lineage = lineage
        snapshot.download(tmp_path / 'earlier.qcow2').unlink()


def test_driver_lists_the_deploy_interface(lab):
    shown = json.loads(lab.ironic.cli(
        'driver', 'show', 'redfish-snapshot', '-f', 'json'))
    interfaces = shown['enabled_deploy_interfaces']
    assert 'direct-snapshot' in interfaces
    assert 'custom-agent-snapshot' in interfaces


def test_main_job(lab, node, tmp_path):
    """The whole way: the image holds the system, it boots, and so does the
    node; what is not in use is not even read.
    """
    node.shell(DELETE_A_FILE)
    node.shell(WRITE_FILES)
    since = node.console.mark()
    # Swift answers late at two points, so that the disk can be looked at
    # while it lies offline: before the capture begins, and when it is over.
    lab.proxy.rule(method='PUT', match='/leases/', delay=STALL_S, times=1)
    lab.proxy.rule(method='PUT', match='/manifest$', delay=STALL_S)
    lab.ironic.cli('node', 'service', node.name, '--service-steps', json.dumps(
        [{'interface': 'deploy', 'step': 'snapshot',
          'args': {'name': 'golden'}}]))
    wait_for_request(lab, node, 'PUT', '/leases/')
    offline = tmp_path / 'offline.raw'
    machine.copy_sparse(node.disk_path, offline)
    assert int(node.shell(COUNT_PROGRAMS)) == len(PROGRAMS)
    # File systems in volumes are looked at through it.
    assert node.shell('losetup --find').startswith('/dev/loop')
    wait_for_request(lab, node, 'PUT', '/manifest$')
    after = node.disk_sha256()
    assert Snapshot(lab, node).status == 'running'
    node.wait('active')

    assert lab.sha256(offline) == after
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'committed'
    assert snapshot.record['shutdown'] == 'clean'
    assert snapshot.manifests() == [
        layout.manifest_name(snapshot.lineage, snapshot.id)]
    assert snapshot.leases() == []
    assert snapshot.stored('checkpoint-') == []
    image = snapshot.download(tmp_path / 'disk.qcow2')
    assert image.stat().st_size == snapshot.record['result']['image_bytes']

    raw = tmp_path / 'disk.raw'
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', image, raw],
                   check=True)
    assert contents.partitions(raw) == contents.partitions(offline)
    assert contents.differences(
        contents.files(offline, tmp_path / 'files'),
        contents.files(raw, tmp_path / 'files')) == []
    assert holds(offline, DELETED)
    assert not holds(raw, DELETED)
    raw.unlink()
    offline.unlink()
    regions = {region.content: region
               for region in snapshot.manifest().regions}
    for content in ('ext4', 'vfat'):
        assert regions[content].method == manifest.ALLOCATED
    assert regions['swap'].method == manifest.HEADER
    assert regions['ext4'].used_bytes < regions['ext4'].length / 2

    # The node was shut down once and booted once.
    node.console.wait_up(since)
    assert len(shutdowns(node, since)) == 1
    own = boots(node, since)
    assert len(own) == 1
    # A machine that boots from the image goes on from where it was taken, by
    # whatever firmware.
    with (lab.boot_image(image, 'second') as second,
          lab.boot_image(image, 'third', uefi=True) as third):
        assert second.console.wait_up() == own[0]
        assert third.console.wait_up() == own[0]


def test_incremental(lab, node, tmp_path):
    """What changed in the running system is stored, and no more; each of the
    images boots and shows its own state.
    """
    first = Snapshot(lab, node)
    if first.status != 'committed':   # it is run alone
        node.shell(WRITE_FILES)
        since = node.console.mark()
        node.snapshot(name='golden')
        node.wait('active')
        node.console.wait_up(since)
        first = Snapshot(lab, node)
    node.shell(CHANGE_FILES)
    changed = node.shell(SHOW_FILES)
    since = node.console.mark()
    node.snapshot(name='the day after')
    node.wait('active')

    second = Snapshot(lab, node)
    assert second.status == 'committed'
    assert second.record['result']['parent'] == first.id
    assert 'full_reason' not in second.record['result']
    assert second.manifest().parent == first.id
    stored = first.manifest().totals.stored_bytes
    new = second.record['result']['new_bytes']
    # The file itself, and what a system writes when it goes down and up.
    assert 4 * units.MiB < new < stored / 4
    assert second.record['result']['shared_bytes'] > stored / 2
    assert second.leases() == []

    images = {each.id: each.download(tmp_path / f'{each.id}.qcow2')
              for each in (first, second)}
    node.console.wait_up(since)
    with (lab.boot_image(images[first.id], 'second') as older,
          lab.boot_image(images[second.id], 'third', uefi=True) as newer):
        assert newer.console.wait_up() > older.console.wait_up()
        assert older.shell.run(
            'cd /srv/state; ls; cat state') == 'doomed\nstate\nas delivered\n'
        assert newer.shell.run(SHOW_FILES) == changed


def test_all_blocks_slice_by_slice(lab, node, tmp_path):
    """The image is the disk; on the way the node tells how far it is."""
    since = node.console.mark()
    lab.proxy.rule(method='PUT', match='/leases/', delay=STALL_S, times=1)
    # Uploading all of it so slowly takes several slices.
    node.snapshot(name='every block', all_blocks=True, bandwidth_limit=3,
                  parent='none')
    wait_for_request(lab, node, 'PUT', '/leases/')
    offline = tmp_path / 'offline.raw'
    machine.copy_sparse(node.disk_path, offline)
    told = []
    node.wait('active', tick=lambda: told.append(progress(node)))

    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'committed'
    image = snapshot.download(tmp_path / 'disk.qcow2')
    subprocess.run(['qemu-img', 'compare', '-F', 'raw', image, offline],
                   check=True)

    slices = {each['slices']: each for each in told
              if each and each['slices']}
    assert len(slices) >= 3
    in_order = [slices[number] for number in sorted(slices)]
    for what in ('percent', 'read_bytes', 'stored_bytes'):
        figures = [each[what] for each in in_order]
        assert figures == sorted(figures)
        assert figures[0] < figures[-1]
    assert any(each.get('eta') for each in in_order)
    # Each slice came with temporary URLs of its own, and they were used.
    granted = [int(match[1]) for match in node.console.find(
        r"execute_service_step with args: .*'expires': (\d+)", since)]
    assert len(granted) > len(slices)
    assert granted == sorted(set(granted))
    used = [entry.expires for entry in lab.proxy.log
            if '/attempts/' in entry.path and entry.expires]
    assert len(set(used)) >= 3
    assert set(used) <= set(granted)
    assert used[-1] in granted[-2:]
    node.console.wait_up(since)
    # All the time the agent was heard of.
    beats = heartbeats(node, since)
    assert len(beats) > 5
    assert [beat for beat in beats if beat.late_s > beat.interval_s] == []


def test_wrong_argument_does_not_touch_the_node(lab, node):
    boot = boot_id(node)
    node.snapshot(url='http://192.0.2.1/')
    with pytest.raises(process.LabError):
        node.wait('active')
    # Not last_error: Ironic clears it when it next looks at the power state.
    assert "unknown argument 'url'" in str(node.history())
    node.abort()
    node.wait('active')
    assert boot_id(node) == boot


def test_storage_refuses(lab, node, tmp_path):
    """A full Swift ends the step; abort then needs no reboot."""
    listed = Snapshot(lab, node).manifests()
    since = node.console.mark()
    lab.proxy.rule(method='PUT', match='/pack-', status=413)
    node.snapshot(name='too much')
    with pytest.raises(process.LabError):
        node.wait('active')
    assert '[store-full]' in str(node.history())
    lab.proxy.clear()
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'failed'
    assert '[store-full]' in snapshot.record['reason']
    assert snapshot.manifests() == listed
    assert snapshot.leases() == []
    assert not node.show()['maintenance']
    node.console.wait_up(since)
    boot = boot_id(node)
    node.abort()
    node.wait('active')
    assert boot_id(node) == boot
    assert_earlier_snapshots_are_whole(lab, node, listed, tmp_path)


# A restarted agent makes a new certificate by default, which Ironic refuses:
# that is test_agent_dies_for_good. This is for ramdisks that keep theirs.
KEEP_CERTIFICATE = """\
cat > /etc/ironic-python-agent.d/certificate.conf <<END
[DEFAULT]
listen_tls = True
advertise_protocol = https
tls_cert_file = /run/ironic-python-agent/agent.crt
tls_key_file = /run/ironic-python-agent/agent.key
END
"""


def test_agent_and_conductor_are_killed(lab, node, tmp_path):
    """The agent, with its token and certificate, goes on where it was; and so
    does the next life of the conductor, which commits once.
    """
    since = node.console.mark()
    listed = Snapshot(lab, node).manifests()
    # Slow enough to come to a checkpoint or two before the end.
    node.snapshot(name='phoenix', bandwidth_limit=3, parent='none')
    wait_for_request(lab, node, 'PUT', '/checkpoint-000001')
    before = Snapshot(lab, node)
    process.wait_until(lambda: before.stored('checkpoint-'),
                       'the first checkpoint')
    kept = before.packs_of_checkpoints()
    lab.proxy.clear()
    node.shell(KEEP_CERTIFICATE)
    node.shell('pkill -9 -f ironic-python-agent')
    lab.proxy.rule(method='PUT', match='/manifest$', delay=STALL_S, times=1)
    for match in '/checkpoint-000002', '/manifest$':
        wait_for_request(lab, node, 'PUT', match)
        lab.ironic.kill()
        lab.ironic.start()
    node.wait('active')

    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'committed'
    assert snapshot.id == before.id
    assert snapshot.record['tries'] == 2
    assert len(snapshot.manifests()) == len(listed) + 1
    sent = {entry.path.rpartition('/')[2] for entry in lab.proxy.log
            if entry.method == 'PUT' and '/pack-' in entry.path}
    assert kept and sent
    assert not kept & sent
    snapshot.download(tmp_path / 'disk.qcow2')
    node.console.wait_up(since)


def test_abort_in_the_middle(lab, node):
    since = node.console.mark()
    listed = Snapshot(lab, node).manifests()
    lab.proxy.rule(method='PUT', match='/pack-000001', delay=STALL_S)
    node.snapshot(name='never mind')
    wait_for_request(lab, node, 'PUT', '/pack-000001')
    node.abort()
    node.wait('active', timeout=60)
    node.console.wait_up(since)
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'aborted'
    assert snapshot.manifests() == listed
    assert snapshot.record['reason'] == 'aborted on request'


def test_agent_dies_for_good(lab, node):
    """No heartbeat any more: the timeout gives the machine back."""
    since = node.console.mark()
    listed = Snapshot(lab, node).manifests()
    lab.proxy.rule(method='PUT', match='/pack-000001', delay=STALL_S)
    node.snapshot(name='silence')
    wait_for_request(lab, node, 'PUT', '/pack-000001')
    node.shell('touch /run/lab-no-agent; pkill -9 -f ironic-python-agent')
    lab.ironic.set_options(ironic.IMPATIENT)
    lab.ironic.restart()
    with pytest.raises(process.LabError):
        node.wait('active')
    # The state comes first, then the way back, then the reason.
    node.console.wait_up(since)
    assert not node.show()['maintenance']
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'failed'
    assert 'Timeout reached' in snapshot.record['reason']
    assert snapshot.manifests() == listed
    node.abort()
    node.wait('active')
    lab.ironic.set_options({})
    lab.ironic.restart()
