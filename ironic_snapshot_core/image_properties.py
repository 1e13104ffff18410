# SPDX-License-Identifier: Apache-2.0
"""What Glance is told of the image that is made of a snapshot.

In Glance's API an image is one flat JSON object: *attributes* that Glance
knows (``min_disk``), and beside them *properties*, text by name, that others
do (``os_distro``). So it is here.

What nobody but this project means by a property is named
``ironic_snapshot_*``, and described for people in
``etc/ironic-snapshot/metadefs/ironic-snapshot.json``. The other names are
those of Glance's own metadefs and of Nova.

Sources: Glance's ``api/v2/images.py`` (``get_base_properties``), its metadefs
``OS::Glance::CommonImageProperties`` and ``OS::Compute::LibvirtImage``, and
Nova's ``objects/image_meta.py``.
"""

import typing
from collections.abc import Mapping

from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.units import GiB

#: Flat: attributes and properties of an image.
Image: typing.TypeAlias = dict[str, str | int]

PRIVATE = 'private'
SHARED = 'shared'
VISIBILITIES = (PRIVATE, SHARED)

#: The format of what a manifest calls the image.
QCOW2 = 'qcow2'

#: What the names of this project's properties begin with.
PREFIX = 'ironic_snapshot_'
ID = f'{PREFIX}id'
NODE = f'{PREFIX}node'
LINEAGE = f'{PREFIX}lineage'
PARENT = f'{PREFIX}parent'
SEQUENCE = f'{PREFIX}sequence'
CONSISTENCY = f'{PREFIX}consistency'
DEGRADED = f'{PREFIX}degraded'
CREATED_AT = f'{PREFIX}created_at'
SOFTWARE = f'{PREFIX}software'
#: What of the image was compared with the snapshot, in the end:
#: :data:`BY_HASH` or :data:`BY_SIZE`.
VERIFIED = f'{PREFIX}verified'
#: The image that was made; in one that was made of it by others, and that has
#: inherited its properties, another.
IMAGE = f'{PREFIX}image'
BY_HASH = 'hash'
BY_SIZE = 'size'

#: Nova keeps no more of a property with a server that it makes of the image,
#: and Glance no more of a name.
MAX_TEXT = 255

# Those that Glance gives a meaning, and those that it keeps to itself.
_ATTRIBUTES = frozenset((
    'checksum', 'container_format', 'created_at', 'deleted', 'deleted_at',
    'direct_url', 'disk_format', 'file', 'id', 'location', 'locations',
    'min_disk', 'min_ram', 'name', 'os_hash_algo', 'os_hash_value',
    'os_hidden', 'owner', 'protected', 'schema', 'self', 'size', 'status',
    'stores', 'tags', 'updated_at', 'virtual_size', 'visibility'))
_RESERVED = (PREFIX, 'os_glance')


def new(manifest: manifests.Manifest, *, name: str | None = None,
        visibility: str = PRIVATE, base_image: str | None = None,
        own: Mapping[str, str] | None = None) -> Image:
    """Describe an image that is about to be created.

    :param name: of the image; None: that of the snapshot.
    :param base_image: id of the image from which the disk was deployed.
    :param own: more properties, which come before those made here.
    :raises InvalidValue: one of them cannot be one.
    """
    image: Image = {
        'name': (name or manifest.name)[:MAX_TEXT],
        'visibility': visibility,
        'min_disk': min_disk(manifest),
        'min_ram': 0,
        'image_type': 'snapshot',
        **_of_data(manifest),
    }
    if manifest.node.instance_uuid:
        image['instance_uuid'] = manifest.node.instance_uuid
    if base_image:
        image['base_image_ref'] = base_image
    image.update(check_own(own or {}))
    return image


def filled(manifest: manifests.Manifest, found: Mapping[str, typing.Any], *,
           own: Mapping[str, str] | None = None
           ) -> dict[str, str | int | None]:
    """Tell what of an image changes that somebody else has created.

    What he has said of it stays: its name, who may see it, what it was based
    upon, whether it is a snapshot or a backup, and how large a disk has to
    be: Nova takes that from the flavor, which can be less than the disk has
    and must not be refused then. What the image from which the server was
    once deployed has left behind of another snapshot goes.

    :param found: the image as Glance shows it.
    :param own: more properties, which come before those made here.
    :returns: by name; None for a property that is to be removed.
    :raises InvalidValue: one of ``own`` cannot be a property.
    """
    image: dict[str, str | int | None] = {**_of_data(manifest)}
    image.update(check_own(own or {}))
    if not found.get('min_disk'):
        image['min_disk'] = min_disk(manifest)
    stale = {each: None for each in sorted(found)
             if each.startswith(PREFIX) and each not in image}
    changed = {each: value for each, value in image.items()
               if found.get(each) != value}
    return {**changed, **stale}


