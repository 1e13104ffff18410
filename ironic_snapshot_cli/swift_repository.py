# SPDX-License-Identifier: Apache-2.0
"""A Swift container, opened with ordinary credentials.

They come from where the OpenStack clients have them: ``clouds.yaml`` and
``OS_CLOUD``, or ``OS_*`` variables; or, for a Swift without Keystone,
``ST_AUTH``, ``ST_USER`` and ``ST_KEY``.
"""

import functools
import os
import typing
from urllib import parse

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import auth as auths
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift
from ironic_snapshot_core.store import swift_container
from ironic_snapshot_cli import cloud

_SERVICE = 'object-store'
_V1 = ('ST_AUTH', 'ST_USER', 'ST_KEY')


def open_container(
    container: str,
    clock: clocks.Clock,
    threads: int,
    create: bool,
    bandwidth: int,
) -> base.Store:
    """Open a container.

    :param threads: that use it at a time.
    :param create: make it if it is missing.
    :param bandwidth: bytes to send per second at most; 0: no limit.
    :raises RepositoryUnsuitable: it cannot be one.
    :raises CredentialsMissing: there are none, or Swift does not take them.
    """
    if not container or '/' in container or not container.isprintable():
        raise errors.RepositoryUnsuitable(
            f'swift:{container}', 'it is not swift: and a container'
        )
    session, endpoint = _log_in()
    url = f'{endpoint.rstrip("/")}/{parse.quote(container)}'
    auth = auths.TokenAuth(session.get_token, session.invalidate)
    if create:
        retry.retry(
            functools.partial(
                swift_container.ensure_container,
                url,
                auth,
                verify=session.verify,
            ),
            clock=clock,
        )
    return retry.RetryingStore(
        swift.SwiftStore(
            url,
            auth,
            verify=session.verify,
            pool_size=threads,
            clock=clock,
            pace=(
                limit.RateLimit(bandwidth, clock).take if bandwidth else None
            ),
        ),
        clock=clock,
    )


# Private


def _log_in() -> tuple[typing.Any, str]:
    """Give a session that has a token, and the account's URL."""
    with cloud.logging_in('Swift'):
        if all(os.environ.get(each) for each in _V1):
            return _log_in_v1()
        return _log_in_as_configured()


def _log_in_v1() -> tuple[typing.Any, str]:
    from keystoneauth1 import session as sessions
    from swiftclient import authv1

    session = sessions.Session(
        auth=authv1.PasswordPlugin(
            auth_url=os.environ['ST_AUTH'],
            username=os.environ['ST_USER'],
            password=os.environ['ST_KEY'],
        ),
        verify=os.environ.get('OS_CACERT') or True,
    )
    session.get_token()
    return session, _endpoint(session.get_endpoint(service_type=_SERVICE))


def _log_in_as_configured() -> tuple[typing.Any, str]:
    region = cloud.configured()
    session = region.get_session()
    session.get_token()
    return session, _endpoint(region.get_session_endpoint(_SERVICE))


def _endpoint(found: object) -> str:
    if not isinstance(found, str):
        raise errors.CredentialsMissing('the cloud has no object store')
    return found
