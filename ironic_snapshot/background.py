# SPDX-License-Identifier: Apache-2.0
"""Work that takes too long to lock a node for it.

Reading a whole image may take hours. A few threads of the conductor do it;
what one of them has found is fetched when the node is next looked at. A
conductor that dies loses it, and another one does it anew.
"""
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from oslo_log import log

LOG = log.getLogger(__name__)


@dataclasses.dataclass
class _Work:
    """Something that is being done.

    :ivar stop: nobody wants it any more.
    :ivar done: there is a value or an error.
    """

    stop: threading.Event
    done: threading.Event
    value: Any = None
    error: Exception | None = None


class Works:
    """What is being done in this process. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: dict[Any, _Work] = {}

    def ask(self, key: Any, most: int,
            function: Callable[[threading.Event], Any]) -> Any:
        """Fetch what a function gives, or have it done.

        :param key: tells one from the other.
        :param most: so many are done at a time.
        :param function: given an event that tells it to stop.
        :returns: None: not yet, ask again.
        :raises Exception: that of the function; asking again begins anew.
        """
        with self._lock:
            work = self._works.get(key)
            if work is None:
                busy = sum(not each.done.is_set()
                           for each in self._works.values())
                if busy < most:
                    self._works[key] = _begin(function)
                return None
            if not work.done.is_set():
                return None
            del self._works[key]
        if work.error is not None:
            raise work.error
        return work.value

    def wait(self, timeout_s: float) -> None:
        """Wait until all that was begun can be fetched."""
        with self._lock:
            works = list(self._works.values())
        for work in works:
            work.done.wait(timeout_s)

    def forget(self, key: Any) -> None:
        """Nobody wants it any more."""
        with self._lock:
            work = self._works.pop(key, None)
        if work is not None:
            work.stop.set()


def _begin(function: Callable[[threading.Event], Any]) -> _Work:
    work = _Work(threading.Event(), threading.Event())

    def run() -> None:
        try:
            work.value = function(work.stop)
        except Exception as exc:
            LOG.debug('What was to be done in the background has failed',
                      exc_info=True)
            work.error = exc
        finally:
            work.done.set()

    # A conductor that stops does not wait for it.
    threading.Thread(target=run, name='snapshot-background',
                     daemon=True).start()
    return work
