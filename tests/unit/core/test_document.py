# SPDX-License-Identifier: Apache-2.0
"""Strict, canonical, sealed JSON."""

import dataclasses
import json

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import document
from ironic_snapshot_core import errors


@dataclasses.dataclass(frozen=True)
class Inner:
    n: int


@dataclasses.dataclass(frozen=True)
class Outer:
    text: str
    number: int
    ratio: float
    flag: bool
    maybe: str | None
    inner: Inner
    list_: tuple[Inner, ...]
    words: dict[str, str]


EXAMPLE = Outer('ä"\\', -5, 0.1, True, None, Inner(1),
                (Inner(2), Inner(3)), {'b': 'x', 'a': 'y'})
KEY = b'k' * 32


def decode(data, key=None):
    return document.decode(Outer, data, 'thing', key)


def seal(fields):
    """Give what a forger would write."""
    fields = {key: value for key, value in fields.items() if key != 'seal'}
    canonical = json.dumps(fields, sort_keys=True, separators=(',', ':'))
    fields['seal'] = blake3.blake3(canonical.encode()).hexdigest()
    return json.dumps(fields, sort_keys=True, separators=(',', ':')).encode()


@pytest.mark.parametrize('key', [None, KEY])
def test_what_is_encoded_comes_back(key):
    data = document.encode(EXAMPLE, key)
    assert decode(data, key) == EXAMPLE
    assert document.encode(decode(data, key), key) == data


@pytest.mark.parametrize('key', [None, KEY])
def test_what_is_verified_already_needs_no_key(key):
    data = document.encode(EXAMPLE, key)
    assert document.decode(Outer, data, 'thing', verified=True) == EXAMPLE
    # Its form is looked at nevertheless.
    for wrong in (data + b' ', data.replace(b'"number"', b'"no"')):
        with pytest.raises(errors.Corrupted):
            document.decode(Outer, wrong, 'thing', verified=True)


@given(st.builds(
    Outer, st.text(), st.integers(-2**63 + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False), st.booleans(),
    st.none() | st.text(), st.builds(Inner, st.integers(0, 9)),
    st.lists(st.builds(Inner, st.integers(0, 9))).map(tuple),
    st.dictionaries(st.text(), st.text())))
def test_anything_comes_back(value):
    assert decode(document.encode(value)) == value


@pytest.mark.parametrize('key', [None, KEY])
def test_every_flipped_bit_is_found(key):
    data = document.encode(EXAMPLE, key)
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(errors.Corrupted):
            decode(bytes(changed), key)


def test_the_key_must_be_the_same():
    keyed, plain = document.encode(EXAMPLE, KEY), document.encode(EXAMPLE)
    for data, key in ((keyed, None), (keyed, b'other'), (plain, KEY)):
        with pytest.raises(errors.Corrupted):
            decode(data, key)


def test_a_forged_one_that_is_right_is_read():
    assert decode(seal(json.loads(document.encode(EXAMPLE)))) == EXAMPLE


@pytest.mark.parametrize('change', [
    {'more': 1}, {'text': 5}, {'number': '5'}, {'number': True},
    {'number': 1.0}, {'number': 2**63}, {'ratio': 'x'}, {'ratio': True},
    {'flag': 1}, {'maybe': 5}, {'inner': None}, {'inner': {'n': 1, 'm': 2}},
    {'inner': {}}, {'list_': {}}, {'list_': [5]}, {'words': []},
    {'words': {'a': 5}}, {'text': None}], ids=str)
def test_what_does_not_fit_is_refused(change):
    fields = json.loads(document.encode(EXAMPLE)) | change
    with pytest.raises(errors.Corrupted):
        decode(seal(fields))


def test_a_missing_field_is_refused():
    fields = json.loads(document.encode(EXAMPLE))
    for name in set(fields) - {'seal'}:
        less = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(errors.Corrupted):
            decode(seal(less))


@pytest.mark.parametrize('change', [
    lambda data: data + b'\n',
    lambda data: b' ' + data,
    lambda data: data.replace(b',', b', ', 1),
    lambda data: data.replace(b'"flag":true,', b'', 1)[:-1]
    + b',"flag":true}',
    lambda data: data.replace(b'"flag":true',
                              b'"flag":false,"flag":true', 1),
    lambda data: data.replace(b'\\u00e4', 'ä'.encode(), 1),
    lambda data: data.replace(b'\\u00e4', b'\\u00E4', 1),
    lambda data: data.replace(b'0.1', b'0.10', 1),
    lambda data: data.replace(b'0.1', b'1e-1', 1),
], ids=range(9))
def test_there_is_one_form_only(change):
    data = document.encode(EXAMPLE)
    assert change(data) != data
    with pytest.raises(errors.Corrupted):
        decode(change(data))


@pytest.mark.parametrize('data', [
    b'', b'{', b'[]', b'null', b'5', b'"x"', b'{}', b'{"seal":5}',
    b'{"seal":"x"}', b'\xff', b'{"a":NaN}', b'{"a":Infinity}',
    b'{"a":1e999,"seal":"x"}', b'[' * 100_000, b'{"a":' * 100_000,
    b'{"a":' + b'9' * 10_000 + b'}'], ids=range(16))
def test_what_is_no_document_is_refused(data):
    for key in (None, KEY):
        with pytest.raises(errors.Corrupted):
            decode(data, key)


@given(st.binary(max_size=200))
def test_garbage_raises_our_error_only(data):
    with pytest.raises(errors.Corrupted):
        decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10)


@given(st.dictionaries(st.sampled_from(
    [field.name for field in dataclasses.fields(Outer)] + ['x']),
    json_values))
def test_well_sealed_garbage_raises_our_error_only(fields):
    with pytest.raises(errors.Corrupted):
        decode(seal(fields))


def test_a_huge_one_is_refused_unread():
    with pytest.raises(errors.Corrupted, match='larger'):
        decode(bytes(document.MAX_SIZE + 1))
