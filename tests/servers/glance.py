# SPDX-License-Identifier: Apache-2.0
"""A real Glance on this machine, for tests.

    with GlanceServer(tmp_path, keystone) as glance:
        requests.get(f'{glance.url}/v2/images', headers=...)
"""

import contextlib
import os
import pathlib
import sys
import urllib.error
from urllib import parse
import urllib.request

from tests.servers import keystone as keystone_
from tests.servers import settings
from tests.servers.programs import find_program
from tests.servers.programs import free_ports
from tests.servers.programs import Programs

PASTE = pathlib.Path(sys.prefix) / 'etc/glance/glance-api-paste.ini'

HOST = '127.0.0.1'

#: Where Glance keeps images when it keeps them in Swift.
CONTAINER = 'glance'


class GlanceServer:
    """One Glance, with imports, and one store.

    Start it from a thread that lives as long as the server is needed; see
    :class:`Programs`.

    :param directory: where configuration, database, log and images are
        kept; for one start only.
    :param keystone: a Keystone that runs.
    :param store: ``file``, or ``swift``: one account for all, that of the
        service project, in the Swift of the catalogue.
    :param credentials: of Glance itself; by default it gets a user.
    :param port: where it listens; a free one by default.
    :param options: of Glance, on top: group -> name -> value. The store's
        group has its own name.
    """

    def __init__(self, directory: str | os.PathLike[str],
                 keystone: keystone_.KeystoneServer, *,
                 store: str = 'file',
                 credentials: keystone_.Credentials | None = None,
                 port: int | None = None,
                 options: settings.Options | None = None) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self.keystone = keystone
        self.store = store
        self.port = port or free_ports(['glance'], {})['glance']
        self.url = f'http://{HOST}:{self.port}'
        self._has_user = credentials is not None
        self._credentials = credentials or keystone.credentials('glance')
        self._options = options or {}
        self._programs = Programs(self.log.parent)

    @property
    def log(self) -> pathlib.Path:
        """What it logs, at level DEBUG."""
        return self.directory / 'log/glance.log'

    @property
    def location(self) -> str:
        """Where its images are in Swift, up to and with the container.

        As it writes it itself; it takes no location that begins otherwise.
        """
        credentials = self._credentials
        user = parse.quote(f'{credentials["project_name"]}:'
                           f'{credentials["username"]}')
        scheme, _, rest = self.keystone.auth_url.partition('://')
        return (f'swift+{scheme}://{user}:{credentials["password"]}@{rest}/'
                f'{CONTAINER}')

    def prepare(self) -> None:
        """Begin to make the database; Keystone need not run yet."""
        self.log.parent.mkdir(parents=True)
        path = self.directory / 'glance-manage.conf'
        path.write_text(settings.text(self._database))
        self._programs.start('glance-manage', [
            sys.executable, '-W', 'ignore', find_program('glance-manage'),
            '--config-file', str(path), 'db', 'sync'])

    def start(self) -> 'GlanceServer':
        """Start it and wait until it answers.

        :raises RuntimeError: it did not come up; the message holds the end
            of its log.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop)
            if not self._programs.pids:
                self.prepare()
            self._configure()
            self._programs.finish('glance-manage')
            self._programs.start(
                'glance-api',
                [sys.executable, '-W', 'ignore', '-m', 'tests.servers.wsgi',
                 f'{HOST}:{self.port}', 'glance.wsgi.api:application'],
                cwd=keystone_.REPOSITORY, env={
                    **os.environ, 'OS_GLANCE_CONFIG_DIR': str(self.directory),
                    # Unless asked not to, it fetches by the proxy.
                    'no_proxy': '*'})
            self._programs.wait_until('glance-api', self._answers)
            stack.pop_all()
        return self

    def stop(self) -> None:
        """Stop it."""
        self._programs.stop()

    def __enter__(self) -> 'GlanceServer':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # Private

    @property
    def _database(self) -> settings.Options:
        return {'database': {
            'connection': f'sqlite:///{self.directory}/glance.sqlite'}}

    def _configure(self) -> None:
        if not self._has_user:
            self.keystone.service_user('glance')
        for name in ('images', 'staging', 'tasks', 'lock'):
            (self.directory / name).mkdir()
        (self.directory / 'glance-api.conf').write_text(settings.text(
            self._database, {
                'DEFAULT': {
                    'debug': True, 'log_file': self.log,
                    'enabled_backends': f'{self.store}:{self.store}',
                    'enabled_import_methods':
                        '[glance-direct,web-download,copy-image]',
                    'worker_self_reference_url': self.url,
                    'public_endpoint': self.url,
                },
                'glance_store': {'default_backend': self.store},
                self.store: self._store_options(),
                'os_glance_staging_store': {
                    'filesystem_store_datadir': self.directory / 'staging'},
                'os_glance_tasks_store': {
                    'filesystem_store_datadir': self.directory / 'tasks'},
                'paste_deploy': {'flavor': 'keystone', 'config_file': PASTE},
                'keystone_authtoken': {
                    'auth_type': 'password', **self._credentials,
                    'www_authenticate_uri': self.keystone.auth_url,
                    # Without it no credential with access rules is accepted.
                    'service_type': 'image',
                    'service_token_roles_required': True},
                # Nothing on the loopback is fetched from unless named; any
                # port will do.
                'import_filtering_opts': {
                    'allowed_hosts': f'[{HOST}]', 'allowed_ports': '[]'},
                'oslo_concurrency': {'lock_path': self.directory / 'lock'},
            }, self._options))

    def _store_options(self) -> dict[str, object]:
        if self.store == 'file':
            return {'filesystem_store_datadir': self.directory / 'images'}
        # Not as a reference to a file of its own, as most installers have
        # it: to such a store nobody may add a location.
        return {
            'swift_store_user': f'{self._credentials["project_name"]}:'
                                f'{self._credentials["username"]}',
            'swift_store_key': self._credentials['password'],
            'swift_store_auth_address': self.keystone.auth_url,
            'swift_store_region': keystone_.REGION,
            'swift_store_container': CONTAINER,
            'swift_store_create_container_on_put': True}

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(
                self.url, timeout=10).close()
        except urllib.error.HTTPError as error:
            # A list of versions comes as "multiple choices".
            return error.code == 300
        except OSError:
            return False
        return True
