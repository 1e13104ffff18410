# SPDX-License-Identifier: Apache-2.0
"""Compression of single clusters, by id.

What a codec makes is stored in packs and read from there by qemu as well, as
compressed clusters of a qcow2 image; so its format is qcow2's.
"""

import abc
import threading
import typing
import zlib

import zstandard

from ironic_snapshot_core import errors

#: A cluster is stored as it is unless compressing it saves 1/16: less is not
#: worth the work of decompressing it at every read.
MIN_SAVING = 16

#: Level 1 is about as fast as reading a good disk; 3 takes twice as long for
#: a few per cent.
ZSTD_LEVEL = 1
ZSTD_LEVELS = range(1, 20)

#: zlib's own default.
ZLIB_LEVEL = 6
ZLIB_LEVELS = range(1, 10)

#: Raw deflate with a window of 4 KiB: what qcow2 prescribes.
ZLIB_WBITS = -12

#: qcow2's compression types.
QCOW2_ZLIB = 0
QCOW2_ZSTD = 1


class Codec(abc.ABC):
    """A way to compress clusters. Any thread may use it.

    :param level: None for the default.
    """

    #: As it stands in manifests.
    id: typing.ClassVar[str]
    #: qcow2's compression type, None if it cannot hold the result.
    qcow2_compression: typing.ClassVar[int | None]
    #: Levels there are; empty for none.
    levels: typing.ClassVar[range] = range(0)
    default_level: typing.ClassVar[int | None] = None

    def __init__(self, level: int | None = None) -> None:
        if level is None:
            level = self.default_level
        elif level not in self.levels:
            raise errors.InvalidValue(
                f'{self.id} level', level,
                f'it is not in {self.levels.start}..{self.levels.stop - 1}'
                if self.levels else 'the codec has no levels')
        self.level = level

    def compress(self, data: typing.Any) -> bytes | None:
        """Compress a whole cluster.

        :param data: bytes-like.
        :returns: None when too little is saved to be worth it.
        """
        blob = self._compress(data)
        if blob is None or len(blob) > len(data) - len(data) // MIN_SAVING:
            return None
        # qcow2 stores a compressed cluster only if it is smaller.
        return blob if len(blob) < len(data) else None

    @abc.abstractmethod
    def decompress(self, blob: typing.Any, size: int) -> bytes:
        """Give back what was compressed.

        Takes no more memory than ``size``, whatever the blob says.

        :param size: in bytes, what must come out.
        :raises Corrupted: it is not exactly one compressed cluster of this
            size.
        """

    @abc.abstractmethod
    def _compress(self, data: typing.Any) -> bytes | None:
        """Compress, however much it saves."""


class ZstdCodec(Codec):
    """zstd: one frame that states its size; no dictionary, no checksum."""

    id = 'zstd'
    qcow2_compression = QCOW2_ZSTD
    levels = ZSTD_LEVELS
    default_level = ZSTD_LEVEL

    def __init__(self, level: int | None = None) -> None:
        super().__init__(level)
        self._local = threading.local()

    def decompress(self, blob: typing.Any, size: int) -> bytes:
        # A frame that states its size is decompressed to that size whatever
        # limit is given; so what it states has to be looked at first.
        try:
            frame = zstandard.get_frame_parameters(blob)
        except zstandard.ZstdError:
            raise _bad('it is no zstd frame') from None
        if frame.content_size != size or frame.dict_id:
            raise _bad(f'it is no zstd frame of {size} bytes')
        try:
            data = self._decompressor().decompress(
                blob, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError:
            raise _bad('it is no valid zstd frame') from None
        if len(data) != size:
            raise _bad(f'it holds {len(data)} bytes instead of {size}')
        return data

    def _compress(self, data: typing.Any) -> bytes:
        # The objects are for one thread each.
        try:
            compressor = self._local.compressor
        except AttributeError:
            compressor = self._local.compressor = zstandard.ZstdCompressor(
                level=typing.cast(int, self.level), write_checksum=False,
                write_content_size=True)
        return typing.cast(bytes, compressor.compress(data))

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        try:
            decompressor = self._local.decompressor
        except AttributeError:
            decompressor = zstandard.ZstdDecompressor()
            self._local.decompressor = decompressor
        return typing.cast(zstandard.ZstdDecompressor, decompressor)


class ZlibCodec(Codec):
    """Raw deflate, for a qemu that does not know zstd."""

    id = 'zlib'
    qcow2_compression = QCOW2_ZLIB
    levels = ZLIB_LEVELS
    default_level = ZLIB_LEVEL

    def decompress(self, blob: typing.Any, size: int) -> bytes:
        decompressor = zlib.decompressobj(ZLIB_WBITS)
        try:
            # One byte more than wanted, to see the end of the stream.
            data = decompressor.decompress(blob, size + 1)
        except zlib.error:
            raise _bad('it is no deflate stream') from None
        if (len(data) != size or not decompressor.eof
                or decompressor.unused_data or decompressor.unconsumed_tail):
            raise _bad(f'it is no deflate stream of {size} bytes')
        return data

    def _compress(self, data: typing.Any) -> bytes:
        compressor = zlib.compressobj(
            typing.cast(int, self.level), zlib.DEFLATED, ZLIB_WBITS)
        return compressor.compress(data) + compressor.flush()


class NoneCodec(Codec):
    """Stores every cluster as it is."""

    id = 'none'
    qcow2_compression = None

    def decompress(self, blob: typing.Any, size: int) -> bytes:
        raise _bad('it is compressed, but nothing should be')

    def _compress(self, data: typing.Any) -> None:
        return None


CODECS: typing.Mapping[str, type[Codec]] = {
    cls.id: cls for cls in (ZstdCodec, ZlibCodec, NoneCodec)}
DEFAULT_CODEC = ZstdCodec.id


def validate_id(id: str) -> str:
    """Return the id if it is one of a codec.

    :raises UnsupportedFeature: it is not.
    """
    if id not in CODECS:
        raise errors.UnsupportedFeature('The snapshot', [f'codec {id!r}'])
    return id


def get_codec(id: str, level: int | None = None) -> Codec:
    """Give a codec by its id.

    :param level: None for the codec's default.
    :raises UnsupportedFeature: there is none of this id.
    :raises InvalidValue: it has no such level.
    """
    return CODECS[validate_id(id)](level)


def _bad(reason: str) -> errors.Corrupted:
    return errors.Corrupted('compressed cluster', reason)
