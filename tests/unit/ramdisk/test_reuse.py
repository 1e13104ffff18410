# SPDX-License-Identifier: Apache-2.0
"""Which packs of a parent are built upon, and which are stored again."""

import types

import hypothesis
from hypothesis import strategies

from ipa_snapshot_hardware import reuse
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units

MiB = units.MiB
C = 256 * units.KiB
PACK = 64 * MiB


def pack(number, live=100, size=PACK, generations=1, spare=False):
    """Make a record; so much of it is alive, in hundredths."""
    return manifest.PackRecord(
        attempt='33333333-3333-4333-8333-333333333333',
        name=f'pack-{number:06d}',
        size=size,
        etag='0' * 32,
        clusters=10,
        live_bytes=size * live // 100,
        start=0,
        length=0 if spare else size,
        generations=generations,
    )


def choose(packs, redundancy=0):
    found = reuse.choose(
        types.SimpleNamespace(packs=tuple(packs), cluster_size=C),
        PACK,
        redundancy,
    )
    names = {
        'shared': found.shared,
        'spares': found.spares,
        'dead': [key for key, why in found.reasons.items() if why == 'dead'],
        'small': [key for key, why in found.reasons.items() if why == 'small'],
        'due': [key for key, why in found.reasons.items() if why == 'due'],
    }
    return {
        what: sorted(int(name[-6:]) for _, name in keys)
        for what, keys in names.items()
        if keys
    }


def test_dense_packs_are_shared():
    assert choose(pack(n, live=90) for n in range(1, 4)) == {
        'shared': [1, 2, 3]
    }


def test_an_image_without_data():
    assert choose([]) == {}


def test_the_emptiest_are_stored_again_until_it_is_dense_enough():
    lives = [100] * 6 + [40, 30, 50, 70, 10, 60] + [100] * 3
    packs = [pack(n, live) for n, live in enumerate(lives, 1)]
    # 1500 are held and 1160 alive, so 1508 may be.
    assert 'dead' not in choose(packs)
    packs[0] = pack(1, 0)
    packs[1] = pack(2, 5)
    # 1500 and 965: 1254 may be. Without 1, 2 and 11 there are 1215.
    assert choose(packs)['dead'] == [1, 2, 11]


def test_what_is_alive_for_the_most_part_is_left_alone():
    # All of them are a little too empty.
    assert choose(pack(n, live=71) for n in range(1, 20)) == {
        'shared': list(range(1, 20))
    }
    assert 'dead' in choose(pack(n, live=69) for n in range(1, 20))


def test_padding_alone_is_not_stored_again():
    assert choose([pack(1, live=10, size=MiB)]) == {'shared': [1]}
    # Two of them make one.
    assert choose(pack(n, live=10, size=MiB) for n in (1, 2)) == {
        'dead': [1, 2]
    }


def test_a_full_pack_is_not_too_much_work():
    # It holds up to a cluster more than wanted.
    assert choose(
        [pack(n, size=PACK + C, generations=2) for n in (1, 2)], redundancy=2
    ) == {'shared': [2], 'due': [1], 'spares': [1]}


def test_the_work_is_bounded():
    packs = [pack(n, live=50, generations=9) for n in range(1, 33)]
    found = choose(packs, redundancy=9)
    # An eighth of what is alive.
    again = set(range(1, 33)) - set(found['shared'])
    assert len(again) == len(packs) // reuse.WORK_PARTS
    # But always as much as a pack holds.
    assert choose(packs[:3])['shared'] == [3]


def test_many_small_packs_are_stored_again_together():
    large = [pack(n) for n in range(100, 140)]
    small = [pack(n, size=MiB) for n in range(1, reuse.MOST_SMALL_PACKS + 1)]
    assert 'small' not in choose(large + small)
    small.append(pack(99, size=MiB))
    assert len(choose(large + small)['small']) == len(small)


def test_what_was_relied_upon_for_long_gets_a_second_copy():
    packs = [pack(n, generations=n) for n in range(1, 17)]
    found = choose(packs, redundancy=15)
    assert (found['due'], found['spares']) == ([15, 16], [15, 16])
    # The oldest first, and no more than an eighth.
    found = choose(packs, redundancy=3)
    assert (found['due'], found['spares']) == ([15, 16], [15, 16])
    assert found['shared'] == list(range(1, 15))
    assert 'due' not in choose(packs)


def test_spares_are_never_built_upon():
    packs = [pack(1), pack(2, spare=True, generations=50)]
    assert choose(packs, redundancy=10) == {'shared': [1], 'spares': [2]}
    # Nobody wants them any more.
    assert choose(packs, redundancy=0) == {'shared': [1]}


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.integers(1, 64),
            strategies.integers(0, 100),
            strategies.integers(1, 40),
            strategies.booleans(),
        ),
        max_size=60,
    ),
    strategies.integers(0, 20),
)
def test_any_parent(picture, redundancy):
    packs = [
        pack(number, live, size * MiB, generations, spare)
        for number, (size, live, generations, spare) in enumerate(picture, 1)
    ]
    found = reuse.choose(
        types.SimpleNamespace(packs=tuple(packs), cluster_size=C),
        PACK,
        redundancy,
    )
    records = {(each.attempt, each.name): each for each in packs}
    main = {key for key, each in records.items() if not each.spare}
    assert found.shared | found.reasons.keys() == main
    assert not found.shared & found.reasons.keys()
    assert not found.shared & found.spares
    work = sum(records[key].live_bytes for key in found.reasons)
    live = sum(records[key].live_bytes for key in main)
    assert work <= max(PACK + C, live // reuse.WORK_PARTS)
    small = [
        key
        for key in found.shared
        if records[key].size * reuse.SMALL_PARTS < PACK
    ]
    # What was left for want of work is next.
    assert len(small) <= reuse.MOST_SMALL_PACKS or work > 0
