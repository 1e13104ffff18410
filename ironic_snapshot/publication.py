# SPDX-License-Identifier: Apache-2.0
"""Making an image in Glance of a snapshot: a publication.

``check`` runs before the node is touched. ``plan`` says what is to become of
the capture that begins, and ``begin`` notes it when the snapshot is
committed: from then on nothing that happens here can harm the snapshot, nor
keep the node from its tenant. ``advance`` does the rest, each time the node
is looked at, a little further::

    waiting ----> importing ----> verifying ----> active
       |              |               |
       +--------------+---------------+---------> failed

waiting
    The snapshot is committed and leased. Next, the image is created for the
    project of the node, hidden; or the one that was created before is given
    what belongs to it.
importing
    ``import``: Glance downloads the bytes by a temporary URL, and the
    conductor reads them as well. ``link``: the conductor reads the bytes and
    makes the links; then Glance is told where they are and what their hash
    must be, and reads them, too.
verifying
    Glance calls the image active. Its size and its hash are compared with
    those of what was captured.
active
    They are the same: the image is shown, and the lease ends.
failed
    It took too long, or something went wrong that will not get better. An
    image of ours is deleted; of one that was created before nobody gets the
    data. While that cannot be done because somebody does not answer, it is
    tried again.

All state is in the node record, in Glance and in Swift, and whatever is done
twice does no harm, so that any conductor can go on. What takes long is done
by Glance, or in the background: nothing here locks a node for longer than a
few requests take. The image's id is chosen before there is an image, so that
none is ever created twice, or forgotten.
"""
import dataclasses
import hashlib
import re
import threading
from typing import Any
import uuid

from ironic.common import exception
from ironic.common import metrics_utils
from ironic.common import states
from ironic.conductor import utils as manager_utils
from oslo_log import log

from ironic_snapshot import arguments
from ironic_snapshot import background
from ironic_snapshot import exchange
from ironic_snapshot import leases
from ironic_snapshot import publication_record as records
from ironic_snapshot import step_schema
from ironic_snapshot.conf import CONF
from ironic_snapshot.publication_record import Publication
from ironic_snapshot.targets import glance
from ironic_snapshot.targets import swift
from ironic_snapshot_core import catalogue
from ironic_snapshot_core import errors
from ironic_snapshot_core import image_properties
from ironic_snapshot_core import image_stream
from ironic_snapshot_core import layout
from ironic_snapshot_core import published
from ironic_snapshot_core import redact
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store.base import Store

LOG = log.getLogger(__name__)
METRICS = metrics_utils.get_metrics_logger(__name__)

IMPORT = 'import'
LINK = 'link'

_UUID = re.compile(step_schema.UUID_PATTERN)

# Nobody learns of images that are not his own.
_NOT_THERE = ('there is none of this id that belongs to the project of the '
              'node')

#: Images that are being read.
WORKS = background.Works()


def check(task, target: swift.SwiftTarget,
          steps: list[arguments.SnapshotArguments]) -> None:
    """Check everything that can be checked before the node is touched.

    :param target: where the snapshots will be.
    :raises: InvalidParameterValue for a node, a configuration or an image
        that does not do.
    :raises: ImageError when Glance does not let us in, or offers no way.
    """
    steps = [asked for asked in steps if asked.publishes]
    if not steps:
        return
    images = check_images(task.node, steps)
    if CONF.snapshot.glance_method == LINK:
        _check_linking(target)
    elif 'web-download' not in images.methods():
        raise errors.ImageError(
            'import', 'of any snapshot', 'Glance does not offer the import '
            'method "web-download"; add it to its enabled_import_methods')


def check_images(node, steps: list[arguments.SnapshotArguments]
                 ) -> glance.GlanceTarget:
    """Check what is asked of Glance, however an image gets its data.

    :param steps: those that end in an image.
    :raises: InvalidParameterValue, ImageError as :func:`check`.
    """
    project = _project(node)
    if project is None:
        raise arguments.SCHEMA.refusal(
            'an image must belong to a project, and this node has neither a '
            'lessee nor an owner: set one, or use destination "swift"')
    try:
        image_properties.check_own(CONF.snapshot.image_properties)
    except errors.InvalidValue as exc:
        raise exception.InvalidParameterValue(
            f'[snapshot]image_properties: {exc}') from None
    images = glance.GlanceTarget()
    _check_room(images, 1)
    given = [asked.image_id for asked in steps if asked.image_id]
    for image in given:
        known = records.find(node, image)
        if given.count(image) > 1 or (known is not None and known.open):
            raise arguments.SCHEMA.refusal(
                f'image {image} is the image of another snapshot')
        try:
            found = images.get(image)
        except errors.ImageMissing:
            raise errors.ImageUnsuitable('fill', image, _NOT_THERE) from None
        check_given(found, project)
    return images


