# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, each with a stable code and one sentence.

An error says what happened, where, and what to do. Its ``code`` never
changes once released: operators and tests match on it, not on the text. No
error ever carries a URL's query, a signature or a token.
"""

import typing


class Error(Exception):
    """Base of every error this project raises on purpose.

    Attributes are set by the subclasses; :attr:`msg` is a template over them.
    """

    code: typing.ClassVar[str] = 'error'
    msg: typing.ClassVar[str] = 'Snapshot operation failed.'
    #: Whether doing the very same thing again may succeed.
    retryable: typing.ClassVar[bool] = False

    def __str__(self) -> str:
        return self.msg.format(self=self)


class InvalidName(Error):
    """A name that may not be used in a store or a layout."""

    code = 'invalid-name'
    msg = 'Invalid name {self.name!r}: {self.reason}.'

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


class InvalidValue(Error):
    """A value that makes no sense where it was given."""

    code = 'invalid-value'
    msg = 'Invalid {self.what} {self.value!r}: {self.reason}.'

    def __init__(self, what: str, value: object, reason: str) -> None:
        super().__init__(what, value, reason)
        self.what = what
        self.value = value
        self.reason = reason


class Corrupted(Error):
    """Stored bytes that do not parse or do not verify."""

    code = 'corrupted'
    msg = 'Corrupted {self.what}: {self.reason}.'

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason


class UnsupportedVersion(Error):
    """Written by another version of this software."""

    code = 'unsupported-version'
    msg = ('{self.what} has version {self.found}, but only '
           '{self.supported} is supported; use the release that wrote it or '
           'a newer one.')

    def __init__(self, what: str, found: object, supported: object) -> None:
        super().__init__(what, found, supported)
        self.what = what
        self.found = found
        self.supported = supported


class UnsupportedFeature(Error):
    """Needs something this version does not know."""

    code = 'unsupported-feature'
    msg = ('{self.what} needs {self.names}, which this release does not '
           'support; use a newer one.')

    def __init__(self, what: str, features: typing.Iterable[str]) -> None:
        features = tuple(features)
        super().__init__(what, features)
        self.what = what
        self.features = features

    @property
    def names(self) -> str:
        return ', '.join(self.features)


class Cancelled(Error):
    """Somebody asked for it to stop."""

    code = 'cancelled'
    msg = 'The operation was cancelled.'


class CaptureRunning(Error):
    """Another capture is under way and does not end."""

    code = 'capture-running'
    msg = ('The capture of snapshot {self.snapshot} was told to stop, but '
           'waits for its disk or store; try again in a few minutes.')

    def __init__(self, snapshot: str) -> None:
        super().__init__(snapshot)
        self.snapshot = snapshot


class RestoreRunning(Error):
    """A restore is under way and cannot make room.

    :param snapshot: that is being restored.
    :param reason: a clause about the restore, without a full stop.
    """

    code = 'restore-running'
    msg = ('The restore of snapshot {self.snapshot} {self.reason}; try again '
           'when it has ended.')

    def __init__(self, snapshot: str, reason: str) -> None:
        super().__init__(snapshot, reason)
        self.snapshot = snapshot
        self.reason = reason


class Stalled(Error):
    """A capture or a restore that does not get on.

    :param what: that did not happen, without a full stop.
    :param seconds: since it last did.
    """

    code = 'stalled'
    msg = ('The ramdisk does not get on: {self.what} for {self.seconds} s; '
           'look at its log, its disk and its way to the store, then run the '
           'step again.')

    def __init__(self, what: str, seconds: int) -> None:
        super().__init__(what, seconds)
        self.what = what
        self.seconds = seconds


class ParentUnsuitable(Error):
    """A snapshot that another cannot build upon.

    :param snapshot: its id, or what was asked for.
    :param reason: a clause without a full stop, such as ``it is degraded``.
    """

    code = 'parent-unsuitable'
    msg = ('Snapshot {self.snapshot} cannot be the parent: {self.reason}. '
           'Name another one, or let it be chosen with "auto".')

    def __init__(self, snapshot: str, reason: str) -> None:
        super().__init__(snapshot, reason)
        self.snapshot = snapshot
        self.reason = reason


class SnapshotUnsuitable(Error):
    """A snapshot that cannot be restored.

    :param snapshot: its id.
    :param reason: a clause without a full stop, such as ``it is damaged``.
    """

    code = 'snapshot-unsuitable'
    msg = ('Snapshot {self.snapshot} cannot be restored: {self.reason}. '
           'Choose another one.')

    def __init__(self, snapshot: str, reason: str) -> None:
        super().__init__(snapshot, reason)
        self.snapshot = snapshot
        self.reason = reason


class ParentGone(Error):
    """The parent, or something that it shares, went away meanwhile."""

    code = 'parent-gone'
    msg = ('Snapshot {self.snapshot} cannot be committed: its parent '
           '{self.parent} {self.reason}. Nothing is lost but this snapshot; '
           'take it again.')

    def __init__(self, snapshot: str, parent: str, reason: str) -> None:
        super().__init__(snapshot, parent, reason)
        self.snapshot = snapshot
        self.parent = parent
        self.reason = reason


class AttemptCondemned(Error):
    """A prune takes what an attempt has stored for garbage."""

    code = 'attempt-condemned'
    msg = ('Snapshot {self.snapshot} cannot be committed: its lease was found '
           'to be over, and what it stored may be deleted at any time; '
           'compare the clocks of those who capture and of those who prune, '
           'then take it again.')

    def __init__(self, snapshot: str) -> None:
        super().__init__(snapshot)
        self.snapshot = snapshot


class SnapshotInUse(Error):
    """A snapshot that cannot be deleted now."""

    code = 'snapshot-in-use'
    msg = ('Snapshot {self.snapshot} cannot be deleted now: a capture, a '
           'restore or an image, {self.user}, needs it. Try again when that '
           'has ended, or after {self.until}.')

    def __init__(self, snapshot: str, user: str, until: str) -> None:
        super().__init__(snapshot, user, until)
        self.snapshot = snapshot
        self.user = user
        self.until = until


class ServiceError(Error):
    """A service did not do what it was asked to.

    :param operation: what it was asked, for example ``put``.
    :param name: of what it was about.
    :param reason: what happened, without a full stop.
    :param status: HTTP status, if there was one.
    :param retry_after: seconds the service asked us to wait.
    """

    code = 'service-error'
    msg = 'Cannot {self.operation} {self.name}: {self.reason}{self.hint}.'
    #: What to do about it; appended to the reason.
    advice: typing.ClassVar[str] = ''

    def __init__(self, operation: str, name: str, reason: str,
                 status: int | None = None,
                 retry_after: float | None = None) -> None:
        super().__init__(operation, name, reason, status, retry_after)
        self.operation = operation
        self.name = name
        self.reason = reason
        self.status = status
        self.retry_after = retry_after

    @property
    def hint(self) -> str:
        status = f' (HTTP {self.status})' if self.status else ''
        advice = f'; {self.advice}' if self.advice else ''
        return status + advice


class StoreError(ServiceError):
    """A store did not do what it was asked to.

    The operation is the store's method, the name that of an object or a
    prefix.
    """

    code = 'store-error'


class ObjectMissing(StoreError):
    """No object has this name."""

    code = 'object-missing'


class ContainerMissing(StoreError):
    """The container is gone. It is never created on the way."""

    code = 'container-missing'
    advice = 'create the container, or correct its name in the configuration'


class AccessDenied(StoreError):
    """The store knows us and says no."""

    code = 'access-denied'
    advice = ("check the container's ACL, the account's role and the "
              'temporary URL key')


class GrantExpired(StoreError):
    """The grant's time is over; a new one continues the work."""

    code = 'grant-expired'
    advice = 'a new grant is needed'


