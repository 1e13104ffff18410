# SPDX-License-Identifier: Apache-2.0
"""The lab's real servers, as a program that outlives the one that started it.

What is in :mod:`tests.servers` ends with its parent process; this program is
that parent.
"""

import contextlib
import json
import signal
import sys
import threading
import typing

from tests.servers import cloud
from tests.servers import swift

KINDS: dict[str, typing.Callable[..., contextlib.AbstractContextManager[
    object]]] = {'swift': swift.SwiftServer, 'cloud': cloud.Cloud}


def main() -> None:
    """Serve until told to end. Arguments: a kind, and its own, in JSON."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    kind, arguments = sys.argv[1:]
    with KINDS[kind](**json.loads(arguments)):
        print('all are up', flush=True)
        ended.wait()


if __name__ == '__main__':
    main()
