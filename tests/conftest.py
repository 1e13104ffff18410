# SPDX-License-Identifier: Apache-2.0
"""For all tests. HYPOTHESIS_PROFILE=deep makes Hypothesis try more."""
import contextlib
import os

import hypothesis
from oslo_service import backend

# Once per process and before anything of Ironic is imported: whichever part
# comes first would choose for all. The stack of Ironic 2025.1 has eventlet
# only, and nothing to choose.
with contextlib.suppress(AttributeError, ValueError):
    backend.init_backend(backend.BackendType.THREADING)

# No deadlines: a busy machine is no bug.
hypothesis.settings.register_profile(
    'deterministic', derandomize=True, deadline=None)
hypothesis.settings.register_profile(
    'deep', max_examples=2000, deadline=None)
hypothesis.settings.load_profile(
    os.environ.get('HYPOTHESIS_PROFILE', 'deterministic'))
