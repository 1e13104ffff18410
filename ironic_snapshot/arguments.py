# SPDX-License-Identifier: Apache-2.0
"""The arguments of the service step, checked before the node is touched.

Step arguments are hostile input: whoever may service a node may write them.
They never hold a URL, a path, a container or a format.
"""
import dataclasses
from typing import Any

from ironic.common import exception
import jsonschema

from ironic_snapshot.conf import CLUSTER_SIZES
from ironic_snapshot.conf import CONF
from ironic_snapshot_core.codec import CODECS


STEP_INTERFACE = 'deploy'
STEP = 'snapshot'

_PROPERTIES: dict[str, dict[str, Any]] = {
    'name': {
        'type': 'string',
        'pattern': r'\A[A-Za-z0-9][A-Za-z0-9 ._:~+-]{0,126}\Z',
        'description': 'Name of the snapshot: up to 127 letters, digits, '
                       'spaces and ._:~+- (default: node name and time).',
    },
    'description': {
        'type': 'string',
        'maxLength': 1000,
        'pattern': r'\A[^\x00-\x1f\x7f]*\Z',
        'description': 'Free text of up to 1000 characters, on one line.',
    },
    'cluster_size': {
        'type': 'integer',
        'enum': CLUSTER_SIZES,
        'description': 'Bytes of a cluster (default: [snapshot]'
                       'cluster_size).',
    },
    'compression': {
        'type': 'string',
        'enum': ['zstd', 'zlib', 'none'],
        'description': 'Compression of the image (default: [snapshot]'
                       'compression).',
    },
    'compression_level': {
        'type': 'integer',
        'minimum': 1,
        'maximum': 19,
        'description': 'Level of the compression: zstd 1 to 19, zlib 1 to 9 '
                       '(default: [snapshot]compression_level).',
    },
    'shutdown': {
        'type': 'string',
        'enum': ['soft', 'hard'],
        'description': 'soft: ask the operating system to shut down first '
                       '(default); hard: power off at once.',
    },
}

_VALIDATOR = jsonschema.Draft202012Validator({
    'type': 'object',
    'properties': _PROPERTIES,
    'additionalProperties': False,
})

ARGSINFO = {name: {'description': schema['description'], 'required': False}
            for name, schema in _PROPERTIES.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotArguments:
    """What the user asked for, with the defaults filled in."""

    name: str | None
    description: str
    cluster_size: int
    compression: str
    compression_level: int | None
    shutdown: str


def parse(args: dict[str, Any] | None) -> SnapshotArguments:
    """Check the arguments of one step.

    :param args: as the user wrote them.
    :raises: InvalidParameterValue naming each argument that is wrong.
    """
    args = {} if args is None else args
    faults = sorted(_VALIDATOR.iter_errors(args), key=lambda e: str(e.path))
    if faults:
        raise exception.InvalidParameterValue(
            'Service step deploy.snapshot: '
            + '; '.join(_explain(fault) for fault in faults))
    compression = args.get('compression', CONF.snapshot.compression)
    return SnapshotArguments(
        name=args.get('name'),
        description=args.get('description', ''),
        cluster_size=args.get('cluster_size', CONF.snapshot.cluster_size),
        compression=compression,
        compression_level=_level(compression, args.get('compression_level')),
        shutdown=args.get('shutdown', 'soft'))


def requested(node: Any) -> list[SnapshotArguments]:
    """The snapshot steps among the service steps asked for on this node.

    :raises: InvalidParameterValue as :func:`parse`.
    """
    steps = node.driver_internal_info.get('service_steps') or []
    return [parse(step.get('args')) for step in steps if is_snapshot(step)]


def is_snapshot(step: dict[str, Any] | None) -> bool:
    """Whether this step is ours."""
    return (bool(step) and step.get('interface') == STEP_INTERFACE
            and step.get('step') == STEP)


def _level(compression: str, asked: int | None) -> int | None:
    # A codec without levels refuses every one.
    highest = max(CODECS[compression].levels, default=0)
    if asked is None:
        return min(CONF.snapshot.compression_level, highest) or None
    if asked > highest:
        raise exception.InvalidParameterValue(
            'Service step deploy.snapshot: argument "compression_level" is '
            f'{asked}, but {compression} '
            + (f'ends at {highest}.' if highest else 'has no level: '
               'leave the argument out.'))
    return asked


def _explain(fault: jsonschema.ValidationError) -> str:
    if fault.validator == 'additionalProperties':
        unknown = sorted(set(fault.instance) - set(_PROPERTIES))
        return (f'unknown argument {", ".join(map(_show, unknown))} (known: '
                f'{", ".join(_PROPERTIES)})')
    if not fault.path:
        return 'the arguments must be a JSON object'
    name = str(fault.path[0])
    wanted = {
        'type': f'must be of type {fault.validator_value}',
        'enum': f'must be one of {fault.validator_value}',
    }.get(fault.validator, _PROPERTIES[name]['description'])
    return f'argument "{name}" is {_show(fault.instance)}: {wanted}'


def _show(value: Any) -> str:
    # Never the whole of a hostile value, never its control characters.
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + '...'
