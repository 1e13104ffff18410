# SPDX-License-Identifier: Apache-2.0
"""What a restore is to write: whether it may, and what is lost by it."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import units
from ipa_snapshot_hardware import guard
from ipa_snapshot_hardware.disk import target as targets
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import probe
from ipa_snapshot_hardware.survey import table
from ipa_snapshot_hardware.system_identity import volume
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import source

# What is looked at of a disk that seems to be blank: both ends, where all
# known signatures are, and as many places in between.
_END = 1 * units.MiB
_PLACE = 64 * units.KiB
_PLACES = 256

_TABLES = {'gpt': 'GPT', 'dos': 'MBR'}

# <linux/fs.h>
_BLKRRPART = 0x125F


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A target, open.

    :param zero: whether it is known to read as zeroes.
    :param unfinished: whether it is the same snapshot, half restored.
    """

    disk: targets.BlockTarget
    zero: bool
    unfinished: bool


@contextlib.contextmanager
def opened(path: str, manifest: manifests.Manifest) -> Iterator[Found]:
    """Open a disk or a file, or make a file that is not there.

    A file that was made is deleted if nothing was written to it.

    :param manifest: of the snapshot: a new file is as large as its disk.
    :raises DiskError: it cannot be written, or must not be.
    :raises OutputFailed: the file cannot be made.
    """
    container = source.container_format(path)
    if container:
        raise errors.DiskUnsuitable(
            path,
            f'it is a {container} file, and not the disk in it; restore to '
            'another file and convert that',
        )
    sector_size = manifest.disk.logical_sector_size
    if os.path.exists(path) or _is_for_devices(path):
        disk = targets.BlockTarget(path, file_sector_size=sector_size)
        with disk:
            yield Found(
                disk,
                zero=_is_one_hole(path),
                unfinished=_is_unfinished(disk, manifest.id),
            )
        return
    disk = _make(path, manifest.disk)
    try:
        with disk:
            yield Found(disk, zero=True, unfinished=False)
    except BaseException:
        if not disk.written:
            os.unlink(path)
        raise


def check_outside(path: str, repository: str) -> None:
    """Refuse a file of the repository itself.

    :raises DiskUnsuitable: it is one.
    """
    folder = os.path.realpath(repository)
    if os.path.isdir(folder) and folder == os.path.commonpath(
        [folder, os.path.realpath(path)]
    ):
        raise errors.DiskUnsuitable(path, 'it is part of the repository')


def check_resettable(path: str) -> None:
    """Refuse what an identity cannot be reset on.

    :raises DiskUnsuitable: it has no partitions that can be mounted here.
    """
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        is_device = False
    if not is_device:
        raise errors.DiskUnsuitable(
            path,
            'an identity is reset on a disk only; attach a file as one with '
            '"losetup --find --show --partscan"',
        )
    if os.geteuid():
        raise errors.DiskUnsuitable(
            path, 'resetting an identity mounts file systems; be root'
        )


def reread_partitions(path: str) -> None:
    """Have the kernel know the partitions of a device as they are now.

    :raises Obstacle: one of before is in use.
    :raises Doubt: the programs for it are not installed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Forgets those of before; that the kernel can read every table is
        # not certain.
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _BLKRRPART)
    finally:
        os.close(descriptor)
    volume.tell_kernel(path)


def content(disk: targets.BlockTarget, watch: look.Watch) -> str:
    """Tell what is on a disk; nothing: it is blank, as far as is looked.

    :param watch: called now and then; may raise to give up.
    """
    if disk.partition_table:
        return _partitions(disk, disk.partition_table, watch)
    with contextlib.suppress(look.Doubt):
        known = probe.probe(disk.name, 0, disk.size, watch)
        if known.table or known.content:
            return known.content or f'partition table {known.table}'
    return '' if _seems_zero(disk) else 'data of an unknown kind'


def describe(disk: targets.BlockTarget) -> str:
    """Say which disk it is: its path, its serial number, its size."""
    serial = f', serial {disk.serial}' if disk.serial else ''
    return f'{disk.name}{serial}, {sizes.show(disk.size)}'


# Private


def _is_for_devices(path: str) -> bool:
    """Tell whether a name is that of a device, be it there or not."""
    files = '/dev/shm/'  # noqa: S108  named by the user
    return path.startswith('/dev/') and not path.startswith(files)


def _make(path: str, described: manifests.Disk) -> targets.BlockTarget:
    try:
        return targets.BlockTarget.create(
            path,
            described.size,
            file_sector_size=described.logical_sector_size,
        )
    except OSError as error:
        raise errors.OutputFailed(
            path, error.strerror or type(error).__name__
        ) from None


def _is_unfinished(disk: targets.BlockTarget, snapshot: str) -> bool:
    marker = guard.marker(snapshot, disk.logical_sector_size)
    return _read(disk, 0, len(marker)) == marker


def _is_one_hole(path: str) -> bool:
    """Tell whether nothing was ever written to a file.

    Only file systems that can tell say so; a device never does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    finally:
        os.close(descriptor)
    return False


def _partitions(
    disk: targets.BlockTarget, kind: str, watch: look.Watch
) -> str:
    title = _TABLES[kind]
    try:
        found = table.read(disk, disk.name, watch)
    except look.Doubt:
        found = None
    if found is None:
        return title
    number = sizes.show_count(len(found.partitions), 'partition')
    return f'{title} with {number}'


def _seems_zero(disk: targets.BlockTarget) -> bool:
    end = min(_END, disk.size)
    places = [(0, end), (disk.size - end, end)]
    if disk.size > _PLACES * _PLACE:
        step = disk.size // _PLACES // _PLACE * _PLACE
        places += [(number * step, _PLACE) for number in range(_PLACES)]
    return not any(
        any(_read(disk, offset, length)) for offset, length in places
    )


def _read(disk: targets.BlockTarget, offset: int, length: int) -> bytes:
    """Read; what cannot be read is taken for something, never for zeroes."""
    data = bytearray(length)
    try:
        disk.read_into(offset, data)
    except errors.DiskReadError:
        return b'?'
    return bytes(data)
