# SPDX-License-Identifier: Apache-2.0
"""What is captured: its identity, and what it had better not be."""

import os
import uuid

from ironic_snapshot_core import layout
from ipa_snapshot_hardware.disk import base

# Of this command's own lineages; never changes.
_NAMESPACE = uuid.UUID('6f2c7a4e-0d1b-5c83-9a57-3e8f1b6d2c90')
# A disk has no deployments here.
_GENERATION = str(uuid.uuid5(_NAMESPACE, 'generation'))

_CONTAINERS = {
    b'QFI\xfb': 'qcow2',
    b'KDMV': 'vmdk',
    b'vhdxfile': 'vhdx',
    b'conectix': 'vhd',
    b'<<< ': 'vdi',
    b'QED\0': 'qed',
}
_MAGIC_SIZE = 8


def lineage(disk: base.Disk) -> layout.Lineage:
    """Give the lineage of a disk: the same for the same disk.

    Known by its world wide name, or its serial number, or where it is.
    """
    if disk.wwn:
        known_as = f'wwn:{disk.wwn}'
    elif disk.serial:
        known_as = f'serial:{disk.serial}'
    else:
        known_as = f'path:{os.path.realpath(disk.name)}'
    return layout.Lineage(
        str(uuid.uuid5(_NAMESPACE, known_as)), _GENERATION
    )


def container_format(path: str) -> str | None:
    """Tell the format when a regular file is that of a disk image."""
    try:
        if not os.path.isfile(path):
            return None
        with open(path, 'rb') as f:
            start = f.read(_MAGIC_SIZE)
    except OSError:
        return None  # Opening it as a disk says what is wrong.
    for magic, name in _CONTAINERS.items():
        if start.startswith(magic):
            return name
    return None
