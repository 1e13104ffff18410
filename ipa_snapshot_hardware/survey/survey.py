# SPDX-License-Identifier: Apache-2.0
"""Find out which parts of a disk hold data.

::

    disk --> partition table --> partitions, and the gaps between them
             partition --> what is it? --> file system: what it has in use
                                       --> swap: its header
                                       --> LVM: its volumes, each in turn
                                       --> anything else: all of it

Nothing is mounted, repaired or written. Whatever is not understood beyond
doubt is read whole, and the reason is noted: a survey never fails because of
what is on a disk.
"""

import collections.abc
import dataclasses
import os

from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import filesystem
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import probe
from ipa_snapshot_hardware.survey import sparse
from ipa_snapshot_hardware.survey import swap
from ipa_snapshot_hardware.survey import table

#: Gaps no larger are read whole even when gaps are to be skipped.
MAX_GAP = 64 * MiB

# What cannot be looked through, and what the manifest calls it.
_OPAQUE = {
    'crypto_LUKS': 'luks',
    'linux_raid_member': 'md member',
    'BitLocker': 'bitlocker',
    'bcache': 'bcache member',
    'zfs_member': 'zfs member',
}
_SWAP = ('swap', 'swsuspend')


@dataclasses.dataclass(frozen=True)
class Survey:
    """What of a disk is to be read.

    :param extents: the data, in bytes.
    :param regions: the parts of the disk, in order and without gaps, each
        followed by those inside it.
    """

    extents: extent.DataExtents
    regions: tuple[manifest.Region, ...]


def survey(
    disk: base.Disk,
    *,
    all_blocks: bool,
    skip_gaps: bool,
    watch: look.Watch | None = None,
) -> Survey:
    """Look at a disk that is open.

    :param all_blocks: read everything, ask nothing.
    :param skip_gaps: leave out the inside of large unpartitioned gaps.
    :param watch: called often; may raise to give up.
    """
    surveyor = _Surveyor(disk, skip_gaps, watch or _no_watch)
    if all_blocks:
        found = look.whole(0, disk.size, '', 'all_blocks')
        surveyor.add(0, disk.size, 'disk', found)
    else:
        surveyor.survey()
    return surveyor.result(read_holes=all_blocks)


def _read_table(
    disk: base.Disk, path: str, watch: look.Watch
) -> table.Table | None:
    """Read the partition table of a disk that is nothing else besides.

    :param path: of the disk; empty when it has none.
    :returns: None when there is no table, but perhaps a file system.
    :raises Doubt: it is not clear what the disk is.
    """
    if not path:
        raise look.Doubt('no device')
    found = table.read(disk, path, watch)
    if found is None:
        return None
    whole = probe.probe(path, 0, disk.size, watch)
    if not whole.content:
        return found
    if not found.partitions:
        # The boot sector of a FAT or NTFS looks like an empty MBR.
        return None
    # For example an ISO 9660 that also has a partition table.
    raise look.Doubt('ambiguous signatures')


