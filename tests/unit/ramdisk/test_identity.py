# SPDX-License-Identifier: Apache-2.0
"""Serial number, WWN and model from pictures of sysfs."""

import pytest

from ipa_snapshot_hardware.disk import identity


@pytest.mark.parametrize(
    ('files', 'expected'),
    [
        # NVMe
        (
            {
                'device/serial': 'S4X0NX0T  \n',
                'device/model': 'SSD 980   PRO \n',
                'wwid': 'eui.0025385b21\n',
            },
            ('S4X0NX0T', 'eui.0025385b21', 'SSD 980 PRO'),
        ),
        # SCSI
        (
            {'device/wwid': 'naa.5000c500\n', 'device/model': 'ST4000\n'},
            (None, 'naa.5000c500', 'ST4000'),
        ),
        # virtio
        ({'serial': 'vol-1\n'}, ('vol-1', None, None)),
        ({'device/model': ' \n'}, (None, None, None)),
        ({}, (None, None, None)),
    ],
)
def test_pictures(tmp_path, files, expected):
    folder = tmp_path / 'class/block/disk'
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = identity.read_identity('disk', tmp_path)
    assert (found.serial, found.wwn, found.model) == expected
