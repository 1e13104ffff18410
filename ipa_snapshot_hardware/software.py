# SPDX-License-Identifier: Apache-2.0
"""The versions of what makes a snapshot, for its report."""

import importlib.metadata
import platform

_DISTRIBUTIONS = ('ironic-snapshot', 'blake3', 'zstandard')


def versions(*hosts: str) -> dict[str, str]:
    """Name the versions of the kernel and of the packages at work.

    :param hosts: distributions that the capture runs in, beside our own.
    """
    found = {'kernel': platform.release()}
    for distribution in (*_DISTRIBUTIONS, *hosts):
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[distribution] = 'unknown'
    return found
