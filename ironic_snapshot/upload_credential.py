# SPDX-License-Identifier: Apache-2.0
"""A credential with which a ramdisk sends one image to Glance, and no more.

It is a token. The one from an application credential whose only access rule
is ``PUT`` to the data of that image is good for this request alone, and
Glance says no to any other. An application credential has the name of its
image, so that any conductor can delete what another one has made.

Secrets are neither saved nor logged: the session is told so (``log=False``).
"""
import functools
from typing import Any
from urllib import parse

from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.identity.v3 import ApplicationCredential
from keystoneauth1 import exceptions as keystone_exceptions
from keystoneauth1 import plugin
from oslo_log import log
from oslo_utils import uuidutils

from ironic_snapshot import exchange
from ironic_snapshot_core import errors
from ironic_snapshot_core.manifest import format_time

LOG = log.getLogger(__name__)

_NAME = 'ironic-snapshot upload'
_OPERATION = 'upload'
_TIMEOUT_S = 60

# What Glance answers to data of a wrong type, after it has accepted the token
# and before it looks for the image.
_WRONG_TYPE = {'Content-Type': 'text/plain'}
_UNSUPPORTED = 415
_REFUSED = 401


class Issuer:
    """Makes credentials and takes them back, as one user of Keystone.

    :param session: of keystoneauth.
    :param auth: of the user, who may send images of any project.
    :param endpoint: of Glance, without the version.
    :param allow_token: whether the user's own token may be given away where
        there are no access rules.
    """

    def __init__(self, session: Any, auth: Any, endpoint: str,
                 allow_token: bool) -> None:
        self._session = session
        self._auth = auth
        self._endpoint = endpoint
        self._allow_token = allow_token

    def check(self) -> None:
        """See that a credential opens what it should, and nothing else.

        With an image that does not exist.

        :raises ImageRefused: it would not; or there are no access rules,
            and a token is not allowed.
        :raises GlanceUnavailable: Keystone or Glance does not answer.
        """
        image = uuidutils.generate_uuid()
        try:
            token = self._restricted(image, 600)
            if token is not None:
                self._probe(image, token)
        finally:
            self.revoke(image)
        if token is None:
            self._fall_back(image)

    def issue(self, image: str, seconds: int) -> str:
        """Make a credential; those made before for the image are void.

        :param seconds: for which an upload can be begun with it.
        :returns: a token: it goes to the agent and nowhere else.
        :raises ImageRefused: there is none to be had.
        :raises GlanceUnavailable: Keystone does not answer.
        """
        self.revoke(image)
        return self._restricted(image, seconds) or self._fall_back(image)

    def revoke(self, image: str) -> None:
        """Take back all that was made for an image; never raises.

        What stays behind expires.
        """
        try:
            if not self._keystone:
                return
            found = self._call('GET', params={'name': _name(image)}).json()
            for each in found['application_credentials']:
                self._call('DELETE', each['id'])
        except (keystone_exceptions.ClientException, KeyError, TypeError,
                ValueError) as exc:
            LOG.warning('The credential for the upload of image %(image)s '
                        'could not be deleted (%(why)s); it expires',
                        {'image': image, 'why': type(exc).__name__})

    # Private

    @property
    def _paths(self) -> list[str]:
        """Paths of Glance's API, as Glance may see them."""
        return sorted({'', parse.urlsplit(self._endpoint).path.rstrip('/')})

    def _restricted(self, image: str, seconds: int) -> str | None:
        """A token for one request; None where Keystone has none."""
        try:
            if not self._keystone:
                return None
            credential = self._create(image, seconds)
            if credential is None:
                return None
            return ApplicationCredential(
                auth_url=self._keystone,
                application_credential_id=credential['id'],
                application_credential_secret=credential['secret'],
            ).get_token(self._session)
        except keystone_exceptions.ClientException as exc:
            failure = _failure(image, exc)
        # Not in the except clause: the library's error may quote a request.
        raise failure

    def _create(self, image: str, seconds: int) -> dict[str, Any] | None:
        rules = [{'service': 'image', 'method': 'PUT',
                  'path': f'{path}/v2/images/{image}/file'}
                 for path in self._paths]
        expires = format_time(exchange.CLOCK.time() + seconds).rstrip('Z')
        try:
            made = self._call('POST', json={'application_credential': {
                'name': _name(image), 'expires_at': expires,
                'access_rules': rules}}).json()['application_credential']
        except (keystone_exceptions.Forbidden,
                keystone_exceptions.NotFound) as exc:
            LOG.info('Keystone makes no application credential for the user '
                     'of [glance]: %s', type(exc).__name__)
            return None
        found = [{name: each.get(name) for name in rules[0]}
                 for each in made.get('access_rules') or []]
        if sorted(found, key=str) != sorted(rules, key=str):
            # Before Train they were ignored: this one opens everything.
            self.revoke(image)
            return None
        return made

    def _fall_back(self, image: str) -> str:
        if not self._allow_token:
            raise errors.ImageRefused(
                _OPERATION, image,
                'Keystone makes no application credential with access rules '
                'for the user of [glance], and [snapshot]stream_token, which '
                'gives the ramdisk a token of that user, is not set')
        try:
            return self._session.get_token(self._auth)
        except keystone_exceptions.ClientException as exc:
            failure = _failure(image, exc)
        raise failure

    def _probe(self, image: str, token: str) -> None:
        """See what Glance says to a token.

        :raises ImageRefused: not what it should.
        """
        status = self._glance('PUT', f'images/{image}/file', token, image)
        if status == _REFUSED:
            raise errors.ImageRefused(
                _OPERATION, image,
                'Glance accepts no credential with access rules; set '
                'service_type = image in [keystone_authtoken] of Glance',
                status)
        other = self._glance('GET', 'images', token, image)
        if status != _UNSUPPORTED or other != _REFUSED:
            raise errors.ImageRefused(
                _OPERATION, image,
                'Glance does not keep to the access rules of a credential '
                f'(it answers {status} to what they allow, and {other} to '
                'what they do not)')

    def _glance(self, method: str, path: str, token: str, image: str) -> int:
        try:
            return self._session.request(
                f'{self._endpoint}/v2/{path}', method, authenticated=False,
                headers={**_WRONG_TYPE, 'X-Auth-Token': token}, data=b'',
                raise_exc=False, redirect=False, log=False,
                timeout=_TIMEOUT_S).status_code
        except keystone_exceptions.ClientException as exc:
            failure = _failure(image, exc)
        raise failure

    @functools.cached_property
    def _keystone(self) -> str:
        """URL of Keystone's API, version 3; empty where there is none."""
        if not isinstance(self._auth, BaseIdentityPlugin):
            return ''
        return self._session.get_endpoint(
            self._auth, interface=plugin.AUTH_INTERFACE,
            service_type='identity', version=(3,)).rstrip('/')

    def _call(self, method: str, name: str = '', **options: Any) -> Any:
        """Ask Keystone about the user's application credentials."""
        user = self._session.get_user_id(self._auth)
        url = f'{self._keystone}/users/{user}/application_credentials'
        return self._session.request(
            f'{url}/{name}' if name else url, method, auth=self._auth,
            log=False, timeout=_TIMEOUT_S, **options)


# Private

def _name(image: str) -> str:
    return f'{_NAME} {image}'


def _failure(image: str, exc: Exception) -> errors.ImageError:
    if isinstance(exc, (keystone_exceptions.Unauthorized,
                        keystone_exceptions.Forbidden)):
        return errors.ImageRefused(
            _OPERATION, image, 'Keystone does not let the user of [glance] '
            'make a credential for it')
    return errors.GlanceUnavailable(
        _OPERATION, image, 'no credential for it could be made '
        f'({type(exc).__name__})')
