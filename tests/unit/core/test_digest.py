# SPDX-License-Identifier: Apache-2.0
"""Hashes of clusters."""

import pytest

from ironic_snapshot_core import digest
from ironic_snapshot_core import errors


def test_blake3_is_blake3():
    # From the reference test vectors: input of no bytes.
    found = digest.get_digest('blake3-256')
    assert found.digest(b'').hex() == (
        'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262')
    assert found.size == 32


def test_any_buffer_is_taken():
    found = digest.DEFAULT_DIGEST
    assert found.digest(b'abc') == found.digest(memoryview(b'abc')) == (
        found.digest(bytearray(b'abc')))


def test_zero_is_the_digest_of_zeroes():
    found = digest.DEFAULT_DIGEST
    assert found.zero(65536) == found.digest(bytes(65536))
    assert found.zero(512) == found.digest(bytes(512))


@pytest.mark.parametrize('data', [b'', b'document'])
def test_a_document_is_told_by_size_and_digest(data):
    size, found = digest.identify(data)
    assert size == len(data)
    assert bytes.fromhex(found) == digest.get_digest(
        'blake3-256').digest(data)


def test_an_unknown_one_is_refused():
    with pytest.raises(errors.UnsupportedFeature, match='md5'):
        digest.get_digest('md5')
