# SPDX-License-Identifier: Apache-2.0
"""A reverse proxy that makes things go wrong on request.

It stands between a client and a real server, so that what is not broken on
purpose is real::

    with FaultyProxy(swift.url) as proxy:
        proxy.rule(method='PUT', match='pack-', status=503, times=2)

or, for other processes, with the rules in a JSON file that is read again at
each request::

    python -m tests.servers.faulty_http --listen 127.0.0.1:8081 \\
        --target http://127.0.0.1:8080 --control rules.json

    [{"method": "PUT", "match": "pack-000003", "cut": "after", "times": 1}]

Bodies are streamed in both directions.
"""

import argparse
import contextlib
import dataclasses
import http.client
import http.server
import json
import pathlib
import re
import socket
import sys
import threading
import time
import typing
import urllib.parse

CHUNK = 64 * 1024

#: Not passed on: they are about one connection.
HOP_BY_HOP = frozenset((
    'connection', 'keep-alive', 'proxy-connection', 'te', 'trailer',
    'transfer-encoding', 'upgrade', 'expect'))


@dataclasses.dataclass
class Rule:
    """What to do to which requests.

    :param method: of the request; None for any.
    :param match: regular expression searched in the path, without query.
    :param nth: the first matching request that is affected, from 1;
        those that another rule affects are counted as well.
    :param times: how many requests are affected; None for all.
    :param status: answer with this instead of asking the target.
    :param headers: set on the answer, whoever made it; None removes one.
    :param body: of an answer made here, or instead of the target's.
    :param early: answer before the request's body was read.
    :param cut: ``before`` closes the connection before the request's body
        was read; ``within`` when the target has got half of it; ``after``
        when the target has done it all, without a word.
    :param delay_s: wait first.
    :param truncate: pass on so many bytes of the answer's body, then close.
    :param flip: flip a bit of this byte of the answer's body.
    """

    method: str | None = None
    match: str = ''
    nth: int = 1
    times: int | None = 1
    status: int | None = None
    headers: dict[str, str | None] = dataclasses.field(default_factory=dict)
    body: str | None = None
    early: bool = False
    cut: str | None = None
    delay_s: float = 0.0
    truncate: int | None = None
    flip: int | None = None
    #: Matching requests so far.
    seen: int = 0

    def fires(self, method: str, path: str) -> bool:
        """Count a request; tell whether it is affected."""
        if self.method not in (None, method) or not re.search(
                self.match, path):
            return False
        self.seen += 1
        return (self.seen >= self.nth and (
            self.times is None or self.seen < self.nth + self.times))


class Entry(typing.NamedTuple):
    """A request that came by.

    :ivar path: without the query, which holds signatures.
    :ivar status: None if it got no answer.
    :ivar expires: of its temporary URL, if it has one: Unix time.
    """

    method: str
    path: str
    status: int | None
    expires: int | None = None


