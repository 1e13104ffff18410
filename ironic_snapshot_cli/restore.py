# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot restore``."""

import argparse
import contextlib
import dataclasses
import json
import os
import stat
import sys
import typing
import uuid
from collections.abc import Sequence

from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parallel
from ironic_snapshot_core import verify
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import priority
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import restore
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import reset
from ironic_snapshot_cli import beginning
from ironic_snapshot_cli import interrupt
from ironic_snapshot_cli import remarks
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import table
from ironic_snapshot_cli import target as targets
from ironic_snapshot_cli import terminal as terminals

_LABELS = {
    progress.COMPARE: 'compare',
    progress.WRITE: 'write',
    progress.VERIFY: 'read back',
    progress.FINISH: 'finish',
    progress.IDENTITY: 'identity',
}


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    stop = executor.Stop()
    clock = executor.StoppableClock(stop)
    store = repository.open_to_read(
        args.repository, clock, budget.MOST_FETCHES
    )
    key = repository.read_manifest_key(args.manifest_key)
    manifest = selection.find(store, args.snapshot, key)
    return _Restore(args, terminal, store, manifest, stop, clock).run()


# Private


class _Restore:
    """One restore; :meth:`run` tells the story."""

    def __init__(
        self,
        args: argparse.Namespace,
        terminal: terminals.Terminal,
        store: stores.Store,
        manifest: manifests.Manifest,
        stop: executor.Stop,
        clock: executor.StoppableClock,
    ) -> None:
        self._args = args
        self._terminal = terminal
        self._store = store
        self._manifest = manifest
        self._stop = stop
        self._clock = clock
        self._path = os.path.abspath(args.target)
        self._counters = progress.RestoreProgress(clock)

    def run(self) -> int:
        targets.check_outside(self._path, self._args.repository)
        if self._args.identity == restore_request.RESET:
            targets.check_resettable(self._path)
        allowed = budget.plan_restore(
            self._manifest,
            workers=self._args.workers,
            memory_limit=self._args.memory_limit,
        )
        if self._args.io_priority != priority.NORMAL:
            # All threads of the restore begin with it.
            priority.lower(self._args.io_priority)
        with (
            beginning.reading(
                self._store, self._manifest, self._clock, self._stop
            ),
            self._opened() as found,
        ):
            if not self._may_overwrite(found):
                self._terminal.line('Nothing was written.')
                return status.FAILED
            began = self._clock.monotonic()
            with self._shown():
                restored = self._restore(found, allowed)
            serial, size = found.disk.serial, found.disk.size
        with self._shown():
            account = self._finish(restored)
        result = {
            'snapshot': self._manifest.id,
            'name': self._manifest.name,
            'target': self._path,
            'serial': serial,
            'target_bytes': size,
            **dataclasses.asdict(restored.totals),
            'grown_bytes': restored.grown,
            'shrunk_bytes': restored.shrunk,
            'identity': account,
            'degraded': restored.degraded,
            'repaired': list(restored.repaired),
            'seconds': round(self._clock.monotonic() - began, 3),
        }
        if self._args.json:
            print(json.dumps(result))
        else:
            print('\n'.join(_lines(result)))
        remarks.make(
            self._terminal,
            self._manifest,
            restored.repaired,
            'on the disk now',
        )
        return status.DONE

    # Private

    @contextlib.contextmanager
    def _opened(self) -> typing.Iterator[targets.Found]:
        """Open the target, once the snapshot is known to be whole."""
        self._check_whole()
        with targets.opened(self._path, self._manifest) as found:
            yield found

    def _check_whole(self) -> None:
        """See that all that is needed is there, before anything is lost.

        :raises SnapshotUnsuitable: it is not.
        """
        workers = parallel.Workers(repository.reading_threads(), self._stop)
        found = verify.Verifier(
            self._store, data=False, workers=workers
        ).verify(self._manifest)
        for each in found.findings:
            if each.lost:
                raise errors.SnapshotUnsuitable(
                    self._manifest.id, f'{each.object}: {each.reason}'
                )

    def _may_overwrite(self, found: targets.Found) -> bool:
        """Ask, where there is something to lose.

        What was half restored goes on without a question.

        :raises TargetNotBlank: there is nobody to ask.
        """
        if self._args.yes or found.unfinished or found.zero:
            return True
        content = targets.content(found.disk, self._stop.check)
        if not content:
            return True
        if not sys.stdin.isatty():
            raise errors.TargetNotBlank(
                self._path, f'there is {content} on it'
            )
        answer = self._terminal.ask(
            f'Everything on {targets.describe(found.disk)} ({content}) will '
            'be overwritten. Type yes: '
        )
        return answer.lower() == 'yes'

    @contextlib.contextmanager
    def _shown(self) -> typing.Iterator[None]:
        """Show the progress, and let a signal end it in an orderly way."""
        with (
            interrupt.stopping(self._stop),
            terminals.Progress(
                self._terminal,
                lambda: _step(self._counters.state()),
                self._clock,
                quiet=self._args.quiet,
                only_bar=self._args.json,
            ),
        ):
            yield

    def _restore(
        self, found: targets.Found, allowed: budget.RestoreBudget
    ) -> restore.Restored:
        try:
            return restore.restore(
                self._store,
                self._manifest,
                found.disk,
                self._request(found),
                allowed=allowed,
                clock=self._clock,
                stop=self._stop,
                counters=self._counters,
            )
        except KeyboardInterrupt:
            # The second one; it may have come anywhere.
            if not self._counters.state().touched:
                raise
            raise errors.RestoreInterrupted(
                self._path, 'it was broken off'
            ) from errors.Cancelled()

    def _request(
        self, found: targets.Found
    ) -> restore_request.RestoreRequest:
        size, digest = digests.identify(self._manifest.to_bytes(None))
        return restore_request.RestoreRequest(
            snapshot=self._manifest.id,
            lineage=self._manifest.lineage,
            size=size,
            digest=digest,
            operation=str(uuid.uuid4()),
            # The disk is the one that was named, whatever its serial number.
            verb=restore_request.CLONE,
            identity=self._args.identity,
            blank=found.zero,
            workers=self._args.workers,
            memory_limit=self._args.memory_limit,
            bandwidth_limit=self._args.bandwidth_limit,
            io_priority=self._args.io_priority,
        )

    def _finish(self, restored: restore.Restored) -> list[str]:
        """Do what can be done only when nothing holds the disk any more.

        :returns: what of the system's identity was reset.
        """
        if self._args.identity == restore_request.RESET:
            self._counters.begin(progress.IDENTITY)
            return [str(each) for each in reset.reset(self._path)]
        if restored.touched and stat.S_ISBLK(os.stat(self._path).st_mode):
            try:
                targets.reread_partitions(self._path)
            except (obstacle.Obstacle, look.Doubt) as problem:
                self._terminal.line(
                    f'{terminals.PROGRAM}: warning: the kernel may not know '
                    f'the partitions of {self._path} yet: {problem.reason}'
                )
        return []


