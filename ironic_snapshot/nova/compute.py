# SPDX-License-Identifier: Apache-2.0
"""The command ``ironic-snapshot-nova-compute``: nova-compute with our driver.

Nova takes compute drivers from its own package ``nova.virt`` only. So this
makes ``ironic_snapshot`` known there, and goes on as nova-compute does; then
``[DEFAULT]compute_driver`` may be ``ironic_snapshot.nova.driver.``\
``IronicSnapshotDriver``, or any driver of Nova.
"""
# First of all: it decides how threads work.
from nova.cmd import compute

import importlib
import sys

_PACKAGE = __name__.partition('.')[0]


def register():
    """Let Nova find the driver by its full path."""
    name = f'{_PACKAGE}.nova.driver'
    importlib.import_module(name)
    parts = name.split('.')
    for count in range(1, len(parts) + 1):
        path = '.'.join(parts[:count])
        sys.modules[f'nova.virt.{path}'] = sys.modules[path]


def main():
    """Run nova-compute."""
    register()
    compute.main()
