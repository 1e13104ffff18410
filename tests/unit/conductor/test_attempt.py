# SPDX-License-Identifier: Apache-2.0
import json
import uuid

import pytest

from ironic_snapshot import attempt


class Node:
    """The part of ironic.objects.Node that the module uses."""

    def __init__(self, **info):
        self.uuid = str(uuid.uuid4())
        self.instance_uuid = None
        self.driver_internal_info = info
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


def test_load_without_a_record(node):
    assert attempt.load(node) is None


def test_load_ignores_what_a_later_release_wrote():
    node = Node(snapshot={'status': 'running', 'colour': 'red'})
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
