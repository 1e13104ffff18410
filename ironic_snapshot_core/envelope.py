# SPDX-License-Identifier: Apache-2.0
"""Binary documents: a magic number, a version, a payload, a digest.

::

    magic    4 bytes
    version  u16      another one is refused
    flags    u16      features; an unknown one is refused
    header   u16 length, then bytes; each format's own
    payload  u64 plain length, u64 stored length, then a zstd frame
    digest   32 bytes, BLAKE3 of everything before

Little-endian. The digest finds every accident; but whoever writes a document
can make a good digest, so nothing is believed for having one.
"""

import array
import hmac
import io
import struct
import sys
import typing

import blake3
import zstandard

from ironic_snapshot_core import codec
from ironic_snapshot_core import errors

DIGEST_SIZE = 32

_START = struct.Struct('<4sHHH')
_LENGTHS = struct.Struct('<QQ')

#: The arrays of this module have exactly these sizes on every platform that
#: Python runs on.
U32 = 'I'
U64 = 'Q'

_CODEC = codec.ZstdCodec()


def wrap(magic: bytes, version: int, header: bytes,
         payload: typing.Sequence[bytes | memoryview]) -> bytes:
    """Make a document.

    :param payload: in pieces, as the whole may be large.
    """
    size = sum(map(len, payload))
    compressor = zstandard.ZstdCompressor(
        level=codec.ZSTD_LEVEL).compressobj(size=size)
    # Large ones are put together in place: there is no second copy.
    out = io.BytesIO()
    out.write(_START.pack(magic, version, 0, len(header)))
    out.write(header)
    lengths_at = out.tell()
    out.write(bytes(_LENGTHS.size))
    stored_at = out.tell()
    for piece in payload:
        out.write(compressor.compress(piece))
    out.write(compressor.flush())
    stored = out.tell() - stored_at
    out.seek(lengths_at)
    out.write(_LENGTHS.pack(size, stored))
    with out.getbuffer() as view:
        digest = blake3.blake3(view).digest()
    out.seek(0, io.SEEK_END)
    out.write(digest)
    return out.getvalue()


class Reader:
    """Opens a document; what it holds is handed out piece by piece.

    :param what: names the document in errors.
    :raises Corrupted: it is none, or any bit of it changed.
    :raises UnsupportedVersion: a newer release wrote it.
    :raises UnsupportedFeature: likewise.
    """

    def __init__(self, data: bytes, magic: bytes, version: int,
                 what: str) -> None:
        self.what = what
        body = memoryview(data)[:-DIGEST_SIZE]
        if len(body) < _START.size + _LENGTHS.size:
            raise self.corrupted('it is too short')
        found, its_version, flags, length = _START.unpack_from(body)
        if found != magic:
            raise self.corrupted('it does not begin as one')
        if not hmac.compare_digest(
                blake3.blake3(body).digest(), data[-DIGEST_SIZE:]):
            raise self.corrupted('its digest does not match')
        if its_version != version:
            raise errors.UnsupportedVersion(
                f'The {what}', its_version, version)
        if flags:
            raise errors.UnsupportedFeature(
                f'The {what}', [f'flags {flags:#06x}'])
        end = _START.size + length
        if len(body) < end + _LENGTHS.size:
            raise self.corrupted('its header is cut short')
        self.header = bytes(body[_START.size:end])
        self._size, stored = _LENGTHS.unpack_from(body, end)
        self._stored = body[end + _LENGTHS.size:]
        if len(self._stored) != stored:
            raise self.corrupted('its length is wrong')
        self._payload = memoryview(b'')
        self._position = 0

    def corrupted(self, reason: str) -> errors.Corrupted:
        return errors.Corrupted(self.what, reason)

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """Give what the header holds, which must be exactly this."""
        if len(self.header) != layout.size:
            raise self.corrupted('its header has another length')
        return layout.unpack(self.header)

    def open(self, size: int) -> None:
        """Decompress the payload.

        :param size: in bytes, what it must be, from counts in the header
            that the caller has checked: no more memory is taken.
        """
        if self._size != size:
            raise self.corrupted(
                f'it has {self._size} bytes of content instead of {size}')
        try:
            self._payload = memoryview(
                _CODEC.decompress(self._stored, size))
        except errors.Corrupted as e:
            raise self.corrupted(e.reason) from None

    def take(self, size: int) -> bytes:
        """Give the next bytes of the payload."""
        end = self._position + size
        if end > len(self._payload):
            raise self.corrupted('its content is cut short')
        data = bytes(self._payload[self._position:end])
        self._position = end
        return data

    def column(self, typecode: str, count: int) -> 'array.array[int]':
        """Give the next column of integers; see :func:`column`."""
        width = array.array(typecode).itemsize
        planes = self.take(width * count)
        data = bytearray(width * count)
        for plane in range(width):
            data[plane::width] = planes[plane * count:(plane + 1) * count]
        values = array.array(typecode)
        values.frombytes(data)
        if sys.byteorder == 'big':
            values.byteswap()
        return values


def column(values: 'array.array[int]') -> bytes:
    """Lay out integers so that they compress well and fast.

    All the lowest bytes come first, then all the next, and so on: most of
    the higher ones are alike, and zstd makes nothing of them::

        01 02 00 00 | 05 02 00 00 | 09 03 00 00
        01 05 09 | 02 02 03 | 00 00 00 | 00 00 00
    """
    if sys.byteorder == 'big':
        values = array.array(values.typecode, values)
        values.byteswap()
    data = values.tobytes()
    width = values.itemsize
    return b''.join(data[plane::width] for plane in range(width))
