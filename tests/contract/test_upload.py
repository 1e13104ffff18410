# SPDX-License-Identifier: Apache-2.0
"""What becomes of an upload when Glance, or the way to it, says no."""

import logging

import pytest

from ipa_snapshot_hardware import upload
from ironic_snapshot_core import errors
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.units import KiB, MiB
from tests import agent_log
from tests.contract import stream_ramdisk
from tests.servers.faulty_http import FaultyProxy

CANARY = agent_log.CANARY


@pytest.fixture
def proxy():
    """Makes up all answers; behind it there is nobody."""
    with FaultyProxy('http://127.0.0.1:9') as found:
        yield found


def sink(url, **options):
    return upload.Upload(
        upload_grant.UploadAuth(stream_ramdisk.grant(CANARY, url)),
        **options)


def pieces(count=4, size=MiB):
    return iter([bytes(size)] * count)


def fail(work, caplog):
    """The error of it, which is all that is said."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(errors.ImageError) as caught:
        work()
    error = caught.value
    assert error.__context__ is error.__cause__ is None
    assert stream_ramdisk.IMAGE in str(error)
    for text in (str(error), repr(error.__dict__), caplog.text):
        assert CANARY not in text
    assert '\n' not in str(error)
    return error


@pytest.mark.parametrize('early', [False, True])
@pytest.mark.parametrize(('status', 'code'), [
    (200, 'image-error'), (302, 'image-error'), (400, 'image-error'),
    (401, 'image-refused'), (403, 'image-refused'), (404, 'image-missing'),
    (409, 'image-unsuitable'), (410, 'image-missing'),
    (413, 'image-too-large'), (415, 'image-error'),
    (429, 'glance-unavailable'), (500, 'glance-unavailable'),
    (503, 'glance-unavailable')])
def test_each_answer_has_its_error(proxy, caplog, status, code, early):
    proxy.rule(status=status, early=early, body=CANARY, times=None,
               headers={'Location': f'http://127.0.0.1:9/{CANARY}'})
    with sink(proxy.url) as found:
        error = fail(lambda: found.send(pieces(), 4 * MiB), caplog)
    assert (error.code, error.status) == (code, status)
    # Never a second time, and never elsewhere.
    assert len(proxy.log) == 1


def test_what_is_checked_beforehand(proxy, caplog):
    proxy.rule(status=401, early=True)
    proxy.rule(status=415, nth=2)
    with sink(proxy.url) as found:
        assert fail(found.check, caplog).code == 'image-refused'
        found.check()


@pytest.mark.parametrize('cut', ['before', 'after'])
def test_a_connection_that_breaks(cloud, caplog, cut):
    with FaultyProxy(cloud.glance.url) as proxy, sink(proxy.url) as found:
        proxy.rule(cut=cut)
        error = fail(lambda: found.send(pieces(), 4 * MiB), caplog)
    assert (error.code, error.retryable) == ('glance-unavailable', True)


def test_success_before_the_end_is_none(proxy, caplog):
    proxy.rule(status=204, early=True)
    with sink(proxy.url) as found:
        error = fail(lambda: found.send(pieces(64), 64 * MiB), caplog)
    assert error.code == 'glance-unavailable'


def test_nobody_is_there(caplog):
    with sink('http://127.0.0.1:9') as found:
        error = fail(lambda: found.send(pieces(), 4 * MiB), caplog)
    assert error.code == 'glance-unavailable'


def test_an_answer_that_does_not_come(proxy, caplog):
    proxy.rule(status=204, delay_s=1)
    with sink(proxy.url, timeout=(5, 0.2)) as found:
        error = fail(lambda: found.send(pieces(1, 1), 1), caplog)
    assert 'no answer in time' in str(error)


def test_small_pieces_and_their_pace(proxy):
    proxy.rule(status=204)
    sizes = []
    with sink(proxy.url, pace=sizes.append) as found:
        found.send(iter([b'', b'x', bytes(MiB)]), MiB + 1)
    assert sizes == [1, *[256 * KiB] * 4]


def test_an_error_of_who_gives_the_pieces_is_passed_on(proxy):
    proxy.rule(status=204)

    def change():
        yield bytes(MiB)
        raise errors.DiskChanged(device='/dev/sda', reason='it was')
    with sink(proxy.url) as found:
        with pytest.raises(errors.DiskChanged):
            found.send(change(), 2 * MiB)
