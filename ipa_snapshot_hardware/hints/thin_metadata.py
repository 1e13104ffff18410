# SPDX-License-Identifier: Apache-2.0
"""What a thin pool's metadata say, as ``thin_dump`` prints them.

The tools open their input with O_DIRECT, in one piece. So the metadata are
copied from the segments of the disk into a file; where that does not know
O_DIRECT either, as in a ramdisk, a loop device over it does. ``thin_check``
has to find nothing wrong first.

An element in a line::

    <superblock uuid="" time="1" transaction="2" ... data_block_size="128" nr_data_blocks="1024">
      <def name="7"> ... </def>
      <device dev_id="1" mapped_blocks="4" transaction="0" creation_time="0" snap_time="1">
        <range_mapping origin_begin="0" data_begin="0" length="3" time="0"/>
        <single_mapping origin_block="9" data_block="6" time="1"/>
        <ref name="7"/>
      </device>
    </superblock>

``origin``: block of the device; ``data``: block of the pool. A ``def`` is a
part of several devices, which some releases print only once.
"""  # noqa: E501  lines of that program

import array
import collections.abc
import contextlib
import dataclasses
import errno
import mmap
import os
import re
import struct
import tempfile
import typing

import blake3

from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import access
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm_area
from ipa_snapshot_hardware.survey import lvm_thin
from ipa_snapshot_hardware.survey import tool

#: Larger metadata are not looked at. LVM makes 128 MiB at most unless told
#: otherwise; what was ever used of them is in memory for a moment.
MAX_METADATA = 256 * MiB
#: Of all devices together; 16 bytes each.
MAX_RUNS = 1_000_000
#: One byte each, when they are compared.
MAX_BLOCKS = 64 * MiB
MAX_DEVICES = 256

# Times of mappings have 24 bits, and say nothing once they have come around.
_MAX_TIME = (1 << 24) - 1
_COPY = 1 * MiB
_MAX_LINE = 4096

_NUMBER = rb'"([0-9]{1,19})"'
_RUN = re.compile(
    rb' *<range_mapping origin_begin=%b data_begin=%b length=%b time=%b/>'
    % ((_NUMBER,) * 4))
_BLOCK = re.compile(
    rb' *<single_mapping origin_block=%b data_block=%b time=%b/>'
    % ((_NUMBER,) * 3))
_OTHER = re.compile(
    rb' *<(/?[a-z]+)((?: [a-z_]+="[^"<>]*")*) ?/?>')
_ATTRIBUTE = re.compile(rb' ([a-z_]+)="([^"]*)"')
_MAPPING = struct.Struct('<QQQQ')


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """A thin device.

    :param transaction: of the pool, when the device was made.
    :param created: the pool's time then. It goes on with every snapshot.
    :param digest: of all its mappings: block, block of the pool, time.
    :param runs: the pool's blocks that it maps, first and count in turn.
    """

    transaction: int
    created: int
    digest: str
    runs: 'array.array[int]'


@dataclasses.dataclass(frozen=True, slots=True)
class Metadata:
    """What is in a pool.

    :param time: how many snapshots were made.
    :param blocks: of the pool.
    :param devices: by their number.
    """

    time: int
    blocks: int
    devices: dict[int, Device]


def read(
    disk: base.Disk, pool: lvm_thin.Pool, watch: look.Watch
) -> Metadata:
    """Read the metadata of a pool.

    :param watch: called often; may raise to give up.
    :raises Doubt: they are damaged, too large, or do not go with what LVM
        says of the pool; or a program is missing.
    :raises DiskReadError: when they cannot be read.
    :raises OSError: when there is no room for a copy.
    """
    if sum(piece.length for piece in pool.metadata) > MAX_METADATA:
        raise look.Doubt('metadata too large')
    for name in ('thin_check', 'thin_dump'):
        tool.find(name)
    with tempfile.NamedTemporaryFile() as file:
        _copy(disk, pool.metadata, file, watch)
        with _opened(file.name) as path:
            answer = tool.run('thin_check', path, watch=watch)
            if answer.tool.code:
                answer.tool.fail()
            with tool.Tool(('thin_dump', path), watch=watch) as running:
                found = parse(_lines(running.output()), pool)
                if running.code:
                    running.fail()
    return found


def parse(
    lines: collections.abc.Iterable[bytes], pool: lvm_thin.Pool
) -> Metadata:
    """Read what thin_dump has printed.

    :raises Doubt: it is not understood, or not of this pool.
    """
    parser = _Parser(pool)
    for line in lines:
        if not parser.add_mapping(line):
            parser.add(line)
    return parser.result()


# Private


def _copy(
    disk: base.Disk,
    pieces: tuple[lvm_thin.Piece, ...],
    file: typing.IO[bytes],
    watch: look.Watch,
) -> None:
    """Copy the pieces into a file, but for what is zero."""
    zeros = bytes(_COPY)
    with mmap.mmap(-1, _COPY) as room, memoryview(room) as buffer:
        for piece in pieces:
            for offset in range(0, piece.length, _COPY):
                watch()
                with buffer[:min(_COPY, piece.length - offset)] as part:
                    disk.read_into(piece.start + offset, part)
                    if part != zeros[:len(part)]:
                        file.seek(piece.logical + offset)
                        file.write(part)
    file.truncate(sum(piece.length for piece in pieces))
    file.flush()


