# SPDX-License-Identifier: Apache-2.0
"""Keeps signatures out of everything this process logs.

The agent prints whole commands with their arguments, before the step sees
them and again when it is asked for something while busy. Those lines are
not ours, so the guard sits where all lines come together: at the handlers.
The loggers known to print commands carry it as well, for a handler that is
added later.
"""

import logging

from ironic_snapshot_core import redact

# Loggers of the agent that are given commands, their arguments or URLs.
AGENT_LOGGERS = (
    'ironic_python_agent.agent',
    'ironic_python_agent.api',
    'ironic_python_agent.api.app',
    'ironic_python_agent.extensions.base',
    'ironic_python_agent.extensions.deploy',
    'ironic_python_agent.extensions.service',
    'ironic_python_agent.hardware',
)


class RedactingFormatter(logging.Formatter):
    """Redacts what another formatter makes.

    A filter alone is not enough: a formatter may print the exception anew,
    as that of oslo.log does.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redact.redact(self.inner.format(record))


def install() -> None:
    """Guard all loggers and handlers there are; once each.

    To be called again when handlers may have been added.
    """
    redact.install((*AGENT_LOGGERS, *redact.LIBRARY_LOGGERS))
    loggers = [logging.getLogger()]
    for name in list(logging.root.manager.loggerDict):
        loggers.append(logging.getLogger(name))
    for logger in loggers:
        for handler in logger.handlers:
            _guard(handler)


# Private


def _guard(handler: logging.Handler) -> None:
    if not any(
        isinstance(each, redact.RedactingFilter) for each in handler.filters
    ):
        handler.addFilter(redact.RedactingFilter())
    if not isinstance(handler.formatter, RedactingFormatter):
        handler.setFormatter(
            RedactingFormatter(handler.formatter or logging.Formatter())
        )
