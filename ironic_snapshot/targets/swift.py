# SPDX-License-Identifier: Apache-2.0
"""Swift as the place where snapshots live.

The conductor works with a token. The ramdisk gets temporary URLs, bound to
one verb and one prefix each, and never a token. The key that signs them is
the container's own: it opens nothing but this container.
"""
import functools
from typing import Any
from urllib import parse

from ironic.common import exception
from ironic.common import keystone

from ironic_snapshot import conf
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core.store import swift_links
from ironic_snapshot_core.store.auth import TokenAuth
from ironic_snapshot_core.store.base import Store
from ironic_snapshot_core.store.retry import retry
from ironic_snapshot_core.store.retry import RetryingStore
from ironic_snapshot_core.store.retry import RetryPolicy
from ironic_snapshot_core.store.swift import SwiftStore
from ironic_snapshot_core.store.swift_container import ensure_container
from ironic_snapshot_core.store.swift_links import SwiftLinks

# The node is locked while the conductor talks to Swift, so it gives up sooner
# than the ramdisk.
_RETRIES = RetryPolicy(total_s=60.0)


class SwiftTarget:
    """The container of one project.

    :ivar container: its name.
    :ivar store: a :class:`Store` with the conductor's own rights.
    """

    def __init__(self, container: str) -> None:
        session, auth = _session()
        self.container = container
        self._url = f'{_endpoint()}/{parse.quote(container)}'
        self._auth = TokenAuth(
            functools.partial(session.get_token, auth),
            functools.partial(session.invalidate, auth))
        self._verify = session.verify
        self.store: Store = RetryingStore(
            SwiftStore(self._url, self._auth, verify=self._verify,
                       pool_size=CONF.snapshot.sweep_workers), _RETRIES)

    def ensure(self) -> str:
        """Make the container and its signing key if they are not there.

        :returns: the key.
        :raises: StoreError when Swift refuses or does not answer.
        """
        return retry(lambda: ensure_container(
            self._url, self._auth, verify=self._verify), _RETRIES)

    def grant(self, permissions: list[tuple[str, str]],
              expires: int) -> dict[str, Any]:
        """Temporary URLs for the ramdisk.

        :param permissions: pairs of an HTTP verb and a prefix of names.
        :param expires: seconds since the epoch.
        :returns: the grant as the ramdisk expects it. It holds signatures:
            it goes to the agent and nowhere else.
        """
        return grant.mint(self._ramdisk_url(), self.ensure(), expires,
                          permissions).to_dict()

    def temporary_url(self, name: str, expires: int) -> str:
        """A URL with which one object can be read, for Glance.

        :param expires: seconds since the epoch.
        :returns: it holds a signature: it goes to Glance and nowhere else.
        """
        endpoint = (CONF.snapshot.import_endpoint or _endpoint()).rstrip('/')
        url = f'{endpoint}/{parse.quote(self.container)}/{name}'
        query = parse.urlencode({
            'temp_url_sig': grant.sign_object(
                self.ensure(), 'GET', parse.urlsplit(url).path, expires),
            'temp_url_expires': expires})
        return f'{url}?{query}'

    def links(self, container: str | None = None) -> SwiftLinks:
        """What makes links in the container.

        :param container: another one of the same account.
        """
        url = (self._url if container is None
               else f'{_endpoint()}/{parse.quote(container)}')
        return SwiftLinks(
            url, self._auth, self._verify, _RETRIES,
            pool_size=CONF.snapshot.sweep_workers)

    def check_links(self) -> None:
        """Refuse a Swift that has no links.

        :raises NotSupported: it has none.
        """
        if not swift_links.offered(self._url, self._verify):
            raise errors.NotSupported(
                'link', self.container,
                'this Swift has no static symlinks; use [snapshot]'
                'glance_method "import"')

    def _ramdisk_url(self) -> str:
        endpoint = (CONF.snapshot.ramdisk_endpoint or _endpoint()).rstrip('/')
        return f'{endpoint}/{parse.quote(self.container)}'


def for_node(node) -> SwiftTarget:
    """The container of the project that uses this node.

    :raises: InvalidParameterValue when the configuration does not do.
    """
    check_configuration()
    project = node.lessee or node.owner
    container = CONF.snapshot.container
    return SwiftTarget(f'{container}-{project}' if project else container)


def named(container: str) -> SwiftTarget:
    """The container that a running attempt has begun in."""
    check_configuration()
    return SwiftTarget(container)


def check_configuration() -> None:
    """Refuse a configuration that could not end in a snapshot.

    :raises: InvalidParameterValue, naming the option.
    """
    if len(CONF.snapshot.manifest_key or '') < 32:
        raise exception.InvalidParameterValue(
            '[snapshot]manifest_key must be set to at least 32 characters, '
            'for example with the output of "openssl rand -hex 32"')
    if CONF.snapshot.grant_ttl < 4 * CONF.snapshot.slice_interval:
        raise exception.InvalidParameterValue(
            '[snapshot]grant_ttl must be at least four times '
            '[snapshot]slice_interval, so that no temporary URL expires '
            'before the agent gets the next')
    endpoint = CONF.snapshot.ramdisk_endpoint or _endpoint()
    if CONF.snapshot.require_https and not endpoint.startswith('https://'):
        raise exception.InvalidParameterValue(
            f'The ramdisk would reach Swift without TLS at {endpoint}: set '
            '[snapshot]ramdisk_endpoint to an https:// address, or '
            '[snapshot]require_https to false if the network may be trusted')
    path = parse.urlsplit(_endpoint()).path
    for option in ('ramdisk_endpoint', 'import_endpoint'):
        found = getattr(CONF.snapshot, option) or _endpoint()
        if parse.urlsplit(found.rstrip('/')).path != path:
            raise exception.InvalidParameterValue(
                f'[snapshot]{option} must have the path of the Swift '
                f'endpoint, {path}: temporary URLs are signed with it')


@functools.cache
def _session() -> tuple[Any, Any]:
    auth = keystone.get_auth(conf.GROUP)
    return keystone.get_session(conf.GROUP, auth=auth), auth


def _endpoint() -> str:
    session, auth = _session()
    return keystone.get_endpoint(
        conf.GROUP, session=session, auth=auth,
        service_type=CONF.snapshot.service_type or 'object-store').rstrip('/')
