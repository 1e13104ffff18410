# SPDX-License-Identifier: Apache-2.0
"""A capture that goes straight into an image: no Swift, and no snapshot.

The agent sends one qcow2 to Glance. Where it goes it is told with the first
slice; the credential comes when it says that it is ready to send, and is
good for this one request. The image is hidden until it turns out to be what
was captured. What fails leaves nothing: there is no snapshot to make an image
of later.
"""
import dataclasses
import re
from typing import Any

from ironic.common import exception
from oslo_log import log

from ironic_snapshot import arguments
from ironic_snapshot import attempt
from ironic_snapshot import exchange
from ironic_snapshot import publication
from ironic_snapshot import publication_record as records
from ironic_snapshot.conf import CONF
from ironic_snapshot.targets import glance
from ironic_snapshot.upload_credential import Issuer
from ironic_snapshot_core import errors
from ironic_snapshot_core import image_properties
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.document import MAX_INTEGER

LOG = log.getLogger(__name__)

METHOD = 'stream'

# What the agent is at when it has everything but a credential.
_READY = 'ready'

# What only a snapshot has.
_OF_SNAPSHOT = (image_properties.ID, image_properties.SEQUENCE)

_HEX = re.compile('[0-9a-f]{64,128}')
_TOTALS = ('virtual_bytes', 'used_bytes', 'data_bytes', 'unreadable_bytes')


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """What an image is told to be, as a manifest has it for a snapshot."""

    id: str
    name: str
    disk: manifests.Disk
    node: manifests.NodeRecord
    lineage: layout.Lineage
    consistency: str
    degraded: bool
    created_at: str
    software: dict[str, str]
    system: manifests.SystemRecord
    sequence: int = 0
    parent: str | None = None


def is_asked(asked: arguments.SnapshotArguments) -> bool:
    """Whether a step is one of these."""
    return asked.publishes and CONF.snapshot.glance_method == METHOD


def is_streaming(this: attempt.Attempt) -> bool:
    """Whether an attempt is one."""
    return this.publication.get('method') == METHOD


def check(task, steps: list[arguments.SnapshotArguments]) -> None:
    """Check everything that can be checked before the node is touched.

    :param steps: those that stream.
    :raises: InvalidParameterValue for a wrong argument or configuration.
    :raises: ImageError when Glance or Keystone does not let us in.
    """
    if not steps:
        return
    for asked in steps:
        if asked.names_parent:
            raise arguments.SCHEMA.refusal(
                '"parent" is a snapshot in Swift, and [snapshot]glance_method '
                'is "stream", which has none: leave the argument out')
        if asked.adaptive_level:
            raise arguments.SCHEMA.refusal(
                'compression "auto" chooses its level on the way, and with '
                '[snapshot]glance_method "stream" the disk is compressed '
                'twice and must come out the same: name a compression')
    endpoint = _endpoint()
    if CONF.snapshot.require_https and not endpoint.startswith('https://'):
        raise exception.InvalidParameterValue(
            f'The ramdisk would reach Glance without TLS at {endpoint}: set '
            '[snapshot]ramdisk_glance_endpoint to an https:// address, or '
            '[snapshot]require_https to false if the network may be trusted')
    publication.check_images(task.node, steps)
    _issuer().check()


def begin(node, this: attempt.Attempt) -> exchange.Slice:
    """Create the image, or look at the one that is there.

    :returns: the first slice.
    :raises: ImageError.
    """
    images = glance.GlanceTarget()
    image = this.publication['image_id']
    formats = {'disk_format': image_properties.QCOW2,
               'container_format': 'bare'}
    if this.publication['ours']:
        images.create({
            **formats, 'id': image, 'name': this.name,
            'owner': this.publication['project'],
            'visibility': this.publication['visibility'], 'os_hidden': True})
    else:
        found = images.get(image)
        publication.check_given(found, this.publication['project'])
        images.update(image, image_properties.patch(found, {
            name: value for name, value in formats.items()
            if found.get(name) != value}))
    return proceed(dataclasses.replace(this, status=attempt.RUNNING))


def proceed(this: attempt.Attempt) -> exchange.Slice:
    """Prepare a slice, with a credential if the agent is ready for it.

    :raises: ImageError.
    """
    image = this.publication['image_id']
    # Not the agent before this one, which has said nothing yet.
    ready = (this.progress.phase == _READY
             and this.progress.moved is not None)
    grant = upload_grant.UploadGrant(
        upload_grant.url(_endpoint(), image),
        _issuer().issue(image, CONF.snapshot.grant_ttl) if ready else '')
    return exchange.Slice(
        dataclasses.replace(
            this, progress=this.progress.asked(exchange.CLOCK.time())),
        this.STEP, {
            'protocol': exchange.PROTOCOL,
            'snapshot': this.snapshot,
            **this.options,
            'upload': grant.to_dict(),
        })


def options(captured: dict[str, Any]) -> dict[str, Any]:
    """What the agent is told each time.

    :param captured: the same, of a capture.
    """
    return {
        **{name: captured[name] for name in (
            'cluster_size', 'codec', 'codec_level', 'workers', 'memory_limit',
            'all_blocks', 'skip_gaps', 'allow_bad_sectors', 'bandwidth_limit',
            'io_priority', 'slice_seconds')},
        'hash': CONF.snapshot.glance_hash,
    }


