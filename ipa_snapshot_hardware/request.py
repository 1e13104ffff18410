# SPDX-License-Identifier: Apache-2.0
"""What the conductor asks for: the arguments of the step, checked.

The arguments come over the network and are not trusted: what is unknown,
missing, of another type or out of bounds is refused before anything is
opened, read or sent. They never hold a URL (but the grant's), a path or a
name of an object.
"""

import dataclasses
import re
from collections.abc import MutableMapping

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import layout
from ironic_snapshot_core import units
from ipa_snapshot_hardware import priority

#: Version of the arguments and of the result.
PROTOCOL = 1

#: Seconds after which the step answers.
DEFAULT_SLICE_S = 60

#: Whose level can be chosen on the way.
ADAPTIVE_CODEC = 'zstd'

# Smaller segments are slowed down by Swift.
MIN_PACK_SIZE = 1 * units.MiB
# A pack lives in memory, more than once.
MAX_PACK_SIZE = 1 * units.GiB
# Of any codec; each has its own limits below that.
MAX_LEVEL = 100
MAX_WORKERS = 64
MAX_MEMORY = 1 * units.TiB
MAX_NAME = 255
# With less a store takes the silence within a request for its end.
MIN_BANDWIDTH = 64 * units.KiB
MAX_BANDWIDTH = 1 * units.TiB
MAX_SLICE_S = 3600
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
    :param bandwidth_limit: of uploads, in bytes per second; 0: none.
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
    slice_seconds: int = DEFAULT_SLICE_S
    parent: ParentRequest | None = None
    full_reason: str | None = ASKED_FOR
    redundancy: int = 0

    @property
    def prefix(self) -> str:
        """What the names of all objects of the attempt begin with."""
        return layout.attempt_prefix(self.lineage, self.snapshot)


def take_grant(args: MutableMapping[str, object]) -> grants.Grant:
    """Take the grant out of the arguments.

    The dict it came in is emptied, because the agent echoes the arguments
    in its answer and in its log. To be called before anything else can
    fail.

    :raises InvalidValue: when there is none, or it makes no sense.
    """
    return grants.Grant.take(args.pop('grant', None))


