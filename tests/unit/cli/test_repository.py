# SPDX-License-Identifier: Apache-2.0
"""Where snapshots are kept."""

import pytest

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import directory
from ironic_snapshot_cli import null_store
from ironic_snapshot_cli import repository

CLOCK = clocks.SystemClock()


def test_a_directory_is_made_but_not_its_parents(tmp_path):
    path = tmp_path / 'repo'
    store = repository.open_to_write(str(path), CLOCK, 1, 0)
    assert isinstance(store, directory.DirectoryStore)
    assert path.is_dir()
    with pytest.raises(errors.RepositoryUnsuitable, match='no such file'):
        repository.open_to_write(str(tmp_path / 'a/b'), CLOCK, 1, 0)
    assert not (tmp_path / 'a').exists()


def open_to_write(name, clock, threads):
    return repository.open_to_write(name, clock, threads, 0)


@pytest.mark.parametrize(
    'open_', [repository.open_to_read, open_to_write]
)
def test_what_is_there_already(tmp_path, open_):
    empty = tmp_path / 'empty'
    empty.mkdir()
    open_(str(empty), CLOCK, 1)
    (empty / 'v1').mkdir()
    (empty / 'README').touch()
    open_(str(empty), CLOCK, 1)
    other = tmp_path / 'home'
    other.mkdir()
    (other / 'letters').touch()
    with pytest.raises(errors.RepositoryUnsuitable, match='not empty'):
        open_(str(other), CLOCK, 1)
    with pytest.raises(errors.RepositoryUnsuitable, match='directory'):
        open_(str(other / 'letters'), CLOCK, 1)


def test_reading_makes_nothing(tmp_path):
    with pytest.raises(errors.RepositoryUnsuitable, match='no such dir'):
        repository.open_to_read(str(tmp_path / 'repo'), CLOCK, 1)
    assert not (tmp_path / 'repo').exists()


def test_nowhere():
    store = repository.open_to_write('null:', CLOCK, 1, 0)
    assert isinstance(store, null_store.NullStore)
    with pytest.raises(errors.RepositoryUnsuitable, match='nothing'):
        repository.open_to_read('null:', CLOCK, 1)


@pytest.mark.parametrize('kind', ['null:', 'directory'])
def test_bandwidth_is_limited(tmp_path, kind):
    clock = clocks.ManualClock()
    name = kind if kind == 'null:' else str(tmp_path / 'repo')
    store = repository.open_to_write(name, clock, 1, 100)
    for _ in range(3):
        store.put('a', bytes(1000))
    assert 19 <= clock.monotonic() <= 31


def test_a_null_store_forgets():
    store = null_store.NullStore()
    assert store.put('a', b'123').size == 3
    assert list(store.list('')) == []
    store.delete('a')
    for use in (
        lambda: store.get('a', 9),
        lambda: store.get_range('a', 0, 1),
        lambda: list(store.iter_bytes('a')),
        lambda: store.stat('a'),
        lambda: store.join('b', []),
    ):
        with pytest.raises(errors.ObjectMissing):
            use()
    with pytest.raises(errors.InvalidName):
        store.put('../a', b'')


@pytest.mark.parametrize('name', ['swift:', 'swift:a/b', 'swift:a\n'])
def test_no_container(name):
    with pytest.raises(errors.RepositoryUnsuitable):
        repository.open_to_read(name, CLOCK, 1)
