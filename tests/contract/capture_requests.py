# SPDX-License-Identifier: Apache-2.0
"""What tests of the capture ask for, where to, and what came of it."""

import dataclasses
import subprocess
import threading
import time
import urllib.request

from ipa_snapshot_hardware import arguments as step_arguments
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import request as step_request
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import pack as packing
from ironic_snapshot_core import units
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import base as stores
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift as swift_store

NODE = '11111111-1111-4111-8111-111111111111'
GENERATION = '22222222-2222-4222-8222-222222222222'
SNAPSHOT = '33333333-3333-4333-8333-333333333333'
LINEAGE = layout.Lineage(NODE, GENERATION)
PREFIX = layout.attempt_prefix(LINEAGE, SNAPSHOT)
KEY = 'a key of the container'
SMALL = 64 * units.KiB


def mint(url='http://127.0.0.1:9/v1/AUTH_test/snapshots', **changes):
    """Make the grant the conductor makes for a capture."""
    options = {'prefix': PREFIX, 'lifetime_s': 600, 'readable': ()}
    options.update(changes)
    return grants.mint(
        url,
        KEY,
        int(time.time()) + options['lifetime_s'],
        [
            *((method, options['prefix']) for method in ('PUT', 'GET')),
            *(('GET', prefix) for prefix in options['readable']),
        ],
    )


def arguments(**changes):
    """Make the arguments the conductor sends; small clusters."""
    return {
        'protocol': 1,
        'snapshot': SNAPSHOT,
        'name': 'golden',
        'lineage': {'node': NODE, 'generation': GENERATION},
        'cluster_size': SMALL,
        'codec': 'zstd',
        'codec_level': 1,
        'digest': 'blake3-256',
        'pack_size': 4 * units.MiB,
        'workers': 2,
        'memory_limit': 0,
        'grant': mint().to_dict(),
    } | changes


def wanted(**changes):
    """Make a parsed request."""
    args = arguments(**changes)
    return step_request.parse(args, step_arguments.take_grant(args))


def run(
    disk,
    store,
    stop=None,
    clock=None,
    allowed=None,
    counters=None,
    fields=None,
    **changes,
):
    """Capture a disk as the hardware manager does.

    :param fields: of the parsed request, to be replaced.
    """
    asked = dataclasses.replace(wanted(**changes), **(fields or {}))
    allowed = allowed or budget.plan(
        disk_size=disk.size,
        cluster_size=asked.cluster_size,
        pack_size=asked.pack_size,
        codec=asked.codec,
        workers=asked.workers,
        memory_limit=asked.memory_limit,
    )
    return capture.capture(
        disk,
        store,
        asked,
        allowed=allowed,
        clock=clock or clocks.SystemClock(),
        stop=stop or executor.Stop(),
        software={'test': '1'},
        counters=counters,
    )


def commit(store, report, lineage=LINEAGE, sequence=1):
    """Write the manifest as a conductor does; give the request for a child."""
    made = manifest.Manifest.from_report(
        report,
        name='golden',
        description='',
        lineage=lineage,
        sequence=sequence,
        node=manifest.NodeRecord(lineage.node, None, None),
        project=None,
        consistency='clean',
        started_at='2026-01-31T12:00:00Z',
        created_at='2026-01-31T12:00:00Z',
        image=manifest.ImageRecord(
            layout.image_name(lineage, report.snapshot),
            sum(each.used for each in image_segments(report)),
        ),
    )
    data = made.to_bytes(b'a key')
    store.put(layout.manifest_name(lineage, report.snapshot), data)
    return step_request.ParentRequest(
        report.snapshot, lineage, len(data), blake3(data)
    )


def snapshot_id(number):
    """Make the id of one snapshot of several."""
    return f'44444444-4444-4444-8444-{number:012d}'


def run_child(disk, store, parent, number=2, **changes):
    """Capture a disk upon a parent; as :func:`run`.

    :param parent: of the request, or None.
    """
    fields = {
        'snapshot': snapshot_id(number),
        'parent': parent,
        'full_reason': None if parent else 'asked for',
    } | (changes.pop('fields', None) or {})
    return run(disk, store, fields=fields, **changes)


