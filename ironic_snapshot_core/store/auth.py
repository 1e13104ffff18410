# SPDX-License-Identifier: Apache-2.0
"""The two ways to be allowed into Swift: a token, or a grant."""

import typing
import urllib.parse

import requests
import requests.auth

from ironic_snapshot_core import errors
from ironic_snapshot_core import grant as grants

TOKEN_HEADER = 'X-Auth-Token'  # noqa: S105


class TokenAuth(requests.auth.AuthBase):
    """Sends a token, and a new one once when the first was refused.

    :param get_token: gives a token, the same until it is invalidated.
    :param invalidate: tells that the token was refused.
    """

    def __init__(self, get_token: typing.Callable[[], str],
                 invalidate: typing.Callable[[], None]) -> None:
        self._get_token = get_token
        self._invalidate = invalidate

    def __call__(self, request: requests.PreparedRequest
                 ) -> requests.PreparedRequest:
        request.headers[TOKEN_HEADER] = self._get_token()
        hooks = typing.cast(typing.Any, request)
        hooks.register_hook('response', self._again)
        return request

    def _again(self, response: requests.Response,
               **options: typing.Any) -> requests.Response:
        if response.status_code != 401:
            return response
        self._invalidate()
        # The connection can be used again only when the answer was read.
        response.raw.drain_conn()
        response.close()
        request = response.request.copy()
        request.headers[TOKEN_HEADER] = self._get_token()
        # requests sets it on every response.
        adapter = typing.cast(typing.Any, response).connection
        return typing.cast(
            requests.Response, adapter.send(request, **options))


class GrantAuth(requests.auth.AuthBase):
    """Adds the signature that covers the request.

    A request no permission covers is not even sent. Any thread may renew the
    grant while others send.
    """

    def __init__(self, grant: grants.Grant) -> None:
        #: The newest.
        self.grant = grant
        self._path = urllib.parse.urlsplit(grant.container_url).path + '/'

    def renew(self, grant: grants.Grant) -> None:
        """Use another grant from now on.

        :raises InvalidValue: it is one for another container.
        """
        if grant.container_url != self.grant.container_url:
            raise errors.InvalidValue(
                'grant', '(not shown)',
                'it is for another container than the one before')
        self.grant = grant

    def __call__(self, request: requests.PreparedRequest
                 ) -> requests.PreparedRequest:
        # Another thread may put a newer one there meanwhile.
        grant = self.grant
        method = request.method or ''
        parts = urllib.parse.urlsplit(request.url or '')
        path = str(parts.path)
        name = path.removeprefix(self._path)
        # Swift drops every other parameter of a signed request: an SLO
        # manifest would be stored as an object like any other, and answered
        # with success.
        if parts.query or not path.startswith(self._path):
            raise errors.NotSupported(
                method.lower(), name, 'a grant is not enough for this')
        permission = grant.find(method, name)
        if permission is None:
            raise errors.NotSupported(
                method.lower(), name, 'the grant does not cover it')
        query = urllib.parse.urlencode({
            'temp_url_sig': permission.secret,
            'temp_url_expires': grant.expires,
            'temp_url_prefix': permission.prefix,
        }, safe='/')
        request.url = parts._replace(query=query).geturl()
        return request
