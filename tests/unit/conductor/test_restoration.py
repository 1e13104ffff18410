# SPDX-License-Identifier: Apache-2.0
import pytest

from ironic_snapshot import record
from ironic_snapshot import restoration
from ironic_snapshot import restore_record
from tests.unit.conductor import test_attempt


@pytest.fixture
def node():
    return test_attempt.Node()


@pytest.mark.parametrize('reason, inconsistent', [
    ('[target-mismatch] Disk /dev/sda: another one.', False),
    ('Agent failed: [disk-busy] Disk /dev/sda: mounted.', False),
    ('[restore-interrupted] Disk /dev/sda: gone.', True),
    ('[identity-not-reset] Disk /dev/sda: no root.', True),
    ('[internal-error] KeyError: 7', True),
    ('boom', True),
    ('Something [odd] has happened', True),
    ('list index [0] out of range', True),
    ('', True)])
@pytest.mark.parametrize('before', [False, True])
@pytest.mark.parametrize('ended', [False, True])
def test_whether_the_agent_may_have_written(node, reason, inconsistent,
                                            before, ended):
    restore_record.Restoration(
        record.RUNNING, inconsistent=before).save(node)
    restoration.close(node, record.FAILED, reason, ended)
    found = restore_record.load(node)
    assert found.status == record.FAILED
    # What the conductor says of itself proves nothing.
    assert found.inconsistent is (inconsistent or before or not ended)


@pytest.mark.parametrize('status', [
    record.PREPARING, restore_record.BEGUN])
def test_nothing_was_sent(node, status):
    restore_record.Restoration(status).save(node)
    restoration.close(node, record.FAILED, 'boom')
    found = restore_record.load(node)
    assert (found.status, found.inconsistent) == (record.FAILED, False)


@pytest.mark.parametrize('status', [
    record.FAILED, record.ABORTED, restore_record.RESTORED])
def test_closed_already(node, status):
    this = restore_record.Restoration(status)
    this.save(node)
    restoration.close(node, record.FAILED, 'boom')
    assert restore_record.load(node) == this
