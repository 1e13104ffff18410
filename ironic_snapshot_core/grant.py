# SPDX-License-Identifier: Apache-2.0
"""What the conductor lets a ramdisk do in the store, and for how long.

A grant is a set of signed prefixes (Swift's temporary URLs): whoever holds
it can use one method on the objects below one prefix until it expires, and
nothing else. It crosses the wire as a plain dict inside the step.
"""

import dataclasses
import hmac
import re
import typing
import urllib.parse

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout

VERSION = 1

#: What may be granted. Nothing is ever deleted by a ramdisk.
METHODS = ('GET', 'PUT')

#: Signature algorithms in use with Swift; sha1 is not one of them any more.
ALGORITHMS = {'sha256': 64, 'sha512': 128}
DEFAULT_ALGORITHM = 'sha256'

#: A capture needs one permission to write, one to read what it has written,
#: and one per parent; a restore one per attempt it reads from.
MAX_PERMISSIONS = 10_000

_HEX = re.compile('[0-9a-f]*')


@dataclasses.dataclass(frozen=True, slots=True)
class Permission:
    """One method on the objects below one prefix.

    :param prefix: inside the container; ends with a slash.
    :param secret: the signature. Never shown.
    """

    method: str
    prefix: str
    secret: str = dataclasses.field(repr=False)

    def covers(self, method: str, name: str) -> bool:
        """Whether the signature is good for a request.

        Swift lets whoever may GET or PUT also HEAD.
        """
        return (method in (self.method, 'HEAD')
                and name.startswith(self.prefix))


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """Permissions in one container until a moment.

    :param container_url: URL of the container, without a query.
    :param expires: seconds since the epoch, by the store's clock.
    :param algorithm: of the signatures.
    """

    container_url: str
    expires: int
    permissions: tuple[Permission, ...]
    algorithm: str = DEFAULT_ALGORITHM
    version: int = VERSION

    def find(self, method: str, name: str) -> Permission | None:
        """Give a permission for a request, or None."""
        for permission in self.permissions:
            if permission.covers(method, name):
                return permission
        return None

    def to_dict(self) -> dict[str, typing.Any]:
        """Give what crosses the wire.

        The signature's key is ``secret`` since that is a word for which
        oslo.utils masks the value when somebody logs the step.
        """
        return dataclasses.asdict(self) | {
            'permissions': [dataclasses.asdict(permission)
                            for permission in self.permissions]}

    @classmethod
    def take(cls, value: typing.Any) -> 'Grant':
        """Read a grant from a dict, and empty the dict.

        The agent echoes the step it was given in its results; so the
        secrets are taken out of it, whether they turn out valid or not.

        :raises InvalidValue: it is no grant; the error shows no secret.
        :raises UnsupportedVersion: the conductor is newer.
        """
        copy = _empty(value)
        if not isinstance(copy, dict):
            raise _invalid('it is no dict')
        if copy.get('version') != VERSION:
            raise errors.UnsupportedVersion(
                'The grant', _number(copy.get('version')), VERSION)
        fields = {field.name for field in dataclasses.fields(cls)}
        if set(copy) != fields:
            raise _invalid('it has not exactly the fields it should have')
        algorithm = copy['algorithm']
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _invalid('its algorithm is unknown')
        if type(copy['expires']) is not int or copy['expires'] <= 0:
            raise _invalid('its expiry is no moment')
        permissions = copy['permissions']
        if (not isinstance(permissions, list)
                or not 1 <= len(permissions) <= MAX_PERMISSIONS):
            raise _invalid('its permissions are no list, or too many')
        return cls(validate_container_url(copy['container_url']),
                   copy['expires'],
                   tuple(_take_permission(each, algorithm)
                         for each in permissions),
                   algorithm)


def mint(container_url: str, key: str, expires: int,
         permissions: typing.Iterable[tuple[str, str]],
         algorithm: str = DEFAULT_ALGORITHM) -> Grant:
    """Make a grant.

    :param key: the container's, or the account's, temporary URL key.
    :param expires: seconds since the epoch.
    :param permissions: pairs of method and prefix; prefixes end with a
        slash.
    :raises InvalidValue: the URL or a method is none.
    :raises InvalidName: a prefix is none.
    """
    path = urllib.parse.urlsplit(validate_container_url(container_url)).path
    signed = []
    for method, prefix in permissions:
        if method not in METHODS:
            raise errors.InvalidValue(
                'method', method, f'only {", ".join(METHODS)} can be granted')
        layout.validate_prefix(prefix)
        signed.append(Permission(
            method, prefix,
            sign(key, method, path, expires, prefix, algorithm)))
    return Grant(container_url, expires, tuple(signed), algorithm)


def sign(key: str, method: str, path: str, expires: int, prefix: str,
         algorithm: str = DEFAULT_ALGORITHM) -> str:
    """Sign a prefix the way Swift's tempurl middleware does.

    :param path: of the container in the URL, for example ``/v1/AUTH_a/c``.
    """
    return sign_object(
        key, method, f'prefix:{path}/{prefix}', expires, algorithm)


def sign_object(key: str, method: str, path: str, expires: int,
                algorithm: str = DEFAULT_ALGORITHM) -> str:
    """Sign one object the way Swift's tempurl middleware does.

    :param path: of the object in the URL, for example ``/v1/AUTH_a/c/o``.
    """
    return hmac.new(key.encode(), f'{method}\n{expires}\n{path}'.encode(),
                    algorithm).hexdigest()


def validate_container_url(url: typing.Any) -> str:
    """Return the URL if it is one of a container and of nothing more.

    :raises InvalidValue: it is not; the error does not show it, as it may
        hold a password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        good = (isinstance(url, str)
                and url.isascii() and url.isprintable() and ' ' not in url
                and parts.scheme in ('http', 'https')
                and bool(parts.hostname)
                and parts.port != 0
                and '@' not in parts.netloc
                and '?' not in url and '#' not in url
                and '//' not in parts.path
                and not parts.path.endswith('/')
                and parts.path.count('/') >= 3
                and not {'.', '..'} & set(parts.path.split('/')))
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise errors.InvalidValue(
            'container URL', '(not shown)',
            'it is not scheme://host/v1/account/container')
    return typing.cast(str, url)


# Private

def _empty(value: typing.Any) -> typing.Any:
    """Empty dicts and lists, however nested, and give their copy."""
    if isinstance(value, dict):
        copy: typing.Any = {key: _empty(each) for key, each in value.items()}
        value.clear()
        return copy
    if isinstance(value, list):
        copy = [_empty(each) for each in value]
        value.clear()
        return copy
    return value


def _take_permission(value: typing.Any, algorithm: str) -> Permission:
    if (not isinstance(value, dict)
            or set(value) != {'method', 'prefix', 'secret'}
            or not all(isinstance(each, str) for each in value.values())):
        raise _invalid('one of its permissions has not exactly a method, a '
                       'prefix and a secret')
    if value['method'] not in METHODS:
        raise _invalid('it grants an unknown method')
    secret = value['secret']
    if len(secret) != ALGORITHMS[algorithm] or not _HEX.fullmatch(secret):
        raise _invalid('one of its secrets is no signature')
    try:
        layout.validate_prefix(value['prefix'])
    except errors.InvalidName as e:
        raise _invalid(f'one of its prefixes is invalid: {e.reason}') from None
    return Permission(value['method'], value['prefix'], secret)


def _invalid(reason: str) -> errors.InvalidValue:
    return errors.InvalidValue('grant', '(not shown)', reason)


def _number(value: object) -> object:
    """Show a version only if it is one; anything else may be a secret."""
    return value if type(value) is int else 'none'
