# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a running machine: real Ironic, real ramdisk, real Swift.

The tests share one node and go on from each other's end, as operators do. The
fixture ``node`` begins and ends with it active and its own system running.
"""
import contextlib
import json
import subprocess

import pytest

from ironic_snapshot_core import layout
from tests.functional import canary
from tests.functional.lab import process

# A capture of the lab's disk takes about 20 s on two cores; booting into the
# ramdisk and back about as long again, each.
pytestmark = pytest.mark.timeout(600)

# Long enough to do something while Swift keeps the agent waiting.
STALL_S = 20


@pytest.fixture
def node(lab):
    """The lab's node, active and with its system running."""
    node = lab.node()
    shown = node.show()
    assert shown['provision_state'] == 'active', shown['last_error']
    assert not shown['maintenance']
    yield node
    lab.proxy.clear()
    # A test that has failed must not take the next one with it.
    if node.show()['provision_state'] not in ('active', 'service failed'):
        with contextlib.suppress(process.LabError):
            node.wait('active')
    if node.show()['provision_state'] == 'service failed':
        node.abort()
        node.wait('active')


class Snapshot:
    """What the node record and Swift say of the last snapshot."""

    def __init__(self, lab, node):
        self.store = lab.store()
        self.record = node.show()['driver_internal_info']['snapshot']
        self.status = self.record['status']
        self.id = self.record.get('snapshot')
        if 'generation' in self.record:
            self.lineage = layout.Lineage(node.uuid,
                                          self.record['generation'])

    def manifests(self):
        return [info.name for info in self.store.list(
                    layout.snapshots_prefix(self.lineage))
                if info.name.endswith('/manifest')]

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


def wait_running(node, timeout=240):
    """Wait until the agent has the step."""
    process.wait_until(
        lambda: node.show()['driver_internal_info'].get(
            'snapshot', {}).get('status') == 'running',
        'the capture to begin', timeout)


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
    """The whole way: the image is the disk, it boots, and so does the node."""
    since = node.console.mark()
    # Swift answers late at two points, so that the disk can be hashed while
    # it lies offline: before the capture begins, and when it is over.
    lab.proxy.rule(method='PUT', match='/leases/', delay=STALL_S)
    lab.proxy.rule(method='PUT', match='/manifest$', delay=STALL_S)
    lab.ironic.cli('node', 'service', node.name, '--service-steps', json.dumps(
        [{'interface': 'deploy', 'step': 'snapshot',
          'args': {'name': 'golden'}}]))
    lab.proxy.wait_for('PUT', '/leases/', timeout=240)
    before = node.disk_sha256()
    lab.proxy.wait_for('PUT', '/manifest$', timeout=240)
    after = node.disk_sha256()
    assert Snapshot(lab, node).status == 'running'
    node.wait('active')

    assert before == after
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'committed'
    assert snapshot.record['shutdown'] == 'clean'
    assert snapshot.manifests() == [
        layout.manifest_name(snapshot.lineage, snapshot.id)]
    assert snapshot.leases() == []
    image = snapshot.download(tmp_path / 'disk.qcow2')
    assert image.stat().st_size == snapshot.record['result']['image_bytes']
    raw = tmp_path / 'disk.raw'
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', image, raw],
                   check=True)
    assert lab.sha256(raw) == before
    raw.unlink()

    # The node was shut down once and booted once.
    node.console.wait_up(since)
    assert len(shutdowns(node, since)) == 1
    own = boots(node, since)
    assert len(own) == 1
    # A machine that boots from the image goes on from where it was taken; one
    # with other firmware does, too.
    second = lab.boot_image(image, uefi=True)
    try:
        assert second.console.wait_up() == own[0]
    finally:
        second.stop()


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


def test_agent_restarts_in_the_middle(lab, node, tmp_path):
    """With its token and certificate: the capture begins again."""
    since = node.console.mark()
    lab.proxy.rule(method='PUT', match='/pack-000001', delay=STALL_S,
                   times=1)
    node.snapshot(name='persistent')
    lab.proxy.wait_for('PUT', '/pack-000001', timeout=240)
    first = Snapshot(lab, node).id
    node.shell(KEEP_CERTIFICATE)
    node.shell('pkill -9 -f ironic-python-agent')
    node.wait('active')
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'committed'
    assert snapshot.record['tries'] == 2
    assert snapshot.id != first
    assert not [name for name in snapshot.manifests() if first in name]
    snapshot.download(tmp_path / 'disk.qcow2')
    node.console.wait_up(since)


def test_conductor_is_killed_in_the_middle(lab, node, tmp_path):
    """Another life of the conductor finds the capture and commits it."""
    since = node.console.mark()
    lab.proxy.rule(method='PUT', match='/pack-000001', delay=STALL_S,
                   times=1)
    node.snapshot(name='orphan')
    lab.proxy.wait_for('PUT', '/pack-000001', timeout=240)
    lab.ironic.kill()
    lab.ironic.start()
    node.wait('active')
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'committed'
    assert snapshot.record['tries'] == 1
    snapshot.download(tmp_path / 'disk.qcow2')
    node.console.wait_up(since)


def test_conductor_is_killed_at_the_commit(lab, node, tmp_path):
    """Between image and manifest: committed once, by its next life."""
    since = node.console.mark()
    listed = Snapshot(lab, node).manifests()
    lab.proxy.rule(method='PUT', match='/manifest$', delay=STALL_S, times=1)
    node.snapshot(name='phoenix')
    lab.proxy.wait_for('PUT', '/manifest$', timeout=240)
    lab.ironic.kill()
    lab.ironic.start()
    node.wait('active')
    snapshot = Snapshot(lab, node)
    assert snapshot.status == 'committed'
    assert len(snapshot.manifests()) == len(listed) + 1
    snapshot.download(tmp_path / 'disk.qcow2')
    node.console.wait_up(since)


def test_abort_in_the_middle(lab, node):
    since = node.console.mark()
    listed = Snapshot(lab, node).manifests()
    lab.proxy.rule(method='PUT', match='/pack-000001', delay=STALL_S)
    node.snapshot(name='never mind')
    lab.proxy.wait_for('PUT', '/pack-000001', timeout=240)
    node.abort()
    node.wait('active')
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
    lab.proxy.wait_for('PUT', '/pack-000001', timeout=240)
    node.shell('touch /run/lab-no-agent; pkill -9 -f ironic-python-agent')
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


def test_no_secret_anywhere(lab, node):
    """Last: looks through all that the tests before have left behind."""
    secrets = canary.secrets(lab)
    assert len(secrets) > 3
    found = canary.search(lab, node, secrets)
    assert found == []
