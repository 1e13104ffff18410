# SPDX-License-Identifier: Apache-2.0
"""Whether a disk is the one to be written: never by guess."""

from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest as manifests
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware.disk import base


def check(
    described: manifests.Disk,
    disk: base.Disk,
    wanted: restore_request.RestoreRequest,
) -> None:
    """Refuse a disk that is another, or counts in other sectors.

    :param described: the disk of the snapshot.
    :param disk: to be written.
    :raises TargetMismatch: it is not the disk that is meant.
    :raises DiskUnsuitable: its sectors have another size.
    """
    if wanted.target_serial is not None:
        _check_named(disk, wanted.target_serial)
    elif wanted.verb == restore_request.ROLLBACK:
        _check_same(described, disk)
    if disk.logical_sector_size != described.logical_sector_size:
        raise errors.DiskUnsuitable(
            disk.name,
            f'it has sectors of {disk.logical_sector_size} bytes, and the '
            'partitions and file systems of the snapshot are made for '
            f'{described.logical_sector_size}; choose another disk',
        )


# Private


def _check_named(disk: base.Disk, serial: str) -> None:
    if serial not in (disk.serial, disk.wwn):
        raise errors.TargetMismatch(
            disk.name,
            f'its serial number is {disk.serial or "unknown"}, and not '
            f'{serial}',
        )


def _check_same(described: manifests.Disk, disk: base.Disk) -> None:
    pairs = [(described.serial, disk.serial), (described.wwn, disk.wwn)]
    if any(there and there == here for there, here in pairs):
        return
    if any(there or here for there, here in pairs):
        raise errors.TargetMismatch(
            disk.name,
            f'it has {_name(disk.serial, disk.wwn)}, and the snapshot is of '
            f'one that has {_name(described.serial, described.wwn)}',
        )
    if (described.size, described.model) != (disk.size, disk.model or ''):
        raise errors.TargetMismatch(
            disk.name,
            f'it has {disk.size} bytes and the model '
            f'"{disk.model or ""}", and the snapshot is of one of '
            f'{described.size} bytes and the model "{described.model}"; '
            'neither has a serial number',
        )


def _name(serial: str | None, wwn: str | None) -> str:
    if serial:
        return f'the serial number {serial}'
    return f'the WWN {wwn}' if wwn else 'neither serial number nor WWN'
