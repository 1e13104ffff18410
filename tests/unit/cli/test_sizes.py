# SPDX-License-Identifier: Apache-2.0
"""Sizes and times as people write and read them."""

import pytest

from ironic_snapshot_cli import sizes


@pytest.mark.parametrize(
    'text, size',
    [
        ('65536', 65536),
        ('256K', 256 * 1024),
        ('64KiB', 65536),
        ('1.5g', 3 * 2**29),
        (' 2 MB ', 2**21),
        ('1T', 2**40),
        ('7B', 7),
    ],
)
def test_sizes_that_are_read(text, size):
    assert sizes.parse(text) == size


@pytest.mark.parametrize('text', ['', 'K', '-1', '1e3', '1X', '1KM', '1 2'])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match='no size'):
        sizes.parse(text)


@pytest.mark.parametrize(
    'size, text',
    [
        (0, '0 B'),
        (1023, '1023 B'),
        (1024, '1.0 KiB'),
        (1024**2 - 1, '1.0 MiB'),
        (2620 * 2**20, '2.6 GiB'),
        (2**40, '1.0 TiB'),
        (5000 * 2**50, '5000.0 PiB'),
    ],
)
def test_sizes_that_are_shown(size, text):
    assert sizes.show(size) == text


@pytest.mark.parametrize(
    'seconds, text',
    [(0.04, '0.0 s'), (59.9, '59.9 s'), (60, '1:00'), (3723, '1:02:03')],
)
def test_durations(seconds, text):
    assert sizes.show_seconds(seconds) == text


@pytest.mark.parametrize(
    'size, text',
    [(0, '0'), (1023, '1023'), (1024, '1.0K'), (700 * 2**20, '700.0M')],
)
def test_show_short(size, text):
    assert sizes.show_short(size) == text
