# SPDX-License-Identifier: Apache-2.0
"""What LVM has written around the data of a physical volume.

::

    | label |  metadata area  | extents ...         | metadata area |
              header, text                            if there are two

The label is in one of the first four sectors, the second as a rule, and
says where the areas are. An area is a header and a ring of texts, of which
the header names the valid one. Numbers are little-endian; a checksum covers
each of label, header and text.

Layout: lib/format_text/layout.h, lib/label/label.h and
lib/format_text/format-text.c of LVM2; also "LVM Volume Group Metadata" in
Red Hat's Logical Volume Manager Administration.
"""

import dataclasses
import struct
import zlib

from ironic_snapshot_core import units
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import look

#: Where a label may be: four sectors of this size.
SECTOR = 512
LABEL_SECTORS = 4
LABEL = b'LABELONE'
LABEL_TYPE = b'LVM2 001'
LABEL_TYPE_OFFSET = 24

# Areas are of 1 MiB unless asked for otherwise; a text is some kilobytes.
_MAX_AREA = 1 * units.GiB
_MAX_TEXT = 1 * units.MiB

_CHECKSUM_START = 0xF597A6CF

# id, sector, checksum, offset of what follows, type.
_LABEL = struct.Struct('<8sQLL8s')
_LABEL_CHECKED_FROM = 20
# UUID, size of the device in bytes.
_PV_HEADER = struct.Struct('<32sQ')
# Offset and size of an area, both in bytes; a list ends in zeroes.
_LOCATION = struct.Struct('<QQ')
_EXTENSION = struct.Struct('<LL')
_EXTENSION_VERSIONS = (0, 1, 2)

# checksum, magic, version, own offset, size of the area.
_AREA_HEADER = struct.Struct('<L16sLQQ')
_AREA_HEADER_SIZE = 512
_AREA_MAGIC = b' LVM2 x[5A%r0N*>'
_AREA_VERSION = 1
# offset in the area, size, checksum, flags.
_TEXT_LOCATION = struct.Struct('<QQLL')


@dataclasses.dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """A physical volume as its label describes it.

    :param uuid: 32 letters and digits.
    :param size: of its device when it was made, in bytes.
    :param data_start: where the extents begin, in bytes.
    :param metadata: the metadata areas, offset and size in bytes.
    :param boot_areas: for boot loaders, likewise.
    """

    uuid: str
    size: int
    data_start: int
    metadata: tuple[tuple[int, int], ...]
    boot_areas: tuple[tuple[int, int], ...]


def has_label(start: bytes) -> bool:
    """Tell whether this may be the start of a physical volume.

    :param start: the first four sectors.
    """
    return any(
        start.startswith(LABEL, offset)
        or start.startswith(LABEL_TYPE, offset + LABEL_TYPE_OFFSET)
        for offset in range(0, LABEL_SECTORS * SECTOR, SECTOR)
    )


def read_label(
    disk: base.Disk, start: int, length: int
) -> PhysicalVolume:
    """Read what a physical volume says of itself.

    :param start: of the volume, in bytes from the start of the disk.
    :raises Doubt: there is no valid label, or one that is odd.
    """
    sectors = _read(disk, start, min(LABEL_SECTORS * SECTOR, length))
    found = [
        offset
        for offset in range(0, len(sectors), SECTOR)
        if sectors.startswith(LABEL, offset)
    ]
    if len(found) != 1:
        raise look.Doubt('no single label')
    sector = sectors[found[0] : found[0] + SECTOR]
    _, number, checksum, offset, kind = _LABEL.unpack_from(sector)
    if (
        kind != LABEL_TYPE
        or number * SECTOR != found[0]
        or checksum != _checksum(sector[_LABEL_CHECKED_FROM:])
    ):
        raise look.Doubt('bad label')
    try:
        return _parse_volume(sector, offset)
    except (struct.error, UnicodeDecodeError):
        raise look.Doubt('bad label') from None


