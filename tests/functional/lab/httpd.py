# SPDX-License-Identifier: Apache-2.0
"""A file server on the loopback: images to deploy, and the BMC's media."""

import functools
import http.server
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files over connections that stay open."""

    protocol_version = 'HTTP/1.1'


def main() -> None:
    """Serve until killed. Arguments: port, folder."""
    port, folder = int(sys.argv[1]), sys.argv[2]
    handler = functools.partial(Handler, directory=folder)
    http.server.ThreadingHTTPServer(
        ('127.0.0.1', port), handler).serve_forever()


if __name__ == '__main__':
    main()
