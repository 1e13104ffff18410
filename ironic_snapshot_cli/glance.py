# SPDX-License-Identifier: Apache-2.0
"""Glance, with the user's own credentials: what publishing asks of it.

An image is the flat JSON object of Glance's API, in which attributes and
properties are side by side.
"""

import contextlib
import typing
from collections.abc import Callable
from collections.abc import Iterator

from ironic_snapshot_core import errors
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.units import KiB
from ironic_snapshot_core.units import MiB
from ironic_snapshot_cli import cloud

#: What Glance calls an image that has no data yet, ...
QUEUED = 'queued'
#: ... whose data is on its way, ...
SAVING = 'saving'
#: ... and that can be used.
ACTIVE = 'active'

Image: typing.TypeAlias = dict[str, typing.Any]

# Seconds to connect, and to wait for an answer.
_TIMEOUT_S = (30, 600)
# Seconds that Glance may take no data, and may take to store what is there:
# it, and a proxy before it, may keep much of an image back.
_UPLOAD_TIMEOUT_S = (300, 3600)
# A body is sent in pieces of this size; see store.swift_http.
_SEND_SIZE = 64 * KiB
# About 7 s in all.
_POLICY = retry.RetryPolicy(tries=5)
# More of what Glance says is not passed on.
_MOST_WORDS = 300

_MEANING: dict[int, type[errors.ImageError]] = {
    401: errors.ImageRefused,
    403: errors.ImageRefused,
    404: errors.ImageMissing,
    410: errors.ImageMissing,
    413: errors.ImageTooLarge,
    **dict.fromkeys(
        (408, 429, 500, 502, 503, 504), errors.GlanceUnavailable
    ),
}


class Body:
    """What is sent, in order and once.

    :ivar len: bytes in all, by which requests knows how much to announce.
    :param done: told of each piece before it is sent.
    """

    def __init__(
        self, pieces: Iterator[bytes], size: int, done: Callable[[int], None]
    ) -> None:
        self._pieces = pieces
        self._done = done
        self.len = size

    def __iter__(self) -> Iterator[memoryview]:
        for piece in self._pieces:
            view = memoryview(piece)
            for start in range(0, len(view), _SEND_SIZE):
                part = view[start : start + _SEND_SIZE]
                self._done(len(part))
                yield part


