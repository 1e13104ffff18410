# SPDX-License-Identifier: Apache-2.0
"""Thin pools of LVM: what two devices share, nobody has written to.

The rule. Of the thin devices that the parent's capture has seen, some are
still there: *known* ones. Some of these map exactly what they mapped then:
*kept* ones, as a rule a snapshot that nobody has used. A block of the pool
that now is mapped by two known devices, of which one is a kept one, has not
changed since the parent's capture.

The proof, from how dm-thin works:

1. A block that is mapped is never given out again. It gets into a device by
   a write to a place that had no block or a shared one, and then is this
   device's alone; or with all the others of its origin, when the device is
   made as a snapshot. There is no other way.
2. So two devices share a block since the younger of them was made: neither
   can have got it later. Had one of them dropped it in between (by a write,
   or a discard), it would not have come back.
3. A write to a block that is shared goes to another, new block. (dm-thin even
   takes every block for shared that is older than the device's last
   snapshot, and never forgets that.)
4. Both devices were there when the parent was captured. So the block was
   shared all the time since, by 2, and not written to, by 3.

A device is the one of then if LVM's id of the volume, its number, and time
and transaction of its making are the same. The pool's time goes on with
every snapshot, so one that was deleted and made again under its number has
another; and a thin volume that began empty shares nothing with older ones.

Steps 2 and 4 speak of one history. When older metadata, or an older image of
the disk, were put back, there are two: that of the parent and that of now.
That is what *kept* is for. LVM's ids are random, so the kept device was made
once, before the two parted. It mapped the block at the parent's capture, as
the digest of its mappings says, and with a time from before the younger of
the two devices was made; mapped anew, it would have a later one. So it has
had the block from then on without a break, in both histories, and by 3 nobody
has written to it, whatever became of the other device. Also, the pool's time
and transaction must not be less than they were, and LVM and the pool must
agree on the latter.

Beyond proof is what no longer is on the disk: a kept device that was deleted
after the parent's capture, whose blocks were used again, and that came back
because somebody put back by hand both LVM's description and the pool's
metadata; or a write to the disk past dm-thin.

What this does not call unchanged, though it may be:

* blocks of one device alone. The parent saw the origin without a snapshot,
  or the snapshot was made after it: what was written between the two was
  written in place;
* blocks that are not, or no longer, mapped by anybody;
* what lies elsewhere on the disk than it did: the pool's data volume may
  have grown, or been moved.

``thin_delta`` gives the same blocks for one pair of devices. It says nothing
of the devices themselves, so ``thin_dump`` is needed in any case, and has
the answer for all pairs.
"""

import array
import collections.abc
import json
import logging
import re
import typing

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import base as disk_base
from ipa_snapshot_hardware.hints import thin_metadata
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm_thin

LOG = logging.getLogger(__name__)

KIND = 'dm-thin'

#: A record has to fit into a text of the manifest.
MAX_PIECES = 64

_VERSION = 1
#: What a record consists of.
_TYPES = {
    'version': int,
    'pool': str,
    'chunk': int,
    'transaction': int,
    'time': int,
    'data': list,
    'device': int,
    'volume': str,
    'made': list,
    'map': str,
}
_OF_POOL = ('chunk', 'transaction', 'time', 'data')
_OF_DEVICE = ('volume', 'made')

# What is known of a block, and what becomes of that when one more known
# device maps it.
_ONE, _ONE_KEPT, _SHARED, _UNCHANGED = 1, 2, 3, 4
_REST = bytes(range(5, 256))
_BY_KNOWN = bytes((
    _ONE, _SHARED, _UNCHANGED, _SHARED, _UNCHANGED)) + _REST
_BY_KEPT = bytes((
    _ONE_KEPT, _UNCHANGED, _UNCHANGED, _UNCHANGED, _UNCHANGED)) + _REST
_RUN = re.compile(bytes((_UNCHANGED,)) + b'+')


def find(
    disk: disk_base.Disk, start: int, length: int, watch: look.Watch
) -> list['DmThin']:
    """Look for thin pools in a physical volume.

    :param start: of the volume, in bytes from the start of the disk.
    :param length: of the volume, in bytes.
    :param watch: called often; may raise to give up.
    :raises Doubt: LVM's description is not understood.
    :raises DiskReadError: it cannot be read.
    """
    found = []
    for name, pool in lvm_thin.pools(disk, start, length).items():
        try:
            if isinstance(pool, look.Doubt):
                raise pool
            if len(pool.data) > MAX_PIECES:
                raise look.Doubt('too many segments')
            found.append(
                DmThin(pool, thin_metadata.read(disk, pool, watch)))
        except look.Doubt as doubt:
            LOG.info('No hint from thin pool %s: %s', name, doubt.reason)
    return found


