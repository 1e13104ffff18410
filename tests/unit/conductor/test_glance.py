# SPDX-License-Identifier: Apache-2.0
"""What is made of the answers of Glance."""
import json
from types import SimpleNamespace

from ironic.common import exception
from keystoneauth1 import exceptions as keystone_exceptions
import pytest

from ironic_snapshot.targets import glance
from ironic_snapshot_core import errors

URL = 'http://swift/v1/AUTH_a/c/o?temp_url_sig=abc&temp_url_expires=1'
LOCATION = 'swift+https://service%3Aglance:secret@keystone/v3/glance/i'


def answer(status, text):
    return SimpleNamespace(status_code=status, text=text)


@pytest.mark.parametrize('status, cls', [
    (400, errors.ImageError), (401, errors.ImageRefused),
    (403, errors.ImageRefused), (404, errors.ImageMissing),
    (409, errors.ImageError), (413, errors.ImageTooLarge),
    (408, errors.GlanceUnavailable), (429, errors.GlanceUnavailable),
    (500, errors.GlanceUnavailable), (503, errors.GlanceUnavailable)])
def test_statuses(status, cls):
    error = glance._refused('import', 'i', answer(status, ''))
    assert type(error) is cls
    assert error.status == status
    assert error.retryable is (cls is errors.GlanceUnavailable)


@pytest.mark.parametrize('text, said', [
    (json.dumps({'message': 'No.<br /><br />\n\n\n', 'code': '400 Bad'}),
     'No'),
    (json.dumps({'unauthorized': {'message': 'Not you.'}}), 'Not you'),
    ('<html><head><title>413</title></head><body>Too\nmuch.</body></html>',
     '413 Too much'),
    (json.dumps({'message': f'{URL} does not pass filtering: {LOCATION}'}),
     '(a URL) does not pass filtering: (a URL)'),
    (json.dumps(['x']), '["x"]'), ('', ''), ('x' * 999, 'x' * 300)])
def test_what_it_says(text, said):
    assert glance._said(answer(400, text)) == said


@pytest.mark.parametrize('error, cls', [
    (keystone_exceptions.Unauthorized('no'), errors.ImageRefused),
    (exception.KeystoneUnauthorized(), errors.ImageRefused),
    (keystone_exceptions.ConnectFailure(URL), errors.GlanceUnavailable),
    (keystone_exceptions.ConnectTimeout(URL), errors.GlanceUnavailable),
    (exception.KeystoneFailure(URL), errors.GlanceUnavailable),
    (OSError(URL), errors.GlanceUnavailable)])
def test_no_answer(error, cls):
    found = glance._lost('import', 'i', error)
    assert type(found) is cls
    assert 'temp_url' not in str(found)


@pytest.mark.parametrize('image, busy', [
    ({'status': 'queued'}, False), ({'status': 'active'}, False),
    ({'status': 'queued', 'os_glance_import_task': 'x'}, True),
    ({'status': 'importing'}, True), ({'status': 'saving'}, True)])
def test_busy(image, busy):
    assert glance.is_busy(image) is busy
