# SPDX-License-Identifier: Apache-2.0
"""What the built package promises to those who install it."""
import configparser
import importlib
import importlib.util
import json
import os
import pathlib
import pkgutil
import shutil
import subprocess
import sys
import venv

import pytest

import ipa_snapshot_hardware
import ironic_snapshot
import ironic_snapshot_cli
import ironic_snapshot_core

ROOT = pathlib.Path(__file__).parents[2]

LIST_ENTRY_POINTS = '''
import importlib.metadata, json
print(json.dumps(sorted(
    [each.group, each.name, each.value]
    for each in importlib.metadata.distribution(
        "ironic-snapshot").entry_points)))
'''

IMPORT_WITHOUT = '''
import importlib, sys
for missing in sys.argv[1].split(","):
    sys.modules[missing] = None
for name in sys.argv[2:]:
    importlib.import_module(name)
'''


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built as a packager would from a checkout."""
    folder = tmp_path_factory.mktemp('wheel')
    # Not in the checkout: what a build leaves behind gets into the next.
    tree = shutil.copytree(
        ROOT, folder / 'tree', ignore=shutil.ignore_patterns(
            'build', '__pycache__', '.*_cache', '.tox', '.venv'))
    subprocess.run(
        [sys.executable, '-m', 'build', '--wheel', '--no-isolation',
         '--outdir', folder, tree], check=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={'PBR_VERSION': '0.0.1', **os.environ})
    found, = folder.glob('*.whl')
    return found


@pytest.mark.timeout(300)
def test_wheel_in_an_empty_environment_has_every_entry_point(
        wheel, tmp_path):
    venv.create(tmp_path / 'venv', with_pip=True)
    python = tmp_path / 'venv/bin/python'
    subprocess.run([python, '-I', '-m', 'pip', 'install', '-q', '--no-deps',
                    '--no-index', wheel], check=True)
    output = subprocess.run(
        [python, '-I', '-c', LIST_ENTRY_POINTS], check=True,
        stdout=subprocess.PIPE, cwd=tmp_path).stdout
    found = {tuple(each) for each in json.loads(output)}
    declared = configparser.ConfigParser()
    declared.read(ROOT / 'setup.cfg')
    expected = {
        (group, *(part.strip() for part in line.split('=')))
        for group, lines in declared['entry_points'].items()
        for line in lines.strip().splitlines()}
    assert found == expected
    assert len(found) >= 9


def test_wheel_holds_the_four_packages_and_nothing_else(wheel):
    names = subprocess.run(
        [sys.executable, '-m', 'zipfile', '--list', wheel], check=True,
        stdout=subprocess.PIPE, text=True).stdout
    tops = {line.split('/')[0] for line in names.splitlines()[1:]}
    assert {top for top in tops if '.dist-info' not in top} == {
        'ironic_snapshot_core', 'ipa_snapshot_hardware', 'ironic_snapshot',
        'ironic_snapshot_cli'}


def modules(*packages):
    return [module.name for package in packages
            for module in pkgutil.walk_packages(
                package.__path__, package.__name__ + '.')]


def import_without(missing, names):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', IMPORT_WITHOUT, missing,
         *names], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_ramdisk_imports_without_ironic():
    names = modules(ironic_snapshot_core, ipa_snapshot_hardware)
    assert 'ipa_snapshot_hardware.manager' in names
    # The agent registers its options before it loads hardware managers.
    import_without('ironic,ironic_snapshot',
                   ['ironic_python_agent.config', *names])


def test_capture_imports_without_the_agent():
    names = modules(ironic_snapshot_core, ipa_snapshot_hardware)
    names.remove('ipa_snapshot_hardware.manager')
    import_without('ironic,ironic_python_agent,oslo_config,oslo_log', names)


def is_of_nova(name):
    # In a process of its own: Ironic and Nova do not go together.
    return name.startswith('ironic_snapshot.nova.')


def test_conductor_imports_without_the_agent():
    names = [name for name in modules(ironic_snapshot_core, ironic_snapshot)
             if not is_of_nova(name)]
    assert 'ironic_snapshot.hardware' in names
    import_without('ironic_python_agent,ipa_snapshot_hardware', names)


def test_compute_driver_imports_without_ironic_and_the_agent():
    names = [name for name in modules(ironic_snapshot) if is_of_nova(name)]
    # It decides how threads work.
    names.remove('ironic_snapshot.nova.compute')
    assert 'ironic_snapshot.nova.driver' in names
    import_without('ironic,ironic_python_agent,swiftclient',
                   ['ironic_snapshot.nova.compute', *names])


def test_command_imports_without_ironic_and_the_agent():
    names = modules(
        ironic_snapshot_core, ipa_snapshot_hardware, ironic_snapshot_cli)
    names.remove('ipa_snapshot_hardware.manager')
    # Running, not importing, is what this is for.
    names.remove('ironic_snapshot_cli.__main__')
    assert 'ironic_snapshot_cli.swift_repository' in names
    import_without(
        'ironic,ironic_python_agent,ironic_snapshot,oslo_config,oslo_log,'
        'openstack,keystoneauth1,swiftclient', names)


def test_command_needs_only_the_core_for_a_directory(wheel, tmp_path):
    """As after "pip install ironic-snapshot", without any extra."""
    venv.create(tmp_path / 'venv', with_pip=True)
    python = tmp_path / 'venv/bin/python'
    subprocess.run([python, '-I', '-m', 'pip', 'install', '-q', '--no-deps',
                    '--no-index', wheel], check=True)
    # What requirements.txt names, from where the tests have it.
    (folder,) = (tmp_path / 'venv/lib').glob('python3*/site-packages')
    for name in ('blake3', 'zstandard', 'requests', 'urllib3', 'idna',
                 'certifi', 'charset_normalizer'):
        origin = importlib.util.find_spec(name).origin
        os.symlink(pathlib.Path(origin).parent, folder / name)
    (tmp_path / 'disk.raw').write_bytes(b'disk' * 2 ** 18)
    for arguments in (['capture', 'disk.raw', 'repo', '--name', 'n'],
                      ['list', 'repo'],
                      ['export', 'repo', 'n', 'out.raw']):
        subprocess.run(
            [tmp_path / 'venv/bin/ironic-snapshot', *arguments], check=True,
            cwd=tmp_path, stdout=subprocess.PIPE)
    assert (tmp_path / 'out.raw').read_bytes() == b'disk' * 2 ** 18


def test_entry_points_load():
    # As above.
    importlib.import_module('ironic_python_agent.config')
    declared = configparser.ConfigParser()
    declared.read(ROOT / 'setup.cfg')
    for lines in declared['entry_points'].values():
        for line in lines.strip().splitlines():
            name = line.split('=')[1].strip()
            if is_of_nova(name):
                continue
            assert pkgutil.resolve_name(name), name