def verified(image: str, by: str) -> dict[str, str | int | None]:
    """Tell what of an image changes when it was found to be right.

    :param image: its id.
    :param by: :data:`BY_HASH` or :data:`BY_SIZE`.
    """
    return {VERIFIED: by, IMAGE: image}


def snapshot_of(found: Mapping[str, typing.Any]) -> str | None:
    """Give the id of the snapshot whose disk an image is.

    Whoever makes a server of the image, and an image of the server, finds
    our properties in the latter as well, for Nova has them inherited. It is
    another disk; so what they say counts in the image only that they are of.

    :param found: the image as Glance shows it.
    :returns: None for an image of anything else.
    """
    if found.get(VERIFIED) and found.get(IMAGE) == found['id']:
        return found.get(ID)
    return None


def patch(found: Mapping[str, typing.Any],
          changes: Mapping[str, str | int | None]
          ) -> list[dict[str, typing.Any]]:
    """Write changes as Glance takes them, which is a JSON patch.

    :param found: the image as Glance shows it.
    :param changes: None for what is to be removed.
    """
    operations: list[dict[str, typing.Any]] = []
    for name, value in changes.items():
        path = '/' + name.replace('~', '~0').replace('/', '~1')
        if value is None:
            operations.append({'op': 'remove', 'path': path})
        else:
            operations.append({'op': 'replace' if name in found else 'add',
                               'path': path, 'value': value})
    return operations


def min_disk(manifest: manifests.Manifest) -> int:
    """Tell how large a disk must be for the image: GiB, rounded up."""
    return -(-manifest.disk.size // GiB)


def check_own(own: Mapping[str, str]) -> dict[str, str]:
    """Return properties that somebody wants an image to have.

    :raises InvalidValue: one of them has a meaning that is not his to give,
        or Glance or Nova could not keep it.
    """
    for name, value in own.items():
        reason = _flaw(name, value)
        if reason:
            raise errors.InvalidValue(
                'image property', name[:MAX_TEXT], reason)
    return dict(own)


# Private

def _of_data(manifest: manifests.Manifest) -> Image:
    """Describe what is in an image, whoever has created it."""
    image: Image = {
        'disk_format': QCOW2,
        'container_format': 'bare',
        **_system(manifest.system or manifests.SystemRecord()),
        ID: manifest.id,
        NODE: manifest.node.uuid,
        LINEAGE: f'{manifest.lineage.node}/{manifest.lineage.generation}',
        SEQUENCE: str(manifest.sequence),
        CONSISTENCY: manifest.consistency[:MAX_TEXT],
        DEGRADED: str(manifest.degraded).lower(),
        CREATED_AT: manifest.created_at,
        SOFTWARE: _software(manifest.software),
    }
    if manifest.parent:
        image[PARENT] = manifest.parent
    return image


def _system(system: manifests.SystemRecord) -> Image:
    """Describe the system on the disk, as far as it is known."""
    facts = {
        'os_distro': system.distro,
        'os_version': system.version,
        'architecture': system.architecture,
        'hw_firmware_type': system.firmware,
        'hw_boot_mode': system.firmware,
        # Who had it on does not want it off without being asked.
        'os_secure_boot': {True: 'required', False: 'disabled',
                           None: ''}[system.secure_boot],
    }
    return {name: value for name, value in facts.items() if value}


def _software(versions: Mapping[str, str]) -> str:
    """List programs, as many as there is room for."""
    found = ''
    for name, version in sorted(versions.items()):
        longer = f'{found}, {name} {version}'.removeprefix(', ')
        if len(longer) > MAX_TEXT:
            break
        found = longer
    return found


def _flaw(name: str, value: str) -> str:
    """Tell why this is no property; empty when it is one."""
    if not 1 <= len(name) <= MAX_TEXT or not name.isprintable():
        return f'its name is not 1 to {MAX_TEXT} printable characters'
    if name in _ATTRIBUTES:
        return 'it is an attribute of images, not a property'
    if name.startswith(_RESERVED):
        return f'names that begin with {" or ".join(_RESERVED)} are taken'
    if len(value) > MAX_TEXT or not value.isprintable():
        return f'its value is not up to {MAX_TEXT} printable characters'
    return ''
