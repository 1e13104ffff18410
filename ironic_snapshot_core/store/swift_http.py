# SPDX-License-Identifier: Apache-2.0
"""HTTP to a Swift container: one request at a time, errors translated.

Nothing of what requests and urllib3 say about a failure is passed on as it
is: they put the whole URL into it, signature included.
"""

import contextlib
import dataclasses
import email.utils
import http.cookiejar
import socket
import typing

import requests
import requests.adapters
import requests.auth
import urllib3.exceptions

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import redact
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import KiB

#: Seconds to connect, and to wait for the next bytes of an answer.
TIMEOUT_S = (10.0, 60.0)

#: Connections kept for as many threads.
POOL_SIZE = 8

#: A body is sent in pieces of this size. Python allows each piece the time
#: for connecting, so this sets the slowest rate at which a request is not
#: yet given up: 6.4 KiB/s.
SEND_SIZE = 64 * KiB

#: When somebody waits between the pieces of an answer: small enough that the
#: store does not take the silence for the end, large enough to cost little.
RECEIVE_SIZE = 256 * KiB

#: A clock may be off by so many seconds before we blame it.
SKEW_S = 60.0

#: It may work later. 498 is Swift's rate limit, 499 a client that was gone,
#: 409 a write that came after a newer one.
TRY_AGAIN = frozenset((408, 409, 429, 498, 499, 500, 502, 503, 504))

_MEANING: typing.Mapping[int, tuple[type[errors.StoreError], str]] = {
    401: (errors.AccessDenied, 'access was denied'),
    403: (errors.AccessDenied, 'access was denied'),
    413: (errors.StoreFull, 'there is no room for it'),
    416: (errors.ObjectMismatch, 'it has no such range'),
    422: (errors.ObjectMismatch,
          'the bytes that arrived are not those that were sent'),
    507: (errors.StoreFull, 'there is no room for it'),
} | {status: (errors.StoreUnavailable, 'the store cannot do it now')
     for status in TRY_AGAIN}

