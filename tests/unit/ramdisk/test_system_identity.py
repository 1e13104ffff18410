# SPDX-License-Identifier: Apache-2.0
"""Paths in a tenant's tree, and what its table of mounts says."""

import os

import pytest

from ipa_snapshot_hardware.system_identity import fstab
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import rules
from ipa_snapshot_hardware.system_identity import tree
from ipa_snapshot_hardware.system_identity import volume

TABLE = r'''
# <file system> <mount point> <type> <options>
UUID=1-a  /            ext4  errors=remount-ro 0 1
LABEL=my\040var /var/  btrfs rw,subvol=/@var,subvolid=256 0 0
/swap     none         swap  sw
tmpfs     /a\040b//c   tmpfs
broken /only
'''


@pytest.fixture
def root(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_table():
    root, var, volatile = fstab.parse(TABLE)
    assert (root.source, root.place, root.content) == ('UUID=1-a', '', 'ext4')
    assert (var.source, var.place) == ('LABEL=my var', 'var')
    assert var.option('subvol') == '/@var'
    assert var.option('subvolid') == '256'
    assert var.option('rw') is None
    assert volatile.place == 'a b/c'


ROOT = volume.Volume('/dev/sdb2', 'sdb2', 'ext4', uuid='1-A', number=2)
VAR = volume.Volume(
    '/dev/sdb3', 'sdb3', 'xfs', label='v/r', uuid='2', partition_label='var',
    partition_uuid='aaaa-03', number=3)
LOGICAL = volume.Volume(
    '/dev/dm-0', 'vg-a/log', 'ext4', uuid='4',
    aliases=('/dev/vg-a/log', '/dev/mapper/vg--a-log'))
SNAPSHOT = volume.Volume('/dev/dm-1', 'vg-a/snap', 'ext4', uuid='4')


@pytest.mark.parametrize(('source', 'root', 'expected'), [
    ('UUID=1-a', 'UUID=1-a', ROOT), ('UUID="2"', 'UUID=1-a', VAR),
    ('LABEL=v/r', '', VAR), (r'/dev/disk/by-label/v\x2fr', '', VAR),
    ('LABEL=V/R', '', None), ('PARTUUID=AAAA-03', '', VAR),
    ('PARTLABEL=var', '', VAR), ('/dev/disk/by-partuuid/aaaa-03', '', VAR),
    ('/dev/vg-a/log', '', LOGICAL), ('/dev/mapper/vg--a-log', '', LOGICAL),
    # Of two that are the same, neither.
    ('UUID=4', '', None),
    # Only beside the root's own name of the disk.
    ('/dev/sda3', '/dev/sda2', VAR), ('/dev/nvme0n1p3', '/dev/nvme0n1p2', VAR),
    ('/dev/sda3', 'UUID=1-a', None), ('/dev/sda3', '/dev/sdc2', None),
    ('/dev/sda3', '/dev/sda1', None), ('/dev/sda9', '/dev/sda2', None),
    ('/dev/sda', '/dev/sda2', None), ('/dev/mapper/crypt', '', None),
    ('UUID=', '', None),
])
def test_resolving(source, root, expected):
    entry, own = (fstab.Entry(each, place, 'ext4', ())
                  for each, place in ((source, 'var'), (root, '')))
    found = fstab.resolve(
        entry, own if root else None, ROOT, [ROOT, VAR, LOGICAL, SNAPSHOT])
    assert found == expected


def test_folders_are_walked(tmp_path, root):
    (tmp_path / 'a/b').mkdir(parents=True)
    (tmp_path / 'a/b/file').touch()
    with tree.folder(root, 'a//b/') as found:
        assert os.listdir(found) == ['file']
    with tree.folder(root, 'a/none/b') as found:
        assert found is None
    with tree.folder(root, '') as found:
        assert os.listdir(found) == ['a']


@pytest.mark.parametrize('path', ['a/link', 'a/link/c', 'a/up/a', 'a/file'])
def test_no_link_is_walked(tmp_path, root, path):
    (tmp_path / 'a/b/c').mkdir(parents=True)
    (tmp_path / 'a/file').touch()
    (tmp_path / 'a/link').symlink_to('b')
    (tmp_path / 'a/up').symlink_to('..')
    with pytest.raises(obstacle.Obstacle, match='is a symbolic link or a'):
        with tree.folder(root, path):
            pass


def test_nothing_leads_upwards(root):
    with pytest.raises(obstacle.Obstacle, match='leads upwards'):
        with tree.folder(root, 'a/../..'):
            pass


def test_too_many_files(tmp_path, root, monkeypatch):
    (tmp_path / 'a/b').mkdir(parents=True)
    for number in range(4):
        (tmp_path / f'a/b/{number}').touch()
    monkeypatch.setattr(tree, 'MOST_ENTRIES', 5)
    with pytest.raises(obstacle.Obstacle, match='one file too many'):
        tree.remove(root, 'a')
    monkeypatch.setattr(tree, 'MOST_ENTRIES', 6)
    tree.remove(root, 'a')
    assert not os.listdir(tmp_path)


def test_reading_is_bounded(tmp_path, root):
    (tmp_path / 'table').write_bytes(b'12345')
    assert tree.read(root, 'table', 5) == b'12345'
    assert tree.read(root, 'none', 5) == b''
    with pytest.raises(obstacle.Obstacle, match='too large'):
        tree.read(root, 'table', 4)


def test_reasons_are_printable():
    problem = obstacle.Obstacle('a\x1b[1m\nb' + 'c' * 500)
    assert problem.reason.startswith('a?[1m?bccc')
    assert len(problem.reason) == 200
    assert problem.reason.endswith('c...')


def test_no_place_is_named_twice():
    """Or a file would be counted twice, or found gone."""
    places = [(rule.folder, name) for rule in rules.RULES
              for name in rule.names]
    assert len(places) == len(set(places))
