# SPDX-License-Identifier: Apache-2.0
"""The snapshots of a lineage, as a tree where it branches.

::

    2de4d3b3            the first
    51c07e9a            builds upon the one above
    |- 8f00b204         two build upon that one
    |  d41d8cd9         and this upon 8f00b204
    `- 0cc175b9
"""

import collections
from collections.abc import Sequence

from ironic_snapshot_core import catalogue


def arrange(
    entries: Sequence[catalogue.Entry],
) -> list[tuple[str, catalogue.Entry]]:
    """Put each snapshot behind its parent, with the lines to its left.

    :param entries: of one lineage, in the order of their sequence. One whose
        parent is not among them begins a tree of its own.
    """
    known = {each.id for each in entries}
    children = collections.defaultdict(list)
    for each in entries:
        parent = each.manifest.parent if each.manifest else None
        children[parent if parent in known else None].append(each)
    rows: list[tuple[str, catalogue.Entry]] = []
    waiting = [('', '', each) for each in reversed(children[None])]
    while waiting:
        lead, below, entry = waiting.pop()
        rows.append((lead, entry))
        found = children[entry.id]
        if len(found) == 1:
            waiting.append((below, below, found[0]))
            continue
        for each in reversed(found):
            if each is found[-1]:
                waiting.append((f'{below}`- ', f'{below}   ', each))
            else:
                waiting.append((f'{below}|- ', f'{below}|  ', each))
    # A parent that is its own descendant: no capture makes one.
    placed = {entry.id for _, entry in rows}
    return rows + [('', each) for each in entries if each.id not in placed]
