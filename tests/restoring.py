# SPDX-License-Identifier: Apache-2.0
"""Restores as tests ask for them."""

import uuid

from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import restore
from ipa_snapshot_hardware import restore_request
from ironic_snapshot_core import clock as clocks


def wanted(manifest, **changes):
    """Ask for a clone, which goes onto any disk, unless told otherwise."""
    return restore_request.RestoreRequest(
        **{
            'snapshot': manifest.id,
            'lineage': manifest.lineage,
            'size': 1,
            'digest': '00' * 32,
            'operation': str(uuid.uuid4()),
            'verb': restore_request.CLONE,
            'identity': restore_request.KEEP,
        }
        | changes
    )


def run(
    store,
    manifest,
    target,
    stop=None,
    clock=None,
    counters=None,
    workers=2,
    **changes,
):
    """Restore as the hardware manager does."""
    return restore.restore(
        store,
        manifest,
        target,
        wanted(manifest, **changes),
        allowed=budget.plan_restore(manifest, workers=workers),
        clock=clock or clocks.SystemClock(),
        stop=stop or executor.Stop(),
        counters=counters,
    )
