# SPDX-License-Identifier: Apache-2.0
"""Find what on a disk knows of changes."""

import collections.abc
import logging
import os

from ironic_snapshot_core import errors
from ipa_snapshot_hardware.disk import base as disk_base
from ipa_snapshot_hardware.hints import base
from ipa_snapshot_hardware.hints import dm_thin
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm
from ipa_snapshot_hardware.survey import lvm_area
from ipa_snapshot_hardware.survey import probe
from ipa_snapshot_hardware.survey import survey

LOG = logging.getLogger(__name__)


def find(
    disk: disk_base.Disk, watch: look.Watch | None = None
) -> list[base.Hint]:
    """Look for hints on a disk that is open.

    Of a disk without physical volumes this reads the partition table and
    2 KiB of each partition. A source that is not understood is left out,
    and the log says why: what it might have known is read then.

    :param watch: called often; may raise to give up.
    """
    watch = watch or _no_watch
    found: list[base.Hint] = []
    for start, length in _physical_volumes(disk, watch):
        try:
            found += dm_thin.find(disk, start, length, watch)
        except _DOUBTS as error:
            _leave_out(disk, start, error)
    return found


# Private

_DOUBTS = (look.Doubt, errors.DiskReadError, OSError)


def _physical_volumes(
    disk: disk_base.Disk, watch: look.Watch
) -> collections.abc.Iterator[tuple[int, int]]:
    """Give start and length of each of LVM's, as the survey sees them."""
    # Absolute: it must never look like an option.
    path = os.path.abspath(disk.path) if disk.path else ''
    parts = [(0, disk.size)]
    try:
        found = survey.read_table(disk, path, watch)
    except _DOUBTS as error:
        _leave_out(disk, 0, error)
        return
    if found is not None:
        parts = [(each.start, each.length) for each in found.partitions]
    for start, length in parts:
        try:
            sectors = bytearray(
                min(lvm_area.LABEL_SECTORS * lvm_area.SECTOR, length))
            disk.read_into(start, sectors)
            if (lvm_area.has_label(bytes(sectors))
                    and probe.probe(path, start, length, watch).content
                    == lvm.CONTENT):
                yield start, length
        except _DOUBTS as error:
            _leave_out(disk, start, error)


def _leave_out(
    disk: disk_base.Disk, start: int, error: Exception
) -> None:
    why = error.reason if isinstance(error, look.Doubt) else error
    LOG.info('No changed-block hint from %s at %d: %s', disk.name, start, why)


def _no_watch() -> None:
    """Nobody watches."""
