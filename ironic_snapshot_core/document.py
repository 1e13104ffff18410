# SPDX-License-Identifier: Apache-2.0
"""Dataclasses as strict, canonical, sealed JSON.

Strict: a document is refused for any field that is missing, unknown or of
another type; only a field of a document that is marked as optional is left
out, always, when it is None. Canonical: there is one sequence of bytes for a
document, and others are refused. Sealed: its last word on itself is a digest
of the rest (``seal``), or, when there is a key, a message authentication code
(``mac``), so that no bit of it can change unnoticed.
"""

import dataclasses
import functools
import hmac
import json
import types
import typing

import blake3

from ironic_snapshot_core import errors
from ironic_snapshot_core.units import MiB

SEAL = 'seal'
MAC = 'mac'

_OPTIONAL = 'optional'

#: A report on 1 TiB in packs of 64 MiB is 5 MB; this is 13 times as much.
MAX_SIZE = 64 * MiB

#: Integers are sizes, counts or times; all fit 63 bits.
MAX_INTEGER = 2 ** 63 - 1

T = typing.TypeVar('T')


def optional() -> typing.Any:
    """Declare a field of a document that earlier releases did not write."""
    return dataclasses.field(default=None, metadata={_OPTIONAL: True})


def encode(value: typing.Any, mac_key: bytes | None = None) -> bytes:
    """Turn a dataclass into bytes.

    :param mac_key: proves that only its holders can have written this.
    """
    fields = dataclasses.asdict(value)
    for name in _optional(typing.cast(typing.Hashable, type(value))):
        if fields[name] is None:
            del fields[name]
    if mac_key is None:
        fields[SEAL] = blake3.blake3(_canonical(fields)).hexdigest()
    else:
        fields[MAC] = _mac(mac_key, fields)
    return _canonical(fields)


def decode(cls: type[T], data: bytes, what: str,
           mac_key: bytes | None = None, verified: bool = False,
           fields: dict[str, typing.Any] | None = None) -> T:
    """Turn bytes back into a dataclass.

    :param what: names the document in errors.
    :param mac_key: must be given if, and only if, it was when encoding.
    :param verified: its last word on itself is not looked at, as the caller
        knows by other means that not a bit of it has changed.
    :param fields: what :func:`parse` has made of the bytes, if they were
        looked at before; used up.
    :raises Corrupted: any bit of it is not as it was written.
    """
    if fields is None:
        fields = parse(data, what)
    if not verified:
        _check_seal(fields, what, mac_key)
    if _canonical(fields) != data:
        raise errors.Corrupted(what, 'it is not in canonical form')
    for name in (SEAL, MAC) if verified else (_seal_name(mac_key),):
        fields.pop(name, None)
    try:
        return typing.cast(T, _build(cls, fields, what))
    except (errors.InvalidValue, errors.InvalidName) as e:
        raise errors.Corrupted(what, str(e).rstrip('.')) from e


def parse(data: bytes, what: str) -> dict[str, typing.Any]:
    """Parse JSON into a dict, nothing of it being verified.

    For looking at a version before everything else.

    :raises Corrupted: it is no JSON object, or has a key twice.
    """
    if len(data) > MAX_SIZE:
        raise errors.Corrupted(what, f'it is larger than {MAX_SIZE} bytes')
    try:
        value = json.loads(
            bytes(data).decode('ascii'), object_pairs_hook=_unique,
            parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise errors.Corrupted(what, 'it is no JSON document') from None
    if not isinstance(value, dict):
        raise errors.Corrupted(what, 'it is no JSON object')
    return value


# Private

def _seal_name(mac_key: bytes | None) -> str:
    return SEAL if mac_key is None else MAC


def _canonical(value: object) -> bytes:
    try:
        return json.dumps(
            value, sort_keys=True, separators=(',', ':'), ensure_ascii=True,
            allow_nan=False).encode('ascii')
    except (ValueError, RecursionError):
        raise errors.InvalidValue(
            'document', '(not shown)', 'it cannot be JSON') from None


def _mac(key: bytes, fields: dict[str, typing.Any]) -> str:
    return hmac.new(key, _canonical(fields), 'sha256').hexdigest()


def _check_seal(fields: dict[str, typing.Any], what: str,
                mac_key: bytes | None) -> None:
    rest = {key: value for key, value in fields.items()
            if key != _seal_name(mac_key)}
    found = fields.get(_seal_name(mac_key))
    if not isinstance(found, str) or not found.isascii():
        raise errors.Corrupted(
            what, f'it has no {_seal_name(mac_key)!r}; was it written with '
            'the same key settings?')
    try:
        if mac_key is None:
            expected = blake3.blake3(_canonical(rest)).hexdigest()
        else:
            expected = _mac(mac_key, rest)
    except errors.InvalidValue:
        raise errors.Corrupted(what, 'it is no JSON document') from None
    if not hmac.compare_digest(found, expected):
        raise errors.Corrupted(
            what, f'its {_seal_name(mac_key)} does not match; it was '
            'changed, or written with another key')


def _unique(pairs: list[tuple[str, typing.Any]]) -> dict[str, typing.Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError('a key is there twice')
    return fields


def _refuse_constant(name: str) -> typing.NoReturn:
    raise ValueError(f'{name} is no JSON')


def _build(kind: typing.Any, value: typing.Any, where: str) -> typing.Any:
    """Turn what JSON gave into what the type hint says."""
    # Most values by far, and the rest takes long. bool is an int to
    # isinstance().
    if type(value) is kind:
        if kind is int:
            _require(abs(value) <= MAX_INTEGER, where,
                     'an integer of 64 bits')
        return value
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_record(typing.cast(type, kind), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        kind, = set(typing.get_args(kind)) - {types.NoneType}
        return _build(kind, value, where)
    if origin is tuple:
        _require(isinstance(value, list), where, 'a list')
        item = typing.get_args(kind)[0]
        return tuple(_build(item, each, where) for each in value)
    if origin is dict:
        _require(isinstance(value, dict), where, 'an object')
        item = typing.get_args(kind)[1]
        return {key: _build(item, each, f'{where}, {key!r}')
                for key, each in value.items()}
    if kind is float:
        _require(type(value) is int, where, 'a number')
        return value
    raise errors.Corrupted(where, f'it is not of type {kind.__name__}')


def _build_record(cls: type, value: typing.Any, where: str) -> typing.Any:
    _require(isinstance(value, dict), where, 'an object')
    hints = _hints(cls)
    left_out = {name for name in _optional(cls) if name not in value}
    _require(value.keys() | left_out == hints.keys(), where,
             f'an object with the fields of a {cls.__name__}, no more and '
             'no fewer')
    for name in _optional(cls) - left_out:
        _require(value[name] is not None, f'{where}, {name!r}',
                 'left out, as it should be when there is nothing')
    return cls(**{name: _build(hint, value[name], f'{where}, {name!r}')
                  for name, hint in hints.items() if name not in left_out})


@functools.cache
def _hints(cls: type) -> dict[str, typing.Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name]
            for field in dataclasses.fields(cls)}


@functools.cache
def _optional(cls: typing.Hashable) -> frozenset[str]:
    return frozenset(field.name
                     for field in dataclasses.fields(typing.cast(type, cls))
                     if field.metadata.get(_OPTIONAL))


def _require(condition: bool, where: str, wanted: str) -> None:
    if not condition:
        raise errors.Corrupted(where, f'it is not {wanted}')
