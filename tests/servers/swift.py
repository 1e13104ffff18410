# SPDX-License-Identifier: Apache-2.0
"""A real Swift on this machine, one process per server, for tests.

Started from the ``swift`` package and ``memcached``; needs neither root nor
loop devices, only a directory on a file system with user extended
attributes. Everything listens on loopback unless told otherwise, and
everything dies with the process that started it.

    with SwiftServer(tmp_path) as swift:
        requests.get(swift.auth_url, headers=swift.auth_headers)
"""

import contextlib
import os
import pathlib
import pwd
import subprocess
import sys
import typing
import urllib.error
import urllib.request

from tests.servers import keystone as keystone_
from tests.servers.programs import find_program
from tests.servers.programs import free_ports
from tests.servers.programs import Programs

STORAGE_SERVERS = ('account', 'container', 'object')
SERVERS = ('memcached', *STORAGE_SERVERS, 'proxy')

SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = test
swift_hash_path_suffix = test
[storage-policy:0]
name = gold
default = yes
"""

STORAGE_CONF = """\
[DEFAULT]
devices = {directory}/srv
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {directory}/etc
recon_cache_path = {directory}/cache
log_address = /dev/null
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

# SLO: small segments are slowed to one a second by default, which would make
# a test with thousands of them last an hour.
PROXY_CONF = """\
[DEFAULT]
bind_ip = {bind_host}
bind_port = {port}
workers = 0
user = {user}
swift_dir = {directory}/etc
log_address = /dev/null
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache \
listing_formats bulk tempurl {auth} copy container-quotas account-quotas \
slo dlo symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached_port}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:tempurl]
use = egg:swift#tempurl
allowed_digests = sha256 sha512
incoming_remove_headers = {incoming_remove_headers}
[filter:copy]
use = egg:swift#copy
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:account-quotas]
use = egg:swift#account_quotas
[filter:slo]
use = egg:swift#slo
rate_limit_segments_per_sec = 1000000
[filter:dlo]
use = egg:swift#dlo
[filter:symlink]
use = egg:swift#symlink
"""

TEMPAUTH = """\
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin {storage_url}
"""

# Members of a project own its account, as in many clouds.
KEYSTONE_AUTH = """\
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
delay_auth_decision = true
cache = swift.cache
service_token_roles_required = true
{authtoken}
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
"""

#: What an operator is told to set, so that the holder of a PUT grant can
#: neither copy other objects into its prefix nor make packs that expire.
INCOMING_REMOVE_HEADERS = (
    'x-timestamp x-open-expired x-copy-from x-copy-from-account'
    ' x-delete-at x-delete-after')

# Runs on its own: importing swift into the test process is slow, and it
# expects eventlet.
MAKE_RINGS = """\
import sys
from swift.common.ring import RingBuilder
for arg in sys.argv[2:]:
    name, port = arg.split(':')
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({'region': 1, 'zone': 1, 'weight': 100, 'device': 'd1',
                     'ip': '127.0.0.1', 'port': int(port),
                     'replication_ip': '127.0.0.1',
                     'replication_port': int(port), 'meta': ''})
    builder.rebalance()
    builder.get_ring().save('%s/%s.ring.gz' % (sys.argv[1], name))
"""


