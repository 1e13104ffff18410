# SPDX-License-Identifier: Apache-2.0
"""Swap areas, written as the kernel and mkswap lay them out."""

import struct

import pytest

from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import KiB
from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.disk import memory
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import swap

START = 1 * MiB
LENGTH = 2 * MiB


def area(page=4 * KiB, signature=b'SWAPSPACE2', version=1, order='<',
         pages=None):
    """Return a swap area full of old memory; it fills the partition."""
    data = bytearray(b'\x5c' * LENGTH)
    data[:page] = bytes(page)
    last = (pages or LENGTH // page) - 1
    struct.pack_into(f'{order}II', data, 1024, version, last)
    data[page - 10 : page - 10 + len(signature)] = signature
    return data


def survey(data):
    disk = memory.MemoryDisk(bytes(START) + data + bytes(MiB))
    found = swap.survey_swap(disk, START, len(data))
    return found, list(found.extents)


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('page', [4, 8, 16, 32, 64])
def test_only_the_header_is_data(page, order):
    found, extents = survey(area(page * KiB, order=order))
    assert (found.method, found.reason) == (manifest.HEADER, '')
    assert found.content == 'swap'
    assert extents == [(START, START + page * KiB)]


def test_what_lies_behind_the_area_is_data():
    found, extents = survey(area(pages=300))
    assert found.method == manifest.HEADER
    assert extents == [(START, START + 4 * KiB),
                       (START + 1200 * KiB, START + LENGTH)]


def test_area_smaller_than_the_largest_page():
    data = area(pages=10)[: 40 * KiB]
    found, extents = survey(data)
    assert found.method == manifest.HEADER
    assert extents == [(START, START + 4 * KiB)]


def refusal(data):
    with pytest.raises(look.Doubt) as caught:
        survey(data)
    return caught.value.reason


@pytest.mark.parametrize('page', [4, 64])
@pytest.mark.parametrize('signature', [
    b'S1SUSPEND\0', b'S2SUSPEND\0', b'ULSUSPEND\0', b'LINHIB0001'])
def test_hibernation_image(signature, page):
    assert refusal(area(page * KiB, signature)) == 'hibernation image'


def test_tux_on_ice():
    """It leaves a valid swap header in place."""
    data = area()
    data[:8] = bytes.fromhex('edc302e99856e50c')
    assert refusal(data) == 'hibernation image'


@pytest.mark.parametrize('data', [
    area(signature=b'SWAP-SPACE'),      # version 0 does not tell its size
    area(signature=b'XWAPSPACE2'),
    area(version=2),
    area(pages=1),                      # last page 0
    area(pages=LENGTH // (4 * KiB) + 1),    # larger than its partition
    bytearray(LENGTH),
    bytearray(512),
])
def test_bad_header(data):
    assert refusal(data) == 'bad swap header'


def test_two_signatures():
    """Which one counts depends on the kernel that reads it."""
    data = area(4 * KiB)
    data[64 * KiB - 10 : 64 * KiB] = b'SWAPSPACE2'
    assert refusal(data) == 'bad swap header'
