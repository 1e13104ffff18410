# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import uuid

from ironic_snapshot import publication_record
from ironic_snapshot.publication_record import Publication

LEAST = {'snapshot': 's', 'container': 'c', 'generation': 'g',
         'project': 'p', 'method': 'import'}


class Node:
    def __init__(self):
        self.driver_internal_info = {}

    def set_driver_internal_info(self, key, value):
        # Through the database.
        self.driver_internal_info[key] = json.loads(json.dumps(value))


def new(image=None, **fields):
    return Publication(image_id=image or str(uuid.uuid4()), **LEAST, **fields)


def test_what_is_noted_is_read_again():
    node = Node()
    assert not publication_record.is_open(node)
    for ours in (True, False):
        this = new('i', ours=ours, asked=True, hash='00', deadline=7)
        publication_record.note(node, this)
        assert publication_record.load(node) == [this]
        assert publication_record.find(node, 'i') == this
    assert publication_record.is_open(node)
    assert publication_record.find(node, 'j') is None


def test_entry_of_a_later_release():
    node = Node()
    publication_record.note(node, new('i'))
    node.driver_internal_info[publication_record.KEY][0]['later'] = 1
    assert publication_record.find(node, 'i') == new('i')


def test_few_that_have_ended_are_kept_and_all_that_have_not():
    node = Node()
    opened = new('open')
    publication_record.note(node, opened)
    left = new('left').ended('failed', 'why', leftover=True)
    publication_record.note(node, left)
    for number in range(10):
        publication_record.note(node, new(str(number)).ended('active'))
    found = [each.image_id for each in publication_record.load(node)]
    assert found == ['open', 'left', '5', '6', '7', '8', '9']


def test_one_that_has_ended_is_small():
    node = Node()
    this = new(hash='0' * 128, hash_algorithm='sha512', deadline=1,
               asked=True, visibility='private').ended('failed', 'x' * 9999)
    publication_record.note(node, this)
    entry, = node.driver_internal_info[publication_record.KEY]
    assert len(json.dumps(entry)) < 1000
    assert 'hash' not in entry
    assert not publication_record.is_open(node)


def test_open():
    assert [status for status in (
        'waiting', 'importing', 'verifying', 'active', 'failed')
        if dataclasses.replace(new(), status=status).open] == [
            'waiting', 'importing', 'verifying']
