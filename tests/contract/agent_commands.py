# SPDX-License-Identifier: Apache-2.0
"""The real agent, as far as commands go, on a machine with drawn disks."""

import json

import pytest
from ironic_python_agent import config as _config  # noqa: F401  options
from ironic_python_agent import encoding
from ironic_python_agent import hardware
from ironic_python_agent.extensions import base as extensions
from ironic_python_agent.extensions import deploy
from ironic_python_agent.extensions import service
from oslo_config import cfg

from ipa_snapshot_hardware import manager
from ironic_snapshot_core import units
from tests.contract import capture_requests as requests

BY_SERIAL = {'serial': 'S3R1AL'}


class Machine(hardware.GenericHardwareManager):
    """A machine with the disks it is told to have."""

    def __init__(self, *devices):
        super().__init__()
        self.devices = devices

    def list_block_devices(self, include_partitions=False, **kwargs):
        return list(self.devices)


class Agent(extensions.ExecuteCommandMixin):
    """The agent, as far as commands go."""

    class _Extension:
        def __init__(self, obj):
            self.obj = obj

    def __init__(self):
        super().__init__()
        self.ext_mgr = {
            'deploy': self._Extension(deploy.DeployExtension()),
            'service': self._Extension(service.ServiceExtension()),
        }

    def run(self, command, extension='service', **params):
        """Run a command; give what Ironic would be told."""
        # Over the wire and back, as the API does.
        params = json.loads(json.dumps(params))
        result = self.execute_command(f'{extension}.{command}', **params)
        result.join()
        return json.loads(encoding.RESTJSONEncoder().encode(result))


@pytest.fixture
def use(monkeypatch):
    """Give a function that puts the agent on a machine with some disks.

    Each time it is another process, as far as our hardware manager goes.
    """
    monkeypatch.setattr(hardware, 'NODE', None)
    cfg.CONF.set_override('disk_wait_attempts', 1)
    cfg.CONF.set_override('partprobe_attempts', 1, group='disk_utils')

    def put(*devices):
        found = []
        for each in (manager.SnapshotHardwareManager(), Machine(*devices)):
            found.append(
                {
                    'name': type(each).__name__,
                    'manager': each,
                    'support': each.evaluate_hardware_support(),
                }
            )
        monkeypatch.setattr(hardware, '_global_managers', found)

    yield put
    cfg.CONF.clear_override('partprobe_attempts', group='disk_utils')
    cfg.CONF.clear_override('disk_wait_attempts')


def kill():
    """End what our hardware manager does in the background.

    As good as dead: nothing of it is left.
    """
    hardware._global_managers[0]['manager']._sessions._session.stop()
    assert requests.capture_threads() == []


def device(name, size=8 * units.GiB, **facts):
    """Make a disk of the machine's list."""
    facts = {'serial': 'S3R1AL', 'wwn': '0x5000c500a0b1c2d3'} | facts
    return hardware.BlockDevice(
        name, facts.pop('model', 'Model'), size, False, **facts
    )


def node(hints=None, **properties):
    """Make a node as Ironic sends it."""
    if hints:
        properties['root_device'] = hints
    return {
        'uuid': requests.NODE,
        'properties': properties,
        'instance_info': {},
        'driver_internal_info': {},
    }


def argument_names(told):
    """Give the names of required and of optional arguments of a step.

    :param told: the step, as Ironic is told of it.
    """
    required = {
        name for name, info in told['argsinfo'].items() if info['required']
    }
    return required, set(told['argsinfo']) - required


def step(args, name='snapshot'):
    """Make a step as Ironic sends it."""
    return {
        'step': name,
        'interface': 'deploy',
        'priority': 0,
        'abortable': name == 'snapshot',
        'args': args,
    }
