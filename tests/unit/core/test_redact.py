# SPDX-License-Identifier: Apache-2.0
"""No secret in a log."""

import io
import json
import logging

import pytest

from ironic_snapshot_core import grant
from ironic_snapshot_core import redact

SECRET = 'c0ffee' * 10

SHOWING = [
    f'PUT /v1/a/c/o?temp_url_sig={SECRET}&temp_url_expires=1',
    f'PUT /v1/a/c/o?temp_url_expires=1&temp_url_sig={SECRET} HTTP/1.1',
    f'Max retries exceeded with url: /v1?temp_url_sig={SECRET} (Caused by',
    f'https://h/x?X-Amz-Signature={SECRET}&y=1',
    f"{{'secret': '{SECRET}', 'method': 'PUT'}}",
    f'{{"secret": "{SECRET}", "method": "PUT"}}',
    json.dumps(json.dumps({'secret': SECRET})),
    repr(json.dumps({'secret': SECRET})),
    f"{{'agent_secret_token': '{SECRET}'}}",
    f"{{'X-Auth-Token': '{SECRET}', 'Accept': '*/*'}}",
    f"{{'X-Auth-Token': b'{SECRET}'}}",
    f'X-Auth-Token: {SECRET}\r\nAccept: */*',
    f'X-Storage-Pass: {SECRET}',
    f'Authorization: Bearer {SECRET}',
    f'X-Container-Meta-Temp-Url-Key: {SECRET}',
    f"('X-Account-Meta-Temp-URL-Key-2', '{SECRET}')",
    repr({'permissions': [{'method': 'PUT', 'prefix': 'a/',
                           'secret': SECRET}]}),
]


@pytest.mark.parametrize('text', SHOWING)
def test_secrets_are_masked(text):
    found = redact.redact(text)
    assert SECRET not in found
    assert redact.MASK in found


@pytest.mark.parametrize('text', SHOWING)
def test_masking_twice_is_masking_once(text):
    assert redact.redact(redact.redact(text)) == redact.redact(text)


@pytest.mark.parametrize('text', [
    'PUT /v1/AUTH_a/c/v1/n/g/pack-000001 HTTP/1.1',
    '{"name": "golden", "more": false}',
    'Cannot put x: the grant is not valid for it (HTTP 401).',
    'temp_url_expires=1700000000&temp_url_prefix=a/',
    ''])
def test_everything_else_is_left_alone(text):
    assert redact.redact(text) == text


def test_what_follows_a_secret_stays():
    found = redact.redact(SHOWING[0])
    assert found == 'PUT /v1/a/c/o?temp_url_sig=***&temp_url_expires=1'


@pytest.fixture
def logged():
    logger = logging.getLogger('tests.redact')
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.propagate = False
    redact.install(['tests.redact'])
    yield logger, stream
    logger.removeHandler(handler)


def test_messages_and_arguments(logged):
    logger, stream = logged
    logger.warning('to %s', f'/v1?temp_url_sig={SECRET}')
    logger.warning('step %s of %d', {'secret': SECRET}, 5)
    logger.warning('plain temp_url_sig=' + SECRET)  # noqa: G003
    assert SECRET not in stream.getvalue()
    assert 'of 5' in stream.getvalue()


def test_tracebacks(logged):
    logger, stream = logged
    try:
        raise ValueError(f'bad URL /v1?temp_url_sig={SECRET}')
    except ValueError:
        logger.exception('failed')
        logger.warning('stack', stack_info=True)
    assert SECRET not in stream.getvalue()
    assert 'ValueError' in stream.getvalue()


def test_arguments_that_do_not_fit(logged):
    logger, stream = logged
    logger.warning('two %s %s', f'temp_url_sig={SECRET}')
    assert SECRET not in stream.getvalue()
    assert 'two' in stream.getvalue()


def test_a_percent_sign_is_no_format(logged):
    logger, stream = logged
    logger.warning('%s', '100%s')
    assert stream.getvalue() == '100%s\n'


def test_installing_twice_is_installing_once():
    logger = logging.getLogger('tests.redact.twice')
    for _ in range(3):
        redact.install(['tests.redact.twice'])
    assert len(logger.filters) == 1


def test_urllib3_is_covered():
    redact.install()
    assert any(isinstance(each, redact.RedactingFilter) for each in
               logging.getLogger('urllib3.connectionpool').filters)


def test_a_grant_logged_as_a_dict():
    granted = grant.mint('http://h/v1/a/c', 'key', 5, [('PUT', 'a/')])
    found = redact.redact(f'step: {granted.to_dict()}')
    assert granted.permissions[0].secret not in found