def check_given(image: dict[str, Any], project: str | None) -> None:
    """Refuse an image that was created before and cannot be filled.

    :raises: ImageUnsuitable.
    """
    for good, reason in (
            (image['owner'] == project, _NOT_THERE),
            (image['status'] == glance.QUEUED and not glance.is_busy(image),
             f'its status is "{image["status"]}" instead of "queued"'),
            (image.get('disk_format') in (None, image_properties.QCOW2),
             'its disk_format is not "qcow2"'),
            (image.get('container_format') in (None, 'bare'),
             'its container_format is not "bare"')):
        if not good:
            raise errors.ImageUnsuitable('fill', image['id'], reason)


def plan(node, asked: arguments.SnapshotArguments) -> dict[str, Any]:
    """What is to become of the capture that begins; empty: no image."""
    if not asked.publishes:
        return {}
    base_image = (node.instance_info or {}).get('image_source')
    if not isinstance(base_image, str) or not _UUID.fullmatch(base_image):
        base_image = ''
    return {
        'image_id': asked.image_id or str(uuid.uuid4()),
        'ours': asked.image_id is None,
        'visibility': asked.visibility,
        'project': _project(node),
        'method': CONF.snapshot.glance_method,
        'base_image': base_image,
    }


def begin(node, planned: dict[str, Any], container: str,
          manifest: Manifest) -> str:
    """Note that a committed snapshot is to become an image.

    The caller saves the node record.

    :param planned: as :func:`plan` has it.
    :returns: id of the image.
    """
    now = exchange.CLOCK.time()
    this = Publication(
        snapshot=manifest.id, container=container,
        generation=manifest.lineage.generation, started_at=exchange.now(),
        deadline=int(now) + CONF.snapshot.import_ttl, **planned)
    known = records.find(node, this.image_id)
    if known is None or not known.open:
        try:
            this = _lease(this, manifest.lineage)
        except Exception as exc:
            # The snapshot is what counts, and it is there.
            LOG.warning('Snapshot %(snapshot)s is not leased yet: %(why)s',
                        {'snapshot': this.snapshot,
                         'why': exchange.explain(exc)})
        records.note(node, this)
    return this.image_id


@METRICS.timer('publication.advance')
def advance(task) -> None:
    """Bring everything that is under way on a node a little further.

    :param task: a TaskManager with an exclusive lock.
    """
    node = task.node
    for this in records.load(node):
        if not this.open:
            continue
        after = _advance(node, this)
        if after != this:
            records.note(node, after)
            if after.status == records.FAILED != this.status:
                _tell(node, after)
            node.save()


def give_up(node, this: Publication, reason: str) -> None:
    """Note that an image has failed, and leave nothing of it behind.

    The caller saves the node record.
    """
    records.note(node, _fail(node, this, reason))


# Private

def _project(node) -> str | None:
    # As the container is chosen.
    return node.lessee or node.owner


def _advance(node, this: Publication) -> Publication:
    try:
        if this.leftover:
            return _clean(node, this)
        if exchange.CLOCK.time() >= this.deadline:
            raise errors.ImageOverdue(
                'publish', this.image_id, this.reason or (
                    'it has not become active within '
                    f'{CONF.snapshot.import_ttl} s'))
        while True:
            before = this
            this = _STEPS[this.status](node, this)
            if this.status == before.status or not this.open:
                return this
            # What is done is not done again if the next thing fails.
            records.note(node, this)
            node.save()
    except Exception as exc:
        reason = redact.redact(exchange.explain(exc))
        # As it was last noted.
        this = records.find(node, this.image_id) or this
        if exchange.is_passing(exc):
            LOG.warning('Image %(image)s waits: %(why)s',
                        {'image': this.image_id, 'why': reason})
            return this.hindered(reason)
        LOG.debug('Image %s has failed', this.image_id, exc_info=True)
        return _fail(node, this, reason)


def _create(node, this: Publication) -> Publication:
    """Create the image, or prepare the one that is there."""
    target, manifest = _read(node, this)
    if not this.lease_expires:
        this = _lease(this, manifest.lineage)
    images = glance.GlanceTarget()
    _check_room(images, manifest.image.size, this.image_id)
    own = CONF.snapshot.image_properties
    if this.method == LINK:
        published.refuse_unlinkable(manifest)
    if this.ours:
        images.create({
            **image_properties.new(
                manifest, visibility=this.visibility,
                base_image=this.base_image or None, own=own),
            'id': this.image_id, 'owner': this.project, 'os_hidden': True})
    else:
        found = images.get(this.image_id)
        check_given(found, this.project)
        changes = image_properties.filled(manifest, found, own=own)
        images.update(this.image_id, image_properties.patch(found, changes))
    return dataclasses.replace(this, status=records.IMPORTING, reason='')


