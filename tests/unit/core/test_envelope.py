# SPDX-License-Identifier: Apache-2.0
"""What the binary documents have in common."""

import array
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors


def read(data, magic=b'TEST', version=1):
    return envelope.Reader(data, magic, version, 'thing')


def test_the_layout_is_as_documented():
    data = envelope.wrap(b'TEST', 1, b'head', [b'pay', b'load'])
    assert data[:14] == b'TEST\1\0\0\0\4\0head'
    assert struct.unpack_from('<Q', data, 14) == (7,)


def test_pieces_come_out_again():
    reader = read(envelope.wrap(b'TEST', 1, b'\1\0', [b'pay', b'load']))
    assert reader.unpack(struct.Struct('<H')) == (1,)
    reader.open(7)
    assert (reader.take(2), reader.take(5)) == (b'pa', b'yload')
    with pytest.raises(errors.Corrupted, match='thing'):
        reader.take(1)


@pytest.mark.parametrize('size', [0, 6, 8, 2**40])
def test_the_payload_must_have_the_size_its_counts_say(size):
    reader = read(envelope.wrap(b'TEST', 1, b'', [b'payload']))
    with pytest.raises(errors.Corrupted):
        reader.open(size)


def test_another_header_is_refused():
    reader = read(envelope.wrap(b'TEST', 1, b'abc', []))
    with pytest.raises(errors.Corrupted):
        reader.unpack(struct.Struct('<H'))


def test_another_kind_of_document_is_refused():
    with pytest.raises(errors.Corrupted):
        read(envelope.wrap(b'ELSE', 1, b'', []))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50),
       st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_columns_come_out_again(small, large):
    one, two = array.array('I', small), array.array('Q', large)
    payload = [envelope.column(one), envelope.column(two)]
    reader = read(envelope.wrap(b'TEST', 1, b'', payload))
    reader.open(4 * len(small) + 8 * len(large))
    assert reader.column('I', len(small)) == one
    assert reader.column('Q', len(large)) == two


def test_columns_are_bytes_of_a_weight_together():
    assert envelope.column(array.array('I', [0x0201, 0x0205, 0x0309])) == (
        b'\1\5\x09' b'\2\2\3' + bytes(6))


def test_columns_are_the_same_on_every_machine(monkeypatch):
    # As seen by a machine of the other kind: its own bytes, swapped.
    values = array.array('I', [0x01020304])
    swapped = array.array('I', values)
    swapped.byteswap()
    here = envelope.column(values)
    other = 'big' if sys.byteorder == 'little' else 'little'
    monkeypatch.setattr(sys, 'byteorder', other)
    if other == 'big':
        assert envelope.column(swapped) == here
