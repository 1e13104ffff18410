# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot publish``."""

import argparse
import contextlib
import hashlib
import json
import typing
import uuid
from collections.abc import Iterator

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import image_properties
from ironic_snapshot_core import image_stream
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parallel
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import executor
from ironic_snapshot_cli import beginning
from ironic_snapshot_cli import counter as counters
from ironic_snapshot_cli import glance as glances
from ironic_snapshot_cli import interrupt
from ironic_snapshot_cli import remarks
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals

# Pieces that are read ahead, each of a MiB at most but for the head.
_READ_AHEAD = 8
# What Glance answers to an upload when there has been another.
_CONFLICT = 409
# How long Glance may take to notice that nothing more comes.
_SETTLE_S = 30.0
_POLL_S = 0.5


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    stop = executor.Stop()
    clock = executor.StoppableClock(stop)
    threads = repository.reading_threads()
    store = repository.open_to_read(args.repository, clock, threads)
    key = repository.read_manifest_key(args.manifest_key)
    manifest = selection.find(store, args.snapshot, key)
    glance = glances.open_glance()
    with beginning.reading(store, manifest, clock, stop):
        image_stream.check(store, manifest, parallel.Workers(threads, stop))
        return _Publication(
            args, terminal, store, manifest, glance, stop
        ).run(clock)


# Private


class _Publication:
    """One publication; :meth:`run` tells the story."""

    def __init__(
        self,
        args: argparse.Namespace,
        terminal: terminals.Terminal,
        store: stores.Store,
        manifest: manifests.Manifest,
        glance: glances.Glance,
        stop: executor.Stop,
    ) -> None:
        self._args = args
        self._terminal = terminal
        self._store = store
        self._manifest = manifest
        self._glance = glance
        self._stop = stop
        self._sums = _Sums()
        self._image = args.image_id or str(uuid.uuid4())

    def run(self, clock: clocks.Clock) -> int:
        began = clock.monotonic()
        sent = counters.Counter('publish', clock)
        sent.expect(self._manifest.image.size)
        self._glance.check_room(
            self._args.name or self._manifest.name, self._manifest.image.size
        )
        with self._image_to_fill():
            with terminals.Progress(
                self._terminal,
                sent.step,
                clock,
                quiet=self._args.quiet,
                only_bar=self._args.json,
            ):
                self._upload(sent)
            image = self._glance.show(self._image)
            verified = self._compare(image)
            self._note(image, verified)
        seconds = clock.monotonic() - began
        if self._args.json:
            result = _to_dict(self._manifest, image, verified, seconds)
            print(json.dumps(result))
        else:
            lines = _lines(self._manifest, image, verified, seconds)
            print('\n'.join(lines))
        self._remark(image, verified)
        return status.DONE

    # Private

    @contextlib.contextmanager
    def _image_to_fill(self) -> Iterator[None]:
        """Give an image that has no data, and see that it gets no half."""
        given = self._args.image_id is not None
        if given:
            self._prepare()
        try:
            if not given:
                self._create()
            yield
        except BaseException as error:
            # Whoever interrupts once more ends this, too.
            with interrupt.stopping(executor.Stop()):
                if given:
                    self._leave(error)
                else:
                    self._delete()
            raise

    def _create(self) -> None:
        image = image_properties.new(
            self._manifest,
            name=self._args.name,
            visibility=self._args.visibility or image_properties.PRIVATE,
            own=self._args.property,
        )
        self._glance.create(self._image, image)

    def _prepare(self) -> None:
        """Tell an image that somebody has created what it will be.

        :raises ImageUnsuitable: it has data.
        """
        found = self._glance.show(self._image)
        if found['status'] != glances.QUEUED:
            raise errors.ImageUnsuitable(
                'publish',
                self._image,
                f'it is {found["status"]}, only one that is queued can be '
                'filled',
            )
        changes = image_properties.filled(
            self._manifest, found, own=self._args.property
        )
        for name in ('name', 'visibility'):
            if wanted := getattr(self._args, name):
                changes[name] = wanted
        self._glance.change(
            self._image, image_properties.patch(found, changes)
        )

    def _upload(self, sent: counters.Counter) -> None:
        """Send the image as it is read; one pass, in bounded memory."""
        with executor.Executor(
            workers=1, reads=_READ_AHEAD, uploads=1, stop=self._stop
        ) as flow:
            pieces = flow.map(
                image_stream.read(self._store, self._manifest),
                # One worker, so they come in their order.
                self._sums.add,
            )
            self._glance.upload(
                self._image,
                glances.Body(pieces, self._manifest.image.size, sent.add),
            )

    def _compare(self, image: glances.Image) -> str:
        """Compare what Glance says it has with what was sent.

        :returns: by what.
        :raises ImageMismatch: it is something else.
        """
        for what, expected in (
            ('status', glances.ACTIVE),
            ('size', self._manifest.image.size),
        ):
            if image.get(what) != expected:
                raise self._mismatch(what, image.get(what), expected)
        for what, algorithm in (
            ('os_hash_value', image.get('os_hash_algo')),
            ('checksum', _Sums.MD5),
        ):
            computed = self._sums.hexdigest(algorithm)
            if image.get(what) and computed:
                if image[what] != computed:
                    raise self._mismatch(what, image[what], computed)
                return image_properties.BY_HASH
        return image_properties.BY_SIZE

    def _mismatch(
        self, what: str, found: object, expected: object
    ) -> errors.ImageMismatch:
        return errors.ImageMismatch(
            'publish',
            self._image,
            f'Glance gives its {what} as {found} instead of {expected}',
        )

    def _note(self, image: glances.Image, verified: str) -> None:
        """Tell the image by what it was verified; it is good without, too."""
        operations = image_properties.patch(
            image, image_properties.verified(self._image, verified)
        )
        try:
            self._glance.change(self._image, operations)
        except errors.ImageError as error:
            self._warn(f'{error} The image is complete all the same.')

    def _delete(self) -> None:
        try:
            self._glance.delete(self._image)
        except errors.ImageError as error:
            self._warn(
                f'{error} It is of no use, delete it: openstack image delete '
                f'{self._image}'
            )

    def _leave(self, error: BaseException) -> None:
        """Say what has become of an image that somebody else has created.

        :param error: why it is left.
        """
        if isinstance(error, errors.ImageError) and error.status == _CONFLICT:
            return  # Somebody else fills it; so it is his.
        try:
            state = self._settled()
        except errors.ImageMissing:
            return
        except errors.ImageError as problem:
            self._warn(
                f'what has become of image {self._image} is not known: '
                f'{problem}'
            )
            return
        if state == glances.ACTIVE:
            self._withdraw()
            return
        outlook = 'can' if state == glances.QUEUED else 'cannot'
        self._terminal.line(
            f'{terminals.PROGRAM}: image {self._image} is {state}, and '
            f'{outlook} be filled again'
        )

    def _withdraw(self) -> None:
        """See that nobody uses what is not known to be the snapshot."""
        try:
            self._glance.deactivate(self._image)
        except errors.ImageError as problem:
            self._warn(
                f'{problem} It is active, and not known to be the snapshot: '
                'delete it'
            )
            return
        self._terminal.line(
            f'{terminals.PROGRAM}: image {self._image} is deactivated, for '
            'it is not known to be the snapshot'
        )

    def _settled(self) -> str:
        """Wait until Glance has noticed that nothing more comes."""
        clock = clocks.SystemClock()
        deadline = clock.monotonic() + _SETTLE_S
        while True:
            state: str = self._glance.show(self._image)['status']
            if state != glances.SAVING or clock.monotonic() > deadline:
                return state
            clock.sleep(_POLL_S)

    def _remark(self, image: glances.Image, verified: str) -> None:
        remarks.make(self._terminal, self._manifest, (), 'in the image')
        if verified == image_properties.BY_SIZE:
            self._warn(
                'only the size of the image was compared: Glance tells no '
                'hash that is known here'
            )
        project = self._manifest.project
        if project and project != image.get('owner'):
            self._warn(
                f'the snapshot belongs to project {project}, the image to '
                f'{image.get("owner")}'
            )

    def _warn(self, text: str) -> None:
        self._terminal.line(f'{terminals.PROGRAM}: warning: {text}')


