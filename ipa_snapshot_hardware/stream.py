# SPDX-License-Identifier: Apache-2.0
"""A stream: from a disk to the data of an image, without a store between.

::

    disk -> what is in use? -> how long will each cluster be? -> head
         -> a token -> head, clusters -> PUT
    then a second look at some clusters, then the end of the image

The head comes first and says where every cluster is. Without compression
each is as long as any other, and the disk is read once. With it the disk is
read twice: to measure, and to send; that each cluster is as long the second
time is made sure of.

The image has an end only when all is well, and an image without an end is
none to Glance. Nothing is kept for later: a stream that is interrupted
begins anew.
"""

import array
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import typing
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest
from ironic_snapshot_core import qcow2
from ironic_snapshot_core import qcow2_sequence
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.store import renewal
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import guard
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware import sample
from ipa_snapshot_hardware import stream_request
from ipa_snapshot_hardware import timing
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import os_release
from ipa_snapshot_hardware.survey import survey as surveys

LOG = logging.getLogger(__name__)

_POLL_S = 0.5


class Sink(typing.Protocol):
    """Where the data of an image go: see :class:`upload.Upload`."""

    def check(self) -> None: ...

    def send(self, pieces: Iterator[bytes], size: int) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Streamed:
    """An image that was sent; sizes in bytes.

    :param size: of the image.
    :param hash: of its bytes, in hexadecimal digits.
    :param unreadable: of the disk, that are zeroes in the image.
    :param seconds: that it took, by phase.
    :param state: of its progress, at the end.
    """

    size: int
    hash: str
    disk_size: int
    used: int
    data: int
    unreadable: int
    system: manifest.SystemRecord
    seconds: dict[str, float]
    state: progress.CaptureState


def stream(
    disk: base.Disk,
    sink: Sink,
    auth: upload_grant.UploadAuth,
    wanted: stream_request.StreamRequest,
    *,
    allowed: budget.Budget,
    clock: clocks.Clock,
    stop: executor.Stop,
    ask: Callable[[], None],
    counters: progress.CaptureProgress,
    system: manifest.SystemRecord,
) -> Streamed:
    """Send the image of a disk.

    :param disk: only read.
    :param auth: gets the token that is asked for.
    :param allowed: threads and memory.
    :param stop: set it to cancel.
    :param ask: called when a token is needed.
    :param system: what is known of it without looking at the disk.
    :raises DiskReadError: when a sector cannot be read.
    :raises RestoreUnfinished: when the disk is half restored.
    :raises DiskChanged: when the disk was written to meanwhile.
    :raises ImageError: when Glance does not take it.
    :raises InvalidValue: when the memory is too small for what is in use.
    :raises Cancelled: when it was stopped.
    """
    return _Stream(
        disk, sink, auth, wanted, allowed, clock, stop, ask, counters
    ).run(system)


def summarise(
    wanted: stream_request.StreamRequest, sent: Streamed
) -> dict[str, object]:
    """Make the result of the step: small, for it goes into a database."""
    return {
        'protocol': arguments.PROTOCOL,
        'snapshot': wanted.snapshot,
        'more': False,
        'image': {
            'id': wanted.image,
            'size': sent.size,
            'hash_algorithm': wanted.hash,
            'hash': sent.hash,
        },
        'totals': {
            'virtual_bytes': sent.disk_size,
            'used_bytes': sent.used,
            'data_bytes': sent.data,
            'unreadable_bytes': sent.unreadable,
        },
        'system': dataclasses.asdict(sent.system),
        'seconds': round(sent.seconds['total'], 1),
        'progress': sent.state.to_dict(),
    }


# Private


@dataclasses.dataclass(slots=True)
class _Encoded:
    """What became of a batch of clusters.

    :param lengths: of all of them, as :mod:`qcow2_sequence` has them.
    :param pieces: of those that are not zero; none when only measuring.
    """

    batch: reader.Batch
    lengths: list[int]
    pieces: list[bytes]


