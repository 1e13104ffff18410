# SPDX-License-Identifier: Apache-2.0
"""A store in a Swift container.

An image is a static large object: an SLO manifest that names its segments.
Swift allows 1000 of them in one; a larger image is made of others, which are
named ``<image>.segments/000001`` and so on.
"""

import contextlib
import json
import typing

import requests.auth

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import swift_http
from ironic_snapshot_core.store.swift_http import Request
from ironic_snapshot_core.units import MiB

#: What every Swift allows in one SLO manifest.
MAX_SEGMENTS = 1000

SUB_MANIFESTS = '.segments/'

#: What one page of a listing, or the answer to an SLO manifest, may take.
MAX_ANSWER = 32 * MiB
PAGE = 1000


class SwiftStore(base.Store):
    """Objects in a Swift container.

    :param container_url: scheme://host/v1/account/container
    :param auth: TokenAuth, or GrantAuth, with which what was not granted is
        NotSupported, as are listing, joining and deleting.
    :param verify: False, True, or a file with CA certificates.
    :param timeout: seconds to connect, seconds without any byte.
    :param pool_size: number of threads that use it at a time.
    :param clock: for telling an expired grant from another.
    :param pace: called with the size of each piece before it is sent, to
        wait; such as :meth:`limit.RateLimit.take`.
    :param receive_pace: likewise, after it was received.
    """

    def __init__(self, container_url: str, auth: requests.auth.AuthBase,
                 verify: bool | str = True,
                 timeout: tuple[float, float] = swift_http.TIMEOUT_S,
                 pool_size: int = swift_http.POOL_SIZE,
                 clock: clocks.Clock | None = None,
                 pace: typing.Callable[[int], None] | None = None,
                 receive_pace: typing.Callable[[int], None] | None = None
                 ) -> None:
        self._container = swift_http.Container(
            container_url, auth, verify, timeout, pool_size,
            clock or clocks.SystemClock(), pace, receive_pace)

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        layout.validate_name(name)
        etag = base.md5(data)
        with self._container.send(Request(
                'put', name, 'PUT', (201,), data=data, headers={
                    'ETag': etag,
                    'Content-Type': 'application/octet-stream',
                })) as answer:
            if _etag(answer) != etag:
                raise errors.ObjectMismatch(
                    'put', name, 'the store confirmed another etag', 201)
        return base.ObjectInfo(name, len(data), etag)

    def get(self, name: str, limit: int) -> bytes:
        with self._open('get', name) as (answer, info):
            base.refuse_large(name, info.size, limit)
            data = answer.read(info.size)
            _check_end('get', info, len(data),
                       base.md5(data) if info.kind == base.PLAIN else None)
            return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        base.validate_range(offset, length)
        last = offset + length - 1
        with self._open('get_range', name,
                        f'bytes={offset}-{last}') as (answer, info):
            found = answer.headers.get('Content-Range', '')
            if (not found.startswith(f'bytes {offset}-{last}/')
                    or info.size != length):
                raise errors.ObjectMismatch(
                    'get_range', name,
                    f'bytes {offset}-{last} were asked for, others came',
                    answer.status)
            data = answer.read(length)
            _check_end('get_range', info, len(data), None)
            return data

    def iter_bytes(self, name: str, chunk_size: int = base.CHUNK_SIZE
                   ) -> typing.Iterator[bytes]:
        md5 = self.new_hash()
        done = 0
        with self._open('iter_bytes', name) as (answer, info):
            while done < info.size:
                chunk = answer.read(min(chunk_size, info.size - done))
                if not chunk:
                    break
                done += len(chunk)
                if done < info.size:
                    md5.update(chunk)
                    yield chunk
                    continue
                # The last piece is held back until all is verified.
                md5.update(chunk)
                _check_end(
                    'iter_bytes', info, done,
                    md5.hexdigest() if info.kind == base.PLAIN else None)
                yield chunk
            _check_end('iter_bytes', info, done, None)

    def stat(self, name: str) -> base.ObjectInfo:
        layout.validate_name(name)
        with self._container.send(
                Request('stat', name, 'HEAD', (200, 204))) as answer:
            return _info('stat', name, answer)

    def list(self, prefix: str) -> typing.Iterator[base.ObjectInfo]:
        base.validate_beginning(prefix)
        self._container.require_token('list', prefix)
        marker = ''
        # Until a page is empty: a store may give fewer than asked for.
        while page := self._page(prefix, marker):
            for info in page:
                if info.name <= marker:
                    raise errors.StoreUnavailable(
                        'list', prefix, 'the listing is out of order')
                marker = info.name
                if layout.is_name(info.name):
                    yield info

    def delete(self, name: str) -> None:
        layout.validate_name(name)
        self._container.require_token('delete', name)
        try:
            leftover = self.stat(name).kind == base.IMAGE
        except errors.ObjectMissing:
            # Perhaps from a deletion that was cut short.
            leftover = True
        self._delete(name)
        if leftover:
            for info in self.list(name + SUB_MANIFESTS):
                self._delete(info.name)

    def join(self, name: str, segments: typing.Sequence[base.Segment]
             ) -> base.ObjectInfo:
        info = base.image_info(name, segments)
        self._container.require_token('join', name)
        if len(segments) > MAX_SEGMENTS ** 2:
            raise errors.InvalidValue(
                'segments', len(segments), 'there are too many')
        if len(segments) > MAX_SEGMENTS:
            groups = [segments[start:start + MAX_SEGMENTS]
                      for start in range(0, len(segments), MAX_SEGMENTS)]
            segments = [self._join_group(name, number, group)
                        for number, group in enumerate(groups, 1)]
        joined = self._put_manifest(name, segments)
        return base.ObjectInfo(name, info.size, joined.etag, base.IMAGE)

    def close(self) -> None:
        self._container.close()

    # Private

    @contextlib.contextmanager
    def _open(self, operation: str, name: str, range_: str | None = None
              ) -> typing.Iterator[
                  tuple[swift_http.Answer, base.ObjectInfo]]:
        layout.validate_name(name)
        headers = {'Range': range_} if range_ else {}
        with self._container.send(Request(
                operation, name, 'GET', (206,) if range_ else (200,),
                headers=headers)) as answer:
            yield answer, _info(operation, name, answer)

    def _page(self, prefix: str, marker: str
              ) -> typing.Sequence[base.ObjectInfo]:
        with self._container.send(Request(
                'list', '', 'GET', (200, 204), params={
                    'format': 'json', 'prefix': prefix, 'marker': marker,
                    'limit': str(PAGE),
                })) as answer:
            if answer.status == 204:
                return []
            try:
                found = json.loads(answer.read(MAX_ANSWER))
                if isinstance(found, list):
                    return [_listed(entry) for entry in found]
            except (ValueError, TypeError, KeyError, AttributeError):
                pass
        raise errors.StoreUnavailable(
            'list', prefix, 'the answer is no listing')

    def _delete(self, name: str) -> None:
        with self._container.send(
                Request('delete', name, 'DELETE', (200, 204, 404))):
            pass

    def _join_group(self, name: str, number: int,
                    segments: typing.Sequence[base.Segment]
                    ) -> base.Segment:
        info = self._put_manifest(
            f'{name}{SUB_MANIFESTS}{number:06d}', segments)
        return base.Segment(info.name, info.size, info.etag)

    def _put_manifest(self, name: str,
                      segments: typing.Sequence[base.Segment]
                      ) -> base.ObjectInfo:
        return put_slo_manifest(
            self._container, name, segments, self._container.name)