class ClockSkew(StoreError):
    """Our clock and the store's disagree about a grant."""

    code = 'clock-skew'
    advice = 'synchronise the clocks of the conductor, the node and the store'


class StoreFull(StoreError):
    """No room, or a quota is used up."""

    code = 'store-full'
    advice = 'free space in the store or raise the quota'


class ObjectTooLarge(StoreError):
    """The object is larger than the reader is ready to take."""

    code = 'object-too-large'


class ObjectMismatch(StoreError):
    """What the store has or sent is not what it should be."""

    code = 'object-mismatch'
    retryable = True


class StoreUnavailable(StoreError):
    """The store did not answer, or not properly; it may later."""

    code = 'store-unavailable'
    retryable = True


class StoreUntrusted(StoreError):
    """Whoever answered is not the store: TLS failed, or it sent us away."""

    code = 'store-untrusted'
    advice = "check the store's URL and the CA certificates"


class NotSupported(StoreError):
    """This store, or this grant, does not offer the operation."""

    code = 'not-supported'


class ImageError(ServiceError):
    """Glance did not do what it was asked to.

    The name is an image's id, or what is to be its name.
    """

    code = 'image-error'
    msg = ('Cannot {self.operation} image {self.name}: '
           '{self.reason}{self.hint}.')


class ImageMissing(ImageError):
    """There is no such image, or none any more."""

    code = 'image-missing'


