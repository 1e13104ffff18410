# SPDX-License-Identifier: Apache-2.0
"""``python -m ironic_snapshot_cli`` is ``ironic-snapshot``."""

import sys

from ironic_snapshot_cli import main

sys.exit(main.main())