class FaultyProxy:
    """The proxy, on a thread of its own.

    :param target_url: scheme and host of the server behind.
    :param listen: host and port; 0 for a free one.
    :param control: a file with rules in JSON.
    """

    def __init__(self, target_url: str,
                 listen: tuple[str, int] = ('127.0.0.1', 0),
                 control: str | pathlib.Path | None = None) -> None:
        target = urllib.parse.urlsplit(target_url)
        assert target.scheme == 'http' and target.hostname
        self.target = target.hostname, target.port or 80
        self.log: list[Entry] = []
        self._rules: list[Rule] = []
        self._control = pathlib.Path(control) if control else None
        self._control_text = ''
        self._lock = threading.Lock()
        self._server = Server(listen, Handler)
        typing.cast(typing.Any, self._server).proxy = self
        host, port = self._server.server_address[:2]
        self.url = f'http://{host!s}:{port}'

    def start(self) -> 'FaultyProxy':
        threading.Thread(target=self._server.serve_forever, args=(0.01,),
                         daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> 'FaultyProxy':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def rule(self, **fields: typing.Any) -> Rule:
        """Add a rule; of several that fit, the first one counts."""
        rule = Rule(**fields)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules and the log."""
        with self._lock:
            self._rules.clear()
            self.log.clear()

    def find(self, method: str, path: str) -> Rule:
        """Give the rule for a request; one without effect if there is none.
        """
        with self._lock:
            self._read_control()
            firing = [rule for rule in self._rules
                      if rule.fires(method, path)]
        return firing[0] if firing else Rule()

    def note(self, entry: Entry) -> None:
        with self._lock:
            self.log.append(entry)

    def _read_control(self) -> None:
        """Read the rules again; if they are the same, go on counting."""
        if self._control is None:
            return
        try:
            text = self._control.read_text()
            if text != self._control_text:
                self._rules = [Rule(**each) for each in json.loads(text)]
                self._control_text = text
        except FileNotFoundError:
            self._rules, self._control_text = [], ''
        except (ValueError, TypeError) as e:
            # It is perhaps being written.
            print(f'rules not read: {e}', file=sys.stderr)


class Server(http.server.ThreadingHTTPServer):
    """Does not wait for its connections, nor complain about lost ones."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(
                typing.cast(typing.Any, request), client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = 'HTTP/1.1'

    def handle_request(self) -> None:
        proxy: FaultyProxy = typing.cast(typing.Any, self.server).proxy
        rule = proxy.find(self.command, self.path.partition('?')[0])
        self._noted = False
        try:
            if rule.delay_s:
                time.sleep(rule.delay_s)
            if rule.cut == 'before':
                self._cut()
            elif rule.status is not None:
                self._make_up(rule)
            else:
                self._forward(proxy, rule)
        except (OSError, http.client.HTTPException):
            # One of both sides is gone; so is the other then.
            self._cut()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = \
        do_COPY = do_OPTIONS = handle_request

    def log_message(self, *args: object) -> None:
        """Nothing: the request line holds signatures."""

    # Private

    def _note(self, status: int | None) -> None:
        """Log it before the client knows, who may look at once."""
        if not self._noted:
            self._noted = True
            proxy: FaultyProxy = typing.cast(typing.Any, self.server).proxy
            path, _, query = self.path.partition('?')
            expires = urllib.parse.parse_qs(query).get('temp_url_expires')
            proxy.note(Entry(self.command, path, status,
                             int(expires[0]) if expires else None))

    def _request_body(self) -> typing.Iterator[bytes]:
        left = int(self.headers.get('Content-Length') or 0)
        if 'Transfer-Encoding' in self.headers:
            while size := self._chunk_size():
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        while left:
            chunk = self.rfile.read(min(CHUNK, left))
            if not chunk:
                raise ConnectionError
            left -= len(chunk)
            yield chunk

    def _chunk_size(self) -> int:
        line = self.rfile.readline()
        if not line:
            raise ConnectionError
        return int(line.split(b';')[0], 16)

    def _make_up(self, rule: Rule) -> None:
        assert rule.status is not None
        if rule.early:
            self.close_connection = True
        else:
            for _ in self._request_body():
                pass
        body = (rule.body or '').encode()
        headers: dict[str, str | None] = {
            'Content-Type': 'text/html', 'Content-Length': str(len(body)),
            **rule.headers}
        self._head(rule.status, headers.items(), {})
        if self.command != 'HEAD':
            self.wfile.write(body)
        self.wfile.flush()
        if rule.early:
            self._linger()

    def _forward(self, proxy: FaultyProxy, rule: Rule) -> None:
        connection = http.client.HTTPConnection(*proxy.target, timeout=120)
        with contextlib.closing(connection):
            connection.putrequest(
                self.command, self.path, skip_host=True,
                skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            chunked = 'Transfer-Encoding' in self.headers
            if chunked:
                connection.putheader('Transfer-Encoding', 'chunked')
            connection.endheaders()
            half = int(self.headers.get('Content-Length') or 0) // 2
            for chunk in self._request_body():
                connection.send(
                    b'%x\r\n%b\r\n' % (len(chunk), chunk) if chunked
                    else chunk)
                half -= len(chunk)
                if rule.cut == 'within' and half <= 0:
                    self._cut()
                    return
            if chunked:
                connection.send(b'0\r\n\r\n')
            response = connection.getresponse()
            if rule.cut == 'after':
                response.read()
                self._cut()
            else:
                self._pass_on(response, rule)

    def _pass_on(self, response: http.client.HTTPResponse,
                 rule: Rule) -> None:
        headers = [(name, value) for name, value in response.getheaders()
                   if name.lower() not in HOP_BY_HOP]
        overriding = dict(rule.headers)
        if rule.body is not None:
            overriding['Content-Length'] = str(len(rule.body.encode()))
        has_body = (self.command != 'HEAD'
                    and response.status not in (204, 304))
        chunked = has_body and rule.body is None and not any(
            name.lower() == 'content-length' for name, _ in headers)
        if chunked:
            overriding['Transfer-Encoding'] = 'chunked'
        self._head(response.status, headers, overriding)
        if has_body:
            self._body(response, rule, chunked)

    def _body(self, response: http.client.HTTPResponse, rule: Rule,
              chunked: bool) -> None:
        if rule.body is not None:
            response.read()
            self.wfile.write(rule.body.encode())
            return
        done = 0
        while chunk := response.read1(CHUNK):
            if rule.flip is not None and (
                    done <= rule.flip < done + len(chunk)):
                changed = bytearray(chunk)
                changed[rule.flip - done] ^= 1
                chunk = bytes(changed)
            if rule.truncate is not None and (
                    done + len(chunk) > rule.truncate):
                self.wfile.write(chunk[:rule.truncate - done])
                self._linger()
                return
            done += len(chunk)
            self.wfile.write(
                b'%x\r\n%b\r\n' % (len(chunk), chunk) if chunked else chunk)
        if chunked:
            self.wfile.write(b'0\r\n\r\n')

    def _head(self, status: int,
              headers: typing.Iterable[tuple[str, str | None]],
              overriding: dict[str, str | None]) -> None:
        self._note(status)
        names = {name.lower() for name in overriding}
        self.send_response_only(status)
        kept = [(name, value) for name, value in headers
                if name.lower() not in names]
        for name, value in (*kept, *overriding.items()):
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def _linger(self) -> None:
        """End the connection in good order, after what was written."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)

    def _cut(self) -> None:
        """End the connection as if the cable were pulled."""
        self._note(None)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
            self.connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--listen', default='127.0.0.1:0',
                        help='HOST:PORT')
    parser.add_argument('--target', required=True, help='URL')
    parser.add_argument('--control', help='file with rules, as JSON')
    args = parser.parse_args()
    host, _, port = args.listen.rpartition(':')
    proxy = FaultyProxy(args.target, (host, int(port)), args.control)
    print(proxy.url, flush=True)
    proxy.start()
    threading.Event().wait()


if __name__ == '__main__':
    main()