def parse(
    args: MutableMapping[str, object], grant: grants.Grant
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
    _check_names(args)
    lineage = _lineage(args['lineage'])
    snapshot = layout.validate_uuid(_text(args, 'snapshot'))
    cluster_size = geometry.validate_cluster_size(
        _number(args, 'cluster_size', 1, geometry.MAX_CLUSTER_SIZE)
    )
    pack_size = _number(args, 'pack_size', MIN_PACK_SIZE, MAX_PACK_SIZE)
    if pack_size % cluster_size:
        raise errors.InvalidValue(
            'pack_size', pack_size, f'it is no multiple of {cluster_size}'
        )
    codec = codecs.get_codec(
        _text(args, 'codec'),
        None
        if args['codec_level'] is None
        else _number(args, 'codec_level', 0, MAX_LEVEL),
    )
    parent = _parent(args.get('parent'))
    request = CaptureRequest(
        snapshot=snapshot,
        name=_name(args),
        lineage=lineage,
        cluster_size=cluster_size,
        codec=codec,
        digest=digests.get_digest(_text(args, 'digest')),
        pack_size=pack_size,
        workers=_number(args, 'workers', 0, MAX_WORKERS),
        memory_limit=_number(args, 'memory_limit', 0, MAX_MEMORY),
        all_blocks=_flag(args, 'all_blocks'),
        skip_gaps=_flag(args, 'skip_gaps'),
        allow_bad_sectors=_flag(args, 'allow_bad_sectors'),
        adaptive_level=_flag(args, 'adaptive_level'),
        bandwidth_limit=_bandwidth(args),
        io_priority=_io_priority(args),
        slice_seconds=_number(
            args, 'slice_seconds', 1, MAX_SLICE_S, DEFAULT_SLICE_S
        ),
        parent=parent,
        full_reason=_full_reason(args, parent),
        redundancy=_number(args, 'redundancy', 0, MAX_REDUNDANCY),
    )
    _check_level(request, args['codec_level'])
    needed = [('PUT', request.prefix), ('GET', request.prefix)]
    if parent:
        snapshots = layout.snapshots_prefix(parent.lineage)
        needed.append(('GET', f'{snapshots}{parent.snapshot}/'))
    for method, prefix in needed:
        if not grant.find(method, prefix):
            raise not_permitted(method, prefix)
    return request


def not_permitted(method: str, prefix: str) -> errors.InvalidValue:
    """Say what the grant does not permit."""
    return errors.InvalidValue(
        'grant', '(not shown)', f'it does not permit {method} below {prefix}'
    )


# Private


def _check_names(args: MutableMapping[str, object]) -> None:
    # The version first: another one may have other arguments.
    version = args.get('protocol')
    if version != PROTOCOL or isinstance(version, bool):
        raise errors.UnsupportedVersion(
            'The request of the conductor', version, PROTOCOL
        )
    for name in sorted(args.keys() - _REQUIRED - _OPTIONAL, key=str):
        raise errors.InvalidValue('argument', name, 'it is not known')
    for name in sorted(_REQUIRED - {'grant'} - args.keys()):
        raise errors.InvalidValue('argument', name, 'it is missing')


def _text(args: MutableMapping[str, object], name: str) -> str:
    value = args[name]
    if not isinstance(value, str):
        raise errors.InvalidValue(name, value, 'it is no text')
    return value


def _flag(args: MutableMapping[str, object], name: str) -> bool:
    value = args.get(name, False)
    if not isinstance(value, bool):
        raise errors.InvalidValue(name, value, 'it is neither true nor false')
    return value


def _number(
    args: MutableMapping[str, object],
    name: str,
    least: int,
    most: int,
    default: int = 0,
) -> int:
    value = args.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise errors.InvalidValue(name, value, 'it is no whole number')
    if not least <= value <= most:
        raise errors.InvalidValue(
            name, value, f'it is not between {least} and {most}'
        )
    return value


def _name(args: MutableMapping[str, object]) -> str:
    value = _text(args, 'name')
    if not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise errors.InvalidValue(
            'name',
            value[:MAX_NAME],
            f'it is not 1 to {MAX_NAME} printable characters',
        )
    return value


def _bandwidth(args: MutableMapping[str, object]) -> int:
    value = _number(args, 'bandwidth_limit', 0, MAX_BANDWIDTH)
    if 0 < value < MIN_BANDWIDTH:
        raise errors.InvalidValue(
            'bandwidth_limit', value, f'it is less than {MIN_BANDWIDTH}'
        )
    return value


def _io_priority(args: MutableMapping[str, object]) -> str:
    if 'io_priority' not in args:
        return priority.NORMAL
    return priority.validate(_text(args, 'io_priority'))


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
    record = value['manifest']
    if not isinstance(record, dict) or record.keys() != {'size', 'digest'}:
        raise errors.InvalidValue(
            'manifest', record, 'it is not {"size": ..., "digest": ...}'
        )
    digest = _text(record, 'digest')
    if not re.fullmatch('[0-9a-f]{64}', digest):
        raise errors.InvalidValue(
            'digest', digest[:64], 'it is not 64 lower-case hexadecimal digits'
        )
    return ParentRequest(
        layout.validate_uuid(_text(value, 'snapshot')),
        _lineage(value['lineage']),
        _number(record, 'size', 1, document.MAX_SIZE),
        digest,
    )


def _full_reason(
    args: MutableMapping[str, object], parent: ParentRequest | None
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
    if not 1 <= len(reason) <= MAX_REASON or not reason.isprintable():
        raise errors.InvalidValue(
            'full_reason',
            reason[:MAX_REASON],
            f'it is not 1 to {MAX_REASON} printable characters',
        )
    return reason


def _lineage(value: object) -> layout.Lineage:
    if not isinstance(value, dict) or value.keys() != {'node', 'generation'}:
        raise errors.InvalidValue(
            'lineage', value, 'it is not {"node": ..., "generation": ...}'
        )
    return layout.Lineage(value['node'], value['generation'])