class DmThin:
    """The hint that a thin pool gives.

    :param pool: as LVM describes it.
    :param metadata: what is in it.
    """

    kind = KIND

    def __init__(
        self, pool: lvm_thin.Pool, metadata: thin_metadata.Metadata
    ) -> None:
        self._pool = pool
        self._metadata = metadata

    def unchanged(
        self, parent_hints: collections.abc.Sequence[manifest.HintRecord]
    ) -> extent.DataExtents | None:
        try:
            recorded = self._recorded(parent_hints)
            states = self._states(recorded)
        except look.Doubt as doubt:
            LOG.info('No hint from thin pool %s: %s', self._pool.name,
                     doubt.reason)
            return None
        return self._on_disk(states, recorded[0]['data'])

    def records(self) -> list[manifest.HintRecord]:
        found = []
        for number in self._metadata.devices:
            fields = self._record(number)
            if fields is not None:
                found.append(manifest.HintRecord(KIND, json.dumps(
                    fields, separators=(',', ':'))))
        return found

    # Private

    def _record(self, number: int) -> dict[str, typing.Any] | None:
        """Give what is recorded of a device; None if LVM knows it not."""
        device = self._metadata.devices.get(number)
        volume = self._pool.volumes.get(number)
        if (device is None or volume is None
                or device.transaction != volume.transaction):
            return None
        return {
            'version': _VERSION,
            'pool': self._pool.uuid,
            'chunk': self._pool.chunk_size,
            'transaction': self._pool.transaction,
            'time': self._metadata.time,
            'data': [[each.start, each.length] for each in self._pool.data],
            'device': number,
            'volume': volume.uuid,
            'made': [device.transaction, device.created],
            'map': device.digest,
        }

    def _recorded(
        self, records: collections.abc.Sequence[manifest.HintRecord]
    ) -> list[dict[str, typing.Any]]:
        """Give what the parent recorded of this pool, if that makes sense.

        :raises Doubt: it does not, or the pool is older than it was.
        """
        found = []
        for record in records:
            fields = _parse(record)
            if fields is not None and fields['pool'] == self._pool.uuid:
                found.append(fields)
        if not found:
            raise look.Doubt('the parent has not seen it')
        first = found[0]
        for fields in found:
            if any(fields[name] != first[name] for name in _OF_POOL):
                raise look.Doubt('the records contradict each other')
        if (first['transaction'] > self._pool.transaction
                or first['time'] > self._metadata.time):
            raise look.Doubt('older metadata were put back')
        if first['chunk'] != self._pool.chunk_size:
            raise look.Doubt('another size of chunks')
        return found

    def _states(
        self, recorded: list[dict[str, typing.Any]]
    ) -> bytearray:
        """Give for each block of the pool what is known of it.

        :raises Doubt: nothing is.
        """
        states = bytearray(self._metadata.blocks)
        known = kept = 0
        for then in recorded:
            now = self._record(then['device'])
            if now is None or any(then[each] != now[each]
                                  for each in _OF_DEVICE):
                continue
            known += 1
            same = then['map'] == now['map']
            kept += same
            _count(states, self._metadata.devices[then['device']].runs,
                   _BY_KEPT if same else _BY_KNOWN)
        LOG.info(
            'Thin pool %s: the parent saw %d of its devices, %d of them as '
            'they are now', self._pool.name, known, kept)
        if known < 2 or not kept:
            raise look.Doubt('no snapshot was kept since the parent')
        return states

    def _on_disk(
        self, states: bytearray, then: list[list[int]]
    ) -> extent.DataExtents:
        """Give where the unchanged blocks lie, if they always lay there.

        :param then: the pieces of the pool's data at the parent's capture,
            start and length.
        """
        found = extent.DataExtents()
        chunk = self._pool.chunk_size
        for start, end, offset in sorted(
                _same_places(self._pool.data, then),
                key=lambda each: each[0] + each[2]):
            for run in _RUN.finditer(
                    states, -(-start // chunk), end // chunk):
                # One more, and the smallest holes would be closed.
                if len(found) == extent.MAX_RANGES:
                    return found
                found.add(run.start() * chunk + offset,
                          run.end() * chunk + offset)
        return found


# Private


def _parse(record: manifest.HintRecord) -> dict[str, typing.Any] | None:
    """Read a record; None if it is not one of ours."""
    if record.kind != KIND:
        return None
    try:
        fields = json.loads(record.key)
        sound = (
            fields.keys() == _TYPES.keys()
            and fields['version'] == _VERSION
            and all(type(fields[name]) is kind
                    for name, kind in _TYPES.items())
            and all(type(each) is int and each >= 0
                    for pair in (*fields['data'], fields['made'])
                    for each in pair)
            and all(len(pair) == 2 for pair in fields['data']))
    except (ValueError, TypeError, AttributeError):
        sound = False
    if not sound:
        LOG.info('A record of a thin device is not understood')
        return None
    found: dict[str, typing.Any] = fields
    return found


def _count(
    states: bytearray, runs: 'array.array[int]', after: bytes
) -> None:
    """Note that one more known device maps some blocks.

    :raises Doubt: it maps a block twice.
    """
    seen = bytearray(len(states))
    for first, count in zip(runs[::2], runs[1::2], strict=True):
        end = first + count
        if seen.find(1, first, end) >= 0:
            raise look.Doubt('a device maps a block twice')
        seen[first:end] = b'\1' * count
        states[first:end] = states[first:end].translate(after)


def _same_places(
    now: tuple[lvm_thin.Piece, ...], then: list[list[int]]
) -> collections.abc.Iterator[tuple[int, int, int]]:
    """Give what of a volume lies where it lay.

    :returns: start and end in the volume, and what has to be added to have
        the place on the disk; in bytes.
    """
    logical = 0
    for at, length in then:
        for piece in now:
            start = max(logical, piece.logical)
            end = min(logical + length, piece.logical + piece.length)
            offset = at - logical
            if start < end and offset == piece.start - piece.logical:
                yield start, end, offset
        logical += length
