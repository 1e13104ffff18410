# SPDX-License-Identifier: Apache-2.0
"""The data of one image to Glance, in one request.

Glance's API is that of ``PUT /v2/images/{image_id}/file``. The size goes along
in a header of its own: to a Glance that knows it a quota or a limit speaks
before the first byte, and an image that ends early is none.

Nothing of what libraries say about a failure is passed on as it is.
"""

import http.cookiejar
from collections.abc import Callable
from collections.abc import Iterator
from types import TracebackType

import requests

from ironic_snapshot_core import errors
from ironic_snapshot_core import redact
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.store import swift_http
from ironic_snapshot_core.units import KiB

#: Seconds for a piece to be taken, and for Glance to finish when it has all:
#: its store may still be at work then.
TIMEOUT_S = (120.0, 900.0)

# Waiting between smaller pieces keeps a limited rate even.
SEND_SIZE = 256 * KiB

_SIZE_HEADER = 'x-openstack-image-size'
_OPERATION = 'upload'
# What Glance refuses before it looks at the image, but after the token.
_NO_DATA = 'text/plain'
_UNSUPPORTED = 415
_STORED = 204

_MEANING: dict[int, tuple[type[errors.ImageError], str]] = {
    401: (errors.ImageRefused, 'the credential was not accepted'),
    403: (errors.ImageRefused, 'the credential is not enough for it'),
    404: (errors.ImageMissing, 'it does not exist'),
    409: (errors.ImageUnsuitable, 'it has data, or is getting them'),
    410: (errors.ImageMissing, 'it was deleted meanwhile'),
    413: (errors.ImageTooLarge, 'there is no room for it'),
    429: (errors.GlanceUnavailable, 'Glance is busy'),
}


def unlimited(size: int) -> None:
    """Let it pass."""


class Upload:
    """One image's data on their way.

    :param auth: of the image.
    :param verify: False, True, or a file with CA certificates.
    :param pace: called with the size of each piece before it is sent.
    :param timeout: seconds for each piece, seconds for the answer.
    """

    def __init__(
        self,
        auth: upload_grant.UploadAuth,
        verify: bool | str = True,
        pace: Callable[[int], None] = unlimited,
        timeout: tuple[float, float] = TIMEOUT_S,
    ) -> None:
        self._auth = auth
        self._pace = pace
        self._timeout = timeout
        self._all_sent = False
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = verify
        self._session.cookies.set_policy(
            http.cookiejar.DefaultCookiePolicy(allowed_domains=[])
        )
        redact.install()

    def __enter__(self) -> 'Upload':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    def check(self) -> None:
        """Find out whether Glance lets us in, before anything is sent.

        A server that refuses a long request may break off the connection
        before it says why.

        :raises ImageError: it does not.
        """
        status = self._put(b'', {'Content-Type': _NO_DATA})
        if status != _UNSUPPORTED:
            raise self._error(status)

    def send(
        self,
        pieces: Iterator[bytes],
        size: int,
    ) -> None:
        """Send all of it; what raises on the way leaves the image queued.

        :param pieces: read once; what they raise is raised.
        :param size: of all together, in bytes.
        :raises ImageError: Glance did not take it.
        """
        status = self._put(
            # requests sends what has no length in chunks.
            self._paced(pieces),
            {
                'Content-Type': 'application/octet-stream',
                _SIZE_HEADER: str(size),
            },
        )
        if status != _STORED:
            raise self._error(status)
        # A server may answer early, and is heard then.
        if not self._all_sent:
            raise errors.GlanceUnavailable(
                _OPERATION,
                self._image,
                'the answer came before the end',
                status,
            )

    # Private

    def _paced(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        self._all_sent = False
        for piece in pieces:
            for start in range(0, len(piece), SEND_SIZE):
                part = piece[start : start + SEND_SIZE]
                self._pace(len(part))
                yield part
        self._all_sent = True

    def _put(
        self,
        data: bytes | Iterator[bytes],
        headers: dict[str, str],
    ) -> int:
        """Put something; give the status of the answer."""
        try:
            with self._session.put(
                self._auth.grant.url,
                data=data,
                headers=headers,
                auth=self._auth,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code
        except swift_http.FAILURES as caught:
            failure = swift_http.store_error(
                swift_http.Request(_OPERATION, self._image, 'PUT', ()),
                caught,
                0,
                None,
            )
        # Not in the except clause: the library's error would come along as
        # the context of ours.
        raise errors.GlanceUnavailable(
            _OPERATION, self._image, failure.reason
        )

    @property
    def _image(self) -> str:
        return self._auth.grant.image

    def _error(self, status: int) -> errors.ImageError:
        cls, reason = _MEANING.get(
            status,
            (errors.GlanceUnavailable, 'Glance cannot do it now')
            if status >= 500
            else (errors.ImageError, 'Glance does not take it'),
        )
        return cls(_OPERATION, self._image, reason, status)
