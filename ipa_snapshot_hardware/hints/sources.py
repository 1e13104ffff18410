# SPDX-License-Identifier: Apache-2.0
"""Find what on a disk knows of changes."""

import collections.abc
import logging

from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import base as disk_base
from ipa_snapshot_hardware.hints import base
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm

LOG = logging.getLogger(__name__)


def find(
    disk: disk_base.Disk,
    regions: collections.abc.Iterable[manifest.Region],
    watch: look.Watch,
) -> list[base.Hint]:
    """Look for hints on a disk that is open.

    Of a disk without physical volumes nothing is read. A source that is not
    understood is left out, and the log says why: what it might have known is
    read then.

    :param regions: that the survey has found.
    :param watch: called often; may raise to give up.
    """
    found: list[base.Hint] = []
    for start, length in _physical_volumes(regions):
        # Most disks have none, and need not wait for it.
        from ipa_snapshot_hardware.hints import dm_thin

        try:
            found += dm_thin.find(disk, start, length, watch)
        except (look.Doubt, errors.DiskReadError, OSError) as error:
            LOG.info(
                'No changed-block hint from %s at %d: %s', disk.name, start,
                error.reason if isinstance(error, look.Doubt) else error)
    return found


# Private


def _physical_volumes(
    regions: collections.abc.Iterable[manifest.Region],
) -> collections.abc.Iterator[tuple[int, int]]:
    """Give start and length of each of LVM's that is in no other."""
    end = 0
    for each in regions:
        if each.start >= end:
            end = each.start + each.length
            if each.content == lvm.CONTENT:
                yield each.start, each.length
