# SPDX-License-Identifier: Apache-2.0
import json
import uuid

from ironic.common import states
import pytest

from ironic_snapshot import attempt
from ironic_snapshot import progress


class Node:
    """The part of ironic.objects.Node that the module uses."""

    def __init__(self, **info):
        self.uuid = str(uuid.uuid4())
        self.instance_uuid = None
        self.driver_internal_info = info
        self.provision_state = states.ACTIVE
        self.saves = 0

    def set_driver_internal_info(self, key, value):
        self.driver_internal_info[key] = value

    def del_driver_internal_info(self, key):
        self.driver_internal_info.pop(key, None)

    def save(self):
        self.saves += 1


@pytest.fixture
def node():
    return Node()


def test_save_and_load(node):
    this = attempt.Attempt(attempt.RUNNING, snapshot='s', tries=2,
                           step_index=0, result={'a': 1})
    this.save(node)
    assert node.saves == 1
    json.dumps(node.driver_internal_info)
    assert attempt.load(node) == this


def test_progress_is_saved(node):
    running = progress.CaptureProgress(phase='clusters', percent=0, moved=0,
                                asked_at='2026-01-01T00:00:00Z')
    this = attempt.Attempt(attempt.RUNNING, progress=running,
                           options={'codec_level': None})
    this.save(node)
    assert node.driver_internal_info['snapshot']['progress']['percent'] == 0
    assert attempt.load(node) == this
    this.ended(attempt.COMMITTED,
               progress=progress.CaptureProgress()).save(node)
    assert 'progress' not in node.driver_internal_info['snapshot']


def test_note_leaves_the_saving_to_others(node):
    attempt.Attempt(attempt.RUNNING).note(node)
    assert node.saves == 0
    assert attempt.load(node).status == attempt.RUNNING


@pytest.mark.parametrize('status, index, found', [
    (attempt.RUNNING, 1, True),
    (attempt.COMMITTED, 1, True),
    (attempt.PREPARING, 1, False),
    (attempt.FAILED, 1, False),
    (attempt.ABORTED, 1, False),
    (attempt.RUNNING, 0, False),
    (attempt.RUNNING, None, False),
])
def test_current(node, status, index, found):
    node.driver_internal_info['service_step_index'] = 1
    assert attempt.current(node) is None
    this = attempt.Attempt(status, step_index=index)
    this.save(node)
    assert attempt.current(node) == (this if found else None)


def test_load_without_a_record(node):
    assert attempt.load(node) is None


def test_load_ignores_what_a_later_release_wrote():
    node = Node(snapshot={'status': 'running', 'colour': 'red',
                          'progress': {'percent': 3, 'mood': 'good'}})
    assert attempt.load(node).progress.percent == 3
    assert attempt.load(node).status == attempt.RUNNING


def test_reason_is_bounded(node):
    this = attempt.Attempt(attempt.RUNNING).ended(
        attempt.FAILED, reason='x' * 10000)
    assert not this.open
    assert len(this.reason) == 500


def test_lineage_is_stable_until_the_deployment_ends(node):
    first = attempt.lineage(node)
    assert attempt.lineage(node) == first
    assert first.node == node.uuid
    attempt.end_lineage(node)
    assert attempt.lineage(node).generation != first.generation


def test_sequence_counts_the_snapshots_of_a_lineage(node):
    assert [attempt.next_sequence(node) for _ in range(3)] == [1, 2, 3]
    generation = attempt.lineage(node).generation
    attempt.end_lineage(node)
    assert attempt.next_sequence(node) == 1
    assert attempt.lineage(node).generation != generation


def test_another_instance_is_another_lineage(node):
    first = attempt.lineage(node)
    node.instance_uuid = str(uuid.uuid4())
    assert attempt.lineage(node).generation != first.generation


@pytest.mark.parametrize('for_snapshot', [True, False])
def test_prepared(node, for_snapshot):
    assert not attempt.is_prepared(node)
    attempt.set_prepared(node, for_snapshot)
    assert attempt.is_prepared(node)
    assert attempt.is_prepared_for_snapshot(node) is for_snapshot
    attempt.clear_prepared(node)
    assert not attempt.is_prepared(node)


def test_restored_until_the_next_snapshot_or_deployment(node):
    assert attempt.restored(node) is None
    lineage = attempt.lineage(node)
    for _time in range(2):
        attempt.set_restored(node, 's')
        assert attempt.restored(node) == 's'
        attempt.next_sequence(node)
        assert attempt.restored(node) == 's'
        attempt.set_restored(node, None)
        assert attempt.restored(node) is None
        attempt.set_restored(node, None)
    assert attempt.lineage(node) == lineage
    attempt.set_restored(node, 's')
    attempt.end_lineage(node)
    assert attempt.restored(node) is None
