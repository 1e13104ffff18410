# SPDX-License-Identifier: Apache-2.0
"""What Nova leaves to a compute driver to say about an image.

As Nova's libvirt driver says it (``_create_snapshot_metadata``), but that the
image holds the whole disk of a machine.
"""
from nova import exception
from oslo_log import log

LOG = log.getLogger(__name__)

ACTIVE = 'active'
#: Not any more what somebody may wait for.
GONE = frozenset(('killed', 'deleted', 'pending_delete'))

# Ironic takes an image with these for one of a partition.
_OF_PARTITIONS = ('kernel_id', 'ramdisk_id')
# Nova adds it when the image is somebody else's than the server.
_INSTANCE_OWNER = 'instance_owner'


def prepare(image_api, context, instance, image_id):
    """Say what the image will be, and give it to the project of the server.

    What an administrator creates of a server that is not his would be his
    otherwise: the disk of one project in another.

    :param image_api: Nova's ``nova.image.glance.API``.
    :returns: its name.
    :raises: ImageNotFound, ImageNotAuthorized.
    """
    found = image_api.get(context, image_id)
    properties = {
        name: value for name, value in found['properties'].items()
        if name not in _OF_PARTITIONS}
    changes = {}
    if found['owner'] != instance.project_id:
        changes = {'owner': instance.project_id, 'visibility': 'private'}
        properties.pop(_INSTANCE_OWNER, None)
    properties.update(
        image_location='snapshot', image_state='available',
        owner_id=instance.project_id, img_type='whole-disk')
    if instance.os_type:
        properties['os_type'] = instance.os_type
    image_api.update(
        context, image_id,
        {'name': found['name'], 'disk_format': 'qcow2',
         'container_format': 'bare', 'properties': properties, **changes},
        purge_props=True)
    return found['name'] or image_id


def status(image_api, context, image_id):
    """Ask Glance for the status of an image.

    :returns: it, or None where Glance cannot be asked: the token of the
        user may have expired hours ago.
    :raises: ImageNotFound when there is no use in waiting.
    """
    try:
        found = image_api.get(context, image_id)['status']
    except exception.ImageNotFound:
        raise
    except Exception as exc:
        LOG.debug('Glance does not tell the status of image %(image)s: '
                  '%(error)s', {'image': image_id, 'error': exc})
        return None
    if found in GONE:
        raise exception.ImageNotFound(image_id=image_id)
    return found
