# SPDX-License-Identifier: Apache-2.0
"""Last of all: what the tests before have left behind."""
from tests.functional import canary


def test_no_secret_anywhere(lab, node):
    secrets = canary.secrets(lab)
    assert len(secrets) > 3
    found = canary.search(lab, node, secrets)
    assert found == []
