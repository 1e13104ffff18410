# SPDX-License-Identifier: Apache-2.0
"""For all tests. HYPOTHESIS_PROFILE=deep makes Hypothesis try more."""
import contextlib
import os

import hypothesis
from oslo_service import backend
from xdist.scheduler import loadscope

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

# With a lab, which boots machines that share some state.
OF_LAB = ('glance', 'snapshot', 'restore', 'secrets')


class Scheduling(loadscope.LoadScopeScheduling):
    """Where processes share the tests, what belongs together stays so."""

    def _split_scope(self, nodeid):
        path = nodeid.partition('::')[0]
        if path.startswith('tests/unit/'):
            return path
        if path in [f'tests/functional/test_{name}.py' for name in OF_LAB]:
            return 'lab'
        # Loop devices do not take being looked at by another process.
        return 'rest'


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)
