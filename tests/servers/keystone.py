# SPDX-License-Identifier: Apache-2.0
"""A real Keystone on this machine, for tests.

    with KeystoneServer(tmp_path) as keystone:
        keystone.create_project('alpha')
        alice = keystone.create_user('alice', 'alpha')
        keystone.session(alice).get_token()

Credentials are dictionaries with the parameters of keystoneauth's plugin
``password``; the same names are those of its options in a configuration
file.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import secrets
import sys
import typing
import urllib.error
import urllib.request

from cryptography import fernet
from keystoneauth1 import loading
from keystoneauth1 import session as ksa_session
import openstack

from tests.servers import settings
from tests.servers.programs import find_program
from tests.servers.programs import free_ports
from tests.servers.programs import Programs

REPOSITORY = pathlib.Path(__file__).parents[2]

DOMAIN = 'default'
REGION = 'RegionOne'
ADMIN = 'admin'         #: user and project, both
SERVICE_PROJECT = 'service'
#: What most installers give the user of a service.
SERVICE_ROLES = ('admin', 'service')

KEY_REPOSITORIES = ('fernet', 'credential')

Credentials = dict[str, str]


class KeystoneServer:
    """One Keystone, with a domain, an administrator and a service project.

    Start it from a thread that lives as long as the server is needed; see
    :class:`Programs`.

    :param directory: where configuration, database and log are kept; for
        one start only.
    :param port: where it listens; a free one by default.
    :param secret: what every password is made from; who knows it can make
        the same credentials in another process.
    """

    def __init__(self, directory: str | os.PathLike[str], *,
                 port: int | None = None, secret: str | None = None
                 ) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self.port = port or free_ports(['keystone'], {})['keystone']
        self.auth_url = f'http://127.0.0.1:{self.port}/v3'
        self._secret = (secret or secrets.token_hex(16)).encode()
        self._programs = Programs(self.log.parent)

    @property
    def log(self) -> pathlib.Path:
        """What it logs, at level DEBUG."""
        return self.directory / 'log/keystone.log'

    # Who there is

    def credentials(self, user: str,
                    project: str = SERVICE_PROJECT) -> Credentials:
        """Return the credentials of a user in one of his projects."""
        return {**self._user(user), 'project_name': project,
                'project_domain_id': DOMAIN}

    @property
    def admin(self) -> Credentials:
        """Administrator of everything, by a project."""
        return self.credentials(ADMIN, ADMIN)

    @property
    def system_admin(self) -> Credentials:
        """The same user with the scope of the whole system."""
        return {**self._user(ADMIN), 'system_scope': 'all'}

    def session(self, credentials: Credentials) -> typing.Any:
        """Return a keystoneauth session."""
        auth = loading.get_plugin_loader('password').load_from_options(
            **credentials)
        return ksa_session.Session(auth=auth)

    def connection(self, credentials: Credentials
                   ) -> openstack.connection.Connection:
        """Return a connection of openstacksdk."""
        return openstack.connection.Connection(
            session=self.session(credentials), region_name=REGION)

    def project_id(self, name: str) -> str:
        """Return the id of a project."""
        if name not in self._project_ids:
            self._project_ids[name] = self._identity.find_project(
                name, ignore_missing=False).id
        return self._project_ids[name]

    # Making them

    def create_project(self, name: str) -> str:
        """Make a project.

        :returns: its id.
        """
        self._project_ids[name] = self._identity.create_project(
            name=name, domain_id=DOMAIN).id
        return self._project_ids[name]

    def create_user(self, name: str, project: str,
                    roles: typing.Iterable[str] = ('member',)
                    ) -> Credentials:
        """Make a user with roles in a project.

        :returns: its credentials in that project.
        """
        user = self._identity.create_user(
            name=name, domain_id=DOMAIN, password=self._user(name)['password'])
        for role in roles:
            self._identity.assign_project_role_to_user(
                self.project_id(project), user, self._roles[role])
        return self.credentials(name, project)

    def service_user(self, name: str,
                     roles: typing.Iterable[str] = SERVICE_ROLES
                     ) -> Credentials:
        """Make the user that a service is in the service project.

        :returns: its credentials there.
        """
        return self.create_user(name, SERVICE_PROJECT, roles)

    def register(self, service_type: str, url: str) -> str:
        """Put a service into the catalogue, for users and for services.

        :returns: the id of its public endpoint.
        """
        service = self._identity.create_service(
            type=service_type, name=service_type)
        public, _ = [self._identity.create_endpoint(
            service_id=service.id, interface=interface, region_id=REGION,
            url=url) for interface in ('public', 'internal')]
        return typing.cast(str, public.id)

    # Life

    def start(self) -> 'KeystoneServer':
        """Start it and wait until it answers.

        :raises RuntimeError: it did not come up; the message holds the end
            of its log.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop)
            self._configure()
            for name, arguments in (
                    ('db_sync', ()),
                    ('bootstrap', (
                        '--bootstrap-password', self.admin['password'],
                        '--bootstrap-region-id', REGION,
                        '--bootstrap-public-url', self.auth_url,
                        '--bootstrap-internal-url', self.auth_url))):
                self._programs.start(name, [
                    sys.executable, '-W', 'ignore',
                    find_program('keystone-manage'), '--config-file',
                    str(self._conf_path), name, *arguments])
                self._programs.finish(name)
            self._programs.start(
                'keystone-api',
                [sys.executable, '-W', 'ignore', '-m', 'tests.servers.wsgi',
                 f'127.0.0.1:{self.port}', 'keystone.wsgi.api:application'],
                cwd=REPOSITORY, env={
                    **os.environ,
                    'OS_KEYSTONE_CONFIG_FILES': str(self._conf_path)})
            self._programs.wait_until('keystone-api', self._answers)
            self.create_project(SERVICE_PROJECT)
            stack.pop_all()
        return self

    def stop(self) -> None:
        """Stop it."""
        self._programs.stop()

    def __enter__(self) -> 'KeystoneServer':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # Private

    @property
    def _conf_path(self) -> pathlib.Path:
        return self.directory / 'keystone.conf'

    @functools.cached_property
    def _project_ids(self) -> dict[str, str]:
        return {}

    @functools.cached_property
    def _identity(self) -> typing.Any:
        return self.connection(self.admin).identity

    @functools.cached_property
    def _roles(self) -> dict[str, typing.Any]:
        return {role.name: role for role in self._identity.roles()}

    def _user(self, name: str) -> Credentials:
        password = hashlib.blake2b(
            name.encode(), key=self._secret, digest_size=16).hexdigest()
        return {'auth_url': self.auth_url, 'username': name,
                'password': password, 'user_domain_id': DOMAIN}

    def _configure(self) -> None:
        for name in KEY_REPOSITORIES:
            folder = self.directory / name
            folder.mkdir(parents=True, mode=0o700)
            # As "keystone-manage fernet_setup" leaves it, which takes 2 s:
            # 0 is the next key, the highest number is the one in use.
            for number in range(2):
                (folder / str(number)).write_bytes(
                    fernet.Fernet.generate_key())
        self.log.parent.mkdir(exist_ok=True)
        self._conf_path.write_text(settings.text({
            'DEFAULT': {'debug': True, 'log_file': self.log},
            'database': {'connection':
                         f'sqlite:///{self.directory}/keystone.sqlite'},
            'fernet_tokens': {'key_repository': self.directory / 'fernet'},
            'fernet_receipts': {'key_repository': self.directory / 'fernet'},
            'credential': {'key_repository': self.directory / 'credential'},
            # Within the process; without it each request takes 0.2 s.
            'cache': {'enabled': True, 'backend': 'oslo_cache.dict'},
            # Good enough, and much quicker.
            'identity': {'password_hash_rounds': 4},
        }))

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.auth_url, timeout=10).close()
        except (OSError, urllib.error.HTTPError):
            return False
        return True