def finish(node, this: attempt.Attempt, result: dict[str, Any],
           facts: dict[str, Any]) -> dict[str, Any]:
    """Compare the image with what was captured, and show it.

    The node record is changed and not saved.

    :param result: of the agent, unchecked.
    :param facts: what the conductor knows, as for a manifest.
    :returns: what the node record says of it.
    :raises: Corrupted, ImageError.
    """
    image = this.publication['image_id']
    size, value = _check_sent(result, image, this.options['hash'])
    totals = _check_totals(result)
    images = glance.GlanceTarget()
    found = images.get(image)
    if found['status'] != glance.ACTIVE:
        raise errors.ImageUnsuitable(
            'publish', image, f'it is "{found["status"]}" instead of "active"')
    if found['size'] != size:
        raise errors.ImageMismatch(
            'publish', image,
            f'it has {found["size"]} bytes, and {size} were sent')
    if found['os_hash_algo'] != this.options['hash']:
        raise errors.ImageMismatch(
            'publish', image, f'Glance hashes with {found["os_hash_algo"]}: '
            'set [snapshot]glance_hash to that')
    if found['os_hash_value'] != value:
        raise errors.ImageMismatch(
            'publish', image, 'what Glance has is not what was captured: its '
            f'{this.options["hash"]} is another')
    described = _describe(node, this, result, totals, facts)
    own = CONF.snapshot.image_properties
    if this.publication['ours']:
        changes = {
            **image_properties.new(
                described, visibility=this.publication['visibility'],
                base_image=this.publication['base_image'] or None, own=own),
            'os_hidden': False}
    else:
        changes = image_properties.filled(described, found, own=own)
    changes = {
        **changes,
        **{name: None for name in _OF_SNAPSHOT if name in changes},
        image_properties.VERIFIED: image_properties.BY_HASH}
    images.update(image, image_properties.patch(found, {
        name: new for name, new in changes.items()
        if found.get(name) != new}))
    _issuer().revoke(image)
    records.note(node, _publication(this).ended(records.ACTIVE))
    LOG.info('Image %(image)s of node %(node)s is active, and verified',
             {'image': image, 'node': node.uuid})
    return {
        'image_id': image,
        'image_bytes': size,
        **{name: totals[name] for name in _TOTALS},
        'seconds': exchange.check_seconds(result.get('seconds')),
        'degraded': bool(totals['unreadable_bytes']),
    }


def close(node, this: attempt.Attempt, reason: str) -> None:
    """Leave nothing behind of one that came to nothing; never raises.

    :param reason: why.
    """
    image = this.publication['image_id']
    try:
        _issuer().revoke(image)
    except Exception as exc:
        LOG.warning('The credential for the upload of image %(image)s was '
                    'not deleted (%(why)s); it expires',
                    {'image': image, 'why': type(exc).__name__})
    publication.give_up(node, _publication(this), reason)


# Private

def _issuer() -> Issuer:
    session, auth, url = glance.connection()
    return Issuer(session, auth, url, CONF.snapshot.stream_token)


def _endpoint() -> str:
    """Of Glance, for the ramdisk."""
    endpoint = CONF.snapshot.ramdisk_glance_endpoint or glance.connection()[2]
    return endpoint.rstrip('/').removesuffix('/v2')


def _publication(this: attempt.Attempt) -> records.Publication:
    return records.Publication(
        snapshot=this.snapshot, container='', generation=this.generation,
        started_at=this.started_at, **this.publication)


def _check_sent(result: dict[str, Any], image: str, algorithm: str
                ) -> tuple[int, str]:
    """Size and hash of what the agent has sent."""
    sent = result.get('image')
    if (not isinstance(sent, dict) or sent.get('id') != image
            or sent.get('hash_algorithm') != algorithm
            or type(sent.get('size')) is not int
            or not 0 < sent['size'] <= MAX_INTEGER
            or not isinstance(sent.get('hash'), str)
            or not _HEX.fullmatch(sent['hash'])):
        raise errors.Corrupted(exchange.RESULT, 'it names no image')
    return sent['size'], sent['hash']


def _check_totals(result: dict[str, Any]) -> dict[str, int]:
    found = result.get('totals')
    if not isinstance(found, dict) or not all(
            type(found.get(name)) is int and 0 <= found[name] <= MAX_INTEGER
            for name in _TOTALS):
        raise errors.Corrupted(exchange.RESULT, 'it has no proper totals')
    return found


def _describe(node, this: attempt.Attempt, result: dict[str, Any],
              totals: dict[str, int], facts: dict[str, Any]) -> Image:
    try:
        system = manifests.SystemRecord(**result['system'])
        disk = manifests.Disk(totals['virtual_bytes'], 512, 512, '', '', '',
                              '', '')
    except (KeyError, TypeError, errors.InvalidValue):
        raise errors.Corrupted(
            exchange.RESULT, 'it has no proper system or disk') from None
    return Image(
        id=this.snapshot, name=this.name, disk=disk, node=facts['node'],
        lineage=layout.Lineage(node.uuid, this.generation),
        consistency=facts['consistency'],
        degraded=bool(totals['unreadable_bytes']),
        created_at=facts['created_at'], software=facts['software'],
        system=system)
