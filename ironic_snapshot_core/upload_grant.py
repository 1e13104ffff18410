# SPDX-License-Identifier: Apache-2.0
"""What the conductor lets a ramdisk do in Glance: send one image, once.

It crosses the wire as a plain dict inside the step, first without a token;
one comes when the ramdisk is about to send, and is good for little else.
"""

import dataclasses
import re
import typing
import urllib.parse

import requests
import requests.auth

from ironic_snapshot_core import errors
from ironic_snapshot_core.store import auth as auths

VERSION = 1

# Of a token. Those of Keystone have some hundred characters.
_MOST_CHARACTERS = 8192

_PATH = re.compile(
    r'(?:/[A-Za-z0-9._~-]+)*/v2/images/'
    r'(?P<image>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/file')
_TOKEN = re.compile(r'[\x21-\x7e]*')


@dataclasses.dataclass(frozen=True, slots=True)
class UploadGrant:
    """Where the data of one image go.

    :param url: to PUT them to.
    :param secret: the token; empty as long as there is none. Never shown.
    """

    url: str
    secret: str = dataclasses.field(repr=False, default='')
    version: int = VERSION

    @property
    def image(self) -> str:
        """Its id."""
        return _match(self.url)['image']

    def to_dict(self) -> dict[str, typing.Any]:
        """Give what crosses the wire; ``secret`` as in a store's grant."""
        return dataclasses.asdict(self)

    @classmethod
    def take(cls, value: typing.Any) -> 'UploadGrant':
        """Read a grant from a dict, and empty the dict.

        As :meth:`grant.Grant.take`, and for the same reason.

        :raises InvalidValue: it is no grant; the error shows no secret.
        :raises UnsupportedVersion: the conductor is newer.
        """
        if not isinstance(value, dict):
            raise _invalid('it is no dict')
        fields = dict(value)
        value.clear()
        version = fields.get('version')
        if version != VERSION or type(version) is not int:
            raise errors.UnsupportedVersion(
                'The grant', version if type(version) is int else 'none',
                VERSION)
        if (set(fields) != {each.name for each in dataclasses.fields(cls)}
                or not isinstance(fields['url'], str)
                or not isinstance(fields['secret'], str)):
            raise _invalid('it has not exactly a URL and a secret')
        secret = fields['secret']
        if len(secret) > _MOST_CHARACTERS or not _TOKEN.fullmatch(secret):
            raise _invalid('its secret is no token')
        _match(fields['url'])
        return cls(fields['url'], secret)


class UploadAuth(requests.auth.AuthBase):
    """Sends the newest token, with the one request that it is for."""

    def __init__(self, grant: UploadGrant) -> None:
        self.grant = grant
        # As requests writes it.
        self._url = requests.Request('PUT', grant.url).prepare().url

    def renew(self, grant: UploadGrant) -> None:
        """Use another grant from now on.

        :raises InvalidValue: it is one for another image.
        """
        if grant.url != self.grant.url:
            raise _invalid('it is for another image than the one before')
        self.grant = grant

    def __call__(self, request: requests.PreparedRequest
                 ) -> requests.PreparedRequest:
        if (request.method, request.url) != ('PUT', self._url):
            raise _invalid('it does not cover this request')
        request.headers[auths.TOKEN_HEADER] = self.grant.secret
        return request


def url(endpoint: str, image: str) -> str:
    """Give the URL of the data of an image.

    :param endpoint: of Glance, without the version.
    :param image: its id.
    :raises InvalidValue: that is none.
    """
    found = f'{endpoint}/v2/images/{image}/file'
    _match(found)
    return found


# Private

def _match(address: str) -> 're.Match[str]':
    try:
        parts = urllib.parse.urlsplit(address)
        good = (parts.scheme in ('http', 'https') and bool(parts.hostname)
                and parts.port != 0 and '@' not in parts.netloc
                and '?' not in address and '#' not in address)
        found = _PATH.fullmatch(parts.path) if good else None
    except ValueError:
        found = None
    if found is None:
        raise errors.InvalidValue(
            'upload URL', '(not shown)',
            'it is not scheme://host/v2/images/<id>/file')
    return found


def _invalid(reason: str) -> errors.InvalidValue:
    return errors.InvalidValue('upload grant', '(not shown)', reason)
