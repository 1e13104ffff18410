# SPDX-License-Identifier: Apache-2.0
"""An agent that streams the disk of a node, without the agent around it."""
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import session
from ipa_snapshot_hardware import stream
from ipa_snapshot_hardware import stream_request
from ipa_snapshot_hardware import upload
from ipa_snapshot_hardware.disk import block
from ironic_snapshot_core import manifest
from ironic_snapshot_core import qcow2_sequence
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.units import KiB, MiB

SNAPSHOT = '33333333-3333-4333-8333-333333333333'
IMAGE = '11111111-1111-4111-8111-111111111111'
SYSTEM = manifest.SystemRecord(
    architecture='x86_64', firmware='uefi', secure_boot=False)


def grant(secret='', endpoint='http://127.0.0.1:9'):
    """Make a grant as the conductor does."""
    return upload_grant.UploadGrant(
        upload_grant.url(endpoint, IMAGE), secret)


def arguments(**changes):
    """Make the arguments the conductor sends; small clusters."""
    return {
        'protocol': 1, 'snapshot': SNAPSHOT, 'cluster_size': 64 * KiB,
        'codec': 'zstd', 'codec_level': 1, 'hash': 'sha512', 'workers': 2,
        'memory_limit': 256 * MiB, 'upload': grant().to_dict(), **changes}


def plan(disk, wanted):
    """What it may use, as the manager says."""
    return budget.plan(
        disk_size=disk.size, cluster_size=wanted.cluster_size,
        pack_size=qcow2_sequence.GROUP_SIZE, codec=wanted.codec, workers=2,
        memory_limit=256 * MiB)


class StreamRamdisk:
    """What ipa_snapshot_hardware/manager.py does, from slice to slice.

    :param path: of the disk.
    """

    def __init__(self, path):
        self._path = path
        self._sessions = session.Sessions()
        self._live = None
        self.make_sink = upload.Upload

    def step(self, args):
        """One slice: begin or attach, wait, and tell."""
        grant = stream_request.take_grant(args)
        wanted = stream_request.parse(args, grant)
        self._live = self._sessions.attend(
            wanted, grant, lambda means: self._stream(wanted, means))
        outcome = self._live.wait(wanted.slice_seconds)
        if isinstance(outcome, stream.Streamed):
            return stream.summarise(wanted, outcome)
        return {'protocol': 1, 'snapshot': wanted.snapshot, 'more': True,
                'progress': outcome.to_dict()}

    def stop(self):
        """The process ends."""
        if self._live:
            self._live.stop()

    def _stream(self, wanted, means):
        with (block.BlockDisk(str(self._path), serial='S1', wwn='', model='')
              as disk, self.make_sink(means.auth) as sink):
            return stream.stream(
                disk, sink, means.auth, wanted,
                allowed=plan(disk, wanted),
                clock=means.clock, stop=means.stop, ask=means.ask,
                counters=means.counters, system=SYSTEM)
