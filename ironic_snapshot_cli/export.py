# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot export``."""

import argparse
import json
import sys
import typing

from ironic_snapshot_core import errors
from ironic_snapshot_core import image_stream
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parallel
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core.store import base
from ipa_snapshot_hardware import executor
from ironic_snapshot_cli import arguments
from ironic_snapshot_cli import counter as counters
from ironic_snapshot_cli import output
from ironic_snapshot_cli import remarks
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    stop = executor.Stop()
    clock = executor.StoppableClock(stop)
    began = clock.monotonic()
    threads = repository.reading_threads()
    store = repository.open_to_read(args.repository, clock, threads)
    manifest = selection.find(store, args.snapshot)
    done = counters.Counter('export', clock)
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
    remarks.make(terminal, manifest, repaired, 'in the image')
    return status.DONE


# Private


def _export(
    args: argparse.Namespace,
    store: base.Store,
    manifest: manifests.Manifest,
    done: counters.Counter,
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
    done: counters.Counter,
    workers: parallel.Workers,
) -> None:
    """Copy the image, each object in it verified."""
    done.expect(manifest.image.size)
    head = image_stream.read_head(store, manifest)
    out.write(head, 0)
    done.add(len(head))

    def copy(part: image_stream.Part) -> None:
        offset = part.offset
        for chunk in image_stream.read_segment(store, part.segment):
            out.write(chunk, offset)
            offset += len(chunk)
            done.add(len(chunk))

    workers.map(copy, image_stream.parts(manifest))


def _stream(
    store: base.Store, manifest: manifests.Manifest, done: counters.Counter
) -> None:
    if sys.stdout.isatty():
        raise errors.OutputFailed(
            'standard output', 'it is a terminal; redirect it'
        )
    done.expect(manifest.image.size)
    for chunk in image_stream.read(store, manifest):
        sys.stdout.buffer.write(chunk)
        done.add(len(chunk))
    sys.stdout.buffer.flush()


def _write_raw(
    store: base.Store,
    manifest: manifests.Manifest,
    out: output.Output,
    done: counters.Counter,
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
