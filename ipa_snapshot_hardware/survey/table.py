# SPDX-License-Identifier: Apache-2.0
"""Where the partitions of a disk lie.

``sfdisk`` reads the tables: it knows both headers of a GPT, the chain of an
MBR's logical partitions, and has met every table there is.
"""

import dataclasses
import itertools
import json
import re
import typing

from ironic_snapshot_core import gpt
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import tool

_KINDS = ('gpt', 'dos')
# Types of the MBR entry that only says where the logical partitions are.
_EXTENDED = ('5', 'f', '85', 'c5', 'd5')
# The entry that keeps others away from a GPT; there is one then, unseen.
_PROTECTIVE = 'ee'

# What sfdisk remarks on tables that are as good as any: the disk is larger
# than the image that was once written to it, or only the copy is damaged.
_HARMLESS = (
    re.compile(r'GPT PMBR size mismatch \(\d+ != \d+\) will be corrected by '
               r'write\.'),
    re.compile(r'The backup GPT table is not on the end of the device\.'
               r'( This problem will be corrected by write\.)?'),
    re.compile(r'The backup GPT table is corrupt, but the primary appears '
               r'OK, so that will be used\.'),
    re.compile(r'The primary GPT table is corrupt, but the backup appears '
               r'OK, so that will be used\.'),
    # Of no matter here.
    re.compile(r'Partition table entries are not in disk order\.'),
    re.compile(r'Partition \d+ does not start on physical sector boundary\.'),
)
_NO_TABLE = 'does not contain a recognized partition table'


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition that can hold something.

    :param number: as the kernel counts.
    :param start: in bytes.
    :param length: in bytes.
    """

    number: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclasses.dataclass(frozen=True)
class Table:
    """A partition table.

    :param kind: ``gpt`` or ``dos``.
    :param partitions: by their start, none overlapping another. The
        extended partition of an MBR is none.
    """

    kind: str
    partitions: tuple[Partition, ...]


def read(disk: base.Disk, path: str, watch: look.Watch) -> Table | None:
    """Read the partition table of a disk.

    :param path: of the disk.
    :returns: None when it has none.
    :raises Doubt: it has one that is not to be relied upon.
    """
    answer = tool.run('sfdisk', '--json', path, watch=watch)
    if answer.tool.code:
        if _NO_TABLE not in answer.tool.errors:
            answer.tool.fail()
        if disk.partition_table == 'gpt':
            raise look.Doubt('damaged partition table')
        return None
    remarks = [
        line.strip() for line in answer.tool.errors.splitlines()
        if line.strip()]
    for remark in remarks:
        if not any(each.fullmatch(remark) for each in _HARMLESS):
            tool.LOG.info('sfdisk on %s: %s', disk.name, remark)
            raise look.Doubt('damaged partition table')
    try:
        found = json.loads(answer.text)['partitiontable']
        table = _parse(found, disk)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise look.Doubt('damaged partition table') from None
    if table.kind != disk.partition_table:
        # For example a GPT whose first header is gone: firmware and kernel
        # may well see something else than the copy says.
        raise look.Doubt('damaged partition table')
    return table


def backup_header(disk: base.Disk) -> int:
    """Tell where a GPT says that its copy's header lies, in bytes.

    :raises Doubt: outside the disk.
    """
    size = disk.logical_sector_size
    header = part.Part(disk, 0, disk.size).read(size, gpt.HEADER_SIZE)
    offset = gpt.backup_header(header, size)
    if offset >= disk.size:
        raise look.Doubt('damaged partition table')
    return offset


# Private


def _parse(found: dict[str, typing.Any], disk: base.Disk) -> Table:
    kind = found['label']
    if kind not in _KINDS:
        raise look.Doubt('unknown partition table')
    size = int(found.get('sectorsize', disk.logical_sector_size))
    if size != disk.logical_sector_size or found['unit'] != 'sectors':
        raise look.Doubt('damaged partition table')
    partitions = []
    for entry in found.get('partitions', ()):
        if kind == 'dos':
            if entry['type'].lower() == _PROTECTIVE:
                raise look.Doubt('damaged partition table')
            if entry['type'].lower() in _EXTENDED:
                continue
        partition = Partition(
            _number(entry['node']),
            int(entry['start']) * size,
            int(entry['size']) * size)
        if partition.start <= 0 or partition.length <= 0 or (
                partition.end > disk.size):
            raise look.Doubt('damaged partition table')
        partitions.append(partition)
    partitions.sort(key=lambda each: each.start)
    for one, other in itertools.pairwise(partitions):
        if one.end > other.start:
            raise look.Doubt('overlapping partitions')
    return Table(kind, tuple(partitions))


def _number(node: str) -> int:
    """Give the number at the end of a partition's name."""
    found = re.search(r'\d+$', node)
    if found is None:
        raise look.Doubt('damaged partition table')
    return int(found.group())
