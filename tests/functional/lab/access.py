# SPDX-License-Identifier: Apache-2.0
"""How Ironic knows its users, and Swift Ironic: two kinds of lab.

The small one has no Keystone: Ironic lets everybody do everything, Swift has
one user. The other one is a cloud; see :mod:`tests.servers.cloud`.
"""

import collections.abc
import typing

import openstack

from tests.functional.lab import process
from tests.servers import cloud as cloud_
from tests.servers import keystone
from tests.servers import settings
from tests.servers import swift

#: The administrator of the whole system, by whom nodes are enrolled.
SYSTEM = 'system'


class Access(typing.Protocol):
    """What both kinds of lab tell Ironic and its clients."""

    def options(self) -> settings.Options:
        """Return options of Ironic; all servers run."""

    def environment(self, user: str) -> collections.abc.Mapping[str, str]:
        """Return variables that make the OpenStack programs be a user."""

    def baremetal(self, user: str) -> typing.Any:
        """Return openstacksdk's bare metal proxy of a user."""


class Standalone:
    """Nobody is anybody.

    :param store: Swift with its own user.
    :param ironic_url: root of the API.
    """

    def __init__(self, store: swift.SwiftServer, ironic_url: str) -> None:
        self._store = store
        self._ironic_url = ironic_url

    def options(self) -> settings.Options:
        return {
            # Any plugin of keystoneauth does; this one is for "tempauth".
            'snapshot': {'auth_type': 'v1password',
                         'auth_url': self._store.auth_url,
                         'username': self._store.user,
                         'password': self._store.key},
            'glance': {'auth_type': 'none'}}

    def environment(self, user: str) -> dict[str, str]:
        self._check(user)
        return {'OS_AUTH_TYPE': 'none', 'OS_ENDPOINT': self._ironic_url}

    def baremetal(self, user: str) -> typing.Any:
        self._check(user)
        return openstack.connect(
            load_yaml_config=False, load_envvars=False, auth_type='none',
            endpoint=self._ironic_url).baremetal

    def _check(self, user: str) -> None:
        if user != SYSTEM:
            raise process.LabError(f'there is no {user} in a lab without '
                                   'Keystone')


class Cloud:
    """Users have projects, and nodes belong to them.

    :param cloud: all of it but Ironic.
    :param swift_root: root of Swift as the ramdisk reaches it.
    :param glance_root: of Glance, likewise.
    """

    def __init__(self, cloud: cloud_.Cloud, swift_root: str,
                 glance_root: str) -> None:
        self._cloud = cloud
        self._swift_root = swift_root
        self._glance_root = glance_root

    def options(self) -> settings.Options:
        credentials = {'auth_type': 'password', 'region_name':
                       keystone.REGION, **self._cloud.credentials('ironic')}
        account = self._cloud.swift.account
        return {
            'DEFAULT': {'auth_strategy': 'keystone',
                        # For Nova, which is a user of the service project.
                        'rbac_service_role_elevated_access': True},
            'keystone_authtoken': {
                **credentials, 'service_token_roles_required': True,
                'www_authenticate_uri': self._cloud.keystone.auth_url},
            'snapshot': {
                **credentials,
                'ramdisk_endpoint': f'{self._swift_root}/v1/{account}',
                'ramdisk_glance_endpoint': self._glance_root,
                'glance_location': self._cloud.glance.location},
            'glance': credentials}

    def environment(self, user: str) -> dict[str, str]:
        return {'OS_AUTH_TYPE': 'password',
                'OS_REGION_NAME': keystone.REGION,
                **{f'OS_{name.upper()}': value
                   for name, value in self._credentials(user).items()}}

    def baremetal(self, user: str) -> typing.Any:
        return self._cloud.keystone.connection(
            self._credentials(user)).baremetal

    def _credentials(self, user: str) -> keystone.Credentials:
        if user == SYSTEM:
            return self._cloud.keystone.system_admin
        return self._cloud.credentials(user)