@contextlib.contextmanager
def _opened(path: str) -> collections.abc.Iterator[str]:
    """Give something with the content of a file that knows O_DIRECT."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    else:
        yield path
        return
    with access.loop_device(path, 0, os.stat(path).st_size) as node:
        yield node


def _lines(
    pieces: collections.abc.Iterable[bytes],
) -> collections.abc.Iterator[bytes]:
    rest = b''
    for piece in pieces:
        *lines, rest = (rest + piece).split(b'\n')
        if len(rest) > _MAX_LINE:
            raise look.Doubt('dump not understood')
        yield from lines
    if rest:
        yield rest


class _Parser:
    """Reads a dump line by line.

    :param pool: that it has to be of.
    """

    def __init__(self, pool: lvm_thin.Pool) -> None:
        self._pool = pool
        self._expected = 'superblock'
        self._time = 0
        self._blocks = 0
        self._devices: dict[int, Device] = {}
        self._shared: dict[bytes, list[tuple[int, int, int, int]]] = {}
        self._shared_now: list[tuple[int, int, int, int]] | None = None
        self._device: _DeviceReader | None = None
        self._room = MAX_RUNS

    def add_mapping(self, line: bytes) -> bool:
        """Take a line that is a mapping; tell whether it was one."""
        found = _RUN.fullmatch(line)
        if found is not None:
            block, data, count, time = map(int, found.groups())
        else:
            found = _BLOCK.fullmatch(line)
            if found is None:
                return False
            block, data, time = map(int, found.groups())
            count = 1
        if self._shared_now is not None:
            self._take_room()
            self._shared_now.append((block, data, count, time))
        else:
            self._map(block, data, count, time)
        return True

    def add(self, line: bytes) -> None:
        """Take any other line."""
        found = _OTHER.fullmatch(line)
        if found is None:
            if line.strip():
                raise _not_understood()
            return
        name = found[1].decode()
        fields = dict(_ATTRIBUTE.findall(found[2]))
        label = fields.get(b'name', b'')
        if name == 'superblock' and self._expected == 'superblock':
            self._begin(fields)
        elif name == '/superblock' and self._is_between():
            self._expected = 'nothing'
        elif name == 'device' and self._is_between():
            self._begin_device(fields)
        elif name == '/device' and self._device is not None:
            self._end_device()
        elif name == 'def' and self._is_between():
            self._shared_now = self._shared.setdefault(label, [])
        elif name == '/def' and self._shared_now is not None:
            self._shared_now = None
        elif name == 'ref' and label in self._shared:
            for mapping in self._shared[label]:
                self._map(*mapping)
        else:
            raise _not_understood()

    def result(self) -> Metadata:
        if self._expected != 'nothing':
            raise _not_understood()
        return Metadata(self._time, self._blocks, self._devices)

    # Private

    def _is_between(self) -> bool:
        """Tell whether the line is in the superblock and in nothing else."""
        return (self._expected == 'device' and self._device is None
                and self._shared_now is None)

    def _begin(self, fields: dict[bytes, bytes]) -> None:
        self._expected = 'device'
        self._time = _number(fields, b'time')
        self._blocks = _number(fields, b'nr_data_blocks')
        chunk_size = _number(fields, b'data_block_size') * lvm_area.SECTOR
        data_size = sum(piece.length for piece in self._pool.data)
        if self._time > _MAX_TIME or self._blocks > MAX_BLOCKS:
            raise look.Doubt('pool too large')
        if (chunk_size != self._pool.chunk_size
                or self._blocks * chunk_size > data_size):
            raise look.Doubt('metadata do not go with the pool')
        # Of LVM's two accounts one is older: it was put back, or LVM was
        # interrupted.
        if _number(fields, b'transaction') != self._pool.transaction:
            raise look.Doubt('another transaction')

    def _begin_device(self, fields: dict[bytes, bytes]) -> None:
        number = _number(fields, b'dev_id')
        if number in self._devices or len(self._devices) == MAX_DEVICES:
            raise look.Doubt('too many thin devices')
        self._device = _DeviceReader(
            number, _number(fields, b'transaction'),
            _number(fields, b'creation_time'))

    def _end_device(self) -> None:
        assert self._device is not None
        device = self._device.result()
        self._devices[self._device.number] = device
        self._device = None

    def _map(self, block: int, data: int, count: int, time: int) -> None:
        if (self._device is None or count < 1
                or data + count > self._blocks or time > self._time):
            raise _not_understood()
        if self._device.add(block, data, count, time):
            self._take_room()

    def _take_room(self) -> None:
        self._room -= 1
        if self._room < 0:
            raise look.Doubt('too fragmented')


class _DeviceReader:
    """Collects the mappings of a device.

    How they are cut into runs is up to the program; so runs that continue
    each other are joined before they count.
    """

    def __init__(self, number: int, transaction: int, created: int) -> None:
        self.number = number
        self._transaction = transaction
        self._created = created
        self._digest = blake3.blake3()
        self._runs = array.array('Q')
        self._block = self._data = self._count = self._time = 0

    def add(self, block: int, data: int, count: int, time: int) -> bool:
        """Add a run; tell whether it began a new one."""
        end = self._block + self._count
        if block < end:
            raise _not_understood()
        if (self._count and block == end and time == self._time
                and data == self._data + self._count):
            self._count += count
            return False
        self._flush()
        self._block, self._data = block, data
        self._count, self._time = count, time
        return True

    def result(self) -> Device:
        self._flush()
        return Device(self._transaction, self._created,
                      self._digest.hexdigest(), self._runs)

    # Private

    def _flush(self) -> None:
        if self._count:
            self._digest.update(_MAPPING.pack(
                self._block, self._data, self._count, self._time))
            self._runs.extend((self._data, self._count))


def _number(fields: dict[bytes, bytes], name: bytes) -> int:
    value = fields.get(name, b'')
    if not value.isdigit() or len(value) > 19:
        raise _not_understood()
    return int(value)


def _not_understood() -> look.Doubt:
    return look.Doubt('dump not understood')
