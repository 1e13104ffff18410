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
import ctypes
import functools
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing
import urllib.error
import urllib.request

STORAGE_SERVERS = ('account', 'container', 'object')
SERVERS = ('memcached', *STORAGE_SERVERS, 'proxy')

#: A cold start takes about 2 s on two cores; a busy machine needs more.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05

PR_SET_PDEATHSIG = 1

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
listing_formats bulk tempurl tempauth copy container-quotas account-quotas \
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
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin {storage_url}
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
    """A Swift cluster of one device, with tempauth and temporary URLs.

    Start it from a thread that lives as long as the server is needed: the
    kernel ties the parent-death signal to the starting *thread*.

    :param directory: where configuration, data and logs are kept; a second
        start in the same directory with the same ports finds its objects.
    :param public_host: host name in :attr:`storage_url`.
    :param bind_host: address the proxy listens on; the other servers stay
        on loopback.
    :param ports: port of each of :data:`SERVERS`; free ones are picked for
        those not named.
    :param storage_url: the account's URL told to clients, when it is to
        name something else, for example a proxy in front.
    :param incoming_remove_headers: the tempurl option of that name; None
        for what a Swift has that nobody hardened.
    """

    user = 'test:tester'
    key = 'testing'

    def __init__(self, directory: str | os.PathLike[str], *,
                 public_host: str = '127.0.0.1',
                 bind_host: str = '127.0.0.1',
                 ports: typing.Mapping[str, int] | None = None,
                 storage_url: str | None = None,
                 incoming_remove_headers: str | None =
                 INCOMING_REMOVE_HEADERS) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self.bind_host = bind_host
        self.ports = free_ports(SERVERS, ports or {})
        self.storage_url = storage_url or (
            f'http://{public_host}:{self.ports["proxy"]}/v1/AUTH_test')
        if incoming_remove_headers is None:
            incoming_remove_headers = 'x-timestamp x-open-expired'
        self.incoming_remove_headers = incoming_remove_headers
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Root of the proxy as seen from this machine."""
        host = self.bind_host
        if host == '0.0.0.0':
            host = '127.0.0.1'
        return f'http://{host}:{self.ports["proxy"]}'

    @property
    def auth_url(self) -> str:
        """Where a GET with :attr:`auth_headers` gives a token."""
        return f'{self.url}/auth/v1.0'

    @property
    def auth_headers(self) -> dict[str, str]:
        return {'X-Auth-User': self.user, 'X-Auth-Key': self.key}

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each server that was started."""
        return {name: process.pid
                for name, process in self._processes.items()}

    def token(self) -> str:
        """Get a token from tempauth."""
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
                self._spawn(name)
            for name in behind:
                self._wait(name, functools.partial(self._listens, name))
            self._spawn('proxy')
            self._wait('proxy', self._proxy_answers)
            stack.pop_all()
        return self

    def stop(self) -> None:
        """Stop every server that was started, the proxy first."""
        for process in reversed(self._processes.values()):
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in reversed(self._processes.values()):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def __enter__(self) -> 'SwiftServer':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # Private

    def _configure(self) -> None:
        etc = self.directory / 'etc'
        for folder in ('etc', 'srv/d1', 'cache', 'log'):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        values = {
            'directory': self.directory,
            'user': pwd.getpwuid(os.geteuid()).pw_name,
            'bind_host': self.bind_host,
            'memcached_port': self.ports['memcached'],
            'storage_url': self.storage_url,
            'incoming_remove_headers': self.incoming_remove_headers,
        }
        (etc / 'swift.conf').write_text(SWIFT_CONF)
        for name in (*STORAGE_SERVERS, 'proxy'):
            template = PROXY_CONF if name == 'proxy' else STORAGE_CONF
            (etc / f'{name}-server.conf').write_text(template.format(
                name=name, port=self.ports[name], **values))
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

    def _spawn(self, name: str) -> None:
        guard = [sys.executable, os.path.abspath(__file__), str(os.getpid())]
        with open(self._log(name), 'ab') as log:
            # A session of its own: on SIGTERM a Swift server signals its
            # whole process group.
            self._processes[name] = subprocess.Popen(
                guard + self._command(name), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)

    def _log(self, name: str) -> pathlib.Path:
        return self.directory / 'log' / f'{name}.log'

    def _wait(self, name: str, answers: typing.Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers():
            dead = [other for other, process in self._processes.items()
                    if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                name = dead[0] if dead else name
                end = self._log(name).read_text(errors='replace')[-2000:]
                raise RuntimeError(
                    f'{name} {"ended" if dead else "does not answer"}:\n'
                    f'{end}')
            time.sleep(POLL_S)

    def _listens(self, name: str) -> bool:
        try:
            socket.create_connection(
                ('127.0.0.1', self.ports[name]), 1).close()
        except OSError:
            return False
        return True

    def _proxy_answers(self) -> bool:
        """Whether an authorised request passes through to the account."""
        try:
            request = urllib.request.Request(
                f'{self.url}/v1/AUTH_test', data=b'',
                headers={'X-Auth-Token': self.token()})
            urllib.request.urlopen(request, timeout=10).close()
        except (OSError, urllib.error.HTTPError):
            return False
        return True


def free_ports(names: typing.Iterable[str],
               fixed: typing.Mapping[str, int]) -> dict[str, int]:
    """Give each name a port: the fixed one, or one that is free now."""
    ports = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            if name in fixed:
                ports[name] = fixed[name]
                continue
            # Held until all are known, so that no port is given twice.
            held = stack.enter_context(socket.socket())
            held.bind(('127.0.0.1', 0))
            ports[name] = held.getsockname()[1]
    return ports


def find_program(name: str) -> str:
    """Find a program beside this Python, then on the path."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if not found:
        raise RuntimeError(f'{name} is not installed')
    return found


def run_guarded(parent: int, command: list[str]) -> None:
    """Become the command, and be killed when the parent dies.

    Done here rather than between fork and exec in the parent, which has
    threads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), 'prctl')
    if os.getppid() != parent:
        sys.exit('the parent is gone already')
    os.execv(command[0], command)


if __name__ == '__main__':
    run_guarded(int(sys.argv[1]), sys.argv[2:])
