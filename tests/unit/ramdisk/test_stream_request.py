# SPDX-License-Identifier: Apache-2.0
"""The arguments of a stream."""

import pytest

from ipa_snapshot_hardware import stream_request
from ironic_snapshot_core import errors
from ironic_snapshot_core.upload_grant import UploadGrant
from tests.contract import stream_ramdisk


def parse(**changes):
    args = {**stream_ramdisk.arguments(), **changes}
    return stream_request.parse(args, stream_request.take_grant(args))


def test_what_the_conductor_sends():
    wanted = parse(codec='none', codec_level=None, all_blocks=True,
                   bandwidth_limit=1 << 20, slice_seconds=7)
    assert (wanted.snapshot, wanted.image) == (
        stream_ramdisk.SNAPSHOT, stream_ramdisk.IMAGE)
    assert (wanted.codec.id, wanted.hash) == ('none', 'sha512')
    assert wanted.all_blocks
    assert not wanted.skip_gaps
    assert (wanted.bandwidth_limit, wanted.slice_seconds) == (1 << 20, 7)
    assert (wanted.activity, wanted.key) == ('stream', wanted.snapshot)


@pytest.mark.parametrize('changes', [
    {'upload': None}, {'upload': {}}, {'grant': {}}, {'parent': None},
    {'adaptive_level': True}, {'path': '/dev/sda'}, {'snapshot': 'x'},
    {'cluster_size': 3}, {'codec': 'lzma'}, {'codec_level': 99},
    {'hash': 'md5'}, {'hash': None}, {'protocol': 2}, {'workers': -1},
    {'upload': UploadGrant('https://example.org/').to_dict()}])
def test_anything_else_is_refused(changes):
    with pytest.raises((errors.InvalidValue, errors.InvalidName,
                        errors.UnsupportedFeature,
                        errors.UnsupportedVersion)):
        parse(**changes)


@pytest.mark.parametrize('name', ['snapshot', 'hash', 'codec', 'protocol'])
def test_what_is_missing_is_named(name):
    args = stream_ramdisk.arguments()
    del args[name]
    with pytest.raises((errors.InvalidValue, errors.UnsupportedVersion)):
        stream_request.parse(args, stream_request.take_grant(args))