class _Stream:
    """One stream; :meth:`run` tells the story."""

    def __init__(
        self,
        disk: base.Disk,
        sink: Sink,
        auth: upload_grant.UploadAuth,
        wanted: stream_request.StreamRequest,
        allowed: budget.Budget,
        clock: clocks.Clock,
        stop: executor.Stop,
        ask: Callable[[], None],
        counters: progress.CaptureProgress,
    ) -> None:
        self._disk = disk
        self._sink = sink
        self._auth = auth
        self._wanted = wanted
        self._allowed = allowed
        self._clock = clock
        self._stop = stop
        self._ask = ask
        self._counters = counters
        self._times = timing.Times(clock)
        self._hash = hashlib.new(wanted.hash)
        self._size = wanted.cluster_size
        # Comparing a bytearray with a memoryview is a memcmp.
        self._zero = bytearray(self._size)
        # Of the clusters of the second look, as they were sent.
        self._seen: dict[int, bytes] = {}

    def run(self, system: manifest.SystemRecord) -> Streamed:
        guard.check_finished(self._disk)
        self._counters.begin(progress.SURVEY)
        self._surveyed = surveys.survey(
            self._disk,
            all_blocks=self._wanted.all_blocks,
            skip_gaps=self._wanted.skip_gaps,
            watch=self._watch,
        )
        system = os_release.describe(
            self._disk, self._surveyed.regions, self._watch, system
        )
        self._source = self._reader()
        clusters = sum(count for _, count in self._source.runs())
        self._fit(clusters)
        self._chosen = frozenset(
            sample.choose(
                self._wanted.snapshot,
                self._source.runs(),
                self._size,
                [region.start for region in self._surveyed.regions],
            )
        )
        self._times.end(progress.SURVEY)
        lengths = self._measure(clusters)
        groups = qcow2_sequence.arrange(lengths, self._size)
        head = self._build_head(lengths, groups)
        size = len(head) + sum(group.size for group in groups)
        self._await_token()
        self._sink.check()
        self._counters.begin(progress.SEND)
        with contextlib.closing(
            self._pieces(head, lengths, groups)
        ) as pieces:
            self._sink.send(pieces, size)
        self._times.end(progress.SEND)
        sent = Streamed(
            size=size,
            hash=self._hash.hexdigest(),
            disk_size=self._disk.size,
            used=self._surveyed.extents.size,
            data=sum(map(bool, lengths)) * self._size,
            unreadable=sum(
                end - start for start, end in self._source.unreadable
            ),
            system=system,
            seconds=self._times.finish(progress.SAMPLE),
            state=self._counters.state(),
        )
        LOG.info('Sent image %s: %s', self._wanted.image, sent.state)
        return sent

    # Private

    def _watch(self) -> None:
        """Go on with the survey, unless the stream is to stop."""
        self._stop.check()
        self._counters.add_moved(1)

    def _reader(self) -> reader.ClusterReader:
        return reader.ClusterReader(
            self._disk,
            self._surveyed.extents,
            self._size,
            self._allowed.read_size,
            self._wanted.allow_bad_sectors,
        )

    def _fit(self, clusters: int) -> None:
        """Fit the budget to what is known now.

        A capture of as many clusters, which that is made for, keeps more of
        each in memory.
        """
        self._allowed = budget.fit(
            self._allowed,
            cluster_size=self._size,
            codec=self._wanted.codec,
            clusters=clusters,
            ranges=len(self._surveyed.extents),
        )

    def _measure(self, clusters: int) -> 'array.array[int]':
        """Find out how long each cluster will be in the image."""
        source = self._source
        read = sum(source.size_of(*run) for run in source.runs())
        if isinstance(self._wanted.codec, codecs.NoneCodec):
            # All the same, even of zeroes: they are read once only.
            self._counters.expect(read)
            return array.array('I', [self._size]) * clusters
        self._counters.expect(2 * read)
        self._counters.begin(progress.MEASURE)
        lengths = array.array('I')
        for encoded in self._encode(source, keep=False):
            lengths.extend(encoded.lengths)
        # What cannot be read is found once more, in the same order.
        self._source = self._reader()
        self._times.end(progress.MEASURE)
        return lengths

    def _build_head(
        self,
        lengths: 'array.array[int]',
        groups: list[qcow2_sequence.Group],
    ) -> bytes:
        numbers = itertools.chain.from_iterable(
            range(first, first + count)
            for first, count in self._source.runs()
        )
        return qcow2.build_head(
            self._disk.size,
            self._size,
            self._wanted.codec,
            [group.size for group in groups],
            qcow2_sequence.placements(numbers, lengths, groups, self._size),
        )

    def _await_token(self) -> None:
        """Wait until we may send.

        The token comes when everything else is there, and need not be good
        for longer than it takes to begin.

        :raises ImageRefused: none came.
        """
        self._counters.begin(progress.READY)
        deadline = self._clock.monotonic() + renewal.PATIENCE_S
        self._ask()
        while not self._auth.grant.secret:
            self._stop.check()
            if self._clock.monotonic() >= deadline:
                raise errors.ImageRefused(
                    'upload',
                    self._wanted.image,
                    'the conductor has sent no credential',
                )
            self._clock.sleep(_POLL_S)
        self._times.end(progress.READY)

    def _pieces(
        self,
        head: bytes,
        lengths: 'array.array[int]',
        groups: list[qcow2_sequence.Group],
    ) -> Generator[bytes, None, None]:
        """Give the image, piece by piece, and hash it.

        The last piece is held back until the disk has turned out to be left
        alone.
        """
        last = b''
        for piece in itertools.chain((head,), self._groups(lengths, groups)):
            if last:
                self._counters.add_sent(len(last))
                yield last
            self._hash.update(piece)
            last = piece
        self._look_again()
        self._counters.add_sent(len(last))
        yield last

    def _groups(
        self,
        lengths: 'array.array[int]',
        groups: list[qcow2_sequence.Group],
    ) -> Iterator[bytes]:
        """Read the disk once more; give what comes behind the head."""
        ends = iter(groups)
        group = next(ends, None)
        blobs: list[bytes] = []
        ordinal = 0
        for encoded in self._encode(self._source, keep=True):
            pieces = iter(encoded.pieces)
            for length in encoded.lengths:
                if length != lengths[ordinal]:
                    raise self._changed()
                ordinal += 1
                if length == self._size:
                    yield next(pieces)
                elif length:
                    blobs.append(next(pieces))
                if group is not None and ordinal == group.end:
                    if group.blobs:
                        yield b''.join(blobs) + bytes(
                            group.size - group.raw * self._size - group.blobs
                        )
                        blobs.clear()
                    group = next(ends, None)
        if ordinal != len(lengths):
            raise self._changed()

    def _changed(self) -> errors.DiskChanged:
        return errors.DiskChanged(
            device=self._disk.name,
            reason='it was written to during the capture: it is not as it '
            'was when it was measured',
        )

    def _encode(
        self, source: reader.ClusterReader, keep: bool
    ) -> Iterator[_Encoded]:
        """Read all clusters and make of them what the image has.

        :param keep: that, too, and not how long it is alone.
        """
        buffers.keep_freed(2 * self._allowed.read_size)
        with executor.Executor(
            workers=self._allowed.workers,
            reads=self._allowed.reads,
            uploads=1,
            stop=self._stop,
            clock=self._clock,
        ) as threads:
            for encoded in threads.map(
                source.batches(), functools.partial(self._encode_batch, keep)
            ):
                data = sum(map(bool, encoded.lengths)) * self._size
                yield encoded
                encoded.batch.release()
                self._counters.add_read(
                    encoded.batch.size, data if keep else 0
                )
                self._counters.log_sometimes()

    def _encode_batch(self, keep: bool, batch: reader.Batch) -> _Encoded:
        """Work on a batch; several threads do at a time."""
        size = self._size
        view = batch.view
        compress = self._wanted.codec.compress
        plain = isinstance(self._wanted.codec, codecs.NoneCodec)
        lengths: list[int] = []
        pieces: list[bytes] = []
        for position, cluster in enumerate(batch.numbers):
            data = view[position * size : (position + 1) * size]
            if keep and cluster in self._chosen:
                self._seen[cluster] = digests.DEFAULT_DIGEST.digest(data)
            if not plain and self._zero == data:
                lengths.append(0)
                continue
            blob = compress(data)
            lengths.append(size if blob is None else len(blob))
            if keep:
                pieces.append(bytes(data) if blob is None else blob)
        return _Encoded(batch, lengths, pieces)

    def _look_again(self) -> None:
        """Find out whether the disk was left alone."""
        self._counters.begin(progress.SAMPLE)
        lost: set[int] = set()
        for start, end in self._source.unreadable:
            lost.update(range(start // self._size, -(-end // self._size)))
        sample.verify(
            sorted(self._chosen - lost),
            self._reader(),
            digests.DEFAULT_DIGEST,
            self._seen.get,
            self._disk.name,
            self._stop,
        )
        self._disk.check_unchanged()