def put_slo_manifest(container: swift_http.Container, name: str,
                     segments: typing.Sequence[base.Segment],
                     source: str) -> base.ObjectInfo:
    """Write an SLO manifest, at most :data:`MAX_SEGMENTS` in it.

    :param source: name of the container that the segments are in.
    :raises ObjectMissing: a segment is missing.
    :raises ObjectMismatch: a segment is another.
    """
    info = base.image_info(name, segments)
    manifest = json.dumps([
        {'path': f'/{source}/{segment.name}',
         'etag': segment.etag, 'size_bytes': segment.size}
        | ({} if segment.whole else {'range': segment.range})
        for segment in segments])
    # With many segments the answer takes long. The heartbeat keeps the
    # connection alive; the true status is then in the body.
    with container.send(Request(
            'join', name, 'PUT', (201, 202, 400),
            params={'multipart-manifest': 'put', 'heartbeat': 'on'},
            headers={'Accept': 'application/json'},
            data=manifest.encode())) as answer:
        status = answer.status
        etag = _etag(answer)
        body = answer.read(MAX_ANSWER)
    if status != 201:
        etag = _check_joined(name, source, status, body)
    if etag != info.etag:
        raise errors.ObjectMismatch(
            'join', name, 'the store confirmed another etag', status)
    return info