class Glance:
    """The images of a cloud.

    :param proxy: openstacksdk's, for Glance's API version 2.
    """

    def __init__(self, proxy: typing.Any) -> None:
        self._proxy = proxy

    def check_room(self, name: str, size: int) -> None:
        """See whether there is a quota that an image would exceed.

        Not all there is can be known beforehand: the rest is said by
        :meth:`upload`.

        :raises ImageTooLarge: it would.
        """
        try:
            answer = self._ask(
                'publish',
                name,
                lambda: self._proxy.get('/info/usage', timeout=_TIMEOUT_S),
            )
        except errors.ImageMissing:
            return  # Before Xena it was not told.
        usage = answer.get('usage', {})
        for what, needed in (
            # In MiB, and as Glance itself rounds it.
            ('image_size_total', size // MiB),
            ('image_count_total', 1),
            ('image_count_uploading', 1),
        ):
            used, limit = _figures(usage.get(what))
            if 0 <= limit < used + needed:
                raise errors.ImageTooLarge(
                    'publish',
                    name,
                    f'the quota {what} is {limit}, of which {used} is used '
                    f'and {needed} more would be needed',
                )

    def create(self, id: str, image: Image) -> Image:
        """Create an image that has no data yet.

        :param id: UUID that it is to have, chosen by us so that it can be
            deleted even if we never see an answer.
        """
        return self._ask_once(
            'create',
            id,
            lambda: self._proxy.post(
                '/images', json={'id': id, **image}, timeout=_TIMEOUT_S
            ),
        )

    def show(self, id: str) -> Image:
        """Tell what Glance knows of an image."""
        return self._ask(
            'show',
            id,
            lambda: self._proxy.get(_path(id), timeout=_TIMEOUT_S),
        )

    def change(
        self, id: str, operations: list[dict[str, typing.Any]]
    ) -> None:
        """Change an image.

        :param operations: a JSON patch.
        """
        if operations:
            self._ask(
                'change',
                id,
                lambda: self._proxy.patch(
                    _path(id),
                    json=operations,
                    headers={
                        'Content-Type': 'application/'
                        'openstack-images-v2.1-json-patch'
                    },
                    timeout=_TIMEOUT_S,
                ),
            )

    def upload(self, id: str, body: Body) -> None:
        """Send the data of an image, after which it is active.

        Nothing is sent twice: there is only one pass.

        :raises Exception: also what getting the next piece raises.
        """
        self._ask_once(
            'upload',
            id,
            lambda: self._proxy.put(
                f'{_path(id)}/file',
                data=body,
                headers={
                    'Content-Type': 'application/octet-stream',
                    # A proxy on the way may send no Content-Length on.
                    'x-openstack-image-size': str(body.len),
                },
                timeout=_UPLOAD_TIMEOUT_S,
                allow_reauth=False,
                redirect=False,
            ),
        )

    def deactivate(self, id: str) -> None:
        """See that nobody can use the data of an image."""
        self._ask(
            'deactivate',
            id,
            lambda: self._proxy.post(
                f'{_path(id)}/actions/deactivate', timeout=_TIMEOUT_S
            ),
        )

    def delete(self, id: str) -> None:
        """Delete an image; it does no harm if there is none."""
        with contextlib.suppress(errors.ImageMissing):
            self._ask(
                'delete',
                id,
                lambda: self._proxy.delete(_path(id), timeout=_TIMEOUT_S),
            )

    # Private

    def _ask(
        self, operation: str, id: str, ask: Callable[[], typing.Any]
    ) -> Image:
        """Ask for something that does no harm if it is done twice.

        What took hours is not given up because Glance is not there for a
        few seconds.

        :returns: the JSON object that is the answer.
        :raises ImageError: there is no answer, or it says no.
        """
        return retry.retry(
            lambda: self._ask_once(operation, id, ask), _POLICY
        )

    def _ask_once(
        self, operation: str, id: str, ask: Callable[[], typing.Any]
    ) -> Image:
        """Ask for something; see :meth:`_ask`."""
        from keystoneauth1 import exceptions

        try:
            answer = ask()
        except (
            exceptions.ConnectionError,
            exceptions.DiscoveryFailure,
        ) as error:
            raise errors.GlanceUnavailable(
                operation, id, cloud.describe(error)
            ) from None
        except exceptions.ClientException as error:
            # Of Keystone, for want of a token.
            raise errors.ImageRefused(
                operation, id, cloud.describe(error)
            ) from None
        if answer.status_code >= 300:
            raise _error(operation, id, answer)
        try:
            return typing.cast(Image, answer.json()) if answer.content else {}
        except ValueError:
            raise errors.GlanceUnavailable(
                operation, id, 'the answer is not one of Glance'
            ) from None


def open_glance() -> Glance:
    """Log in to the cloud that is configured.

    :raises CredentialsMissing: we cannot, or it has no Glance.
    """
    with cloud.logging_in('Glance'):
        from openstack import connection

        # Asks for a token, and for the versions of the API.
        proxy = connection.Connection(config=cloud.configured()).image
        # Here alone is decided what is tried again.
        proxy.connect_retries = proxy.status_code_retries = 0
        if proxy.get_endpoint() is None:
            raise errors.CredentialsMissing(
                'the cloud has no image service', 'Glance'
            )
        return Glance(proxy)


# Private


def _path(id: str) -> str:
    return f'/images/{id}'


def _figures(usage: typing.Any) -> tuple[int, int]:
    """Give what is used of a quota, and the quota; -1 for none."""
    if not usage:
        return 0, -1
    return usage['usage'], usage['limit']


def _error(
    operation: str, id: str, answer: typing.Any
) -> errors.ImageError:
    """Make an error of an answer that says no."""
    from openstack import exceptions

    status = answer.status_code
    words = ''
    try:
        exceptions.raise_from_response(answer)
    except exceptions.HttpException as error:
        # Glance begins with its title.
        words = (error.details or '').removeprefix(
            f'{status} {answer.reason}: '
        )
    reason = cloud.clause(words[:_MOST_WORDS]) or 'Glance did not do it'
    cls = _MEANING.get(status, errors.ImageError)
    return cls(operation, id, reason, status)