class ImageRefused(ImageError):
    """Glance knows us and says no."""

    code = 'image-refused'
    advice = "check whose image it is, and the account's role"


class ImageTooLarge(ImageError):
    """Glance has no room for it, or a quota or a limit is used up."""

    code = 'image-too-large'
    advice = ('delete images, or ask for a larger quota or a higher '
              'image_size_cap')


class ImageUnsuitable(ImageError):
    """An image that was created before and cannot be filled."""

    code = 'image-unsuitable'


class ImageMismatch(ImageError):
    """What Glance has is not what was captured."""

    code = 'image-mismatch'


class ImageImportFailed(ImageError):
    """Glance was given the data, and could not take them."""

    code = 'image-import-failed'


class ImageOverdue(ImageError):
    """An image that has not become active in time."""

    code = 'image-overdue'
    advice = 'look at the log of Glance, or raise [snapshot]import_ttl'


class GlanceUnavailable(ImageError):
    """Glance did not answer, or not properly; it may later."""

    code = 'glance-unavailable'
    retryable = True


class NodeNotReady(Error):
    """A node that cannot be taken out of its system now.

    :param reason: a clause; a full stop at its end is left out.
    """

    code = 'node-not-ready'
    msg = 'The disk of node {self.node} cannot be captured now: {self.reason}.'

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(node, reason)
        self.node = node
        self.reason = reason.rstrip('.')


class ImageNotMade(Error):
    """A capture or a publication that did not come to its image.

    :param reason: a clause; a full stop at its end is left out.
    """

    code = 'image-not-made'
    msg = 'Node {self.node} gives no image {self.image}: {self.reason}.'

    def __init__(self, node: str, image: str, reason: str) -> None:
        super().__init__(node, image, reason)
        self.node = node
        self.image = image
        self.reason = reason.rstrip('.')


class DiskError(Error):
    """A disk did not do what it was asked to."""

    code = 'disk-error'
    msg = 'Disk {self.device}: {self.reason}.'

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(device, reason)
        self.device = device
        self.reason = reason


class DiskNotFound(DiskError):
    """No disk, or not exactly one, matches what was asked for."""

    code = 'disk-not-found'


class DiskBusy(DiskError):
    """Somebody else holds the disk."""

    code = 'disk-busy'


class DiskChanged(DiskError):
    """The disk changed while it was read."""

    code = 'disk-changed'


class DiskUnsuitable(DiskError):
    """The disk can be used, but not for this."""

    code = 'disk-unsuitable'


class TargetMismatch(DiskError):
    """The disk is not the one that the snapshot was taken of."""

    code = 'target-mismatch'
    msg = ('Disk {self.device}: {self.reason}. Nothing was written; to '
           'restore onto this disk all the same, name its serial number as '
           'that of the target.')


class TargetNotBlank(DiskError):
    """There is something on a disk, and nobody to ask whether it may go.

    :param reason: what there is, as a clause without a full stop.
    """

    code = 'target-not-blank'
    msg = ('Disk {self.device}: {self.reason}. Nothing was written; --yes '
           'overwrites it without asking.')


class RestoreUnfinished(DiskError):
    """What is on the disk is half a restore."""

    code = 'restore-unfinished'
    msg = ('Disk {self.device}: {self.reason}; run the restore again first, '
           'or deploy the node anew.')


