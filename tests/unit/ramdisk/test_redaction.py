# SPDX-License-Identifier: Apache-2.0
"""No signature in any log, with the logging the agent really uses."""

import io
import logging

import pytest

from ipa_snapshot_hardware import redaction
from tests import agent_log

CANARY = agent_log.CANARY
output = agent_log.output

STEP = {
    'step': 'snapshot',
    'args': {
        'grant': {'permissions': [{'method': 'PUT', 'secret': CANARY}]},
        'name': 'golden',
    },
}


def write(logger):
    logger.info('Service step completed: %(step)s', {'step': STEP})
    logger.debug('PUT /v1/a/c/o?temp_url_sig=%s&temp_url_expires=1', CANARY)
    try:
        raise ValueError(f'Malformed service_step: {STEP}')
    except ValueError as error:
        logger.exception('Command failed: %s', error)
        logger.error('Once more, without the traceback')


def test_the_canary_sings_without_the_guard(output):
    write(logging.getLogger('somebody.else'))
    assert CANARY in output.getvalue()


@pytest.mark.parametrize(
    'name', ['somebody.else', 'ironic_python_agent.extensions.base']
)
def test_nothing_is_left_to_see(output, name):
    redaction.install()
    write(logging.getLogger(name))
    text = output.getvalue()
    assert CANARY not in text
    # And nothing else is lost.
    assert text.count('golden') >= 3
    assert 'temp_url_expires=1' in text
    assert 'Traceback' in text


def test_a_handler_added_later_is_guarded_by_the_agents_loggers(
    output, monkeypatch
):
    redaction.install()
    stream = io.StringIO()
    logger = logging.getLogger('ironic_python_agent.extensions.service')
    root = logging.getLogger()
    monkeypatch.setattr(
        root, 'handlers', [*root.handlers, logging.StreamHandler(stream)]
    )
    logger.info('Service step completed: %(step)s', {'step': STEP})
    assert 'golden' in stream.getvalue()
    assert CANARY not in stream.getvalue()


def test_installing_twice_changes_nothing(output):
    redaction.install()
    handler = logging.getLogger().handlers[-1]
    before = (list(handler.filters), handler.formatter)
    redaction.install()
    assert (handler.filters, handler.formatter) == before
