# SPDX-License-Identifier: Apache-2.0
"""What kind of thing a part of a disk holds, as blkid sees it."""

import dataclasses

from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import tool

_NOTHING = 2
_AMBIVALENT = 8


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was found; empty where nothing was.

    :param content: type of a file system or container.
    :param table: kind of a partition table.
    """

    content: str
    table: str


def probe(path: str, start: int, length: int, watch: look.Watch) -> Probe:
    """Look at the signatures in a part of a disk.

    :param path: of the disk.
    :param start: in bytes.
    :param length: in bytes.
    :raises Doubt: there are signatures that contradict each other.
    """
    answer = tool.run(
        'blkid', '--probe', '--output', 'export',
        '--offset', str(start), '--size', str(length), path, watch=watch)
    if answer.tool.code == _NOTHING:
        return Probe('', '')
    if answer.tool.code == _AMBIVALENT:
        raise look.Doubt('ambiguous signatures')
    if answer.tool.code:
        answer.tool.fail()
    found = dict(
        line.split('=', 1) for line in answer.text.splitlines()
        if '=' in line)
    return Probe(found.get('TYPE', '')[:64], found.get('PTTYPE', '')[:64])
