# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from ironic_snapshot import record
from ironic_snapshot import restore_record
from ironic_snapshot.progress import RestoreProgress
from tests.unit.conductor import test_attempt

Restoration = restore_record.Restoration


@pytest.fixture
def node():
    return test_attempt.Node()


def test_save_and_load(node):
    this = Restoration(
        record.RUNNING, snapshot='s', operation='o', inconsistent=True,
        step_index=0, options={'verb': 'rollback'},
        progress=RestoreProgress(phase='write', moved=1, written_bytes=7))
    this.save(node)
    json.dumps(node.driver_internal_info)
    assert restore_record.load(node) == this
    assert restore_record.is_inconsistent(node)


def test_none(node):
    assert restore_record.load(node) is None
    assert restore_record.current(node) is None
    assert not restore_record.is_inconsistent(node)


def test_disk_stays_inconsistent_until_one_is_done(node):
    restore_record.begin(node, record.PREPARING).save(node)
    assert not restore_record.is_inconsistent(node)
    Restoration(record.FAILED, snapshot='s', inconsistent=True).save(node)
    this = restore_record.begin(node, record.PREPARING)
    this.ended(record.ABORTED, reason='x').save(node)
    assert restore_record.is_inconsistent(node)
    assert 'snapshot s ' in restore_record.explain_hold(node)
    this = restore_record.begin(node, restore_record.BEGUN, snapshot='t')
    assert (this.snapshot, this.inconsistent) == ('t', True)
    this.ended(restore_record.RESTORED, inconsistent=False).save(node)
    assert not restore_record.is_inconsistent(node)


def test_forgotten_with_the_deployment(node):
    Restoration(record.FAILED, inconsistent=True).save(node)
    restore_record.forget(node)
    assert not restore_record.is_inconsistent(node)


@pytest.mark.parametrize('status, open, unsent, current', [
    (record.PREPARING, True, True, False),
    (restore_record.CAPTURING, True, True, True),
    (restore_record.BEGUN, True, True, True),
    (record.RUNNING, True, False, True),
    (restore_record.RESTORED, False, False, True),
    (record.FAILED, False, False, False),
    (record.ABORTED, False, False, False)])
def test_statuses(node, status, open, unsent, current):
    node.driver_internal_info['service_step_index'] = 1
    this = Restoration(status, step_index=1)
    this.save(node)
    assert (this.open, this.unsent) == (open, unsent)
    assert restore_record.current(node) == (this if current else None)
    node.driver_internal_info['service_step_index'] = 2
    assert restore_record.current(node) is None


def test_way_out_is_told(node):
    Restoration(record.FAILED, snapshot='s', inconsistent=True).save(node)
    text = restore_record.explain_hold(node)
    for part in ('snapshot s', 'not bootable', 'deploy.restore', 'undeploy'):
        assert part in text
    assert len(text) < 400
