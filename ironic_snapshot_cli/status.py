# SPDX-License-Identifier: Apache-2.0
"""Exit statuses. argparse itself ends with 2 on wrong usage."""

DONE = 0
FAILED = 1
#: A snapshot was made, but parts of the disk could not be read; or one was
#: verified, and is damaged.
DEGRADED = 3
#: As of a process that SIGINT ended.
INTERRUPTED = 130
