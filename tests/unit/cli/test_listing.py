# SPDX-License-Identifier: Apache-2.0
"""What ``list`` and ``show`` print, letter by letter."""

import argparse
import io
import json
import textwrap

import pytest

from ironic_snapshot_core import history
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.store import directory
from ironic_snapshot_cli import listing
from ironic_snapshot_cli import show
from ironic_snapshot_cli import terminal
from tests.unit.cli import snapshots

IDS = {
    name: f'{8 * first}-0000-4000-8000-000000000000'
    for name, first in {
        'add': 'a', 'bad': 'b', 'cut': 'c', 'dig': 'd', 'end': 'e',
        'fig': 'f', 'gem': '1', 'hut': '2', 'deleted': '3',
    }.items()
}  # fmt: skip


@pytest.fixture
def repo(tmp_path):
    """A repository with the manifests of snapshots, and nothing else."""
    return directory.DirectoryStore(tmp_path)


def put(repo, which, parent=None, **options):
    options = {'name': which, 'parent': parent and IDS[parent], **options}
    found = snapshots.make(id=IDS[which], **options)
    repo.put(
        layout.manifest_name(found.lineage, found.id), found.to_bytes(None)
    )
    return found


@pytest.fixture
def lineage(repo):
    """Full, incremental, and from there on two ways."""
    add = snapshots.make_pack(IDS['add'], clusters=40)
    put(repo, 'add', packs=[add], clusters=40, sequence=1,
        full_reason='it is the first of its lineage')
    bad = snapshots.make_pack(IDS['bad'], clusters=2)
    shared = snapshots.make_pack(
        IDS['add'], clusters=40, live=4 * 2**20, generations=2
    )
    put(repo, 'bad', 'add', packs=[shared, bad], clusters=34, sequence=2)
    cut = snapshots.make_pack(IDS['cut'], clusters=1)
    spare = snapshots.make_pack(
        IDS['bad'], clusters=2, live=0, length=0, generations=2
    )
    put(repo, 'cut', 'bad', packs=[shared, spare, cut], clusters=33,
        sequence=3, unreadable=(manifest.Unreadable(4096, 512),))
    put(repo, 'dig', 'bad', packs=[shared], clusters=32, sequence=4)
    return repo


def run(
    command, repo, capsys, *, snapshot=None, long=False, key=None, json=False
):
    args = argparse.Namespace(
        repository=str(repo.path),
        snapshot=snapshot,
        long=long,
        json=json,
        manifest_key=key,
    )
    messages = io.StringIO()
    assert command.run(args, terminal.Terminal(messages)) == 0
    assert messages.getvalue() == ''
    return capsys.readouterr().out


def check(found, expected):
    assert found == textwrap.dedent(expected).lstrip('\n')


def test_a_lineage_that_branches(lineage, capsys):
    check(run(listing, lineage, capsys), """
        ID           NAME  CREATED            VIRTUAL   USED     NEW  SHARED  STATE
        aaaaaaaa     add   2026-01-31T12:01Z    16.0M  16.0M    5.0M       0  full
        bbbbbbbb     bad   2026-01-31T12:02Z    16.0M  16.0M  256.0K    4.0M  incremental
        |- cccccccc  cut   2026-01-31T12:03Z    16.0M  16.0M  256.0K    4.0M  degraded, incremental
        `- dddddddd  dig   2026-01-31T12:04Z    16.0M  16.0M       0    4.0M  incremental

        34.8 MiB of data stored in 5.5 MiB: dedupe ratio 3.2, compression 1.9
        """)  # noqa: E501


def restore(repo, which, minute, key=None, **changes):
    """Say that a disk of the lineage has become this snapshot again."""
    fields = {
        'operation': snapshots.make_id(f'{which} {minute}'),
        'snapshot': IDS[which],
        'lineage': snapshots.LINEAGE,
        'node': manifest.NodeRecord(snapshots.LINEAGE.node, 'host', None),
        'project': None,
        'verb': history.ROLLBACK,
        'identity': 'keep',
        'before': None,
        'started_at': '2026-02-01T12:00:00Z',
        'restored_at': f'2026-02-01T12:{minute:02}:05Z',
        'totals': {},
        'degraded': False,
        **changes,
    }
    history.put(repo, snapshots.LINEAGE, history.Restore(**fields), key)


def test_restored(lineage, capsys):
    restore(lineage, 'bad', 1)
    restore(lineage, 'bad', 3)
    restore(lineage, 'dig', 4, verb=history.CLONE)
    found = run(listing, lineage, capsys).splitlines()
    assert [line.split('4.0M  ')[-1] for line in found[2:5]] == [
        'incremental, restored 2026-02-01T12:03Z',
        'degraded, incremental',
        'incremental',
    ]
    assert '2026-02-01T12:03:05Z' in run(
        listing, lineage, capsys, long=True
    )
    found = json.loads(run(listing, lineage, capsys, json=True))
    assert [len(each['restores']) for each in found['snapshots']] == [
        0, 2, 0, 1
    ]  # fmt: skip


