# SPDX-License-Identifier: Apache-2.0
"""The fault-injecting proxy in front of the lab's Swift."""

import collections.abc
import typing

from tests.functional.lab import process
from tests.servers import faulty_http


class Proxy:
    """Runs in this process, so that tests can give it rules.

    :param target: root of Swift.
    :param port: of the loopback, to listen on.
    """

    def __init__(self, target: str, port: int) -> None:
        self._proxy = faulty_http.FaultyProxy(target, ('127.0.0.1', port))
        self._proxy.start()
        self._rules: list[faulty_http.Rule] = []

    @property
    def log(self) -> list[faulty_http.Entry]:
        """The requests that were answered, since the last :meth:`clear`."""
        return self._proxy.log

    def rule(self, *, delay: float = 0.0, times: int | None = None,
             **fields: typing.Any) -> faulty_http.Rule:
        """Add a rule; see :class:`tests.servers.faulty_http.Rule`.

        :param delay: seconds that a request waits first.
        :param times: how many requests are affected; None for all.
        """
        rule = self._proxy.rule(delay_s=delay, times=times, **fields)
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules."""
        self._proxy.clear()
        self._rules.clear()

    def wait_for(self, method: str, match: str, timeout: float,
                 meanwhile: collections.abc.Callable[[], None] = lambda: None
                 ) -> None:
        """Wait until a request has come in; it may not be answered yet.

        One that came since a rule for the same requests was added counts.

        :param meanwhile: called again and again; may raise to give up.
        :raises LabError: none came in time.
        """
        rules = [rule for rule in self._rules
                 if (rule.method, rule.match) == (method, match)]
        # A rule without effect, which counts nevertheless.
        rule = rules[0] if rules else self.rule(method=method, match=match)

        def has_come() -> bool:
            meanwhile()
            return rule.seen > 0
        process.wait_until(has_come, f'{method} {match}', timeout)

    def stop(self) -> None:
        """Stop listening."""
        self._proxy.stop()
