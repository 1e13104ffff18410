# SPDX-License-Identifier: Apache-2.0
"""What a ramdisk says of the machine it runs on."""

import platform

import pytest

from ironic_snapshot_core.manifest import SystemRecord
from ipa_snapshot_hardware import machine

VARIABLE = 'SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c'
ATTRIBUTES = b'\x06\0\0\0'


def test_a_machine_with_a_bios(tmp_path):
    assert machine.describe(tmp_path) == SystemRecord(
        architecture=platform.machine(), firmware='bios')


@pytest.mark.parametrize(('variable', 'secure_boot'), [
    (ATTRIBUTES + b'\1', True), (ATTRIBUTES + b'\0', False),
    (ATTRIBUTES, None), (b'', None), (ATTRIBUTES + b'\2', None),
    (None, None)])
def test_a_machine_with_uefi(tmp_path, variable, secure_boot):
    folder = tmp_path / 'efi/efivars'
    folder.mkdir(parents=True)
    if variable is not None:
        (folder / VARIABLE).write_bytes(variable)
    assert machine.describe(tmp_path) == SystemRecord(
        architecture=platform.machine(), firmware='uefi',
        secure_boot=secure_boot)


def test_an_architecture_that_is_no_word_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, 'machine', lambda: 'a b')
    assert machine.describe(tmp_path) == SystemRecord(firmware='bios')
