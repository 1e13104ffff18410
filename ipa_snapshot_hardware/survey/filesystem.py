# SPDX-License-Identifier: Apache-2.0
"""Ask a file system which of its blocks are in use."""

import collections.abc

from ironic_snapshot_core import errors
from ipa_snapshot_hardware.survey import access
from ipa_snapshot_hardware.survey import btrfs
from ipa_snapshot_hardware.survey import domain
from ipa_snapshot_hardware.survey import ext
from ipa_snapshot_hardware.survey import f2fs
from ipa_snapshot_hardware.survey import fat
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import ntfs
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import xfs

#: The file systems that are looked through, as blkid names them.
KNOWN = frozenset(
    ('ext2', 'ext3', 'ext4', 'xfs', 'btrfs', 'vfat', 'ntfs', 'f2fs'))


def survey_filesystem(
    area: part.Part, content: str, path: str, watch: look.Watch
) -> look.Look:
    """Look at a file system.

    The checks come first: a map that a journal has still to be replayed
    upon is not used at all.

    :param content: one of :data:`KNOWN`.
    :param path: of the disk.
    :raises Doubt: the file system's map cannot be relied upon.
    """
    if content == 'btrfs':
        return _look(area, content, btrfs.used_ranges(area, watch))
    if content.startswith('ext'):
        return _look(area, content, ext.used_ranges(area, watch))
    if content == 'vfat':
        fat.check(area)
    elif content == 'f2fs':
        f2fs.check(area)
    with access.open_part(area, path) as node:
        if content == 'xfs':
            xfs.check(area, node, watch)
        elif content == 'ntfs':
            ntfs.check(node, watch)
        return _look(area, content, domain.used_ranges(
            f'partclone.{content}', node, area.length, watch))


def _look(
    area: part.Part,
    content: str,
    ranges: collections.abc.Iterable[tuple[int, int]],
) -> look.Look:
    try:
        return look.allocated(area.start, area.length, content, ranges)
    except errors.InvalidValue:
        raise look.Doubt('map does not fit') from None
