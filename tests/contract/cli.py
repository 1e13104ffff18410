# SPDX-License-Identifier: Apache-2.0
"""The command ``ironic-snapshot``, as a process of its own."""

import json
import os
import subprocess
import sys

COMMAND = [sys.executable, '-W', 'ignore', '-m', 'ironic_snapshot_cli']

#: Where credentials could come from, other than from the test.
FOREIGN = ('OS_', 'ST_', 'XDG_CONFIG')


def environment(**changes):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN)
    }
    return {**kept, 'COLUMNS': '80', **changes}


def run(*args, env=None, **options):
    """Run it to its end."""
    return _run([*COMMAND, *map(str, args)], env, **options)


def run_python(code, env=None):
    """Run it in a process that is prepared for it."""
    return _run([sys.executable, '-W', 'ignore', '-c', code], env)


def _run(command, env, **options):
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=env or environment(),
        **options,
    )


def succeed(*args, status=0, **options):
    """Run it; give what it printed."""
    done = run(*args, **options)
    assert done.returncode == status, done.stderr
    assert 'Traceback' not in done.stderr
    return done.stdout


def read(*args, **options):
    """Run it with --json; give the object."""
    return json.loads(succeed(*args, '--json', **options))


def fail(code, *args, **options):
    """Run it; it must fail in one line that has this code."""
    done = run(*args, **options)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'ironic-snapshot: error: [{code}] '), line
    assert done.stdout == ''
    return line


def snapshots(repo, **options):
    """What --json lists of a repository."""
    return read('list', repo, **options)['snapshots']


def qemu_img(*args):
    done = subprocess.run(
        ['qemu-img', *map(str, args)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_export(repo, wanted, disk, folder, **options):
    """Get a snapshot back; it must be this disk.

    :param disk: path, or bytes.
    """
    expected = disk if isinstance(disk, bytes) else disk.read_bytes()
    raw, qcow2 = folder / 'out.raw', folder / 'out.qcow2'
    succeed('export', repo, wanted, raw, '--force', **options)
    assert raw.read_bytes() == expected
    succeed('export', repo, wanted, qcow2, '--force', **options)
    qemu_img('check', qcow2)
    found = json.loads(qemu_img('info', '--output=json', qcow2))
    assert found['virtual-size'] == len(expected)
    qemu_img('compare', '-f', 'raw', '-F', 'qcow2', raw, qcow2)