class RestoreInterrupted(DiskError):
    """A restore ended after the first write and before the last."""

    code = 'restore-interrupted'
    msg = ('Disk {self.device}: the restore was interrupted: {self.reason}. '
           'The disk is not bootable until the restore is run again.')


class RestoreVerifyFailed(DiskError):
    """What was read back is not what was written."""

    code = 'restore-verify-failed'
    msg = 'Disk {self.device}: {self.reason}; replace the disk.'


class IdentityNotReset(DiskError):
    """A clone's system is not rid of what tells one machine from another.

    :param reason: where and why, without a full stop.
    """

    code = 'identity-not-reset'
    msg = ('Disk {self.device}: the identity of its system could not be '
           'reset: {self.reason}. All of the snapshot is on the disk; do not '
           'boot it beside the machine it was taken of. Correct the cause '
           'and restore again, or restore with identity "keep".')


class SectorsError(DiskError):
    """Sectors could not be used.

    :param serial: the disk's serial number, to find it in the rack.
    :param offset: first byte of what failed.
    :param length: bytes of what failed.
    :param sector_size: logical sector, in bytes.
    """

    #: What could not be done.
    operation: typing.ClassVar[str]
    msg = ('Disk {self.device} (serial {self.serial}): cannot '
           '{self.operation} sectors {self.first_sector}-{self.last_sector} '
           'of {self.sector_size} bytes: {self.reason}; replace the disk.')

    def __init__(self, device: str, serial: str, offset: int, length: int,
                 sector_size: int, reason: str) -> None:
        super().__init__(device, reason)
        # All of them, so that the error survives pickling.
        self.args = (device, serial, offset, length, sector_size, reason)
        self.serial = serial
        self.offset = offset
        self.length = length
        self.sector_size = sector_size

    @property
    def first_sector(self) -> int:
        return self.offset // self.sector_size

    @property
    def last_sector(self) -> int:
        return (self.offset + max(self.length, 1) - 1) // self.sector_size


class DiskReadError(SectorsError):
    """Sectors could not be read."""

    code = 'disk-read-error'
    operation = 'read'


class DiskWriteError(SectorsError):
    """Sectors could not be written."""

    code = 'disk-write-error'
    operation = 'write'


class RepositoryUnsuitable(Error):
    """Snapshots cannot be kept, or are not, where they should be."""

    code = 'repository-unsuitable'
    msg = 'Repository {self.name}: {self.reason}.'

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


class CredentialsMissing(Error):
    """Nobody said who we are, or the cloud does not believe it.

    :param reason: a clause without a full stop.
    :param service: that cannot be used without, and how to say it.
    """

    code = 'credentials-missing'
    msg = 'No access to {self.service}: {self.reason}; set {self.how}.'

    def __init__(self, reason: str, service: str = 'Swift') -> None:
        super().__init__(reason, service)
        self.reason = reason
        self.service = service

    @property
    def how(self) -> str:
        if self.service == 'Swift':
            return ('OS_CLOUD and clouds.yaml, OS_* variables, or ST_AUTH, '
                    'ST_USER and ST_KEY')
        return 'OS_CLOUD and clouds.yaml, or OS_* variables'


class SnapshotMissing(Error):
    """No snapshot has this id or name."""

    code = 'snapshot-missing'
    msg = ('No snapshot has the id or the name {self.wanted!r}; list those '
           'there are.')

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class SnapshotAmbiguous(Error):
    """Several snapshots have this name, or ids that begin so."""

    code = 'snapshot-ambiguous'
    msg = ('Several snapshots are meant by {self.wanted!r}: {self.ids}; give '
           'an id, or more of it.')

    def __init__(self, wanted: str, found: typing.Iterable[str]) -> None:
        found = tuple(found)
        super().__init__(wanted, found)
        self.wanted = wanted
        self.found = found

    @property
    def ids(self) -> str:
        return ', '.join(self.found)


class OutputFailed(Error):
    """An image cannot be written where it should be."""

    code = 'output-failed'
    msg = 'Cannot write {self.path}: {self.reason}.'

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason
