# SPDX-License-Identifier: Apache-2.0
"""The labs for the functional tests, and their order.

One lab is for nearly all of them. The one with Keystone and Glance is up only
while its module is tested. ``SNAPSHOT_LAB_KEEP=1`` leaves them up at the end.
"""

import contextlib
import os
import pathlib

import pytest

from tests.functional.lab import lab as lab_
from tests.functional.lab import paths
from tests.functional.lab import process
from tests.functional.lab import report

# Tests that share a node, and go on from each other's end; the last looks
# through all that the others have left behind. They come after all others.
ORDER = ('test_snapshot', 'test_restore', 'test_secrets')


def pytest_collection_modifyitems(items):
    folder = pathlib.Path(__file__).parent
    late = [folder / f'{name}.py' for name in ORDER]
    # Stable: within a module the order stays.
    items.sort(key=lambda item: late.index(item.path) + 1
               if item.path in late else 0)


@pytest.fixture(scope='session')
def lab(request):
    """A lab with node-0 active, its own system running."""
    with _brought_up(lab_.Lab(faults=True), request) as here:
        yield here


@pytest.fixture(scope='module')
def cloud_lab(request):
    """A cloud with node-0 active, which is of project alpha."""
    beside = paths.default_state_dir()
    here = lab_.Lab(beside.with_name(f'{beside.name}-cloud'), cloud=True)
    with _brought_up(here, request, owner='alpha'):
        yield here


@contextlib.contextmanager
def _brought_up(here, request, owner=None):
    capture = request.config.pluginmanager.getplugin('capturemanager')
    # What it is doing is for the person who waits, not for a failure report.
    with capture.global_and_fixture_disabled():
        print()
        here.up()
        try:
            with report.phase('node-0'):
                node = here.node('node-0')
                node.enroll(**({'owner': here.cloud.project_id(owner)}
                               if owner else {}))
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


@pytest.fixture
def node(lab):
    """The lab's node, active and with its system running."""
    node = lab.node()
    shown = node.show()
    assert shown['provision_state'] == 'active', shown['last_error']
    assert not shown['maintenance']
    yield node
    lab.proxy.clear()
    # A test that has failed must not take the next one with it.
    if node.show()['provision_state'] not in ('active', 'service failed'):
        with contextlib.suppress(process.LabError):
            node.wait('active')
    if node.show()['provision_state'] == 'service failed':
        node.abort()
        node.wait('active')
