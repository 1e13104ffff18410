# SPDX-License-Identifier: Apache-2.0
"""The contract of a hint: what did not change since the parent."""

import collections.abc
import typing

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest


class Hint(typing.Protocol):
    """Something on a disk that knows what changed, and what did not.

    It speaks of the disk as it is now, which nobody writes to. These
    docstrings are the contract:

    * A hint proves; it does not guess. What it cannot prove has changed.
    * What it calls unchanged was data when the parent was captured, so the
      parent's image holds it.
    * A hint reads as little as it can, and writes nothing.
    """

    #: Of which kind its records are.
    kind: str

    def unchanged(
        self, parent_hints: collections.abc.Sequence[manifest.HintRecord]
    ) -> extent.DataExtents | None:
        """Give what provably is as it was when the parent was captured.

        These are *not* extents to read: a cluster is unchanged only if all
        of it lies inside, and two that are joined across a hole claim too
        much.

        :param parent_hints: what the parent's manifest recorded, of all
            kinds. The parent must be of this disk's own lineage.
        :returns: ranges of the disk, in bytes; None when nothing can be
            told.
        """

    def records(self) -> list[manifest.HintRecord]:
        """Give what a later capture has to know of now."""
