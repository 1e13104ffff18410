# SPDX-License-Identifier: Apache-2.0
from ironic.drivers import base
from ironic.drivers import drac
from ironic.drivers import fake_hardware
from ironic.drivers import generic
from ironic.drivers import ipmi
from ironic.drivers import redfish
import pytest

from ironic_snapshot import deploy
from ironic_snapshot import hardware
from ironic_snapshot.conf import CONF

TYPES = {
    hardware.RedfishSnapshotHardware: redfish.RedfishHardware,
    hardware.IPMISnapshotHardware: ipmi.IPMIHardware,
    hardware.IDRACSnapshotHardware: drac.IDRACHardware,
    hardware.ManualManagementSnapshotHardware:
        generic.ManualManagementHardware,
    hardware.FakeSnapshotHardware: fake_hardware.FakeHardware,
}


@pytest.mark.parametrize('ours, stock', TYPES.items())
def test_only_the_deploy_interfaces_differ(ours, stock):
    for interface in base.ALL_INTERFACES:
        name = f'supported_{interface}_interfaces'
        expected = getattr(stock(), name)
        if interface == 'deploy':
            expected = [deploy.DirectSnapshotDeploy,
                        deploy.CustomAgentSnapshotDeploy, *expected]
        assert getattr(ours(), name) == expected, interface


@pytest.mark.parametrize('interface', [deploy.DirectSnapshotDeploy,
                                       deploy.CustomAgentSnapshotDeploy])
def test_step_is_declared(interface):
    step, = [each for each in interface().service_steps
             if each['step'] == 'snapshot']
    assert step['interface'] == 'deploy'
    assert step['abortable']
    assert set(step['argsinfo']) == {
        'name', 'description', 'cluster_size', 'compression',
        'compression_level', 'all_blocks', 'skip_gaps', 'allow_bad_sectors',
        'bandwidth_limit', 'io_priority', 'parent', 'shutdown',
        'destination', 'image_id', 'visibility'}


def test_ca_of_redfish_is_the_default():
    if 'verify_ca' not in CONF.redfish:
        pytest.skip('this release of Ironic has no [redfish]verify_ca')
    CONF.set_override('verify_ca', '/ca.pem', group='redfish')
    try:
        hardware.RedfishSnapshotHardware()
        assert CONF['redfish-snapshot'].verify_ca == '/ca.pem'
    finally:
        CONF.clear_override('verify_ca', group='redfish')
        hardware.RedfishSnapshotHardware()
    assert CONF['redfish-snapshot'].verify_ca is None
