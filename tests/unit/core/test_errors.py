# SPDX-License-Identifier: Apache-2.0
"""Errors are one clear sentence with a stable code."""

import inspect
import pickle
import re

import pytest

from ironic_snapshot_core import errors

#: Released codes. One that is changed or taken away breaks those who watch
#: for it.
CODES = {
    'Error': 'error',
    'InvalidName': 'invalid-name',
    'InvalidValue': 'invalid-value',
    'Corrupted': 'corrupted',
    'UnsupportedVersion': 'unsupported-version',
    'UnsupportedFeature': 'unsupported-feature',
    'Cancelled': 'cancelled',
    'CaptureRunning': 'capture-running',
    'RestoreRunning': 'restore-running',
    'Stalled': 'stalled',
    'ParentUnsuitable': 'parent-unsuitable',
    'ParentGone': 'parent-gone',
    'AttemptCondemned': 'attempt-condemned',
    'SnapshotInUse': 'snapshot-in-use',
    'SnapshotUnsuitable': 'snapshot-unsuitable',
    'ServiceError': 'service-error',
    'StoreError': 'store-error',
    'ObjectMissing': 'object-missing',
    'ContainerMissing': 'container-missing',
    'AccessDenied': 'access-denied',
    'GrantExpired': 'grant-expired',
    'ClockSkew': 'clock-skew',
    'StoreFull': 'store-full',
    'ObjectTooLarge': 'object-too-large',
    'ObjectMismatch': 'object-mismatch',
    'StoreUnavailable': 'store-unavailable',
    'StoreUntrusted': 'store-untrusted',
    'NotSupported': 'not-supported',
    'ImageError': 'image-error',
    'ImageMissing': 'image-missing',
    'ImageRefused': 'image-refused',
    'ImageTooLarge': 'image-too-large',
    'ImageUnsuitable': 'image-unsuitable',
    'ImageMismatch': 'image-mismatch',
    'ImageImportFailed': 'image-import-failed',
    'ImageOverdue': 'image-overdue',
    'GlanceUnavailable': 'glance-unavailable',
    'NodeNotReady': 'node-not-ready',
    'ImageNotMade': 'image-not-made',
    'DiskError': 'disk-error',
    'DiskNotFound': 'disk-not-found',
    'DiskBusy': 'disk-busy',
    'DiskChanged': 'disk-changed',
    'DiskUnsuitable': 'disk-unsuitable',
    'TargetMismatch': 'target-mismatch',
    'TargetNotBlank': 'target-not-blank',
    'RestoreUnfinished': 'restore-unfinished',
    'RestoreInterrupted': 'restore-interrupted',
    'RestoreVerifyFailed': 'restore-verify-failed',
    'IdentityNotReset': 'identity-not-reset',
    'SectorsError': 'disk-error',
    'DiskReadError': 'disk-read-error',
    'DiskWriteError': 'disk-write-error',
    'RepositoryUnsuitable': 'repository-unsuitable',
    'CredentialsMissing': 'credentials-missing',
    'SnapshotMissing': 'snapshot-missing',
    'SnapshotAmbiguous': 'snapshot-ambiguous',
    'OutputFailed': 'output-failed',
}

EXAMPLES = [
    errors.InvalidName('a//b', 'it has two slashes in a row'),
    errors.InvalidValue('cluster size', 5, 'it is no power of two'),
    errors.Corrupted('index', 'its digest does not match'),
    errors.UnsupportedVersion('The manifest', 2, 1),
    errors.UnsupportedFeature('The manifest', ['a', 'b']),
    errors.Cancelled(),
    errors.CaptureRunning('33333333-3333-4333-8333-333333333333'),
    errors.RestoreRunning('1', 'is writing to the disk'),
    errors.Stalled('nothing was read', 600),
    errors.ParentUnsuitable('golden', 'it is degraded'),
    errors.ParentGone('1', '2', 'was deleted meanwhile'),
    errors.AttemptCondemned('1'),
    errors.SnapshotInUse('1', '2', '2026-01-31T12:00:00Z'),
    errors.SnapshotUnsuitable('1', 'it is damaged'),
    errors.NodeNotReady('1', 'it is in maintenance.'),
    errors.ImageNotMade('1', '2', 'it was aborted.'),
    errors.DiskReadError('/dev/sda', 'S1', 1024, 1536, 512, 'EIO'),
    errors.DiskWriteError('/dev/sda', 'S1', 1024, 1536, 512, 'EIO'),
    errors.RepositoryUnsuitable('swift:', 'it is no container'),
    errors.CredentialsMissing('the password is wrong'),
    errors.CredentialsMissing('the password is wrong', 'Glance'),
    errors.SnapshotMissing('golden'),
    errors.SnapshotAmbiguous('golden', ['1', '2']),
    errors.OutputFailed('a.raw', 'it exists'),
] + [
    cls('put', 'v1/pack-000001', 'the store said no', 403, 2.0)
    for base in (errors.ServiceError, errors.StoreError, errors.ImageError)
    for cls in (base, *base.__subclasses__())
] + [
    cls('/dev/sda', 'it is too small')
    for cls in errors.DiskError.__subclasses__()
    if cls is not errors.SectorsError
]


def test_codes_are_as_released():
    found = {name: cls.code for name, cls in inspect.getmembers(errors)
             if inspect.isclass(cls) and issubclass(cls, errors.Error)}
    assert found == CODES


@pytest.mark.parametrize('error', EXAMPLES, ids=lambda e: type(e).__name__)
def test_each_is_a_sentence(error):
    text = str(error)
    assert re.fullmatch(r'[A-Z].*[^.]\.', text), text
    assert '\n' not in text and '{' not in text


@pytest.mark.parametrize('error', EXAMPLES, ids=lambda e: type(e).__name__)
def test_each_survives_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_only_what_may_help_is_retryable():
    retryable = {type(error) for error in EXAMPLES if error.retryable}
    assert retryable == {errors.ObjectMismatch, errors.StoreUnavailable,
                         errors.GlanceUnavailable}


@pytest.mark.parametrize(('cls', 'what'), [
    (errors.DiskReadError, 'read'), (errors.DiskWriteError, 'write')])
def test_an_error_of_sectors_names_them(cls, what):
    error = cls('/dev/sda', 'S1', 4096, 8192, 4096, 'EIO')
    assert f'cannot {what} sectors 1-2 of 4096 bytes' in str(error)
    assert 'S1' in str(error)


def test_a_store_error_names_operation_object_status_and_advice():
    error = errors.AccessDenied('put', 'v1/x', 'access was denied', 403)
    assert str(error) == (
        'Cannot put v1/x: access was denied (HTTP 403); check the '
        "container's ACL, the account's role and the temporary URL key.")


@pytest.mark.parametrize(('service', 'how'), [
    ('Swift', 'OS_* variables, or ST_AUTH, ST_USER and ST_KEY'),
    ('Glance', 'set OS_CLOUD and clouds.yaml, or OS_* variables')])
def test_where_credentials_come_from(service, how):
    text = str(errors.CredentialsMissing('there are none', service))
    assert text.startswith(f'No access to {service}: there are none; set ')
    assert text.endswith(f'{how}.')
