# SPDX-License-Identifier: Apache-2.0
"""The disk of a node that exists only as a file, and its real capture.

What ipa_snapshot_hardware/manager.py does, without the agent around it.
"""
import contextlib
import pathlib
import random

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import layout
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.store.base import Store
from ironic_snapshot_core.store.retry import RetryingStore
from ironic_snapshot_core.store.swift import SwiftStore
from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware import arguments as step_arguments
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture as captures
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import restore as restores
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware import restore_step
from ipa_snapshot_hardware import session
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.disk import target

# No multiple of any cluster size.
SIZE = 9 * MiB + 512


def fill(path: pathlib.Path, seed: int) -> None:
    """Write a disk: text, zeros, noise, zeros; another one for each seed."""
    noise = random.Random(seed)
    text = f'line {seed} of a log that compresses well\n'.encode()
    data = bytearray(SIZE)
    data[:MiB] = (text * (MiB // len(text) + 1))[:MiB]
    data[4 * MiB:6 * MiB] = noise.randbytes(2 * MiB)
    data[-512:] = noise.randbytes(512)
    path.write_bytes(data)


def capture(path: pathlib.Path, args: dict) -> dict:
    """Capture it as the step's arguments say, into Swift by their grant.

    :returns: the result of the step.
    """
    grant = step_arguments.take_grant(args)
    return capture_into(
        RetryingStore(SwiftStore(grant.container_url, auth.GrantAuth(grant))),
        path, request.parse(args, grant))


def capture_into(store: Store, path: pathlib.Path,
                 wanted: request.CaptureRequest) -> dict:
    """Capture it into any store.

    :returns: the result of the step.
    """
    with block.BlockDisk(str(path), serial='S1', wwn='', model='') as disk:
        allowed = budget.plan(
            disk_size=disk.size, cluster_size=wanted.cluster_size,
            pack_size=wanted.pack_size, codec=wanted.codec, workers=2,
            memory_limit=256 * MiB)
        return captures.summarise(captures.capture(
            disk, store, wanted, allowed=allowed, clock=SystemClock(),
            stop=executor.Stop(), software={}))


def restore(path: pathlib.Path, args: dict) -> dict:
    """Restore it as the step's arguments say, from Swift by their grant.

    :returns: the result of the step.
    """
    grant = step_arguments.take_grant(args)
    wanted = restore_request.parse(args, grant)
    store = RetryingStore(
        SwiftStore(grant.container_url, auth.GrantAuth(grant)))
    manifest = restore_step.read_manifest(
        store, wanted, lambda prefix: bool(grant.find('GET', prefix)))
    with target.BlockTarget(
            str(path), serial='S1', wwn='', model='') as disk:
        restored = restores.restore(
            store, manifest, disk, wanted,
            allowed=budget.plan_restore(
                manifest, workers=2, memory_limit=256 * MiB),
            clock=SystemClock(), stop=executor.Stop())
        return restore_step.summarise(
            wanted, restore_step.Done(restored, disk.serial, disk.size, ()))


class Ramdisk:
    """An agent that captures in the background, from slice to slice.

    :param path: of the disk.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._sessions = session.Sessions()
        self._live: session.Session | None = None

    def step(self, args: dict) -> dict:
        """One slice: begin or attach, wait, and tell."""
        grant = step_arguments.take_grant(args)
        wanted = request.parse(args, grant)
        self._live = self._sessions.attend(
            wanted, grant, lambda means: self._capture(wanted, means))
        outcome = self._live.wait(wanted.slice_seconds)
        if isinstance(outcome, captures.Captured):
            return captures.summarise(outcome)
        return {'protocol': 1, 'snapshot': wanted.snapshot, 'more': True,
                'progress': outcome.to_dict()}

    def stop(self) -> None:
        """The process ends."""
        if self._live:
            self._live.stop()

    def _capture(self, wanted: request.CaptureRequest,
                 means: session.Means) -> captures.Captured:
        with block.BlockDisk(
                str(self._path), serial='S1', wwn='', model='') as disk:
            allowed = budget.plan(
                disk_size=disk.size, cluster_size=wanted.cluster_size,
                pack_size=wanted.pack_size, codec=wanted.codec, workers=2,
                memory_limit=256 * MiB)
            store = RetryingStore(
                SwiftStore(
                    means.auth.grant.container_url, means.auth,
                    pace=limit.RateLimit(
                        wanted.bandwidth_limit, means.clock).take),
                clock=means.clock,
                renewal=renewal.Renewal(means.auth, means.clock, means.ask))
            with contextlib.closing(store):
                return captures.capture(
                    disk, store, wanted, allowed=allowed, clock=means.clock,
                    stop=means.stop, software={}, counters=means.counters)


def committed(store, lineage, key):
    """The manifests of a lineage, in the order of their sequence."""
    return [entry.manifest for entry in catalogue.entries(
        store, key, layout.snapshots_prefix(lineage))]