def test_show_restores(lineage, capsys):
    other = manifest.NodeRecord(snapshots.OTHER.node, 'twin', None)
    for minute in range(1, 7):
        restore(lineage, 'bad', minute)
    restore(lineage, 'bad', 7, verb=history.CLONE, node=other)
    found = run(show, lineage, capsys, snapshot='bad')
    line, = (each for each in found.splitlines() if 'Restored' in each)
    assert line.split()[1:] == [
        '2026-02-01T12:07:05Z', 'onto', 'twin,', '2026-02-01T12:06:05Z,',
        '2026-02-01T12:05:05Z,', '2026-02-01T12:04:05Z,',
        '2026-02-01T12:03:05Z,', 'and', '2', 'more'
    ]  # fmt: skip
    found = json.loads(
        run(show, lineage, capsys, snapshot='bad', json=True)
    )
    assert len(found['restores']) == 7
    assert 'Restored' not in run(show, lineage, capsys, snapshot='add')


def test_of_a_conductor(repo, capsys, tmp_path):
    """With its key its snapshots and restores are told; without, not."""
    found = snapshots.make('add', id=IDS['add'])
    key = b'k' * 32
    repo.put(
        layout.manifest_name(found.lineage, found.id), found.to_bytes(key)
    )
    restore(repo, 'add', 1, key)
    path = tmp_path / 'key'
    path.write_bytes(key + b'\n')
    assert 'restored 2026-02-01T12:01Z' in run(
        listing, repo, capsys, key=str(path)
    )
    assert 'Restored' in run(
        show, repo, capsys, snapshot='add', key=str(path)
    )
    found = run(listing, repo, capsys)
    assert 'damaged' in found
    assert 'restored' not in found


def test_all_of_it(lineage, capsys):
    check(run(listing, lineage, capsys, long=True), """
        ID                                       NAME  CREATED               VIRTUAL   USED     NEW  SHARED  STATE
        aaaaaaaa-0000-4000-8000-000000000000     add   2026-01-31T12:01:07Z    16.0M  16.0M    5.0M       0  full: it is the first of its lineage
        bbbbbbbb-0000-4000-8000-000000000000     bad   2026-01-31T12:02:07Z    16.0M  16.0M  256.0K    4.0M  incremental
        |- cccccccc-0000-4000-8000-000000000000  cut   2026-01-31T12:03:07Z    16.0M  16.0M  256.0K    4.0M  degraded, incremental
        `- dddddddd-0000-4000-8000-000000000000  dig   2026-01-31T12:04:07Z    16.0M  16.0M       0    4.0M  incremental

        34.8 MiB of data stored in 5.5 MiB: dedupe ratio 3.2, compression 1.9
        """)  # noqa: E501


def test_several_disks(lineage, capsys):
    put(lineage, 'end', 'add', sequence=1, lineage=snapshots.OTHER)
    put(lineage, 'fig', 'deleted', sequence=5,
        name='a name that has many words')
    put(lineage, 'gem', 'fig', sequence=6)
    lineage.put(
        layout.manifest_name(snapshots.LINEAGE, IDS['hut']), b'{}'
    )
    check(run(listing, lineage, capsys), """
        ID           NAME                        CREATED            VIRTUAL   USED     NEW  SHARED  STATE

        /dev/sda on host, node bbbbbbbb, deployment cccccccc:
        22222222     -                           -                        -      -       -       -  damaged
        aaaaaaaa     add                         2026-01-31T12:01Z    16.0M  16.0M    5.0M       0  full
        bbbbbbbb     bad                         2026-01-31T12:02Z    16.0M  16.0M  256.0K    4.0M  incremental
        |- cccccccc  cut                         2026-01-31T12:03Z    16.0M  16.0M  256.0K    4.0M  degraded, incremental
        `- dddddddd  dig                         2026-01-31T12:04Z    16.0M  16.0M       0    4.0M  incremental
        ffffffff     a name that has many words  2026-01-31T12:05Z    16.0M  16.0M       0       0  incremental, parent 33333333 deleted
        11111111     gem                         2026-01-31T12:06Z    16.0M  16.0M       0       0  incremental

        /dev/sda on host, node dddddddd, deployment cccccccc:
        eeeeeeee     end                         2026-01-31T12:01Z    16.0M  16.0M       0       0  incremental, parent aaaaaaaa of another lineage

        34.8 MiB of data stored in 5.5 MiB: dedupe ratio 3.2, compression 1.9
        """)  # noqa: E501


def test_show(lineage, capsys):
    check(run(show, lineage, capsys, snapshot='bad'), """
        Snapshot:      bbbbbbbb-0000-4000-8000-000000000000
        Name:          bad
        State:         ok
        Created:       2026-01-31T12:02:07Z
        Parent:        "add" (aaaaaaaa)
        Children:      "cut" (cccccccc), "dig" (dddddddd)
        Host:          host
        Disk:          /dev/sda
        Sectors:       512 bytes
        Virtual size:  16.0 MiB
        In use:        16.0 MiB
        Read:          16.0 MiB
        Data:          8.5 MiB that are not zero
        New:           256.0 KiB stored
        Shared:        4.0 MiB
        Dedupe ratio:  17.0
        Image:         1 B of qcow2
        Packs:         1 own, 1 shared, 0 spare
        Generations:   up to 2 in a row rely on a pack
        Clusters:      of 256.0 KiB, zstd 1, blake3-256
        """)  # noqa: E501