def read_text(
    disk: base.Disk, start: int, length: int, volume: PhysicalVolume
) -> str:
    """Read the description of the volume group.

    :param start: of the physical volume, in bytes from the start of the
        disk.
    :param length: of the physical volume, in bytes.
    :raises Doubt: it is damaged, being changed, or there are several.
    """
    texts = {
        _read_area(disk, start, offset, size, length)
        for offset, size in volume.metadata
    }
    if not texts:
        raise look.Doubt('no metadata on this device')
    if len(texts) != 1:
        raise look.Doubt('metadata areas differ')
    # Names are ASCII; the command line it records may be anything.
    return texts.pop().decode('latin-1')


# Private


def _read(disk: base.Disk, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    disk.read_into(offset, buffer)
    return bytes(buffer)


def _checksum(data: bytes) -> int:
    """Give LVM's CRC-32: another start, and not inverted."""
    return zlib.crc32(data, _CHECKSUM_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _parse_volume(sector: bytes, offset: int) -> PhysicalVolume:
    uuid, size = _PV_HEADER.unpack_from(sector, offset)
    offset += _PV_HEADER.size
    data, offset = _locations(sector, offset)
    metadata, offset = _locations(sector, offset)
    boot_areas: tuple[tuple[int, int], ...] = ()
    version, flags = _EXTENSION.unpack_from(sector, offset)
    if version not in _EXTENSION_VERSIONS or flags not in (0, 1):
        raise look.Doubt('unknown header version')
    if version:
        boot_areas, _ = _locations(sector, offset + _EXTENSION.size)
    # A size of 0 is: up to the end of the device.
    if len(data) != 1 or data[0][1]:
        raise look.Doubt('several data areas')
    return PhysicalVolume(
        uuid=uuid.decode('ascii'),
        size=size,
        data_start=data[0][0],
        metadata=metadata,
        boot_areas=boot_areas,
    )


def _locations(
    sector: bytes, offset: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Read a list of areas; give also the offset behind it."""
    found: list[tuple[int, int]] = []
    while True:
        location = _LOCATION.unpack_from(sector, offset)
        offset += _LOCATION.size
        if not location[0]:
            return tuple(found), offset
        found.append(location)


def _read_area(
    disk: base.Disk, start: int, offset: int, size: int, length: int
) -> bytes:
    """Read the valid text of a metadata area."""
    if not (
        _AREA_HEADER_SIZE < size <= _MAX_AREA and offset + size <= length
    ):
        raise look.Doubt('bad metadata area')
    header = _read(disk, start + offset, _AREA_HEADER_SIZE)
    checksum, magic, version, own_offset, own_size = (
        _AREA_HEADER.unpack_from(header)
    )
    if (
        checksum != _checksum(header[4:])
        or magic != _AREA_MAGIC
        or version != _AREA_VERSION
        or (own_offset, own_size) != (offset, size)
    ):
        raise look.Doubt('bad metadata area')
    at, text_size, text_checksum, flags = _TEXT_LOCATION.unpack_from(
        header, _AREA_HEADER.size
    )
    # The second one is of a change that was begun and is not made yet.
    other = _TEXT_LOCATION.unpack_from(
        header, _AREA_HEADER.size + _TEXT_LOCATION.size
    )
    if flags or other[0]:
        raise look.Doubt('metadata ignored or being changed')
    if not at:
        raise look.Doubt('no volume group')
    room = size - _AREA_HEADER_SIZE
    if not _AREA_HEADER_SIZE <= at < size or not (
        0 < text_size <= min(room, _MAX_TEXT)
    ):
        raise look.Doubt('bad metadata area')
    until_end = min(text_size, size - at)
    text = _read(disk, start + offset + at, until_end)
    if until_end < text_size:
        text += _read(
            disk,
            start + offset + _AREA_HEADER_SIZE,
            text_size - until_end,
        )
    if text_checksum != _checksum(text):
        raise look.Doubt('bad metadata checksum')
    return text.rstrip(b'\0')
