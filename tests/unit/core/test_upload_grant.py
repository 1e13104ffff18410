# SPDX-License-Identifier: Apache-2.0
"""What lets a ramdisk send an image; Glance judges in the contract tests."""

import json

import pytest
import requests
from oslo_utils import strutils

from ironic_snapshot_core import errors
from ironic_snapshot_core import redact
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.upload_grant import UploadGrant

IMAGE = '11111111-1111-4111-8111-111111111111'
OTHER = '22222222-2222-4222-8222-222222222222'
URL = f'https://cloud.example:9292/image/v2/images/{IMAGE}/file'
TOKEN = 'gAAAAABcanary-_=='
GRANT = UploadGrant(URL, TOKEN)


def test_it_crosses_the_wire_and_empties_the_dict():
    wire = json.loads(json.dumps(GRANT.to_dict()))
    assert UploadGrant.take(wire) == GRANT
    assert wire == {}
    assert GRANT.image == IMAGE


def test_it_is_shown_to_nobody():
    step = {'step': 'snapshot', 'args': {'upload': GRANT.to_dict()}}
    for shown in (repr(GRANT), redact.redact(str(step)),
                  redact.redact(json.dumps(step)),
                  json.dumps(strutils.mask_dict_password(step))):
        assert TOKEN not in shown


@pytest.mark.parametrize('value', [
    None, TOKEN, [TOKEN], {},
    {**GRANT.to_dict(), 'more': TOKEN},
    {**GRANT.to_dict(), 'secret': None},
    {**GRANT.to_dict(), 'secret': f'{TOKEN}\r\nX: y'},
    {**GRANT.to_dict(), 'secret': TOKEN * 1000},
    {**GRANT.to_dict(), 'url': 7},
    *({**GRANT.to_dict(), 'url': url} for url in (
        'file:///etc/passwd',
        f'https://user:{TOKEN}@cloud.example/v2/images/{IMAGE}/file',
        f'https://cloud.example/v2/images/{IMAGE}/file?{TOKEN}',
        f'https://cloud.example/v2/images/{IMAGE}/file#{TOKEN}',
        f'https://cloud.example/v2/images/{IMAGE}/stage',
        f'https://cloud.example/v2/images/../{IMAGE}/file',
        f'https:///v2/images/{IMAGE}/file',
        f'https://cloud.example:x/v2/images/{IMAGE}/file',
        'https://cloud.example/v2/images/x/file'))])
def test_nonsense_is_refused_and_not_shown(value):
    wire = dict(value) if isinstance(value, dict) else value
    with pytest.raises((errors.InvalidValue, errors.UnsupportedVersion)
                       ) as caught:
        UploadGrant.take(wire)
    assert TOKEN not in str(caught.value)
    assert not isinstance(wire, dict) or wire == {}


@pytest.mark.parametrize('version', [2, '1', True, None])
def test_another_version(version):
    with pytest.raises(errors.UnsupportedVersion):
        UploadGrant.take({**GRANT.to_dict(), 'version': version})


def test_it_is_good_for_one_request():
    auth = upload_grant.UploadAuth(GRANT)

    def prepare(method, url):
        return requests.Request(method, url, auth=auth).prepare()
    assert prepare('PUT', URL).headers['X-Auth-Token'] == TOKEN
    for method, url in (
            ('GET', URL), ('PUT', URL.replace(IMAGE, OTHER)),
            ('PUT', URL.replace('cloud', 'crowd')), ('PUT', f'{URL}?a=b')):
        with pytest.raises(errors.InvalidValue) as caught:
            prepare(method, url)
        assert TOKEN not in str(caught.value)


def test_another_token_and_never_another_image():
    auth = upload_grant.UploadAuth(UploadGrant(URL))
    auth.renew(GRANT)
    assert auth.grant is GRANT
    with pytest.raises(errors.InvalidValue):
        auth.renew(UploadGrant(URL.replace(IMAGE, OTHER), TOKEN))
    assert auth.grant is GRANT


def test_the_url_of_an_image():
    assert upload_grant.url('https://cloud.example:9292/image', IMAGE) == URL
    with pytest.raises(errors.InvalidValue):
        upload_grant.url('https://cloud.example', '../x')
