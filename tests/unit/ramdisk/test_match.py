# SPDX-License-Identifier: Apache-2.0
"""Which disks are written, and which are not."""

import uuid

import pytest

from ipa_snapshot_hardware import match
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import MiB


def check(there, here, verb='rollback', target_serial=None):
    """Check a disk.

    :param there: what the snapshot says of its disk.
    :param here: what the target says of itself.
    """
    described = manifest.Disk(
        **{
            'size': MiB,
            'logical_sector_size': 512,
            'physical_sector_size': 512,
            'serial': '',
            'wwn': '',
            'model': '',
            'partition_table': '',
            'name': '/dev/sda',
        }
        | there
    )
    here = dict(here)
    disk = memory_disk.MemoryTarget(bytes(here.pop('size', MiB)), **here)
    asked = restore_request.RestoreRequest(
        snapshot=str(uuid.uuid4()),
        lineage=layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4())),
        size=1,
        digest='00' * 32,
        operation=str(uuid.uuid4()),
        verb=verb,
        identity='keep',
        target_serial=target_serial,
    )
    match.check(described, disk, asked)


@pytest.mark.parametrize(
    ('there', 'here'),
    [
        ({'serial': 'S1'}, {'serial': 'S1'}),
        ({'wwn': 'W1'}, {'wwn': 'W1'}),
        ({'serial': 'S1', 'wwn': 'W1'}, {'serial': 'S1'}),
        # One bus says another serial number than the other.
        ({'serial': 'S1', 'wwn': 'W1'}, {'serial': 'S2', 'wwn': 'W1'}),
        # It was replaced by one of another size, and got its name.
        ({'serial': 'S1'}, {'serial': 'S1', 'size': 2 * MiB}),
        ({'model': 'QEMU'}, {'model': 'QEMU'}),
        ({}, {}),
    ],
)
def test_the_disk_itself(there, here):
    check(there, here)


@pytest.mark.parametrize(
    ('there', 'here'),
    [
        ({'serial': 'S1'}, {'serial': 'S2'}),
        ({'serial': 'S1'}, {}),
        ({}, {'serial': 'S1'}),
        ({'wwn': 'W1'}, {'wwn': 'W2'}),
        ({'serial': 'S1'}, {'wwn': 'S1'}),
        ({'model': 'QEMU'}, {'model': 'other'}),
        ({'model': 'QEMU'}, {'model': 'QEMU', 'size': 2 * MiB}),
    ],
)
def test_another_disk(there, here):
    with pytest.raises(errors.TargetMismatch, match='Nothing was written'):
        check(there, here)
    # A clone goes onto any.
    check(there, here, verb='clone')


@pytest.mark.parametrize('verb', restore_request.VERBS)
def test_a_disk_that_is_named(verb):
    named = {'verb': verb, 'target_serial': 'S2'}
    check({'serial': 'S1'}, {'serial': 'S2'}, **named)
    check({'serial': 'S1'}, {'wwn': 'S2'}, **named)
    for serial in ('S1', None):
        with pytest.raises(errors.TargetMismatch, match='and not S2'):
            check({'serial': 'S1'}, {'serial': serial}, **named)


@pytest.mark.parametrize('verb', restore_request.VERBS)
def test_other_sectors(verb):
    with pytest.raises(errors.DiskUnsuitable, match='sectors of 4096 bytes'):
        check({}, {'logical_sector_size': 4096}, verb=verb)
