# SPDX-License-Identifier: Apache-2.0
"""The lab for the functional tests: one, for all of them.

``SNAPSHOT_LAB_KEEP=1`` leaves it up at the end.
"""

import os

import pytest

from tests.functional.lab import lab as lab_
from tests.functional.lab import report


@pytest.fixture(scope='session')
def lab(request, pytestconfig):
    """A lab with node-0 active, its own system running."""
    capture = pytestconfig.pluginmanager.getplugin('capturemanager')
    here = lab_.Lab(faults=True)
    # What it is doing is for the person who waits, not for a failure report.
    with capture.global_and_fixture_disabled():
        print()
        here.up()
        try:
            with report.phase('node-0'):
                node = here.node('node-0')
                node.enroll()
                node.adopt()
        except BaseException:
            here.down(keep_files=True)
            raise
    yield here
    with capture.global_and_fixture_disabled():
        print()
        if os.environ.get('SNAPSHOT_LAB_KEEP'):
            report.say(f'the lab stays up; it is in {here.state_dir}')
            return
        failed = bool(request.session.testsfailed)
        here.down(keep_files=failed)
        if failed:
            report.say(f'logs and disks are in {here.state_dir}')
