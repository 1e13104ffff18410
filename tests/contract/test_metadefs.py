# SPDX-License-Identifier: Apache-2.0
"""The description of our image properties, loaded by Glance itself."""

import json
import pathlib
import subprocess
import sys

import jsonschema
import pytest

from ironic_snapshot_core import image_properties
from tests.servers import programs
from tests.unit.core import test_image_properties as examples

FOLDER = pathlib.Path(__file__).parents[2] / 'etc/ironic-snapshot/metadefs'
NAMESPACE = 'OS::Ironic::Snapshot'
#: All the names that images can have of us.
NAMES = {
    value for constant, value in vars(image_properties).items()
    if constant.isupper() and constant != 'PREFIX'
    and str(value).startswith(image_properties.PREFIX)}


@pytest.fixture(scope='module')
def loaded(cloud):
    """The namespace as Glance serves it to a user.

    It is loaded as for the first time, and as after an upgrade.
    """
    for options in ([], ['True', 'True']):
        subprocess.run(
            [sys.executable, '-W', 'ignore',
             programs.find_program('glance-manage'), '--config-file',
             str(cloud.glance.directory / 'glance-manage.conf'),
             'db_load_metadefs', str(FOLDER), *options],
            check=True, capture_output=True, timeout=60)
    answer = cloud.connection('alice').image.get(
        f'/metadefs/namespaces/{NAMESPACE}')
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_is_served_as_it_was_written(loaded):
    (path,) = FOLDER.iterdir()
    written = json.loads(path.read_text())
    assert loaded['properties'] == written['properties']
    for name in ('display_name', 'description', 'visibility', 'protected'):
        assert loaded[name] == written[name]
    assert [each['name'] for each in loaded['resource_type_associations']] == [
        each['name'] for each in written['resource_type_associations']]


def test_each_property_is_described(loaded):
    assert set(loaded['properties']) == NAMES
    for schema in loaded['properties'].values():
        jsonschema.Draft4Validator.check_schema(schema)


@pytest.mark.parametrize(
    'manifest', [examples.FULL, examples.BARE], ids=['full', 'incremental'])
def test_what_images_have_is_as_described(loaded, manifest):
    image = image_properties.new(manifest)
    image.update(image_properties.verified(
        examples.BASE, image_properties.BY_HASH))
    ours = {name: value for name, value in image.items() if name in NAMES}
    assert len(ours) >= len(NAMES) - 1
    for name, value in ours.items():
        jsonschema.validate(value, loaded['properties'][name])