class _Sums:
    """Hashes of what was sent."""

    MD5 = 'md5'

    def __init__(self) -> None:
        # As Glance computes os_hash_value by default, and the checksum.
        self._hashes = {
            'sha512': hashlib.sha512(),
            self.MD5: hashlib.md5(usedforsecurity=False),
        }

    def add(self, piece: bytes) -> bytes:
        """Take the next piece into account, and give it back."""
        for each in self._hashes.values():
            each.update(piece)
        return piece

    def hexdigest(self, algorithm: str | None) -> str:
        """Give a hash of all pieces; empty for one that is not computed."""
        found = self._hashes.get(algorithm or '')
        return found.hexdigest() if found else ''


def _to_dict(
    manifest: manifests.Manifest,
    image: glances.Image,
    verified: str,
    seconds: float,
) -> dict[str, typing.Any]:
    return {
        'image': image['id'],
        'snapshot': manifest.id,
        'name': image['name'],
        'visibility': image['visibility'],
        'project': image.get('owner'),
        'size': image['size'],
        'checksum': image.get('checksum'),
        'os_hash_algo': image.get('os_hash_algo'),
        'os_hash_value': image.get('os_hash_value'),
        'verified': verified,
        'degraded': manifest.degraded,
        'seconds': round(seconds, 3),
    }


def _lines(
    manifest: manifests.Manifest,
    image: glances.Image,
    verified: str,
    seconds: float,
) -> list[str]:
    rows = [
        ('Name', table.printable(image['name'] or '')),
        ('Visibility', image['visibility']),
        ('Project', image.get('owner') or ''),
        ('Size', sizes.show(image['size'])),
        ('Virtual size', sizes.show(manifest.disk.size)),
        ('Verified by', verified),
        ('Time', sizes.show_seconds(seconds)),
    ]
    short = manifest.id[: selection.SHORT_ID]
    return [
        f'Published "{table.printable(manifest.name)}" ({short}) as image '
        f'{image["id"]}',
        *(f'  {line}' for line in table.pairs(rows)),
    ]
