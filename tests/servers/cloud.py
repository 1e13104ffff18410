# SPDX-License-Identifier: Apache-2.0
"""A small cloud: Keystone, Swift and Glance, real, on this machine.

    with Cloud(tmp_path) as cloud:
        cloud.connection('alice').image.images()

There are two projects, alpha and beta, with some users, and the service users
that a bare metal cloud has; see :data:`USERS`.
"""

import contextlib
import os
import pathlib
import typing

import openstack

from tests.servers import keystone as keystone_
from tests.servers.glance import GlanceServer
from tests.servers.keystone import KeystoneServer
from tests.servers.keystone import SERVICE_PROJECT
from tests.servers.keystone import SERVICE_ROLES
from tests.servers.swift import SwiftServer

PROJECTS = ('alpha', 'beta')

#: User -> project and roles.
USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    'alice': ('alpha', ('member',)),
    'bob': ('beta', ('member',)),
    'amy': ('alpha', ('manager',)),
    # Looks, and changes nothing.
    'rita': ('alpha', ('reader',)),
    'boss': ('beta', ('admin',)),
    **{name: (SERVICE_PROJECT, SERVICE_ROLES)
       for name in ('glance', 'ironic', 'nova')},
}


class Cloud:
    """All three, and who may do what with them.

    Start it from a thread that lives as long as the cloud is needed; see
    :class:`tests.servers.programs.Programs`.

    :param directory: where everything is kept; for one start only.
    :param store: of Glance: ``swift`` or ``file``.
    :param ports: by name, of "keystone", "glance" and the servers of Swift,
        whose proxy is "proxy"; free ones are picked for those not named.
    :param swift_url: root of Swift told to clients, when that is a proxy in
        front.
    :param secret: what every password is made from; who knows it can use
        the cloud from another process, by an object that is not started.
    :param services: others for the catalogue: type -> URL.
    """

    def __init__(self, directory: str | os.PathLike[str],
                 store: str = 'swift', *,
                 ports: typing.Mapping[str, int] | None = None,
                 swift_url: str | None = None,
                 secret: str | None = None,
                 services: typing.Mapping[str, str] | None = None
                 ) -> None:
        folder = pathlib.Path(directory).absolute()
        ports = dict(ports or {})
        self.keystone = KeystoneServer(
            folder / 'keystone', port=ports.pop('keystone', None),
            secret=secret)
        self._services = services or {}
        glance_port = ports.pop('glance', None)
        self.swift = SwiftServer(
            folder / 'swift', keystone=self.keystone, ports=ports,
            public_url=swift_url)
        self.glance = GlanceServer(
            folder / 'glance', self.keystone, store=store,
            credentials=self.credentials('glance'), port=glance_port)

    def credentials(self, user: str) -> keystone_.Credentials:
        """Return the credentials of one of :data:`USERS` or of ``admin``.

        They are parameters of keystoneauth's plugin ``password``, and
        options of a configuration file by the same names.
        """
        if user == keystone_.ADMIN:
            return self.keystone.admin
        return self.keystone.credentials(user, USERS[user][0])

    def session(self, user: str) -> typing.Any:
        """Return a keystoneauth session of a user."""
        return self.keystone.session(self.credentials(user))

    def connection(self, user: str) -> openstack.connection.Connection:
        """Return a connection of openstacksdk of a user."""
        return self.keystone.connection(self.credentials(user))

    def project_id(self, name: str) -> str:
        """Return the id of a project."""
        return self.keystone.project_id(name)

    def start(self) -> 'Cloud':
        """Start everything and wait until it is of use.

        :raises RuntimeError: a server did not come up; the message holds
            the end of its log.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop)
            # Its database comes up meanwhile.
            self.glance.prepare()
            self.keystone.start()
            for project in PROJECTS:
                self.keystone.create_project(project)
            for name, (project, roles) in USERS.items():
                self.keystone.create_user(name, project, roles)
            for service_type, url in {
                    'object-store': self.swift.endpoint,
                    'image': self.glance.url, **self._services}.items():
                self.keystone.register(service_type, url)
            self.swift.start()
            self.glance.start()
            stack.pop_all()
        return self

    def stop(self) -> None:
        """Stop everything."""
        for server in (self.glance, self.swift, self.keystone):
            server.stop()

    def __enter__(self) -> 'Cloud':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