def _step(state: progress.State) -> terminals.Step:
    return terminals.Step(
        label=_LABELS[state.phase],
        done=state.read,
        total=state.total,
        rate=state.rate,
        eta=state.eta,
    )


def _lines(result: dict[str, typing.Any]) -> list[str]:
    name = table.printable(result['name'])
    short = result['snapshot'][: selection.SHORT_ID]
    differing = sizes.show_count(result['differing_clusters'], 'cluster')
    rows = [
        ('Virtual size', sizes.show(result['virtual_bytes'])),
        ('Size of target', _size_of_target(result)),
        (
            'Differed',
            f'{sizes.show(result["differing_bytes"])} in {differing}',
        ),
        ('Fetched', sizes.show(result['fetched_bytes'])),
        (
            'Written',
            f'{sizes.show(result["written_bytes"])}, and read back'
            if result['written_bytes']
            else 'nothing: it was the snapshot already',
        ),
        ('Identity reset', _joined(result['identity'])),
        ('Time', sizes.show_seconds(result['seconds'])),
    ]
    return [
        f'Restored "{name}" ({short}) to {result["target"]}',
        *(f'  {line}' for line in table.pairs(rows)),
    ]


def _size_of_target(result: dict[str, typing.Any]) -> str:
    """Tell what another size has meant; nothing of the same size."""
    if result['grown_bytes']:
        return f'{sizes.show(result["grown_bytes"])} more'
    if result['shrunk_bytes']:
        return f'{sizes.show(result["shrunk_bytes"])} less'
    return ''


def _joined(account: Sequence[str]) -> str:
    return '; '.join(table.printable(each) for each in account)
