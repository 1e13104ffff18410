# SPDX-License-Identifier: Apache-2.0
"""A capture as the conductor asks for it: the arguments of the step."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import layout
from ironic_snapshot_core import units
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import priority

#: Whose level can be chosen on the way.
ADAPTIVE_CODEC = 'zstd'

# Smaller segments are slowed down by Swift.
MIN_PACK_SIZE = 1 * units.MiB
# A pack lives in memory, more than once.
MAX_PACK_SIZE = 1 * units.GiB
# Of any codec; each has its own limits below that.
MAX_LEVEL = 100
MAX_NAME = 255
MAX_REASON = 1000
MAX_REDUNDANCY = 1000

#: Of a capture without a parent that nobody gave another reason for.
ASKED_FOR = 'asked for'

_REQUIRED = frozenset(
    {
        'protocol',
        'snapshot',
        'name',
        'lineage',
        'cluster_size',
        'codec',
        'codec_level',
        'digest',
        'pack_size',
        'grant',
    }
)
_OPTIONAL = frozenset(
    {
        'workers',
        'memory_limit',
        'all_blocks',
        'skip_gaps',
        'allow_bad_sectors',
        'adaptive_level',
        'bandwidth_limit',
        'io_priority',
        'slice_seconds',
        'parent',
        'full_reason',
        'redundancy',
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class ParentRequest:
    """The snapshot to build upon.

    :param size: of its manifest, in bytes.
    :param digest: of its manifest, BLAKE3 in hexadecimal digits.
    """

    snapshot: str
    lineage: layout.Lineage
    size: int
    digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class CaptureRequest:
    """A capture as asked for; sizes in bytes, 0 means automatic.

    :param all_blocks: read everything, whatever the file systems say.
    :param skip_gaps: leave out the inside of large unpartitioned gaps.
    :param allow_bad_sectors: go on past what cannot be read, recording it.
    :param adaptive_level: choose the codec's level on the way.
    :param bandwidth_limit: of what moves to and from the store, in bytes per
        second; 0: none.
    :param io_priority: of reading: ``normal``, ``low`` or ``idle``.
    :param slice_seconds: after which the step answers.
    :param parent: the snapshot to build upon, or None.
    :param full_reason: why there is no parent; None when there is one.
    :param redundancy: so many snapshots in a row rely on one copy of a pack,
        then there is to be another; 0: on one for ever.
    """

    snapshot: str
    name: str
    lineage: layout.Lineage
    cluster_size: int
    codec: codecs.Codec
    digest: digests.Digest
    pack_size: int
    workers: int
    memory_limit: int
    all_blocks: bool = False
    skip_gaps: bool = False
    allow_bad_sectors: bool = False
    adaptive_level: bool = False
    bandwidth_limit: int = 0
    io_priority: str = priority.NORMAL
    slice_seconds: int = arguments.DEFAULT_SLICE_S
    parent: ParentRequest | None = None
    full_reason: str | None = ASKED_FOR
    redundancy: int = 0

    #: What a session calls it.
    activity: ClassVar[str] = 'capture'

    @property
    def key(self) -> str:
        """What tells its session from that of another capture."""
        return self.snapshot

    @property
    def prefix(self) -> str:
        """What the names of all objects of the attempt begin with."""
        return layout.attempt_prefix(self.lineage, self.snapshot)


def parse(
    args: Mapping[str, object], grant: grants.Grant
) -> CaptureRequest:
    """Check the arguments and make a request of them.

    :param args: the arguments, without the grant.
    :param grant: must permit to store below the attempt's prefix, and to
        read what an agent before this one has left there.
    :raises InvalidValue: when an argument is unknown, missing or wrong.
    :raises InvalidName: when an identifier is no UUID.
    :raises UnsupportedVersion: when the conductor speaks another protocol.
    :raises UnsupportedFeature: when the codec or digest is unknown here.
    """
    arguments.check_names(args, _REQUIRED, _OPTIONAL)
    lineage = arguments.lineage(args['lineage'])
    snapshot = layout.validate_uuid(arguments.text(args, 'snapshot'))
    size = cluster_size(args)
    pack_size = arguments.number(
        args, 'pack_size', MIN_PACK_SIZE, MAX_PACK_SIZE
    )
    if pack_size % size:
        raise errors.InvalidValue(
            'pack_size', pack_size, f'it is no multiple of {size}'
        )
    parent = _parent(args.get('parent'))
    request = CaptureRequest(
        snapshot=snapshot,
        name=arguments.short_text(args, 'name', MAX_NAME),
        lineage=lineage,
        cluster_size=size,
        codec=codec(args),
        digest=digests.get_digest(arguments.text(args, 'digest')),
        pack_size=pack_size,
        workers=arguments.workers(args),
        memory_limit=arguments.memory_limit(args),
        all_blocks=arguments.flag(args, 'all_blocks'),
        skip_gaps=arguments.flag(args, 'skip_gaps'),
        allow_bad_sectors=arguments.flag(args, 'allow_bad_sectors'),
        adaptive_level=arguments.flag(args, 'adaptive_level'),
        bandwidth_limit=arguments.bandwidth_limit(args),
        io_priority=arguments.io_priority(args),
        slice_seconds=arguments.slice_seconds(args),
        parent=parent,
        full_reason=_full_reason(args, parent),
        redundancy=arguments.number(args, 'redundancy', 0, MAX_REDUNDANCY),
    )
    _check_level(request, args['codec_level'])
    needed = [('PUT', request.prefix), ('GET', request.prefix)]
    if parent:
        needed.append(
            ('GET', layout.snapshot_prefix(parent.lineage, parent.snapshot))
        )
    arguments.check_permitted(grant, needed)
    return request


def cluster_size(args: Mapping[str, object]) -> int:
    """Give the cluster size in bytes that ``cluster_size`` asks for.

    :raises InvalidValue: it is none.
    """
    return geometry.validate_cluster_size(
        arguments.number(args, 'cluster_size', 1, geometry.MAX_CLUSTER_SIZE)
    )


def codec(args: Mapping[str, object]) -> codecs.Codec:
    """Give the codec that ``codec`` and ``codec_level`` ask for.

    :raises InvalidValue: it makes no sense.
    :raises UnsupportedFeature: it is unknown here.
    """
    return codecs.get_codec(
        arguments.text(args, 'codec'),
        None
        if args['codec_level'] is None
        else arguments.number(args, 'codec_level', 0, MAX_LEVEL),
    )


# Private


def _check_level(request: CaptureRequest, asked: object) -> None:
    if not request.adaptive_level:
        return
    if request.codec.id != ADAPTIVE_CODEC or asked is not None:
        raise errors.InvalidValue(
            'adaptive_level',
            True,
            f'it goes with {ADAPTIVE_CODEC} and without a codec_level',
        )


def _parent(value: object) -> ParentRequest | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {
        'snapshot',
        'lineage',
        'manifest',
    }:
        raise errors.InvalidValue(
            'parent',
            value,
            'it is not {"snapshot": ..., "lineage": ..., "manifest": ...}',
        )
    return ParentRequest(
        layout.validate_uuid(arguments.text(value, 'snapshot')),
        arguments.lineage(value['lineage']),
        *arguments.manifest(value['manifest']),
    )


def _full_reason(
    args: Mapping[str, object], parent: ParentRequest | None
) -> str | None:
    """Check why there is no parent: there is one or the other."""
    reason = args.get('full_reason', None if parent else ASKED_FOR)
    if reason is None and parent:
        return None
    if parent or not isinstance(reason, str):
        raise errors.InvalidValue(
            'full_reason',
            reason,
            'it is a text when there is no parent, and null when there is one',
        )
    return arguments.short_text(
        {'full_reason': reason}, 'full_reason', MAX_REASON
    )
