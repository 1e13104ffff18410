# SPDX-License-Identifier: Apache-2.0
"""What a ramdisk streams: images that qemu-img judges; no cloud is needed."""

import hashlib
import subprocess

import pytest

from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import stream
from ipa_snapshot_hardware import stream_request
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import qcow2_sequence
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.units import KiB, MiB
from tests import disks
from tests.contract import node_disk
from tests.contract import stream_ramdisk

pytestmark = disks.needs_qemu_img


class Sink:
    """Keeps what is sent.

    :param meddle: called before each piece, with its number.
    """

    def __init__(self, meddle=lambda number: None):
        self.meddle = meddle
        self.checked = False
        self.size = None
        self.pieces = []

    def check(self):
        self.checked = True

    def send(self, pieces, size):
        assert self.checked
        self.size = size
        while True:
            self.meddle(len(self.pieces))
            piece = next(pieces, None)
            if piece is None:
                return
            self.pieces.append(piece)

    @property
    def data(self):
        return b''.join(self.pieces)


def run(disk, sink, ask=None, clock=None, stop=None, counters=None,
        **changes):
    """Stream a disk as the hardware manager does."""
    args = stream_ramdisk.arguments(**changes)
    auth = upload_grant.UploadAuth(stream_request.take_grant(args))
    args['upload'] = auth.grant.to_dict()
    wanted = stream_request.parse(args, stream_request.take_grant(args))
    clock = clock or clocks.SystemClock()
    return stream.stream(
        disk, sink, auth, wanted,
        allowed=stream_ramdisk.plan(disk, wanted), clock=clock,
        stop=stop or executor.Stop(),
        ask=ask or (lambda: auth.renew(stream_ramdisk.grant('token'))),
        counters=counters or progress.CaptureProgress(clock),
        system=stream_ramdisk.SYSTEM)


def check(folder, sink, sent, content):
    """The image is sound, as announced, and reads as the disk."""
    path, raw = folder / 'image.qcow2', folder / 'expected.raw'
    path.write_bytes(sink.data)
    raw.write_bytes(content)
    assert sent.size == sink.size == len(sink.data)
    assert sent.hash == hashlib.sha512(sink.data).hexdigest()
    subprocess.run(['qemu-img', 'check', '-q', path], check=True)
    subprocess.run(['qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'qcow2',
                    raw, path], check=True)


@pytest.mark.parametrize('codec', ['zstd', 'zlib', 'none'])
@pytest.mark.parametrize('cluster_size', [64 * KiB, MiB])
@pytest.mark.parametrize('group_size', [
    pytest.param(MiB, id='groups'),
    pytest.param(qcow2_sequence.GROUP_SIZE, id='group')])
def test_an_image(tmp_path, monkeypatch, codec, cluster_size, group_size):
    monkeypatch.setattr(
        qcow2_sequence.arrange, '__defaults__', (group_size,))
    path = tmp_path / 'disk'
    node_disk.fill(path, seed=5)
    counters = progress.CaptureProgress(clocks.SystemClock())
    sink = Sink()
    with block.BlockDisk(str(path)) as disk:
        sent = run(disk, sink, codec=codec, codec_level=None,
                   cluster_size=cluster_size, counters=counters)
    check(tmp_path, sink, sent, path.read_bytes())
    state = counters.state()
    passes = 1 if codec == 'none' else 2
    assert state.total == state.read == passes * node_disk.SIZE
    assert state.stored == sent.size
    assert sent.disk_size == node_disk.SIZE


@pytest.mark.parametrize('codec', ['zstd', 'none'])
def test_an_empty_disk(tmp_path, codec):
    path = tmp_path / 'disk'
    with open(path, 'wb') as file:
        file.truncate(8 * MiB)
    sink = Sink()
    with block.BlockDisk(str(path)) as disk:
        sent = run(disk, sink, codec=codec, codec_level=None)
    check(tmp_path, sink, sent, bytes(8 * MiB))


def test_holes_of_the_disk_are_no_clusters(tmp_path):
    """Without compression, too, an image is as large as what is in use."""
    path = tmp_path / 'disk'
    with open(path, 'wb') as file:
        file.truncate(256 * MiB)
        file.seek(100 * MiB)
        file.write(disks.random_bytes(MiB))
    sink = Sink()
    with block.BlockDisk(str(path)) as disk:
        sent = run(disk, sink, codec='none', codec_level=None)
    assert sent.size < 3 * MiB
    check(tmp_path, sink, sent, path.read_bytes())


@pytest.mark.parametrize('codec', ['zstd', 'none'])
def test_bad_sectors_are_zeroes(tmp_path, codec):
    content = bytearray(disks.random_bytes(2 * MiB))
    disk = memory.MemoryDisk(bytes(content), bad=[(MiB + 4096, 1024)])
    sink = Sink()
    sent = run(disk, sink, codec=codec, codec_level=None,
               allow_bad_sectors=True)
    assert sent.unreadable == 1024
    content[MiB + 4096:MiB + 5120] = bytes(1024)
    check(tmp_path, sink, sent, content)
    with pytest.raises(errors.DiskReadError):
        run(disk, Sink(), codec=codec, codec_level=None)


@pytest.mark.parametrize(('number', 'codec'), [
    pytest.param(0, 'zstd', id='between measuring and sending'),
    pytest.param(2, 'zstd', id='while it is sent'),
    pytest.param(2, 'none', id='while it is sent, uncompressed')])
def test_a_disk_that_is_written_to_gives_no_image(number, codec):
    disk = memory.MemoryDisk(disks.random_bytes(4 * MiB))

    def write(at):
        if at == number:
            disk.content[:MiB] = bytes(MiB)
    sink = Sink(write)
    with pytest.raises(errors.DiskChanged):
        run(disk, sink, codec=codec, codec_level=None)
    assert len(sink.data) < sink.size


def test_no_token_for_too_long():
    clock = clocks.ManualClock()
    asked = []
    disk = memory.MemoryDisk(disks.random_bytes(MiB))
    sink = Sink()
    with pytest.raises(errors.ImageRefused, match='no credential'):
        run(disk, sink, clock=clock, ask=lambda: asked.append(1))
    assert asked == [1]
    assert clock.monotonic() >= renewal.PATIENCE_S
    assert not sink.checked


def test_a_stream_that_is_stopped():
    stop = executor.Stop()
    disk = memory.MemoryDisk(disks.random_bytes(MiB))
    sink = Sink()
    with pytest.raises(errors.Cancelled):
        run(disk, sink, stop=stop, ask=stop.set)
    assert not sink.pieces
