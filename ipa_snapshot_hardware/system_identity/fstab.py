# SPDX-License-Identifier: Apache-2.0
"""What a system mounts where, by its own table: see fstab(5)."""

import collections.abc
import dataclasses
import re

from ipa_snapshot_hardware.system_identity import volume

# With what begins a specification, or a link that udev makes, and which of a
# volume's names follows.
_TAGS = {
    'UUID=': 'uuid',
    'LABEL=': 'label',
    'PARTUUID=': 'partition_uuid',
    'PARTLABEL=': 'partition_label',
    '/dev/disk/by-uuid/': 'uuid',
    '/dev/disk/by-label/': 'label',
    '/dev/disk/by-partuuid/': 'partition_uuid',
    '/dev/disk/by-partlabel/': 'partition_label',
}
_OCTAL = re.compile(r'\\([0-7]{3})')
_HEXADECIMAL = re.compile(r'\\x([0-9a-fA-F]{2})')
# sda2, vda2, nvme0n1p2, mmcblk0p2
_PARTITION = re.compile(
    r'(/dev/(?:(?:[shv]|xv)d[a-z]+|(?:nvme\d+n|mmcblk)\d+p))(\d+)'
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the table.

    :param place: where it is mounted, without the first slash.
    """

    source: str
    place: str
    content: str
    options: tuple[str, ...]

    def option(self, name: str) -> str | None:
        """Give the value of an option; None: it has none."""
        for each in self.options:
            key, found, value = each.partition('=')
            if key == name and found:
                return value
        return None


def parse(text: str) -> list[Entry]:
    """Give the lines that mount something below the root, and the root's."""
    found = []
    for line in text.splitlines():
        words = [
            _OCTAL.sub(lambda match: chr(int(match[1], 8)), word)
            for word in line.split()
        ]
        if len(words) < 3 or words[0].startswith('#'):
            continue
        if not words[1].startswith('/'):
            continue
        options = words[3] if len(words) > 3 else ''
        found.append(
            Entry(
                source=words[0],
                place='/'.join(part for part in words[1].split('/') if part),
                content=words[2],
                options=tuple(options.split(',')),
            )
        )
    return found


def resolve(
    entry: Entry,
    root: Entry | None,
    own: volume.Volume,
    others: collections.abc.Iterable[volume.Volume],
) -> volume.Volume | None:
    """Find what an entry mounts.

    Names such as ``/dev/sda3`` are those of another machine. They are of
    use only if the root is named so as well: then both are of this disk.

    :param root: the entry of the root.
    :param own: what the root is on.
    :param others: all volumes of the disk.
    :returns: None: none of them, or more than one may be meant.
    """
    source = entry.source
    for prefix, name in _TAGS.items():
        if source.startswith(prefix):
            wanted = source.removeprefix(prefix).strip('"')
            if prefix.startswith('/'):
                wanted = _HEXADECIMAL.sub(
                    lambda match: chr(int(match[1], 16)), wanted
                )
            return _only(
                each
                for each in others
                if wanted and _same(getattr(each, name), wanted, name)
            )
    number = _number_beside(source, root, own)
    return _only(
        each
        for each in others
        if source in each.aliases or (number and each.number == number)
    )


# Private


def _only(
    found: collections.abc.Iterable[volume.Volume],
) -> volume.Volume | None:
    volumes = list(found)
    return volumes[0] if len(volumes) == 1 else None


def _same(one: str, other: str, name: str) -> bool:
    if name.endswith('uuid'):
        return one.lower() == other.lower()
    return one == other


def _number_beside(source: str, root: Entry | None, own: volume.Volume) -> int:
    """Give the number of a partition of the disk that the root is on."""
    one = _PARTITION.fullmatch(source)
    other = _PARTITION.fullmatch(root.source) if root else None
    if not one or not other or one[1] != other[1]:
        return 0
    return int(one[2]) if int(other[2]) == own.number else 0
