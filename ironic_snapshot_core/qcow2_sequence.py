# SPDX-License-Identifier: Apache-2.0
"""A qcow2 image that is written from front to back, once.

Its head comes first and says where everything is; so how long each cluster
will be has to be known before the first of them is written. What follows is
made of groups, each like a pack::

    | raw | raw | raw |blob|blob|b|blob| zeroes |

A raw cluster can be written as soon as it was read, a compressed one waits
for the end of its group.
"""

import dataclasses
import typing

from ironic_snapshot_core.units import MiB

#: Large enough that the zeroes at the ends do not count.
GROUP_SIZE = 16 * MiB


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Clusters that are written together.

    :param end: ordinal of the cluster behind its last, among all.
    :param raw: how many of its clusters are not compressed.
    :param blobs: size of all that are, in bytes.
    :param size: in bytes, a multiple of the cluster size.
    """

    end: int
    raw: int
    blobs: int
    size: int


def arrange(lengths: typing.Iterable[int], cluster_size: int,
            group_size: int = GROUP_SIZE) -> list[Group]:
    """Divide clusters into groups.

    :param lengths: of all clusters in their order, in bytes: 0 for one of
        zeroes, ``cluster_size`` for a raw one, less for a compressed one.
    :param group_size: in bytes; a group ends when it has reached this.
    :returns: groups; behind the last there are clusters of zeroes alone.
    """
    groups = []
    end = raw = blobs = 0
    for end, length in enumerate(lengths, 1):
        if length == cluster_size:
            raw += 1
        else:
            blobs += length
        if raw * cluster_size + blobs >= group_size:
            groups.append(_group(end, raw, blobs, cluster_size))
            raw = blobs = 0
    if raw or blobs:
        groups.append(_group(end, raw, blobs, cluster_size))
    return groups


def placements(numbers: typing.Iterable[int], lengths: typing.Iterable[int],
               groups: typing.Sequence[Group], cluster_size: int
               ) -> typing.Iterator[tuple[int, int, int, int, bool]]:
    """Say where each cluster is that is not zero.

    :param numbers: of the clusters on the disk, ascending.
    :param lengths: as for :func:`arrange`.
    :returns: plain tuples like :class:`qcow2.Placement`; each group is a
        pack.
    """
    group, raw = 0, 0
    blob = groups[0].raw * cluster_size if groups else 0
    for ordinal, (number, length) in enumerate(
            zip(numbers, lengths, strict=True)):
        if not length:
            continue
        while ordinal >= groups[group].end:
            group, raw = group + 1, 0
            blob = groups[group].raw * cluster_size
        if length == cluster_size:
            yield number, group, raw, length, False
            raw += length
        else:
            yield number, group, blob, length, True
            blob += length


# Private

def _group(end: int, raw: int, blobs: int, cluster_size: int) -> Group:
    clusters = raw + -(-blobs // cluster_size)
    return Group(end, raw, blobs, clusters * cluster_size)
