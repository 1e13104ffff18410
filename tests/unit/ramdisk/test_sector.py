# SPDX-License-Identifier: Apache-2.0
"""Finding unreadable sectors: pictures, and all of them by chance."""

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware.disk import sector

SIZE = 512


class Surface:
    """Sectors drawn as text: ``x`` cannot be read."""

    def __init__(self, picture):
        self.picture = picture
        self.failures = 0

    def readable(self, offset, length):
        assert offset % SIZE == 0
        assert length > 0
        part = self.picture[offset // SIZE : -(-(offset + length) // SIZE)]
        self.failures += 'x' in part
        return 'x' not in part

    def find(self):
        return sector.find_unreadable(
            0, len(self.picture) * SIZE, SIZE, self.readable
        )


@pytest.mark.parametrize(
    ('picture', 'start', 'count'),
    [
        ('x', 0, 1),
        ('x...', 0, 1),
        ('...x', 3, 1),
        ('..x.', 2, 1),
        ('.xxx....x', 1, 3),
        ('xxxxxxx', 0, 7),
        ('..x..x..', 2, 1),
    ],
)
def test_finds_the_first_run(picture, start, count):
    assert Surface(picture).find() == (start * SIZE, count * SIZE)


def test_nothing_is_found_where_all_can_be_read_now():
    assert Surface('........').find() is None


def test_a_long_run_is_not_followed_for_hours():
    surface = Surface('x' * 8192)
    assert surface.find() == (0, sector.MAX_RUN_SECTORS * SIZE)
    # 13 halvings, the first look and the sectors of the run.
    assert surface.failures <= 13 + 1 + sector.MAX_RUN_SECTORS


@hypothesis.given(strategies.text('.x', min_size=1, max_size=200))
def test_any_surface(picture):
    found = Surface(picture).find()
    if 'x' not in picture:
        assert found is None
        return
    start = picture.index('x')
    count = len(picture[start:]) - len(picture[start:].lstrip('x'))
    assert found == (
        start * SIZE,
        min(count, sector.MAX_RUN_SECTORS) * SIZE,
    )
