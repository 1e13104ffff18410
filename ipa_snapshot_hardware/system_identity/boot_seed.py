# SPDX-License-Identifier: Apache-2.0
"""The random seed that systemd-boot keeps on an EFI system partition.

The file system is FAT, which mtools change without having it mounted.
"""

from ipa_snapshot_hardware.survey import tool
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import volume

#: What blkid calls the file system of an EFI system partition.
CONTENT = 'vfat'

# See systemd-boot(7), "Files".
_PATH = '::/loader/random-seed'


def remove(partition: volume.Volume) -> bool:
    """Remove the seed.

    :returns: whether there was one.
    :raises Obstacle: it cannot be looked for, or be removed.
    """
    answer = tool.run(
        'mdel', '-i', partition.path, _PATH, watch=volume.no_watch
    )
    if not answer.tool.code:
        return True
    if f'File "{_PATH}" not found' in answer.tool.errors:
        return False
    said = ' / '.join(answer.tool.errors.split('\n')).strip()
    raise obstacle.Obstacle(f'{partition.name}: mdel failed: {said}')
