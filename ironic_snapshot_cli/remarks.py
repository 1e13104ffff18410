# SPDX-License-Identifier: Apache-2.0
"""What is to be said of a snapshot that was read, though all went well."""

from collections.abc import Sequence

from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_cli import terminal as terminals


def make(
    terminal: terminals.Terminal,
    manifest: manifests.Manifest,
    repaired: Sequence[str],
    where: str,
) -> None:
    """Warn of what is not whole.

    :param repaired: a text for each cluster that was read from a second
        copy.
    :param where: the snapshot is now, such as ``in the image``.
    """
    if manifest.degraded:
        terminal.line(
            f'{terminals.PROGRAM}: warning: the snapshot is degraded: parts '
            f'of the disk could not be read and are zero {where}'
        )
    if repaired:
        terminal.line(
            f'{terminals.PROGRAM}: warning: {len(repaired)} '
            f'{"clusters are" if len(repaired) > 1 else "cluster is"} '
            'damaged in the repository; read from second copies. The next '
            f'snapshot should be a full one. The first: {repaired[0]}'
        )
