# SPDX-License-Identifier: Apache-2.0
"""Keeping secrets out of logs, whoever writes them.

Errors of this project hold no secret to begin with; this is for the records
of libraries that log whole URLs, and a second line of defence for ours.
"""

import logging
import re
import traceback
import typing

MASK = '***'

#: Loggers that are given URLs with signatures by the libraries below us.
LIBRARY_LOGGERS = (
    'requests',
    'urllib3',
    'urllib3.connection',
    'urllib3.connectionpool',
    'urllib3.poolmanager',
    'urllib3.response',
    'urllib3.util.retry',
)

_QUERY = re.compile(
    r'(?i)\b((?:temp_url_(?:sig|key)|[\w-]*signature|[\w-]*token)=)'
    r'[^&\s\'"<>;]+')
# As a dict is printed, as JSON, and as JSON inside a string.
_ITEM = re.compile(
    r'(?i)((?:\\?["\'])[\w-]*(?:secret|token|password|temp[_-]url[_-](?:sig|'
    r'key(?:-2)?))[\w-]*\\?["\']\s*[:,=]\s*b?)(\\?["\'])(?:(?!\2).)*\2')
_HEADER = re.compile(
    r'(?i)\b((?:x-(?:auth|storage|subject|service)-(?:token|key|pass)'
    r'|x-(?:account|container)-meta-temp-url-key(?:-2)?|authorization)'
    r'\s*[:=]\s*)(?:(?:bearer|basic)\s+)?[^\s\'",;]+')


def redact(text: str) -> str:
    """Replace every secret that can be told by its name.

    >>> redact('PUT /v1/a/c/o?temp_url_sig=abc&temp_url_expires=1')
    'PUT /v1/a/c/o?temp_url_sig=***&temp_url_expires=1'
    """
    text = _QUERY.sub(rf'\1{MASK}', text)
    text = _ITEM.sub(rf'\1\2{MASK}\2', text)
    return _HEADER.sub(rf'\1{MASK}', text)


class RedactingFilter(logging.Filter):
    """Rewrites each record that would show a secret; drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:
            # Wrong arguments: left to the handler, which reports it, but
            # not with the arguments.
            message = f'{record.msg} (the arguments do not fit)'
        clean = redact(message)
        if clean != message or record.args:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters use exc_text when it is set.
            record.exc_text = redact(''.join(
                traceback.format_exception(*record.exc_info))).rstrip('\n')
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def install(names: typing.Iterable[str] = LIBRARY_LOGGERS) -> None:
    """Put a filter on the loggers named, once.

    A logger's filter sees only what is logged on that very logger, not what
    comes up from the loggers below it; so each has to be named.
    """
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(each, RedactingFilter)
                   for each in logger.filters):
            logger.addFilter(RedactingFilter())
