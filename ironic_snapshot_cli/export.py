# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot export``."""

import argparse
import json
import os
import sys
import threading
import typing

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core.store import base
from ipa_snapshot_hardware import executor
from ironic_snapshot_cli import arguments
from ironic_snapshot_cli import output
from ironic_snapshot_cli import parallel
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals

# A repository is read by so many at a time at most; each keeps a few MiB.
_MOST_THREADS = 8


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    stop = executor.Stop()
    clock = executor.StoppableClock(stop)
    began = clock.monotonic()
    threads = min(_MOST_THREADS, 2 * len(os.sched_getaffinity(0)))
    store = repository.open_to_read(args.repository, clock, threads)
    manifest = selection.find(store, args.snapshot)
    done = _Done(clock)
    with terminals.Progress(
        terminal,
        done.step,
        clock,
        quiet=args.quiet,
        only_bar=args.json or args.out == arguments.STDOUT,
    ):
        repaired = _export(
            args, store, manifest, done, parallel.Workers(threads, stop)
        )
    seconds = clock.monotonic() - began
    if args.json:
        print(json.dumps(_to_dict(args, manifest, seconds, repaired)))
    elif args.out != arguments.STDOUT:
        print(
            f'Exported "{table.printable(manifest.name)}" to {args.out}: '
            f'{args.format}, {sizes.show(manifest.disk.size)}, verified, in '
            f'{sizes.show_seconds(seconds)}'
        )
    if manifest.degraded:
        terminal.line(
            f'{terminals.PROGRAM}: warning: the snapshot is degraded: parts '
            'of the disk could not be read and are zero in the image'
        )
    if repaired:
        terminal.line(
            f'{terminals.PROGRAM}: warning: {len(repaired)} '
            f'{"clusters are" if len(repaired) > 1 else "cluster is"} '
            'damaged in the repository; read from second copies. The next '
            f'snapshot should be a full one. The first: {repaired[0]}'
        )
    return status.DONE


# Private


class _Done:
    """Counts bytes; any thread may count or look."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock.monotonic()
        self._done = self._total = 0

    def expect(self, total: int) -> None:
        with self._lock:
            self._total = total

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size

    def step(self) -> terminals.Step:
        seconds = self._clock.monotonic() - self._began
        with self._lock:
            rate = self._done / seconds if seconds > 0 else 0.0
            left = self._total - self._done
            return terminals.Step(
                label='export',
                done=self._done,
                total=self._total,
                rate=rate,
                eta=left / rate if rate else None,
            )


class _Part(typing.NamedTuple):
    """A pack, or what is in the image of one.

    :param offset: in the image, in bytes.
    """

    offset: int
    segment: base.Segment


def _export(
    args: argparse.Namespace,
    store: base.Store,
    manifest: manifests.Manifest,
    done: _Done,
    workers: parallel.Workers,
) -> list[str]:
    """Export.

    :returns: a text for each cluster that had to be repaired.
    """
    repaired: list[str] = []
    if args.out == arguments.STDOUT:
        _stream(store, manifest, done)
        return repaired
    with output.Output(args.out, args.force) as out:
        if args.format == arguments.RAW:
            repaired = _write_raw(store, manifest, out, done, workers)
        else:
            _write_qcow2(store, manifest, out, done, workers)
        out.finish()
    return repaired


def _write_qcow2(
    store: base.Store,
    manifest: manifests.Manifest,
    out: output.Output,
    done: _Done,
    workers: parallel.Workers,
) -> None:
    """Copy the image, each object in it verified."""
    done.expect(manifest.image.size)
    head = _read_head(store, manifest)
    out.write(head, 0)
    done.add(len(head))

    def copy(part: _Part) -> None:
        offset = part.offset
        for chunk in _read_segment(store, part.segment):
            out.write(chunk, offset)
            offset += len(chunk)
            done.add(len(chunk))

    workers.map(copy, _parts(manifest))


def _stream(
    store: base.Store, manifest: manifests.Manifest, done: _Done
) -> None:
    if sys.stdout.isatty():
        raise errors.OutputFailed(
            'standard output', 'it is a terminal; redirect it'
        )
    done.expect(manifest.image.size)
    head = _read_head(store, manifest)
    sys.stdout.buffer.write(head)
    done.add(len(head))
    for part in _parts(manifest):
        for chunk in _read_segment(store, part.segment):
            sys.stdout.buffer.write(chunk)
            done.add(len(chunk))
    sys.stdout.buffer.flush()


def _write_raw(
    store: base.Store,
    manifest: manifests.Manifest,
    out: output.Output,
    done: _Done,
    workers: parallel.Workers,
) -> list[str]:
    """Write the disk, each of its clusters verified; zeroes are holes."""
    reader = snapshot_reader.SnapshotReader(store, manifest)
    done.expect(reader.data_clusters * reader.cluster_size)
    out.resize(reader.disk_size)

    def write(run: snapshot_reader.PlacedRun) -> None:
        for cluster, data in reader.read(run):
            offset = cluster * reader.cluster_size
            # The last cluster may reach beyond the disk.
            out.write(data[: reader.disk_size - offset], offset)
            done.add(len(data))

    workers.map(write, reader.runs())
    return reader.repaired


def _parts(manifest: manifests.Manifest) -> list[_Part]:
    """Give what the image is made of behind its head, in order."""
    prefixes = {
        each.id: layout.attempt_prefix(each.lineage, each.id)
        for each in manifest.attempts
    }
    found = []
    offset = manifest.head.size
    for pack in manifest.packs:
        if pack.spare:
            continue
        segment = base.Segment(
            prefixes[pack.attempt] + pack.name,
            pack.size,
            pack.etag,
            pack.start,
            pack.length,
        )
        found.append(_Part(offset, segment))
        offset += segment.used
    return found


def _read_head(store: base.Store, manifest: manifests.Manifest) -> bytes:
    """Read the head of the image; it has 8 bytes for each cluster or so.

    :raises Corrupted: it is not what was committed.
    """
    head = manifest.head
    data = store.get(head.name, head.size)
    if digests.DEFAULT_DIGEST.digest(data).hex() != head.digest:
        raise errors.Corrupted(head.name, 'it is not what was captured')
    return data


def _read_segment(
    store: base.Store, segment: base.Segment
) -> typing.Iterator[bytes]:
    """Read what is in the image of an object, and verify it.

    Only a whole object has an etag, so all of it is read.

    :raises Corrupted: it is not what was captured.
    :raises ObjectMismatch: likewise; found only after the last piece.
    """
    found = store.stat(segment.name)
    if (found.size, found.etag) != (segment.size, segment.etag):
        raise errors.Corrupted(segment.name, 'it is not what was captured')
    start, end = segment.start, segment.start + segment.used
    for chunk in store.iter_bytes(segment.name):
        if wanted := chunk[max(start, 0) : max(end, 0)]:
            yield wanted
        start, end = start - len(chunk), end - len(chunk)


def _to_dict(
    args: argparse.Namespace,
    manifest: manifests.Manifest,
    seconds: float,
    repaired: list[str],
) -> dict[str, typing.Any]:
    return {
        'snapshot': manifest.id,
        'name': manifest.name,
        'out': args.out,
        'format': args.format,
        'virtual_bytes': manifest.disk.size,
        'degraded': manifest.degraded,
        'repaired': repaired,
        'seconds': round(seconds, 3),
    }
