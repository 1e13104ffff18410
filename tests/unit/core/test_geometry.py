# SPDX-License-Identifier: Apache-2.0
"""Sizes of disks and clusters."""

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core.units import KiB, MiB, TiB


@pytest.mark.parametrize('size', [
    64 * KiB, 128 * KiB, 256 * KiB, 512 * KiB, 1 * MiB, 2 * MiB])
def test_cluster_sizes(size):
    assert geometry.validate_cluster_size(size) == size


@pytest.mark.parametrize('size', [
    0, -65536, 512, 32 * KiB, 65 * KiB, 192 * KiB, 4 * MiB])
def test_no_cluster_sizes(size):
    with pytest.raises(errors.InvalidValue):
        geometry.validate_cluster_size(size)


@pytest.mark.parametrize('size', [512, 513 * 512, 255 * TiB])
def test_disk_sizes(size):
    assert geometry.validate_disk_size(size) == size


@pytest.mark.parametrize('size', [0, -512, 511, 1000, 255 * TiB + 512])
def test_no_disk_sizes(size):
    with pytest.raises(errors.InvalidValue):
        geometry.validate_disk_size(size)
