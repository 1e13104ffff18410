# SPDX-License-Identifier: Apache-2.0
"""What tests of the capture ask for, where to, and what came of it."""

import dataclasses
import threading
import time
import urllib.request

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
    options = {'prefix': PREFIX, 'lifetime_s': 600}
    options.update(changes)
    return grants.mint(
        url,
        KEY,
        int(time.time()) + options['lifetime_s'],
        [(method, options['prefix']) for method in ('PUT', 'GET')],
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
    return step_request.parse(args, step_request.take_grant(args))


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


def image_segments(report):
    """Tell what the conductor would join: the head, then the packs."""
    return [
        stores.Segment(
            PREFIX + layout.HEAD, report.head.size, report.head.etag
        ),
        *(
            stores.Segment(PREFIX + pack.name, pack.size, pack.etag)
            for pack in report.packs
        ),
    ]


def objects(store):
    """Read all objects of the attempt but the report, which tells times."""
    return {
        info.name.removeprefix(PREFIX): store.get(info.name, units.GiB)
        for info in store.list(PREFIX)
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
    index = indexes.decode(store.get(PREFIX + layout.INDEX, units.GiB))
    placed = cluster_map.decode(store.get(PREFIX + layout.MAP, units.GiB))
    packs = [store.get(PREFIX + pack.name, units.GiB) for pack in index.packs]
    codec = codecs.get_codec(report.codec)
    content = bytearray(placed.cluster_count * placed.cluster_size)
    for cluster, _, slot in placed.clusters():
        found = index.lookup(slot)
        content[
            cluster * placed.cluster_size : (cluster + 1) * placed.cluster_size
        ] = packing.read_cluster(
            packing.PackEntry(found.digest, found.length, found.compressed),
            packs[found.pack][found.offset : found.offset + found.length],
            codec,
            digest.DEFAULT_DIGEST,
            placed.cluster_size,
        )
    return bytes(content[: placed.disk_size])


def blake3(data):
    return digest.DEFAULT_DIGEST.digest(data).hex()


def capture_threads():
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith('snapshot-')
    ]
