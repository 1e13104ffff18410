# SPDX-License-Identifier: Apache-2.0
"""What machine this is: the one that the captured disk boots on.

Only a ramdisk knows that: it runs on the very machine, and Ironic boots it
the way it boots the disk.
"""

import pathlib
import platform

from ironic_snapshot_core import manifest

_FIRMWARE = pathlib.Path('/sys/firmware')
# Of the UEFI specification, "Globally Defined Variables"; efivarfs puts four
# bytes of attributes before the value.
_SECURE_BOOT = (
    'efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c')
_ATTRIBUTES = 4


def describe(firmware: pathlib.Path = _FIRMWARE) -> manifest.SystemRecord:
    """Say what is known of a system before its disk is looked at.

    :param firmware: what the kernel knows of it; for tests.
    """
    architecture = platform.machine()
    uefi = (firmware / 'efi').is_dir()
    return manifest.SystemRecord(
        architecture=(
            architecture if manifest.is_fact(architecture) else ''
        ),
        firmware=manifest.UEFI if uefi else manifest.BIOS,
        secure_boot=_secure_boot(firmware) if uefi else None,
    )


# Private


def _secure_boot(firmware: pathlib.Path) -> bool | None:
    """Tell whether it is on; None where the machine does not say."""
    try:
        value = (firmware / _SECURE_BOOT).read_bytes()[_ATTRIBUTES:]
    except OSError:
        return None
    return {b'\0': False, b'\1': True}.get(value)
