# SPDX-License-Identifier: Apache-2.0
"""What a snapshot costs, and what it saves."""

from ironic_snapshot_core import figures
from tests.unit.cli import snapshots

FIRST = snapshots.make_id('first')
SECOND = snapshots.make_id('second')
THIRD = snapshots.make_id('third')
MiB = 2**20

#: 10 clusters of 256 KiB in 5 times that.
OLD = snapshots.make_pack(FIRST, clusters=10)
FULL = snapshots.make('first', packs=[OLD], clusters=12)
INCREMENTAL = snapshots.make(
    'second',
    FIRST,
    packs=[
        snapshots.make_pack(FIRST, clusters=10, live=MiB),
        snapshots.make_pack(SECOND, clusters=2),
    ],
    clusters=11,
)
#: Of the old pack there is a second copy now.
COPIED = snapshots.make(
    'third',
    SECOND,
    packs=[
        snapshots.make_pack(FIRST, clusters=10, live=MiB, length=0),
        snapshots.make_pack(SECOND, clusters=2, live=1000),
        snapshots.make_pack(THIRD, clusters=8),
    ],
    clusters=11,
)
UNCHANGED = snapshots.make('fourth', FIRST, packs=[OLD], clusters=12)


def test_shared_is_what_the_image_uses_of_others():
    assert figures.shared_bytes(FULL) == 0
    assert figures.shared_bytes(INCREMENTAL) == MiB
    assert figures.shared_bytes(UNCHANGED) == OLD.size


def test_second_copies_are_not_shared():
    assert figures.shared_bytes(COPIED) == 1000


def test_dedupe_ratio():
    assert figures.dedupe_ratio(FULL) == 1.2
    assert figures.dedupe_ratio(INCREMENTAL) == 5.5
    assert figures.dedupe_ratio(UNCHANGED) is None


def test_each_pack_counts_once():
    found = figures.total([FULL, INCREMENTAL, COPIED, UNCHANGED])
    clusters = 10 + 2 + 8
    assert found.data_bytes == (12 + 11 + 11 + 12) * MiB // 4
    assert found.stored_bytes == clusters * MiB // 8
    assert found.dedupe_ratio == (12 + 11 + 11 + 12) / clusters
    assert found.compression_ratio == 2


def test_nothing_is_stored_for_nothing():
    assert figures.total([]) == figures.Totals(0, 0, None, None)


def test_what_nobody_else_needs():
    rest = [INCREMENTAL, COPIED, UNCHANGED]
    assert figures.only_needed_by([FULL], rest) == 0
    assert figures.only_needed_by([COPIED], [FULL, INCREMENTAL]) == MiB
    all_of_it = figures.total([FULL, *rest]).stored_bytes
    assert figures.only_needed_by([FULL, *rest], []) == all_of_it
