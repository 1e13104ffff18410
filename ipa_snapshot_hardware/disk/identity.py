# SPDX-License-Identifier: Apache-2.0
"""Serial number, world wide name and model of a disk, from sysfs.

The agent's own device list comes first (it asks udev as well); this is what
is left for a disk it does not list, and for use without an agent.
"""

import dataclasses
import pathlib

SYS = pathlib.Path('/sys')


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What tells a disk from another; None where it does not say."""

    serial: str | None = None
    wwn: str | None = None
    model: str | None = None


def read_identity(name: str, sys: pathlib.Path = SYS) -> Identity:
    """Read what sysfs knows about a disk.

    :param name: kernel name of the disk, e.g. ``sda``.
    """
    folder = sys / 'class/block' / name
    return Identity(
        # NVMe and MMC / virtio / device-mapper
        serial=_first(folder, 'device/serial', 'serial'),
        # SCSI and ATA / NVMe
        wwn=_first(folder, 'device/wwid', 'wwid'),
        model=_first(folder, 'device/model'),
    )


def _first(folder: pathlib.Path, *names: str) -> str | None:
    for name in names:
        try:
            text = (folder / name).read_text(errors='replace')
        except OSError:
            continue
        if text := ' '.join(text.split()):
            return text
    return None
