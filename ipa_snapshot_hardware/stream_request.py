# SPDX-License-Identifier: Apache-2.0
"""A stream as the conductor asks for it: the arguments of the step."""

import dataclasses
from collections.abc import Mapping
from collections.abc import MutableMapping
from typing import ClassVar

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import layout
from ironic_snapshot_core import upload_grant
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import priority
from ipa_snapshot_hardware import request

#: What Glance can be configured to hash images with.
HASHES = ('sha256', 'sha384', 'sha512')

_REQUIRED = frozenset(
    {
        'protocol',
        'snapshot',
        'cluster_size',
        'codec',
        'codec_level',
        'hash',
    }
)
_OPTIONAL = frozenset(
    {
        'workers',
        'memory_limit',
        'all_blocks',
        'skip_gaps',
        'allow_bad_sectors',
        'bandwidth_limit',
        'io_priority',
        'slice_seconds',
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class StreamRequest:
    """A stream as asked for; sizes in bytes, 0 means automatic.

    :param snapshot: id of the attempt.
    :param image: id of the image in Glance.
    :param codec: of the clusters; with one that does not compress, the disk
        is read once, else twice.
    :param hash: that Glance computes of the image.

    The others are as in :class:`request.CaptureRequest`.
    """

    snapshot: str
    image: str
    cluster_size: int
    codec: codecs.Codec
    hash: str
    workers: int = 0
    memory_limit: int = 0
    all_blocks: bool = False
    skip_gaps: bool = False
    allow_bad_sectors: bool = False
    bandwidth_limit: int = 0
    io_priority: str = priority.NORMAL
    slice_seconds: int = arguments.DEFAULT_SLICE_S

    #: What a session calls it.
    activity: ClassVar[str] = 'stream'

    @property
    def key(self) -> str:
        """What tells its session from that of another stream."""
        return self.snapshot


def take_grant(
    args: MutableMapping[str, object],
) -> upload_grant.UploadGrant:
    """Take the grant out of the arguments, as :func:`arguments.take_grant`.

    :raises InvalidValue: when there is none, or it makes no sense.
    """
    return upload_grant.UploadGrant.take(args.pop('upload', None))


def parse(
    args: Mapping[str, object], grant: upload_grant.UploadGrant
) -> StreamRequest:
    """Check the arguments and make a request of them.

    :param args: the arguments, without the grant.
    :raises InvalidValue: when an argument is unknown, missing or wrong.
    :raises InvalidName: when an identifier is no UUID.
    :raises UnsupportedVersion: when the conductor speaks another protocol.
    :raises UnsupportedFeature: when the codec is unknown here.
    """
    arguments.check_names(args, _REQUIRED, _OPTIONAL)
    return StreamRequest(
        snapshot=layout.validate_uuid(arguments.text(args, 'snapshot')),
        image=grant.image,
        cluster_size=request.cluster_size(args),
        codec=request.codec(args),
        hash=arguments.choice(args, 'hash', HASHES),
        workers=arguments.workers(args),
        memory_limit=arguments.memory_limit(args),
        all_blocks=arguments.flag(args, 'all_blocks'),
        skip_gaps=arguments.flag(args, 'skip_gaps'),
        allow_bad_sectors=arguments.flag(args, 'allow_bad_sectors'),
        bandwidth_limit=arguments.bandwidth_limit(args),
        io_priority=arguments.io_priority(args),
        slice_seconds=arguments.slice_seconds(args),
    )