def prefix_of(report, attempt=None):
    """Give what the names of an attempt's objects begin with."""
    lineages = {each.id: each.lineage for each in report.attempts}
    attempt = attempt or report.snapshot
    return layout.attempt_prefix(lineages.get(attempt, LINEAGE), attempt)


def image_segments(report):
    """Tell what the conductor would join: the head, then the packs."""
    return [
        stores.Segment(
            report.head.name,
            report.head.size,
            report.head.etag,
        ),
        *(
            stores.Segment(
                prefix_of(report, pack.attempt) + pack.name,
                pack.size,
                pack.etag,
                pack.start,
                pack.length,
            )
            for pack in report.packs
            if not pack.spare
        ),
    ]


def objects(store, prefix=PREFIX):
    """Read all objects of an attempt but the report, which tells times."""
    return {
        info.name.removeprefix(prefix): store.get(info.name, units.GiB)
        for info in store.list(prefix)
        if not info.name.endswith('/' + layout.REPORT)
    }


class SwiftContainer:
    """A container of a real Swift, as the conductor prepares it."""

    def __init__(self, server, name):
        self.server = server
        self.url = f'{server.storage_url}/{name}'
        self._ask('PUT', {'X-Container-Meta-Temp-URL-Key': KEY})

    def _ask(self, method, headers=None):
        asked = urllib.request.Request(
            self.url,
            method=method,
            headers={'X-Auth-Token': self.server.token()} | (headers or {}),
        )
        urllib.request.urlopen(asked, timeout=10).close()

    def mint(self, **changes):
        return mint(self.url, **changes)

    def token_store(self):
        """The conductor's store: may do everything."""
        return swift_store.SwiftStore(
            self.url, auth.TokenAuth(self.server.token, lambda: None)
        )

    def grant_store(self, clock=None, url=None, **changes):
        """The agent's store."""
        given = self.mint(**changes)
        return retry.RetryingStore(
            swift_store.SwiftStore(
                url or given.container_url, auth.GrantAuth(given)
            ),
            clock=clock or clocks.SystemClock(),
        )

    def delete(self):
        self._ask('DELETE')


def read_back(store, report):
    """Read the disk from what was stored, verifying every cluster."""
    placed = cluster_map.decode(
        store.get(prefix_of(report) + layout.MAP, units.GiB)
    )
    found = {
        each.id: indexes.decode(
            store.get(prefix_of(report, each.id) + layout.INDEX, units.GiB)
        )
        for each in report.attempts
    }
    packs = {}
    codec = codecs.get_codec(report.codec)
    size = placed.cluster_size
    content = bytearray(placed.cluster_count * size)
    for cluster, number, slot in placed.clusters():
        attempt = placed.attempts[number]
        entry = found[attempt].lookup(slot)
        name = prefix_of(report, attempt) + (
            found[attempt].packs[entry.pack].name
        )
        if name not in packs:
            packs[name] = store.get(name, units.GiB)
        content[cluster * size : (cluster + 1) * size] = packing.read_cluster(
            packing.PackEntry(entry.digest, entry.length, entry.compressed),
            packs[name][entry.offset : entry.offset + entry.length],
            codec,
            digest.DEFAULT_DIGEST,
            size,
        )
    return bytes(content[: placed.disk_size])


def judge(store, report, source, folder):
    """Join what was stored; have qemu-img compare it with the source."""
    name = layout.image_name(LINEAGE, report.snapshot)
    store.join(name, image_segments(report))
    image = folder / 'image.qcow2'
    with image.open('wb') as file:
        file.writelines(store.iter_bytes(name))
    subprocess.run(['qemu-img', 'check', '-q', image], check=True)
    subprocess.run(
        [
            *('qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'qcow2'),
            *(source, image),
        ],
        check=True,
    )


def blake3(data):
    return digest.DEFAULT_DIGEST.digest(data).hex()


def capture_threads():
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith('snapshot-')
    ]


def join_captures(timeout_s=30):
    """Wait until what runs in the background has ended."""
    for thread in capture_threads():
        thread.join(timeout_s)
