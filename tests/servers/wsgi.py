# SPDX-License-Identifier: Apache-2.0
"""Serve a WSGI application of a package on a port.

    python -m tests.servers.wsgi 127.0.0.1:5000 keystone.wsgi.api:application
"""

import importlib
import sys
import typing

from cheroot import wsgi

THREADS = 16


class Input:
    """A request's body that stays open: the connection goes on behind it.

    Glance closes what it has read.
    """

    def __init__(self, body: typing.Any) -> None:
        self._body = body

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._body, name)

    def __iter__(self) -> typing.Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Serve until killed. Arguments: where to listen, and what."""
    listen, target = sys.argv[1:]
    # What comes next reads the arguments too.
    del sys.argv[1:]
    host, _, port = listen.rpartition(':')
    module, _, name = target.partition(':')
    application = getattr(importlib.import_module(module), name)

    def serve(environ: dict[str, typing.Any], start_response: typing.Any
              ) -> typing.Any:
        environ['wsgi.input'] = Input(environ['wsgi.input'])
        return application(environ, start_response)

    wsgi.Server((host, int(port)), serve, numthreads=THREADS).start()


if __name__ == '__main__':
    main()