class SwiftServer:
    """A Swift cluster of one device, with temporary URLs.

    Start it from a thread that lives as long as the server is needed; see
    :class:`Programs`.

    :param directory: where configuration, data and logs are kept; a second
        start in the same directory with the same ports finds its objects.
    :param keystone: where its users are; without it there is one user, of
        Swift's own "tempauth".
    :param bind_host: address the proxy listens on; the other servers stay
        on loopback.
    :param ports: port of each of :data:`SERVERS`; free ones are picked for
        those not named.
    :param public_url: the root told to clients, when it is to name
        something else, for example a proxy in front.
    :param incoming_remove_headers: the tempurl option of that name; None
        for what a Swift has that nobody hardened.
    """

    user = 'test:tester'
    key = 'testing'

    def __init__(self, directory: str | os.PathLike[str], *,
                 keystone: keystone_.KeystoneServer | None = None,
                 bind_host: str = '127.0.0.1',
                 ports: typing.Mapping[str, int] | None = None,
                 public_url: str | None = None,
                 incoming_remove_headers: str | None =
                 INCOMING_REMOVE_HEADERS) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self.bind_host = bind_host
        self.ports = free_ports(SERVERS, ports or {})
        self.keystone = keystone
        self.public_url = public_url or (
            f'http://127.0.0.1:{self.ports["proxy"]}')
        if incoming_remove_headers is None:
            incoming_remove_headers = 'x-timestamp x-open-expired'
        self.incoming_remove_headers = incoming_remove_headers
        self._programs = Programs(self.directory / 'log')

    @property
    def url(self) -> str:
        """Root of the proxy as seen from this machine."""
        host = self.bind_host
        if host == '0.0.0.0':
            host = '127.0.0.1'
        return f'http://{host}:{self.ports["proxy"]}'

    @property
    def endpoint(self) -> str:
        """URL of every account, for the catalogue of Keystone."""
        return f'{self.public_url}/v1/AUTH_$(project_id)s'

    @property
    def account(self) -> str:
        """The account that :meth:`token` is for."""
        if self.keystone is None:
            return 'AUTH_test'
        return f'AUTH_{self.keystone.project_id(keystone_.SERVICE_PROJECT)}'

    @property
    def storage_url(self) -> str:
        """URL of :attr:`account`."""
        return f'{self.public_url}/v1/{self.account}'

    @property
    def auth_url(self) -> str:
        """Where a GET with :attr:`auth_headers` gives a token (tempauth)."""
        return f'{self.url}/auth/v1.0'

    @property
    def auth_headers(self) -> dict[str, str]:
        return {'X-Auth-User': self.user, 'X-Auth-Key': self.key}

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each server that was started."""
        return self._programs.pids

    def token(self) -> str:
        """Get a token with all rights in one account.

        That of tempauth's user, or that of Keystone's service project.
        """
        if self.keystone:
            return self.keystone.session(
                self.keystone.credentials('swift')).get_token()
        request = urllib.request.Request(
            self.auth_url, headers=self.auth_headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return typing.cast(str, response.headers['X-Auth-Token'])

    def start(self) -> 'SwiftServer':
        """Start every server and wait until a token can be had.

        :raises RuntimeError: a server ended or did not answer in time; the
            message holds the end of its log.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop)
            self._configure()
            # The proxy last: it refuses tokens for minutes when memcached
            # was not there, and suspends servers it could not reach.
            behind = [name for name in SERVERS if name != 'proxy']
            for name in behind:
                self._programs.start(name, self._command(name))
            for name in behind:
                self._programs.wait_listening(name, self.ports[name])
            self._programs.start('proxy', self._command('proxy'))
            self._programs.wait_until('proxy', self._proxy_answers)
            stack.pop_all()
        return self

    def stop(self) -> None:
        """Stop every server that was started, the proxy first."""
        self._programs.stop()

    def __enter__(self) -> 'SwiftServer':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # Private

    def _configure(self) -> None:
        etc = self.directory / 'etc'
        for folder in ('etc', 'srv/d1', 'cache'):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        values = {
            'directory': self.directory,
            'user': pwd.getpwuid(os.geteuid()).pw_name,
            'bind_host': self.bind_host,
            'memcached_port': self.ports['memcached'],
            'incoming_remove_headers': self.incoming_remove_headers,
        }
        (etc / 'swift.conf').write_text(SWIFT_CONF)
        auth, auth_filters = self._auth_filters()
        templates = {name: STORAGE_CONF for name in STORAGE_SERVERS}
        for name, template in {**templates, 'proxy': PROXY_CONF}.items():
            (etc / f'{name}-server.conf').write_text(template.format(
                name=name, port=self.ports[name], auth=auth, **values))
        with open(etc / 'proxy-server.conf', 'a') as proxy:
            proxy.write(auth_filters)
        subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', MAKE_RINGS, str(etc)]
            + [f'{name}:{self.ports[name]}' for name in STORAGE_SERVERS],
            check=True)

    def _command(self, name: str) -> list[str]:
        if name == 'memcached':
            return [find_program('memcached'), '-u',
                    pwd.getpwuid(os.geteuid()).pw_name, '-l', '127.0.0.1',
                    '-p', str(self.ports[name]), '-m', '64', '-U', '0']
        return [sys.executable, '-W', 'ignore',
                find_program(f'swift-{name}-server'),
                f'{self.directory}/etc/{name}-server.conf', '-v']

    def _auth_filters(self) -> tuple[str, str]:
        """Give the names of the filters that know users, and their text."""
        if self.keystone is None:
            return 'tempauth', TEMPAUTH.format(storage_url=self.storage_url)
        options = {'auth_type': 'password',
                   **self.keystone.service_user('swift')}
        return 'authtoken keystoneauth', KEYSTONE_AUTH.format(
            authtoken='\n'.join(
                f'{name} = {value}' for name, value in options.items()))

    def _proxy_answers(self) -> bool:
        """Whether an authorised request passes through to the account."""
        try:
            request = urllib.request.Request(
                f'{self.url}/v1/{self.account}', data=b'',
                headers={'X-Auth-Token': self.token()})
            urllib.request.urlopen(request, timeout=10).close()
        except (OSError, urllib.error.HTTPError):
            return False
        return True
