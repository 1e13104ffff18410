# SPDX-License-Identifier: Apache-2.0
"""Hints of a thin pool that a kernel has made and written to.

A machine makes a pool on a disk, with a root in it and a snapshot of the
root. A second machine writes to the root, deletes, trims, makes and removes
snapshots. What the hint then calls unchanged must be the same bytes on both
copies of the disk. Each machine ends with its power cut.
"""

import dataclasses
import pathlib

import pytest

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.hints import sources
from ipa_snapshot_hardware.survey import survey
from tests import disks
from tests.contract import filesystems
from tests.functional.lab import workbench

pytestmark = [pytest.mark.timeout(600), disks.needs_loop]

KIB = 1 << 10
MIB = 1 << 20
SHELL_TIMEOUT_S = 240
#: Of the root; a large file and some small ones.
FILLED = 64 * MIB

MAKE = r'''
exec 2>&1
set -e
pvcreate -q /dev/vda2
vgcreate -q -s 1m vg /dev/vda2
lvcreate -q -y -n other -l 3 vg
lvcreate -q -y --type thin-pool -n pool -l 70 --poolmetadatasize 2m vg
lvcreate -q -y -n between -l 3 vg
lvextend -q -y -l +40 vg/pool
lvextend -q -y --poolmetadatasize +2m vg/pool
lvcreate -q -y -V 150m --thinpool vg/pool -n root
mkfs.ext4 -q /dev/vg/root
mount /dev/vg/root /mnt
dd if=/dev/urandom of=/mnt/large bs=1M count=48
mkdir /mnt/small
dd if=/dev/urandom of=/noise bs=1M count=16 status=none
for i in $(seq 10 73); do
    dd if=/noise of=/mnt/small/$i bs=256k skip=$((i - 10)) count=1 \
        status=none
done
sync
lvcreate -q -y -s -n kept vg/root
dd if=/dev/urandom of=/mnt/after bs=1M count=1
sync
'''

# Some 3 % of what there is; then snapshots that the parent has not seen.
WRITE = '''
exec 2>&1
set -e
vgchange -q -ay vg
mount -o discard /dev/vg/root /mnt
dd if=/dev/urandom of=/mnt/large bs=64k count=20 seek=300 conv=notrunc
rm $(ls /mnt/small/* | head -2)
sync
lvcreate -q -y -s -n later vg/root
dd if=/dev/urandom of=/mnt/new bs=64k count=8
sync
lvcreate -q -y -s -n last vg/root
lvm lvremove -q -y vg/later
dd if=/dev/urandom of=/mnt/large bs=64k count=4 seek=100 conv=notrunc
'''

# The snapshot that the parent has seen is gone; its blocks are used again.
REMOVE = '''
exec 2>&1
set -e
vgchange -q -ay vg
mount -o discard /dev/vg/root /mnt
lvm lvremove -q -y vg/kept
rm -r /mnt/small
sync
dd if=/dev/urandom of=/mnt/large bs=1M count=20 conv=notrunc
lvcreate -q -y -s -n kept vg/root
sync
'''


@dataclasses.dataclass
class Captured:
    """What a capture would know of the first disk."""

    disk: pathlib.Path
    records: list[manifest.HintRecord]
    data: extent.DataExtents
    shared: extent.DataExtents


def find(path):
    with block.BlockDisk(str(path)) as disk:
        [hint] = sources.find(disk, survey_of(disk).regions, lambda: None)
        return hint


def data_of(path):
    """Give what a capture reads; of a device, for a file has holes."""
    with disks.loop_device(path) as device, block.BlockDisk(device) as disk:
        return survey_of(disk).extents


def survey_of(disk):
    return survey.survey(disk, all_blocks=False, skip_gaps=False)


def work(folder, disk, script):
    """Run a script on a machine with a disk, and cut its power."""
    with workbench.Machine(folder, [disk]) as machine:
        machine.shell.run(script, SHELL_TIMEOUT_S)
        machine.cut_power()


@pytest.fixture(scope='module')
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hints')
    disk = folder / 'disk.raw'
    filesystems.create(disk, 200 * MIB)
    filesystems.partition(disk, 'label: gpt\nsize=8MiB\nsize=180MiB\n')
    work(folder / 'make', disk, MAKE)
    hint = find(disk)
    records = hint.records()
    yield Captured(disk, records, data_of(disk), hint.unchanged(records))
    disk.unlink()


def later(parent, tmp_path, script):
    """Give the disk after more work, and what the hint says of it."""
    disk = filesystems.copy(parent.disk, tmp_path / 'later.raw')
    work(tmp_path / 'work', disk, script)
    return disk, find(disk).unchanged(parent.records)


def read(path, start, end):
    with open(path, 'rb') as file:
        file.seek(start)
        return file.read(end - start)


def test_root_and_snapshot_share_what_was_there(parent):
    assert len(parent.records) == 2
    assert FILLED <= parent.shared.size < FILLED + 16 * MIB
    # And the parent's image holds it.
    for start, end in parent.shared:
        assert not list(parent.data.holes(start, end))


def test_what_is_called_unchanged_is(parent, tmp_path):
    disk, unchanged = later(parent, tmp_path, WRITE)
    for start, end in unchanged:
        assert read(disk, start, end) == read(parent.disk, start, end)
    # It was written to, of course; and most of it is known not to be.
    written = 24 * 64 * KIB
    assert 0.9 * FILLED < unchanged.size <= parent.shared.size - written


def test_snapshot_made_again(parent, tmp_path):
    _, unchanged = later(parent, tmp_path, REMOVE)
    assert unchanged is None
