# SPDX-License-Identifier: Apache-2.0
"""Real servers for the contract tests."""

import dataclasses
import uuid

import pytest
import requests

from ironic_snapshot_core import grant
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import swift as swift_store
from ironic_snapshot_core.store import swift_container
from tests.contract import capture_requests
from tests.servers.cloud import Cloud
from tests.servers.faulty_http import FaultyProxy
from tests.servers.swift import SwiftServer


@pytest.fixture(scope='session')
def swift(tmp_path_factory):
    """A real Swift, for all tests of the session."""
    with SwiftServer(tmp_path_factory.mktemp('swift')) as server:
        yield server


@pytest.fixture(scope='session')
def cloud(tmp_path_factory):
    """A real Keystone, Swift and Glance, for all tests of the session."""
    with Cloud(tmp_path_factory.mktemp('cloud')) as found:
        yield found


@pytest.fixture(scope='session')
def swift_token(swift):
    return swift.token()


@dataclasses.dataclass
class Container:
    """A container in a real Swift, and ways into it."""

    url: str
    key: str
    token: str
    expires: int = 2 ** 32

    @property
    def path(self):
        return '/' + self.url.split('/', 3)[3]

    @property
    def headers(self):
        return {'X-Auth-Token': self.token}

    def token_auth(self):
        return auth.TokenAuth(lambda: self.token, lambda: None)

    def store(self, **options):
        return swift_store.SwiftStore(self.url, self.token_auth(), **options)

    def grant(self, *permissions, expires=None, key=None):
        return grant.mint(self.url, key or self.key,
                          expires or self.expires, permissions)

    def grant_store(self, *permissions, expires=None, key=None, **options):
        return swift_store.SwiftStore(
            self.url,
            auth.GrantAuth(self.grant(
                *permissions, expires=expires, key=key)), **options)

    def through(self, proxy):
        """Give the same container by way of a proxy."""
        return dataclasses.replace(self, url=proxy.url + self.path)

    def request(self, method, name='', **options):
        """Do something a store never does."""
        headers = {**self.headers, **options.pop('headers', {})}
        response = requests.request(
            method, f'{self.url}/{name}' if name else self.url,
            headers=headers, timeout=60, **options)
        assert response.ok, response.text
        return response


@pytest.fixture(scope='session')
def make_container(swift, swift_token):
    """Gives empty containers with a temporary URL key."""
    def make():
        url = f'{swift.storage_url}/c-{uuid.uuid4()}'
        found = Container(url, '', swift_token)
        found.key = swift_container.ensure_container(
            url, found.token_auth())
        return found
    return make


@pytest.fixture
def container(make_container):
    return make_container()


@pytest.fixture
def target(swift, request):
    """A container of its own for each test of the capture."""
    name = f'snapshots-{abs(hash(request.node.nodeid))}'
    return capture_requests.SwiftContainer(swift, name)


@pytest.fixture
def no_thread_left():
    """For tests whose captures end, whatever becomes of them."""
    yield
    assert capture_requests.capture_threads() == []


@pytest.fixture
def proxy(swift):
    """A proxy in front of Swift, without any rule yet."""
    with FaultyProxy(swift.url) as found:
        yield found