#: What requests, urllib3 and the system raise.
FAILURES = (requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError, OSError)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is asked of Swift, in the words of whoever asked.

    :param operation: the store's method, for errors.
    :param name: of the object; empty for the container.
    :param expected: HTTP statuses that mean success.
    """

    operation: str
    name: str
    method: str
    expected: typing.Collection[int]
    params: typing.Mapping[str, str] = dataclasses.field(
        default_factory=dict)
    headers: typing.Mapping[str, str] = dataclasses.field(
        default_factory=dict)
    data: base.Data = b''


class Body:
    """Bytes that requests sends piece by piece, and again if need be.

    :param pace: called with the size of each piece before it is sent.
    """

    def __init__(self, data: base.Data,
                 pace: typing.Callable[[int], None] | None = None) -> None:
        self._data = data
        self._pace = pace

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> typing.Iterator[memoryview]:
        for part in buffers.parts(self._data):
            view = memoryview(part)
            for start in range(0, len(view), SEND_SIZE):
                piece = view[start:start + SEND_SIZE]
                if self._pace is not None:
                    self._pace(len(piece))
                yield piece


class Container:
    """A container's URL, and connections to it; for any thread.

    Neither proxies nor CA certificates are taken from the environment, and
    redirects are not followed: an answer comes from the configured host.

    :param verify: False, True, or a file with CA certificates.
    :param timeout: seconds to connect, seconds without any byte.
    :param pace: called with the size of each piece before it is sent.
    :param receive_pace: likewise, after it was received.
    """

    def __init__(self, url: str, auth: requests.auth.AuthBase,
                 verify: bool | str, timeout: tuple[float, float],
                 pool_size: int, clock: clocks.Clock,
                 pace: typing.Callable[[int], None] | None = None,
                 receive_pace: typing.Callable[[int], None] | None = None
                 ) -> None:
        self.url = grants.validate_container_url(url)
        self.name = self.url.rpartition('/')[2]
        self._auth = auth
        self._timeout = timeout
        self._clock = clock
        self._pace = pace
        self.receive_pace = receive_pace
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = verify
        self._session.headers['Accept-Encoding'] = 'identity'
        self._session.cookies.set_policy(
            http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = requests.adapters.HTTPAdapter(
            pool_connections=1, pool_maxsize=pool_size, max_retries=0)
        self._session.mount('http://', adapter)
        self._session.mount('https://', adapter)
        redact.install()

    @contextlib.contextmanager
    def send(self, request: Request) -> typing.Iterator['Answer']:
        """Send a request; the body of the answer is not read yet.

        :raises StoreError: there is no answer, or not one that is expected.
        """
        with contextlib.closing(self._send(request)) as answer:
            if answer.status not in request.expected:
                error = self.error(request, answer)
                # Short; read so that the connection can be used again.
                with contextlib.suppress(errors.StoreError):
                    answer.read(64 * KiB)
                raise error
            yield answer

    def require_token(self, operation: str, name: str) -> None:
        """Refuse what no grant can allow, before anything is sent.

        :raises NotSupported: there is only a grant.
        """
        if hasattr(self._auth, 'grant'):
            raise errors.NotSupported(
                operation, name or 'the container',
                'a grant is not enough for this')

    def error(self, request: Request, outcome: 'Answer | Exception'
              ) -> errors.StoreError:
        """Translate an outcome; see :func:`store_error`."""
        grant = getattr(self._auth, 'grant', None)
        return store_error(request, outcome, self._clock.time(),
                           grant.expires if grant is not None else None)

    def close(self) -> None:
        self._session.close()

    # Private

    def _send(self, request: Request) -> 'Answer':
        url = f'{self.url}/{request.name}' if request.name else self.url
        data: typing.Any = (
            Body(request.data, self._pace) if len(request.data) else None)
        try:
            return Answer(self, request, self._session.request(
                request.method, url, params=dict(request.params),
                headers=dict(request.headers), data=data, auth=self._auth,
                timeout=self._timeout, stream=True, allow_redirects=False))
        except FAILURES as e:
            error = self.error(request, e)
        # Not in the except clause: the library's error would come along as
        # the context of ours, and it shows the URL.
        raise error


class Answer:
    """What the store answered; its body is read piece by piece."""

    def __init__(self, container: Container, request: Request,
                 response: requests.Response) -> None:
        self._container = container
        self._request = request
        self._response = response
        self.status = response.status_code
        self.headers = response.headers

    def read(self, length: int) -> bytes:
        """Read so many bytes, or fewer if there are no more.

        :raises StoreUnavailable: reading failed.
        """
        pace = self._container.receive_pace
        found = []
        while length and (chunk := self._read(
                min(length, RECEIVE_SIZE) if pace else length)):
            found.append(chunk)
            length -= len(chunk)
            if pace:
                pace(len(chunk))
        return found[0] if len(found) == 1 else b''.join(found)

    def close(self) -> None:
        self._response.close()

    # Private

    def _read(self, length: int) -> bytes:
        try:
            return typing.cast(bytes, self._response.raw.read(
                length, decode_content=False))
        except FAILURES as e:
            error = self._container.error(self._request, e)
        # As in Container._send().
        raise error


def store_error(request: Request, outcome: Answer | Exception,
                now: float, expires: int | None) -> errors.StoreError:
    """Translate whatever went wrong: the one place where this is done.

    :param now: seconds since the epoch, by our clock.
    :param expires: of the grant in use, None for a token.
    """
    if isinstance(outcome, Exception):
        return _transport_error(request, outcome)
    operation, name = request.operation, request.name or 'the container'
    status = outcome.status
    if status == 401 and expires is not None:
        return _refused_grant(request, outcome, now, expires)
    cls: type[errors.StoreError]
    if status == 404:
        gone = request.method in ('PUT', 'POST') or not request.name
        cls, reason = (
            (errors.ContainerMissing, 'the container does not exist') if gone
            else (errors.ObjectMissing, 'it does not exist'))
    elif status == 409 and request.method == 'GET':
        cls, reason = (errors.ObjectMismatch,
                       'one of its segments is missing or is another')
    elif status < 300:
        cls, reason = errors.StoreUnavailable, 'the answer is not one of Swift'
    elif status < 400:
        cls, reason = (errors.StoreUntrusted,
                       'the answer is a redirection to somewhere else')
    else:
        cls, reason = _MEANING.get(
            status, (errors.StoreError, 'the request was not accepted'))
    if cls is errors.StoreFull:
        reason += f', {len(request.data)} bytes'
    retry_after = parse_retry_after(outcome.headers.get('Retry-After'), now)
    return cls(operation, name, reason, status, retry_after)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Give the seconds to wait of a Retry-After header, if it has any."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    moment = _parse_date(value)
    return None if moment is None else max(0.0, moment - now)


# Private

def _refused_grant(request: Request, answer: Answer,
                   now: float, expires: int) -> errors.StoreError:
    """Tell why Swift refused a grant; it answers the same to all."""
    moment = _parse_date(answer.headers.get('Date'))
    theirs = now if moment is None else moment
    cls: type[errors.StoreError]
    if theirs < expires:
        cls, reason = errors.AccessDenied, 'the grant is not valid for it'
    elif now < expires and abs(theirs - now) > SKEW_S:
        cls, reason = errors.ClockSkew, (
            f"the store's clock, off from ours by {theirs - now:+.0f} s, "
            'says that the grant has expired')
    else:
        cls, reason = errors.GrantExpired, (
            f'the grant expired {theirs - expires:.0f} s ago')
    return cls(request.operation, request.name, reason, 401)


def _parse_date(value: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value or '').timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _transport_error(request: Request, e: Exception) -> errors.StoreError:
    operation, name = request.operation, request.name or 'the container'
    chain = list(_chain(e))
    if any(isinstance(each, (requests.exceptions.SSLError,
                             urllib3.exceptions.SSLError))
           for each in chain):
        return errors.StoreUntrusted(operation, name, 'TLS failed')
    reason = 'the connection failed'
    if any(isinstance(each, (requests.exceptions.Timeout,
                             urllib3.exceptions.TimeoutError, TimeoutError))
           for each in chain):
        reason = 'there was no answer in time'
    for each in chain:
        # The system's words, as against a library's, hold no URL.
        if isinstance(each, (ConnectionError, socket.gaierror)) \
                and type(each).__module__ in ('builtins', 'socket') \
                and isinstance(each.strerror, str):
            reason = f'the connection failed: {each.strerror}'
        elif isinstance(each, urllib3.exceptions.IncompleteRead):
            reason = 'the answer ended early'
    return errors.StoreUnavailable(operation, name, reason)


def _chain(e: BaseException | None) -> typing.Iterator[BaseException]:
    """Give an error and those it was made of."""
    seen: set[int] = set()
    todo: list[object] = [e]
    while todo:
        each = todo.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [*each.args, getattr(each, 'reason', None),
                 each.__cause__, each.__context__]
