# SPDX-License-Identifier: Apache-2.0
"""The partition in which Ironic tells a system who it is."""

import errno
import os

from ironic_snapshot_core import units
from ipa_snapshot_hardware.survey import tool
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import volume

_LABEL = 'config-2'
_CONTENTS = ('iso9660', 'vfat')

# Ironic makes them of 64 MiB.
_LARGEST = 1 * units.GiB
_ZEROES = bytes(1 * units.MiB)


def is_one(partition: volume.Volume) -> bool:
    """Tell whether a partition is a config drive."""
    return partition.label.lower() == _LABEL and partition.content in _CONTENTS


def clear(partition: volume.Volume, *, another_follows: bool) -> None:
    """Write zeroes over a config drive.

    :param another_follows: whether the agent will write one of this node.
        It looks for the partition by the label of its file system, and
        would else make a second one, for which there may be no room. So an
        empty file system of that label is left.
    :raises Obstacle: it cannot be written.
    """
    try:
        descriptor = os.open(
            partition.path, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC
        )
        try:
            _fill(descriptor, partition.name)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise obstacle.Obstacle(
            f'{partition.name} cannot be cleared: {error.strerror}'
        ) from None
    if another_follows:
        answer = tool.run(
            'mkfs.vfat',
            '-n',
            _LABEL.upper(),
            partition.path,
            watch=volume.no_watch,
        )
        if answer.tool.code:
            raise obstacle.Obstacle(
                f'{partition.name}: mkfs.vfat failed: '
                f'{answer.tool.errors.strip()}'
            )


# Private


def _fill(descriptor: int, name: str) -> None:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size > _LARGEST:
        raise obstacle.Obstacle(f'{name} is too large for a config drive')
    done = 0
    while done < size:
        with memoryview(_ZEROES) as zeroes:
            count = os.pwrite(descriptor, zeroes[: size - done], done)
        if not count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += count
    os.fsync(descriptor)
