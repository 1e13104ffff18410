# SPDX-License-Identifier: Apache-2.0
"""Sizes in bytes."""

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB
