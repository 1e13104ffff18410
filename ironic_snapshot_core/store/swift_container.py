# SPDX-License-Identifier: Apache-2.0
"""Making a Swift container fit to keep snapshots in; with a token only."""

import secrets
import typing

import requests.auth

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import swift_http
from ironic_snapshot_core.store.swift_http import Request

KEY_HEADER = 'X-Container-Meta-Temp-URL-Key'
READ_HEADER = 'X-Container-Read'
WRITE_HEADER = 'X-Container-Write'

#: 256 bits, as much as the signatures have.
KEY_BYTES = 32


def ensure_container(container_url: str, auth: requests.auth.AuthBase,
                     verify: bool | str = True,
                     timeout: tuple[float, float] = swift_http.TIMEOUT_S,
                     clock: clocks.Clock | None = None) -> str:
    """Create the container if it is missing, and its temporary URL key.

    The key belongs to the container, not to the account, so that a grant
    can never reach beyond it. Two conductors that do this at the same
    moment may each set a key; the later one stays, and grants made with the
    other are refused.

    :returns: the key, as read back from the store.
    :raises InvalidValue: anybody may read or write the container.
    :raises StoreError: the store did not do it.
    """
    container = swift_http.Container(
        container_url, auth, verify, timeout, 1,
        clock or clocks.SystemClock())
    try:
        headers = _head(container)
        if headers is None:
            # Without ACLs only the account's own users have access.
            _send(container, 'PUT', {}, (201, 202))
            headers = _head(container) or {}
        for what in (READ_HEADER, WRITE_HEADER):
            if '.r:' in headers.get(what, '') or '*:*' in headers.get(
                    what, ''):
                raise errors.InvalidValue(
                    'container', container.name, 'it is open to anybody; '
                    f'remove this from {what}')
        if not headers.get(KEY_HEADER):
            _send(container, 'POST',
                  {KEY_HEADER: secrets.token_hex(KEY_BYTES)}, (201, 202, 204))
            headers = _head(container) or {}
        key = headers.get(KEY_HEADER)
        if not key:
            raise errors.AccessDenied(
                'prepare', 'the container', 'its temporary URL key is not '
                'shown to this user, who must be able to administer it')
        return key
    finally:
        container.close()


# Private

def _head(container: swift_http.Container
          ) -> typing.Mapping[str, str] | None:
    with container.send(Request(
            'prepare', '', 'HEAD', (200, 204, 404))) as answer:
        return None if answer.status == 404 else answer.headers


def _send(container: swift_http.Container, method: str,
          headers: typing.Mapping[str, str],
          expected: typing.Collection[int]) -> None:
    with container.send(
            Request('prepare', '', method, expected, headers=headers)):
        pass
