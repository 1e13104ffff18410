# SPDX-License-Identifier: Apache-2.0
"""Hardware types: the stock ones, with two more deploy interfaces."""
from ironic.drivers import drac
from ironic.drivers import fake_hardware
from ironic.drivers import generic
from ironic.drivers import ipmi
from ironic.drivers import redfish

from ironic_snapshot import conf
from ironic_snapshot import deploy
from ironic_snapshot.conf import CONF


class SnapshotHardwareMixin:
    """Offers the deploy interfaces that know the snapshot step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Whoever moves a node from "redfish" to "redfish-snapshot" keeps the
        # CA that [redfish] names; older releases have no such
        # option.
        verify_ca = getattr(CONF.redfish, 'verify_ca', None)
        for group in conf.VERIFY_CA_GROUPS:
            CONF.set_default('verify_ca', verify_ca, group=group)

    @property
    def supported_deploy_interfaces(self):
        """List of supported deploy interfaces, ours first."""
        return [deploy.DirectSnapshotDeploy,
                deploy.CustomAgentSnapshotDeploy,
                *super().supported_deploy_interfaces]


class RedfishSnapshotHardware(SnapshotHardwareMixin, redfish.RedfishHardware):
    """Hardware type ``redfish-snapshot``."""


class IPMISnapshotHardware(SnapshotHardwareMixin, ipmi.IPMIHardware):
    """Hardware type ``ipmi-snapshot``."""


class IDRACSnapshotHardware(SnapshotHardwareMixin, drac.IDRACHardware):
    """Hardware type ``idrac-snapshot``."""


class ManualManagementSnapshotHardware(SnapshotHardwareMixin,
                                       generic.ManualManagementHardware):
    """Hardware type ``manual-management-snapshot``."""


class FakeSnapshotHardware(SnapshotHardwareMixin, fake_hardware.FakeHardware):
    """Hardware type ``fake-hardware-snapshot``."""
