# SPDX-License-Identifier: Apache-2.0
"""Links in Swift: objects that read as others, and are deleted alone.

A *static* link is refused when its target is not what it should be, and so is
reading it afterwards (Swift's middleware ``symlink``).
"""

import json
import urllib.parse

import requests
import requests.auth

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift_http
from ironic_snapshot_core.store.swift import put_slo_manifest
from ironic_snapshot_core.store.swift_http import Request
from ironic_snapshot_core.units import MiB

TARGET_HEADER = 'X-Symlink-Target'
ETAG_HEADER = 'X-Symlink-Target-Etag'

_MAX_INFO = 1 * MiB


class SwiftLinks:
    """Makes links in a container.

    :param container_url: scheme://host/v1/account/container
    :param verify: False, True, or a file with CA certificates.
    :param pool_size: number of threads that use it at a time.
    """

    def __init__(self, container_url: str, auth: requests.auth.AuthBase,
                 verify: bool | str = True,
                 policy: retry.RetryPolicy = retry.RetryPolicy(),  # noqa: B008
                 pool_size: int = swift_http.POOL_SIZE) -> None:
        self._container = swift_http.Container(
            container_url, auth, verify, swift_http.TIMEOUT_S, pool_size,
            clocks.SystemClock())
        self._policy = policy

    def link(self, name: str, target: base.Segment) -> None:
        """Make a link to a plain object of the same container.

        :raises ObjectMismatch: that is another, or not there.
        :raises StoreError: it is not certain that the link is there.
        """
        path = f'{self._container.name}/{target.name}'
        retry.retry(lambda: self._put(name, urllib.parse.quote(path),
                                      target.etag), self._policy)

    def link_image(self, name: str, container: str,
                   image: base.Segment) -> base.ObjectInfo:
        """Make an image of one that is in another container of the account.

        :param container: of that one.
        :raises StoreError: it is not certain that it is there.
        """
        return retry.retry(lambda: put_slo_manifest(
            self._container, name, [image], container), self._policy)

    def delete_image(self, name: str) -> None:
        """Delete what :meth:`link_image` made, and nothing else.

        :raises StoreError: the store does not answer.
        """
        def delete() -> None:
            with self._container.send(Request(
                    'delete', name, 'DELETE', (200, 204, 404))):
                pass
        retry.retry(delete, self._policy)

    def check_container(self) -> None:
        """See that the container is there and that we may use it.

        :raises ContainerMissing: it is not there.
        :raises StoreError: we may not, or the store does not answer.
        """
        def check() -> None:
            with self._container.send(Request(
                    'look at', '', 'HEAD', (200, 204))):
                pass
        retry.retry(check, self._policy)

    def close(self) -> None:
        self._container.close()

    # Private

    def _put(self, name: str, path: str, etag: str) -> None:
        try:
            with self._container.send(Request(
                    'link', name, 'PUT', (201,), headers={
                        TARGET_HEADER: path, ETAG_HEADER: etag,
                        'Content-Length': '0',
                        'Content-Type': 'application/octet-stream'})):
                pass
        except errors.ContainerMissing:
            raise
        except errors.StoreError as e:
            if e.status == 409:
                raise errors.ObjectMismatch(
                    'link', name, 'its target is missing or is another',
                    409) from None
            raise


def offered(container_url: str, verify: bool | str = True) -> bool:
    """Whether a Swift has what links need; anybody may ask.

    :raises StoreUnavailable: it does not answer.
    """
    parts = urllib.parse.urlsplit(container_url)
    url = f'{parts.scheme}://{parts.netloc}/info'
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(url, timeout=swift_http.TIMEOUT_S,
                                 verify=verify, allow_redirects=False)
            found = json.loads(answer.content[:_MAX_INFO])
        return ('slo' in found
                and bool(found.get('symlink', {}).get('static_links')))
    except (*swift_http.FAILURES, ValueError, AttributeError):
        pass
    raise errors.StoreUnavailable(
        'look at', '/info', 'the answer is not one of Swift')
