# SPDX-License-Identifier: Apache-2.0
"""The lab's Swift, as a program that outlives the one that started it.

:class:`tests.servers.swift.SwiftServer` ends with its parent process; this
program is that parent.
"""

import json
import signal
import sys
import threading

from tests.servers import swift


def main() -> None:
    """Serve until told to end. Argument: SwiftServer's, in JSON."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with swift.SwiftServer(**json.loads(sys.argv[1])):
        print('Swift is up', flush=True)
        ended.wait()


if __name__ == '__main__':
    main()