class _Surveyor:
    def __init__(
        self, disk: base.Disk, skip_gaps: bool, watch: look.Watch
    ) -> None:
        self._disk = disk
        # Absolute: it must never look like an option.
        self._path = os.path.abspath(disk.path) if disk.path else ''
        self._skip_gaps = skip_gaps
        self._watch = watch
        self._extents = extent.DataExtents()
        self._regions: list[manifest.Region] = []

    def survey(self) -> None:
        """Look at everything, from the start of the disk to its end."""
        size = self._disk.size
        try:
            found = _read_table(self._disk, self._path, self._watch)
        except (look.Doubt, errors.DiskReadError) as error:
            self.add(0, size, 'disk', look.whole(
                0, size, '', _reason(error)))
            return
        if found is None:
            self.add(0, size, 'disk', self.look_at(0, size, 'disk'))
            return
        at = 0
        for partition in found.partitions:
            self._add_gap(at, partition.start, found.kind)
            name = f'partition {partition.number}'
            self.add(
                partition.start, partition.length, name,
                self.look_at(partition.start, partition.length, name))
            at = partition.end
        self._add_gap(at, size, found.kind)

    def look_at(
        self, start: int, length: int, name: str
    ) -> look.Look:
        """Look at a part of the disk, whatever is in it.

        :param start: in bytes.
        :param length: in bytes.
        :param name: what the manifest calls it.
        """
        content = ''
        try:
            found = probe.probe(self._path, start, length, self._watch)
            content = found.content
            if found.table and not content:
                raise look.Doubt('partitions inside')
            return self._look_into(start, length, content)
        except (look.Doubt, errors.DiskReadError) as error:
            return look.whole(start, length, content, _reason(error))

    def add(
        self, start: int, length: int, name: str, found: look.Look
    ) -> None:
        """Note what a part of the disk holds."""
        for begin, end in found.extents:
            self._extents.add(begin, end)
        self._regions.append(manifest.Region(
            start, length, name, found.content, found.method, found.reason,
            0))
        self._regions.extend(found.inner)

    def result(self, *, read_holes: bool) -> Survey:
        """Put together what was noted.

        :param read_holes: even those of a regular file.
        """
        extents = self._extents
        if self._path and not read_holes:
            extents = sparse.without_holes(
                extents, self._path, self._disk.size)
        return Survey(extents, tuple(
            dataclasses.replace(region, used_bytes=_used(
                extents, region.start, region.start + region.length))
            for region in self._regions))

    # Private

    def _look_into(
        self, start: int, length: int, content: str
    ) -> look.Look:
        if not content:
            raise look.Doubt('unknown content')
        if content in _OPAQUE:
            raise look.Doubt(_OPAQUE[content])
        if content in _SWAP:
            return swap.survey_swap(self._disk, start, length)
        if content == lvm.CONTENT:
            return lvm.survey_lvm(self._disk, start, length, self.look_at)
        if content not in filesystem.KNOWN:
            raise look.Doubt('no map')
        return filesystem.survey_filesystem(
            part.Part(self._disk, start, length), content, self._path,
            self._watch)

    def _add_gap(self, start: int, end: int, kind: str) -> None:
        """Note what lies before, between or behind partitions.

        Boot loaders, tables, their copies, and who knows what.
        """
        if start == end:
            return
        length = end - start
        if not self._skip_gaps or length <= MAX_GAP:
            found = look.whole(start, length, '', '')
        else:
            kept = extent.DataExtents()
            for begin, stop in self._kept(start, end, kind):
                kept.add(begin, stop)
            found = look.Look('', manifest.SKIPPED, 'skip_gaps', kept)
        self.add(start, length, 'gap', found)

    def _kept(
        self, start: int, end: int, kind: str
    ) -> collections.abc.Iterator[tuple[int, int]]:
        """Give what is read of a gap whose inside is skipped."""
        yield start, start + look.EDGE_BYTES
        last = end - look.EDGE_BYTES
        if kind == 'gpt':
            # On a disk larger than its image, the copy of the table is
            # where the image ended.
            try:
                header = table.backup_header(self._disk)
            except (look.Doubt, errors.DiskReadError):
                header = 0
            if start < header < last:
                yield (max(start, header - look.EDGE_BYTES),
                       header + self._disk.logical_sector_size)
        yield last, end


def _reason(error: look.Doubt | errors.DiskReadError) -> str:
    if isinstance(error, look.Doubt):
        return error.reason
    # Reading it again, for the image, says which sectors they are.
    return 'read error'


def _used(extents: extent.DataExtents, start: int, end: int) -> int:
    """Give how many bytes of a range are data."""
    return end - start - sum(
        stop - begin for begin, stop in extents.holes(start, end))


def _no_watch() -> None:
    """Nobody watches."""