def _import(node, this: Publication) -> Publication:
    """Give Glance the data, and wait until it has them."""
    images = glance.GlanceTarget()
    found = images.get(this.image_id)
    if not this.asked and found['status'] == glance.QUEUED and (
            not glance.is_busy(found)):
        if this.method == LINK:
            return _link(images, node, this)
        target, manifest = _read(node, this)
        images.import_from(
            this.image_id,
            target.temporary_url(manifest.image.name, this.deadline),
            CONF.snapshot.glance_store)
        LOG.info('Glance imports snapshot %(snapshot)s as image %(image)s',
                 {'snapshot': this.snapshot, 'image': this.image_id})
        return dataclasses.replace(this, asked=True, reason='')
    if this.method == IMPORT and CONF.snapshot.verify_image:
        this = _hash(node, this, found.get('os_hash_algo')
                     or CONF.snapshot.glance_hash)
    if found['status'] == glance.ACTIVE:
        return dataclasses.replace(
            this, status=records.VERIFYING, asked=True, reason='')
    if not glance.is_busy(found):
        raise errors.ImageImportFailed(
            this.method, this.image_id,
            images.explain_failure(this.image_id))
    return dataclasses.replace(this, asked=True, reason='')


def _link(images: glance.GlanceTarget, node,
          this: Publication) -> Publication:
    """Make the links, and tell Glance of them."""
    location, _, container = CONF.snapshot.glance_location.rpartition('/')
    algorithm = CONF.snapshot.glance_hash

    def link(stop: threading.Event) -> str:
        target, manifest = _read(node, this)
        value = _read_hash(target.store, manifest, algorithm, stop)
        image = published.link(
            target.store, target.links(), manifest, this.image_id,
            CONF.snapshot.manifest_key.encode(),
            CONF.snapshot.sweep_workers, hash_algorithm=algorithm,
            hash=value)
        target.links(container).link_image(
            this.image_id, this.container, image)
        if stop.is_set():
            # Whoever has given up may not have seen all of it.
            _unlink(this, manifest.lineage)
            raise errors.Cancelled
        return value

    value = WORKS.ask((this.image_id, LINK), CONF.snapshot.verify_workers,
                      link)
    if value is None:
        return this
    images.add_location(
        this.image_id, f'{location}/{container}/{this.image_id}', algorithm,
        value)
    LOG.info('Image %(image)s is linked to snapshot %(snapshot)s',
             {'snapshot': this.snapshot, 'image': this.image_id})
    return dataclasses.replace(
        this, asked=True, hash_algorithm=algorithm, hash=value, reason='')


def _verify(node, this: Publication) -> Publication:
    """Compare what Glance has with what was captured, and show it."""
    images = glance.GlanceTarget()
    found = images.get(this.image_id)
    if found['status'] != glance.ACTIVE:
        raise errors.ImageUnsuitable(
            'publish', this.image_id,
            f'it has become "{found["status"]}" while it was verified')
    verified = image_properties.BY_SIZE
    if CONF.snapshot.verify_image or this.hash:
        verified = image_properties.BY_HASH
        if not found['os_hash_value']:
            return this  # Glance is still reading it.
        this = _hash(node, this, found['os_hash_algo'])
        if not this.hash:
            return this
    target, manifest = _read(node, this)
    if found['size'] != manifest.image.size:
        raise errors.ImageMismatch(
            'publish', this.image_id, f'it has {found["size"]} bytes instead '
            f'of {manifest.image.size}')
    if this.hash not in ('', found['os_hash_value']):
        raise errors.ImageMismatch(
            'publish', this.image_id, 'what Glance has is not what was '
            f'captured: its {this.hash_algorithm} is another')
    if this.method == IMPORT:
        published.put(target.store, published.Record(
            this.image_id, this.snapshot, manifest.lineage, (),
            manifest.image.size, this.hash_algorithm, this.hash),
            CONF.snapshot.manifest_key.encode())
    changes = image_properties.verified(this.image_id, verified)
    if this.ours:
        changes['os_hidden'] = False
    images.update(this.image_id, image_properties.patch(found, changes))
    leases.end(this, node, this.image_id)
    LOG.info('Image %(image)s of snapshot %(snapshot)s is active, and '
             'verified by its %(how)s',
             {'snapshot': this.snapshot, 'image': this.image_id,
              'how': verified})
    return this.ended(records.ACTIVE)


_STEPS = {
    records.WAITING: _create,
    records.IMPORTING: _import,
    records.VERIFYING: _verify,
}


def _fail(node, this: Publication, reason: str) -> Publication:
    WORKS.forget((this.image_id, LINK))
    WORKS.forget((this.image_id, this.hash_algorithm))
    return _clean(node, this.ended(records.FAILED, reason, leftover=True))


