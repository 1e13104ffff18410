# SPDX-License-Identifier: Apache-2.0
"""What of a disk is in use, found without mounting or writing anything."""
