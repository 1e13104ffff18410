# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot export``."""

import argparse
import json
import os
import sys
import threading
import typing

from ironic_snapshot_core import clock as clocks
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
        _export(args, store, manifest, done, parallel.Workers(threads, stop))
    seconds = clock.monotonic() - began
    if args.json:
        print(json.dumps(_to_dict(args, manifest, seconds)))
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


class _Segment(typing.NamedTuple):
    """An object that the image is made of.

    :param offset: in the image, in bytes.
    """

    name: str
    offset: int
    size: int
    etag: str


def _export(
    args: argparse.Namespace,
    store: base.Store,
    manifest: manifests.Manifest,
    done: _Done,
    workers: parallel.Workers,
) -> None:
    if args.out == arguments.STDOUT:
        _stream(store, manifest, done)
        return
    with output.Output(args.out, args.force) as out:
        if args.format == arguments.RAW:
            _write_raw(store, manifest, out, done, workers)
        else:
            _write_qcow2(store, manifest, out, done, workers)
        out.finish()


def _write_qcow2(
    store: base.Store,
    manifest: manifests.Manifest,
    out: output.Output,
    done: _Done,
    workers: parallel.Workers,
) -> None:
    """Copy the image, each of its segments verified."""
    done.expect(manifest.image.size)

    def copy(segment: _Segment) -> None:
        offset = segment.offset
        for chunk in _read_segment(store, segment):
            out.write(chunk, offset)
            offset += len(chunk)
            done.add(len(chunk))

    workers.map(copy, _segments(manifest))


def _stream(
    store: base.Store, manifest: manifests.Manifest, done: _Done
) -> None:
    if sys.stdout.isatty():
        raise errors.OutputFailed(
            'standard output', 'it is a terminal; redirect it'
        )
    done.expect(manifest.image.size)
    for segment in _segments(manifest):
        for chunk in _read_segment(store, segment):
            sys.stdout.buffer.write(chunk)
            done.add(len(chunk))
    sys.stdout.buffer.flush()


def _write_raw(
    store: base.Store,
    manifest: manifests.Manifest,
    out: output.Output,
    done: _Done,
    workers: parallel.Workers,
) -> None:
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


def _segments(manifest: manifests.Manifest) -> list[_Segment]:
    own = layout.attempt_prefix(manifest.lineage, manifest.id)
    head = manifest.head
    found = [_Segment(own + layout.HEAD, 0, head.size, head.etag)]
    offset = head.size
    for pack in manifest.packs:
        name = layout.attempt_prefix(manifest.lineage, pack.attempt)
        found.append(
            _Segment(name + pack.name, offset, pack.size, pack.etag)
        )
        offset += pack.size
    return found


def _read_segment(
    store: base.Store, segment: _Segment
) -> typing.Iterator[bytes]:
    """Read a whole object, and verify it.

    :raises Corrupted: it is not what was captured.
    :raises ObjectMismatch: likewise; found only after the last piece.
    """
    found = store.stat(segment.name)
    if (found.size, found.etag) != (segment.size, segment.etag):
        raise errors.Corrupted(segment.name, 'it is not what was captured')
    yield from store.iter_bytes(segment.name)


def _to_dict(
    args: argparse.Namespace, manifest: manifests.Manifest, seconds: float
) -> dict[str, typing.Any]:
    return {
        'snapshot': manifest.id,
        'name': manifest.name,
        'out': args.out,
        'format': args.format,
        'virtual_bytes': manifest.disk.size,
        'degraded': manifest.degraded,
        'seconds': round(seconds, 3),
    }