def _clean(node, this: Publication) -> Publication:
    """Leave nothing behind that is not an image of the snapshot."""
    try:
        images = glance.GlanceTarget()
        try:
            # One that was not there before is whoever's has created it.
            status = ('' if this.ours
                      else images.get(this.image_id)['status'])
        except errors.ImageMissing:
            status = ''
        if this.ours:
            images.delete(this.image_id)
        if status == glance.ACTIVE:
            images.deactivate(this.image_id)
        elif this.method == LINK:
            # Glance knows nothing of them.
            _unlink(this, layout.Lineage(node.uuid, this.generation))
        if this.container:
            leases.end(this, node, this.image_id)
    except Exception as exc:
        why = redact.redact(exchange.explain(exc))
        LOG.warning('Something of image %(image)s stays behind: %(why)s',
                    {'image': this.image_id, 'why': why})
        return dataclasses.replace(this, leftover=exchange.is_passing(exc))
    return dataclasses.replace(this, leftover=False)


def _unlink(this: Publication, lineage: layout.Lineage) -> None:
    target = swift.named(this.container)
    if CONF.snapshot.glance_location:
        container = CONF.snapshot.glance_location.rpartition('/')[2]
        target.links(container).delete_image(this.image_id)
    published.unlink(target.store, lineage, this.image_id)


def _tell(node, this: Publication) -> None:
    """Say what has failed where a user looks for it."""
    message = (
        f'Snapshot {this.snapshot} is committed, but image {this.image_id} '
        f'could not be made of it: {this.reason} The snapshot is not harmed: '
        f'"ironic-snapshot publish swift:{this.container} {this.snapshot}" '
        'makes an image of it.')
    LOG.error('Node %(node)s: %(message)s',
              {'node': node.uuid, 'message': message})
    manager_utils.node_history_record(
        node, event=message, event_type=states.SERVICING, error=True)


def _lease(this: Publication, lineage: layout.Lineage) -> Publication:
    return leases.write(
        this, swift.named(this.container).store, lineage, this.image_id,
        this.snapshot, this.deadline)


def _read(node, this: Publication) -> tuple[swift.SwiftTarget, Manifest]:
    """The snapshot, as it was committed.

    :raises: SnapshotMissing, Corrupted, StoreError.
    """
    target = swift.named(this.container)
    try:
        return target, catalogue.read(
            target.store, layout.Lineage(node.uuid, this.generation),
            this.snapshot, CONF.snapshot.manifest_key.encode())
    except errors.ObjectMissing:
        raise errors.SnapshotMissing(this.snapshot) from None


def _hash(node, this: Publication, algorithm: str) -> Publication:
    """The same, with the hash of what was captured once it is known."""
    if this.hash and this.hash_algorithm == algorithm:
        return this

    def read(stop: threading.Event) -> str:
        target, manifest = _read(node, this)
        return _read_hash(target.store, manifest, algorithm, stop)

    value = WORKS.ask((this.image_id, algorithm),
                      CONF.snapshot.verify_workers, read)
    return dataclasses.replace(
        this, hash_algorithm=algorithm, hash=value or '')


def _read_hash(store: Store, manifest: Manifest, algorithm: str,
               stop: threading.Event) -> str:
    """Hash what was captured.

    :returns: in hex.
    :raises: InvalidValue, Cancelled, Corrupted, StoreError.
    """
    try:
        found = hashlib.new(algorithm, usedforsecurity=False)
    except ValueError:
        raise errors.InvalidValue(
            'hash algorithm of Glance', algorithm[:40], 'it is unknown here'
        ) from None
    for chunk in image_stream.read(store, manifest):
        if stop.is_set():
            raise errors.Cancelled
        found.update(chunk)
    return found.hexdigest()


def _check_room(images: glance.GlanceTarget, size: int,
                image: str = 'of any snapshot') -> None:
    """Refuse what Glance would not take.

    :param size: of the image, in bytes; or the least that it may have.
    """
    cap = CONF.snapshot.image_size_cap
    if size > cap:
        raise errors.ImageTooLarge(
            'publish', image, f'it has {size} bytes, and [snapshot]'
            f'image_size_cap allows {cap}')
    room = images.room()
    if room is not None and size > room:
        raise errors.ImageTooLarge(
            'publish', image, f'the quota of the user of [glance] leaves '
            f'{room} bytes')


def _check_linking(target: swift.SwiftTarget) -> None:
    """Refuse to link where that cannot work.

    :raises: InvalidParameterValue, NotSupported, StoreError.
    """
    if not CONF.snapshot.glance_location:
        raise exception.InvalidParameterValue(
            '[snapshot]glance_method "link" needs [snapshot]glance_location: '
            'set it, or use the method "import"')
    target.check_links()
    target.links(
        CONF.snapshot.glance_location.rpartition('/')[2]).check_container()
