# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot`` with a repository in a real Swift."""

import json
import uuid

import pytest
import requests

from ironic_snapshot_core import commit
from ironic_snapshot_core import units
from tests import disks
from tests.contract import cli
from tests.contract import node_disk

CLOUDS = """\
clouds:
  test:
    auth_type: v1password
    auth:
      auth_url: {swift.auth_url}
      username: {swift.user}
      password: {password}
"""


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / 'disk.raw'
    node_disk.fill(path, 3)
    return path


@pytest.fixture
def repo():
    return f'swift:snapshots-{uuid.uuid4()}'


def variables(swift, password):
    return cli.environment(
        ST_AUTH=swift.auth_url, ST_USER=swift.user, ST_KEY=password
    )


def clouds_yaml(swift, password, folder):
    path = folder / 'clouds.yaml'
    path.write_text(CLOUDS.format(swift=swift, password=password))
    return cli.environment(OS_CLIENT_CONFIG_FILE=str(path), OS_CLOUD='test')


@pytest.fixture(params=['variables', 'clouds.yaml'])
def env(request, swift, tmp_path):
    if request.param == 'variables':
        return variables(swift, swift.key)
    return clouds_yaml(swift, swift.key, tmp_path)


def test_there_and_back(swift, swift_token, disk, repo, env, tmp_path):
    result = cli.read('capture', disk, repo, '--name=golden', env=env)
    (found,) = cli.read('list', repo, env=env)['snapshots']
    assert found['snapshot'] == result['snapshot']
    assert 'golden' in cli.succeed('show', repo, 'golden', env=env)
    cli.succeed('export', repo, 'golden', tmp_path / 'o.raw', env=env)
    assert (tmp_path / 'o.raw').read_bytes() == disk.read_bytes()
    cli.succeed('export', repo, 'golden', tmp_path / 'o.qcow2', env=env)
    # What Swift serves is what was exported.
    image = requests.get(
        f'{swift.storage_url}/{repo.removeprefix("swift:")}/'
        + result['image']['name'],
        headers={'X-Auth-Token': swift_token},
        timeout=30,
    )
    assert (tmp_path / 'o.qcow2').read_bytes() == image.content
    cli.succeed('restore', repo, 'golden', tmp_path / 'r.raw', env=env)
    assert (tmp_path / 'r.raw').read_bytes() == disk.read_bytes()


def test_a_lineage(swift, disk, repo, tmp_path):
    env = variables(swift, swift.key)
    states = {}
    for name in ('one', 'two', 'three'):
        with open(disk, 'r+b') as f:
            # Among noise, so that packs are used in part.
            f.seek(5 * units.MiB)
            f.write(name.encode() * 1000)
        found = cli.read('capture', disk, repo, f'--name={name}', env=env)
        states[name] = disk.read_bytes()
        assert (found['parent'] is None) == (name == 'one')
    assert found['shared_bytes'] > units.MiB
    assert found['new_bytes'] <= 2 * units.MiB
    cli.succeed('delete', repo, 'two', '--yes', env=env)
    # What a listing has may be late there, so there is a grace.
    first = cli.read('prune', repo, env=env)
    assert (first['grace_hours'], first['deleted']) == (48, 0)
    assert first['condemned'] >= 3
    second = cli.read('prune', repo, '--grace=0', env=env)
    assert second['deleted'] == first['condemned']
    for name in ('one', 'three'):
        cli.check_export(repo, name, states[name], tmp_path, env=env)
    found = cli.read('capture', disk, repo, '--name=four', env=env)
    assert found['parent'] is not None
    text = cli.succeed('list', repo, env=env)
    assert text.count('incremental') == 2 and ' deleted\n' in text


def test_there_are_connections_for_all_threads(tmp_path, repo, swift):
    disk = tmp_path / 'disk.raw'
    disk.write_bytes(disks.random_bytes(40 * units.MiB))
    # Little memory makes small packs and a single upload: so the commit has
    # many objects to look at, and more threads than the capture.
    done = cli.run(
        'capture',
        disk,
        repo,
        '--json',
        '--quiet',
        '--workers=1',
        '--memory-limit=41M',
        env=variables(swift, swift.key),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['packs'] > commit.WORKERS
    assert done.stderr == ''


def test_uploads_are_limited(disk, repo, swift):
    env = variables(swift, swift.key)
    result = cli.read('capture', disk, repo, '--bandwidth-limit=2M', env=env)
    least = result['new_bytes'] / 2**21
    assert result['seconds'] > 0.8 * least


def test_a_container_is_made_by_a_capture_only(repo, swift):
    env = variables(swift, swift.key)
    for _ in range(2):
        cli.fail('container-missing', 'list', repo, env=env)


@pytest.mark.parametrize('kind', ['variables', 'clouds.yaml'])
def test_a_wrong_password(swift, disk, repo, tmp_path, kind):
    if kind == 'variables':
        env = variables(swift, 'canary')
    else:
        env = clouds_yaml(swift, 'canary', tmp_path)
    line = cli.fail('credentials-missing', 'capture', disk, repo, env=env)
    assert 'canary' not in line
    assert swift.user in line or '401' in line or 'nauthorized' in line


def test_no_credentials(repo, tmp_path):
    env = cli.environment(HOME=str(tmp_path))
    line = cli.fail('credentials-missing', 'list', repo, env=env)
    assert 'OS_CLOUD' in line and 'ST_AUTH' in line


def test_an_unknown_cloud(repo, tmp_path):
    env = cli.environment(HOME=str(tmp_path), OS_CLOUD='nowhere')
    line = cli.fail('credentials-missing', 'list', repo, env=env)
    assert 'nowhere' in line


def test_without_the_packages_for_swift(repo, swift):
    code = (
        'import sys\n'
        'sys.modules["swiftclient"] = None\n'
        'from ironic_snapshot_cli import main\n'
        f'sys.exit(main.main(["list", "{repo}"]))\n'
    )
    env = variables(swift, swift.key)
    done = cli.run_python(code, env=env)
    assert done.returncode == 1
    assert 'install "ironic-snapshot[cli]"' in done.stderr