# Private

def _check_joined(name: str, container: str, status: int,
                  body: bytes) -> str:
    """Give the etag from the answer to an SLO manifest.

    :raises StoreError: the answer tells of errors.
    """
    try:
        answer = json.loads(body)
        status = int(str(answer.get('Response Status', status))[:3])
        failed = [(str(path), str(why)) for path, why in answer['Errors']]
        etag = str(answer.get('Etag', '')).strip('"')
    except (ValueError, TypeError, KeyError, AttributeError):
        if status == 400:
            raise errors.StoreError(
                'join', name, 'the request was not accepted', 400) from None
        raise errors.StoreUnavailable(
            'join', name, 'the answer ended early', status) from None
    for path, why in failed:
        segment = path.removeprefix(f'/{container}/')
        segment = segment if layout.is_name(segment) else name
        if why.startswith('404'):
            raise errors.ObjectMissing(
                'join', segment, 'a segment does not exist', status)
        if why in ('Etag Mismatch', 'Size Mismatch'):
            raise errors.ObjectMismatch(
                'join', segment, 'a segment has another etag or size',
                status)
    if status == 201 and not failed:
        return etag
    cls = (errors.StoreUnavailable if status in swift_http.TRY_AGAIN
           else errors.StoreError)
    raise cls('join', name, 'the store could not make the image', status)


def _info(operation: str, name: str, answer: swift_http.Answer
          ) -> base.ObjectInfo:
    """Tell from an answer's headers what the object is.

    :raises StoreUnavailable: no Swift would answer so.
    """
    headers = answer.headers
    size = headers.get('Content-Length', '')
    etag = _etag(answer)
    if (not size.isdigit() or not etag
            or headers.get('Content-Encoding', 'identity') != 'identity'
            or 'Transfer-Encoding' in headers):
        raise errors.StoreUnavailable(
            operation, name, 'the answer is not one of Swift',
            answer.status)
    kind = base.PLAIN
    if 'X-Object-Manifest' in headers or 'Content-Location' in headers:
        kind = base.OTHER
    elif headers.get('X-Static-Large-Object', '').lower() == 'true':
        kind = base.IMAGE
    return base.ObjectInfo(
        name, int(size), etag, kind, 'X-Delete-At' in headers)


def _listed(entry: dict[str, typing.Any]) -> base.ObjectInfo:
    kind, etag = base.PLAIN, entry['hash']
    if 'slo_etag' in entry:
        kind, etag = base.IMAGE, entry['slo_etag'].strip('"')
    elif 'symlink_path' in entry:
        kind = base.OTHER
    return base.ObjectInfo(
        str(entry['name']), int(entry['bytes']), str(etag), kind)


def _etag(answer: swift_http.Answer) -> str:
    return answer.headers.get('Etag', '').strip('"')


def _check_end(operation: str, info: base.ObjectInfo, length: int,
               etag: str | None) -> None:
    """Check what was read.

    Libraries give fewer bytes than announced without a word.

    :param etag: of what was read, None if it cannot be compared.
    """
    if length != info.size:
        raise errors.StoreUnavailable(
            operation, info.name,
            f'the answer ended after {length} of {info.size} bytes')
    if etag is not None and etag != info.etag:
        raise errors.ObjectMismatch(
            operation, info.name,
            'the bytes that arrived are not those that were stored')
