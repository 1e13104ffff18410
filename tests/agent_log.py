# SPDX-License-Identifier: Apache-2.0
"""A log as the agent writes it."""

import io
import logging

import pytest
from oslo_config import cfg
from oslo_log import log

#: Looks like a signature.
CANARY = 'c0ffee' * 10 + 'cafe'


def start(monkeypatch):
    """Log everything, at DEBUG and in the agent's format; give the stream.

    Until the end of the test it is the only handler, so that the test run's
    own ones stay as they are.
    """
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf([], default_config_files=[])
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.formatters.ContextFormatter(config=conf))
    root = logging.getLogger()
    monkeypatch.setattr(root, 'handlers', [handler])
    monkeypatch.setattr(root, 'level', logging.DEBUG)
    # Ironic's tests set up logging of their own, which silences others.
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, 'level', logging.NOTSET)
        monkeypatch.setattr(logger, 'disabled', False)
        monkeypatch.setattr(logger, 'propagate', True)
    logging.root.manager._clear_cache()
    return stream


@pytest.fixture
def output(monkeypatch):
    """All that is logged until the end of the test."""
    yield start(monkeypatch)
    monkeypatch.undo()
    logging.root.manager._clear_cache()
