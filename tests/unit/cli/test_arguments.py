# SPDX-License-Identifier: Apache-2.0
"""The command line."""

import io
import subprocess
import sys

import pytest

from ironic_snapshot_cli import arguments


def test_a_capture_with_defaults():
    args = arguments.parse(['capture', 'disk', 'repo'])
    assert (args.source, args.repository) == ('disk', 'repo')
    assert args.cluster_size == 256 * 1024
    assert args.compression == 'zstd'
    assert (args.level, args.name, args.sector_size) == (None, None, None)
    assert not (args.all_blocks or args.skip_gaps or args.allow_bad_sectors)
    assert (args.workers, args.memory_limit, args.bandwidth_limit) == (0, 0, 0)
    assert (args.parent, args.redundancy) == ('auto', 0)


def test_a_capture_with_everything():
    args = arguments.parse(
        'capture disk repo --name golden --description words '
        '--cluster-size 1M --compression zlib --level 9 --skip-gaps '
        '--allow-bad-sectors --workers 3 --memory-limit 300M '
        '--bandwidth-limit 1.5M --io-priority idle --sector-size 4096 '
        '--parent golden --redundancy 5 --json --quiet --debug'.split()
    )
    assert (args.parent, args.redundancy) == ('golden', 5)
    assert args.cluster_size == 2**20
    assert args.memory_limit == 300 * 2**20
    assert args.bandwidth_limit == 3 * 2**19
    assert (args.level, args.workers, args.sector_size) == (9, 3, 4096)


def test_a_restore():
    args = arguments.parse(['restore', 'repo', 'golden', '/dev/sdb'])
    assert (args.repository, args.snapshot, args.target) == (
        'repo', 'golden', '/dev/sdb'
    )  # fmt: skip
    assert (args.identity, args.yes) == ('keep', False)
    assert (args.workers, args.memory_limit, args.bandwidth_limit) == (0, 0, 0)
    args = arguments.parse(
        'restore repo golden disk.raw --yes --identity reset --workers 3 '
        '--memory-limit 300M --bandwidth-limit 1.5M --io-priority low '
        '--json --quiet --debug'.split()
    )
    assert (args.identity, args.yes) == ('reset', True)
    assert (args.workers, args.memory_limit) == (3, 300 * 2**20)
    assert args.bandwidth_limit == 3 * 2**19


def test_a_publication():
    args = arguments.parse(['publish', 'repo', 'golden'])
    assert (args.repository, args.snapshot) == ('repo', 'golden')
    assert (args.name, args.visibility, args.image_id) == (None, None, None)
    assert (args.property, args.manifest_key) == ({}, None)
    id = '01234567-89AB-4000-8000-0123456789AB'
    args = arguments.parse(
        'publish repo golden --name n --visibility shared --property a=1 '
        f'--property b=x=y --property a=2 --image-id {id} --json '
        '--quiet --debug --manifest-key file'.split()
    )
    assert (args.name, args.visibility) == ('n', 'shared')
    assert args.image_id == id.lower()
    assert args.property == {'a': '2', 'b': 'x=y'}


def test_a_verification():
    args = arguments.parse(['verify', 'repo'])
    assert (args.repository, args.snapshot) == ('repo', [])
    assert (args.data, args.manifest_key) == (False, None)
    args = arguments.parse(
        'verify repo one two --data --manifest-key file --quiet'.split()
    )
    assert args.snapshot == ['one', 'two']
    assert (args.data, args.manifest_key) == (True, 'file')


@pytest.mark.parametrize(
    'line',
    [
        '',
        'verify',
        'frobnicate',
        'capture disk',
        'capture disk repo --cluster-size 100K',
        'capture disk repo --cluster-size 4M',
        'capture disk repo --cluster-size many',
        'capture disk repo --level 20',
        'capture disk repo --level 0',
        'capture disk repo --compression zlib --level 10',
        'capture disk repo --compression none --level 1',
        'capture disk repo --compression auto --level 1',
        'capture disk repo --compression lzma',
        'capture disk repo --workers 0',
        'capture disk repo --workers 65',
        'capture disk repo --bandwidth-limit 0',
        'capture disk repo --memory-limit 2000T',
        'capture disk repo --sector-size 1024',
        'capture disk repo --all-blocks --skip-gaps',
        'capture disk repo --io-priority high',
        'capture disk repo --name=',
        'capture disk repo --work 1',
        'capture disk repo --redundancy -1',
        'capture disk repo --redundancy often',
        'restore repo golden',
        'restore repo golden disk --identity other',
        'restore repo golden disk --workers 65',
        'publish repo',
        'publish repo id --visibility public',
        'publish repo id --image-id golden',
        'publish repo id --property nothing',
        'publish repo id --property owner=me',
        'publish repo id --property ironic_snapshot_id=x',
        'delete repo',
        'delete repo id id',
        'prune',
        'prune repo --grace -1',
        'prune repo --grace 0.5',
        'show repo',
        'export repo id',
        'export repo id out.vmdk',
        'export repo id out',
        'export repo id - --format raw',
        'export repo id - --json',
    ],
)
def test_wrong_usage(line, capsys, monkeypatch):
    # So nobody can be asked.
    monkeypatch.setattr(sys, 'stdin', io.StringIO())
    with pytest.raises(SystemExit) as caught:
        arguments.parse(line.split())
    assert caught.value.code == 2
    assert 'error: ' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['x' * 256, 'a\nb', 'a\x1b[0m'])
def test_names_that_are_none(name):
    with pytest.raises(SystemExit):
        arguments.parse(['capture', 'disk', 'repo', '--name', name])


@pytest.mark.parametrize(
    'line, image_format',
    [
        ('out.qcow2', 'qcow2'),
        ('dir.d/out.RAW', 'raw'),
        ('out.img', 'raw'),
        ('out --format raw', 'raw'),
        ('out.raw --format qcow2', 'qcow2'),
        ('-', 'qcow2'),
    ],
)
def test_formats(line, image_format):
    args = arguments.parse(['export', 'repo', 'id', *line.split()])
    assert args.format == image_format


def test_delete_and_prune():
    args = arguments.parse('delete repo one two --yes --json'.split())
    assert (args.snapshot, args.yes, args.json) == (['one', 'two'], True, True)
    args = arguments.parse(['prune', 'repo'])
    assert (args.grace, args.dry_run, args.json) == (None, False, False)
    assert arguments.parse('prune repo --grace 48 --dry-run'.split()).grace


def test_help_imports_nothing_heavy():
    """What it would take time to import, and help has no use for."""
    done = subprocess.run(
        [
            sys.executable,
            '-X',
            'importtime',
            '-m',
            'ironic_snapshot_cli',
            '--help',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'exit status' in done.stdout
    imported = {
        line.rpartition('|')[2].strip() for line in done.stderr.splitlines()
    }
    assert 'ironic_snapshot_cli.arguments' in imported
    assert not imported & {
        'requests',
        'zstandard',
        'blake3',
        'openstack',
        'keystoneauth1',
        'swiftclient',
        'importlib.metadata',
        'ipa_snapshot_hardware.capture',
    }
