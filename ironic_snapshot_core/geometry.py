# SPDX-License-Identifier: Apache-2.0
"""Sizes that disks and clusters can have. All in bytes."""

from ironic_snapshot_core import errors
from ironic_snapshot_core.units import KiB, MiB, TiB

#: The unit disk sizes are multiples of, whatever the disk's own sector.
SECTOR = 512

#: qcow2 takes clusters from 512 bytes to 2 MiB; small ones make large
#: indexes.
MIN_CLUSTER_SIZE = 64 * KiB
MAX_CLUSTER_SIZE = 2 * MiB

#: Four billion of the smallest clusters: their numbers fit 32 bits.
MAX_DISK_SIZE = 255 * TiB


def validate_cluster_size(size: int) -> int:
    """Return the size if clusters can have it.

    :raises InvalidValue: they cannot.
    """
    return power_of_two(
        'cluster size', size, MIN_CLUSTER_SIZE, MAX_CLUSTER_SIZE)


def validate_disk_size(size: int) -> int:
    """Return the size if disks can have it.

    :raises InvalidValue: they cannot.
    """
    between('disk size', size, SECTOR, MAX_DISK_SIZE)
    if size % SECTOR:
        raise errors.InvalidValue(
            'disk size', size, f'it is no multiple of {SECTOR}')
    return size


def between(what: str, value: int, low: int, high: int) -> int:
    """Return the value if it is in a range, both ends included.

    :raises InvalidValue: it is not.
    """
    if not low <= value <= high:
        raise errors.InvalidValue(what, value, f'it is not in {low}..{high}')
    return value


def power_of_two(what: str, value: int, low: int, high: int) -> int:
    """Return the value if it is a power of two in a range.

    :raises InvalidValue: it is not.
    """
    between(what, value, low, high)
    if value & (value - 1):
        raise errors.InvalidValue(what, value, 'it is no power of two')
    return value
