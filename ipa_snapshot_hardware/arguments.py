# SPDX-License-Identifier: Apache-2.0
"""The arguments of a step, checked one by one.

They come over the network and are not trusted: what is unknown, missing, of
another type or out of bounds is refused before anything is opened, read or
sent. They never hold a URL (but the grant's), a path or a name of an object.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import MutableMapping

from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import layout
from ironic_snapshot_core import units
from ipa_snapshot_hardware import priority

#: Version of the arguments and of the result.
PROTOCOL = 1

#: Seconds after which the step answers.
DEFAULT_SLICE_S = 60

MAX_WORKERS = 64
MAX_MEMORY = 1 * units.TiB
# With less a store takes the silence within a request for its end.
MIN_BANDWIDTH = 64 * units.KiB
MAX_BANDWIDTH = 1 * units.TiB
MAX_SLICE_S = 3600

_DIGEST = re.compile('[0-9a-f]{64}')


def take_grant(args: MutableMapping[str, object]) -> grants.Grant:
    """Take the grant out of the arguments.

    The dict it came in is emptied, because the agent echoes the arguments
    in its answer and in its log. To be called before anything else can
    fail.

    :raises InvalidValue: when there is none, or it makes no sense.
    """
    return grants.Grant.take(args.pop('grant', None))


def check_names(
    args: Mapping[str, object],
    required: frozenset[str],
    optional: frozenset[str],
) -> None:
    """Check which arguments there are; their values come later.

    :param args: the arguments, without the grant.
    :raises UnsupportedVersion: when the conductor speaks another protocol.
    :raises InvalidValue: when one is unknown or missing.
    """
    # The version first: another one may have other arguments.
    version = args.get('protocol')
    if version != PROTOCOL or isinstance(version, bool):
        raise errors.UnsupportedVersion(
            'The request of the conductor', version, PROTOCOL
        )
    for name in sorted(args.keys() - required - optional, key=str):
        raise errors.InvalidValue('argument', name, 'it is not known')
    for name in sorted(required - {'grant'} - args.keys()):
        raise errors.InvalidValue('argument', name, 'it is missing')


def check_permitted(
    grant: grants.Grant, needed: Iterable[tuple[str, str]]
) -> None:
    """Check that a grant permits all that is needed.

    :param needed: methods, and prefixes below which they are used.
    :raises InvalidValue: it does not.
    """
    for method, prefix in needed:
        if not grant.find(method, prefix):
            raise not_permitted(method, prefix)


def not_permitted(method: str, prefix: str) -> errors.InvalidValue:
    """Say what a grant does not permit."""
    return errors.InvalidValue(
        'grant', '(not shown)', f'it does not permit {method} below {prefix}'
    )


def text(args: Mapping[str, object], name: str) -> str:
    """Give an argument that is a text.

    :raises InvalidValue: it is none.
    """
    value = args[name]
    if not isinstance(value, str):
        raise errors.InvalidValue(name, value, 'it is no text')
    return value


def short_text(args: Mapping[str, object], name: str, most: int) -> str:
    """Give an argument that is a text for people.

    :param most: characters.
    :raises InvalidValue: it is empty, too long or not printable.
    """
    value = text(args, name)
    if not 1 <= len(value) <= most or not value.isprintable():
        raise errors.InvalidValue(
            name, value[:most], f'it is not 1 to {most} printable characters'
        )
    return value


def choice(
    args: Mapping[str, object], name: str, choices: tuple[str, ...]
) -> str:
    """Give an argument that is one of a few words.

    :raises InvalidValue: it is another.
    """
    value = text(args, name)
    if value not in choices:
        raise errors.InvalidValue(
            name, value, f'it is none of {", ".join(choices)}'
        )
    return value


def flag(args: Mapping[str, object], name: str) -> bool:
    """Give an argument that is true or, like a missing one, false.

    :raises InvalidValue: it is neither.
    """
    value = args.get(name, False)
    if not isinstance(value, bool):
        raise errors.InvalidValue(name, value, 'it is neither true nor false')
    return value


def number(
    args: Mapping[str, object],
    name: str,
    least: int,
    most: int,
    default: int = 0,
) -> int:
    """Give an argument that is a whole number within bounds.

    :raises InvalidValue: it is none.
    """
    value = args.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise errors.InvalidValue(name, value, 'it is no whole number')
    if not least <= value <= most:
        raise errors.InvalidValue(
            name, value, f'it is not between {least} and {most}'
        )
    return value


def workers(args: Mapping[str, object]) -> int:
    """Give the most worker threads; 0: one for each processor.

    :raises InvalidValue: it makes no sense.
    """
    return number(args, 'workers', 0, MAX_WORKERS)


def memory_limit(args: Mapping[str, object]) -> int:
    """Give the most memory to use, in bytes; 0: automatic.

    :raises InvalidValue: it makes no sense.
    """
    return number(args, 'memory_limit', 0, MAX_MEMORY)


def bandwidth_limit(args: Mapping[str, object]) -> int:
    """Give the most bytes per second to send or receive; 0: no limit.

    :raises InvalidValue: it makes no sense.
    """
    value = number(args, 'bandwidth_limit', 0, MAX_BANDWIDTH)
    if 0 < value < MIN_BANDWIDTH:
        raise errors.InvalidValue(
            'bandwidth_limit', value, f'it is less than {MIN_BANDWIDTH}'
        )
    return value


def io_priority(args: Mapping[str, object]) -> str:
    """Give how urgently the disk is used.

    :raises InvalidValue: it is no priority.
    """
    if 'io_priority' not in args:
        return priority.NORMAL
    return priority.validate(text(args, 'io_priority'))


def slice_seconds(args: Mapping[str, object]) -> int:
    """Give the seconds after which the step answers.

    :raises InvalidValue: it makes no sense.
    """
    return number(args, 'slice_seconds', 1, MAX_SLICE_S, DEFAULT_SLICE_S)


def lineage(value: object) -> layout.Lineage:
    """Make a lineage of its record.

    :raises InvalidValue: it is none.
    :raises InvalidName: one of its ids is no UUID.
    """
    if not isinstance(value, dict) or value.keys() != {'node', 'generation'}:
        raise errors.InvalidValue(
            'lineage', value, 'it is not {"node": ..., "generation": ...}'
        )
    return layout.Lineage(value['node'], value['generation'])


def manifest(value: object) -> tuple[int, str]:
    """Give size and digest of a manifest from the record of it.

    :returns: bytes, and BLAKE3-256 in hexadecimal digits.
    :raises InvalidValue: it is no such record.
    """
    if not isinstance(value, dict) or value.keys() != {'size', 'digest'}:
        raise errors.InvalidValue(
            'manifest', value, 'it is not {"size": ..., "digest": ...}'
        )
    digest = text(value, 'digest')
    if not _DIGEST.fullmatch(digest):
        raise errors.InvalidValue(
            'digest', digest[:64], 'it is not 64 lower-case hexadecimal digits'
        )
    return number(value, 'size', 1, document.MAX_SIZE), digest
