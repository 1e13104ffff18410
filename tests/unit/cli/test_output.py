# SPDX-License-Identifier: Apache-2.0
"""A file that is there whole or not at all."""

import os

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_cli import output


def test_it_appears_at_the_end(tmp_path):
    path = tmp_path / 'out'
    with output.Output(str(path), replace=False) as out:
        out.resize(10)
        out.write(b'abc', 4)
        assert not path.exists()
        out.finish()
    assert path.read_bytes() == b'\0\0\0\0abc\0\0\0'
    assert os.listdir(tmp_path) == ['out']
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_nothing_is_left_of_a_failure(tmp_path):
    path = tmp_path / 'out'
    path.write_bytes(b'before')
    with pytest.raises(ZeroDivisionError):
        with output.Output(str(path), replace=True) as out:
            out.write(b'abc', 0)
            raise ZeroDivisionError
    assert path.read_bytes() == b'before'
    assert os.listdir(tmp_path) == ['out']


def test_it_replaces_only_when_told_to(tmp_path):
    path = tmp_path / 'out'
    path.write_bytes(b'before')
    with pytest.raises(errors.OutputFailed, match='--force'):
        output.Output(str(path), replace=False)
    with output.Output(str(path), replace=True) as out:
        out.write(b'after', 0)
        out.finish()
    assert path.read_bytes() == b'after'


@pytest.mark.parametrize('replace', [False, True])
def test_only_files_are_written(tmp_path, replace):
    for path in (str(tmp_path), '/dev/null'):
        with pytest.raises(errors.OutputFailed, match='no file'):
            output.Output(path, replace)


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(errors.OutputFailed, match='No such file'):
        with output.Output(str(tmp_path / 'a/out'), replace=False):
            raise AssertionError('not reached')
