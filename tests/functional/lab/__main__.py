# SPDX-License-Identifier: Apache-2.0
"""The lab from the command line.

    python -m tests.functional.lab build | up [--cloud] | down | status
    python -m tests.functional.lab env USER
    python -m tests.functional.lab enroll NODE | adopt NODE | deploy NODE
    python -m tests.functional.lab console NODE
"""

import argparse
import sys

from tests.functional.lab import access
from tests.functional.lab import lab
from tests.functional.lab import process
from tests.functional.lab import report
from tests.functional.lab.build import osimage
from tests.functional.lab.build import ramdisk
from tests.functional.lab.build import workbench
from tests.servers import cloud


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog='python -m tests.functional.lab')
    parser.add_argument('--state', help='folder of the lab')
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('build', help='only make the images, if need be')
    up = commands.add_parser('up', help='bring a new lab up; an old one goes')
    up.add_argument('--cloud', action='store_true',
                    help='with Keystone and Glance, and everything under them')
    commands.add_parser('down', help='take the lab down')
    commands.add_parser('status', help='what runs, and where')
    env = commands.add_parser(
        'env', help='lines by which a shell becomes a user of the cloud')
    env.add_argument('user', help=', '.join((access.SYSTEM, *cloud.USERS)))
    console = commands.add_parser('console', help='what a machine printed')
    console.add_argument('node')
    for name in ('enroll', 'adopt', 'deploy'):
        each = commands.add_parser(name, help=f'{name} a node')
        each.add_argument('node')
    arguments = parser.parse_args()
    here = lab.Lab(arguments.state,
                   cloud=getattr(arguments, 'cloud', False))
    try:
        run(here, arguments)
    except process.LabError as error:
        report.warn(f'FAILED: {error}')
        return 1
    return 0


def run(here: lab.Lab, arguments: argparse.Namespace) -> None:
    """Run one command on one lab."""
    if arguments.command == 'build':
        ramdisk.build(osimage.build())
        workbench.build()
    elif arguments.command == 'up':
        here.up()
        status(here)
    elif arguments.command == 'down':
        here.down()
    elif arguments.command == 'status':
        status(here.attach())
    elif arguments.command == 'env':
        print(*here.attach().ironic.exports(arguments.user), sep='\n')
    elif arguments.command == 'console':
        sys.stdout.write(
            here.attach().machines[arguments.node].console.text())
    else:
        node = here.attach().node(arguments.node)
        with report.phase(f'{arguments.command} {node.name}'):
            getattr(node, arguments.command)()


def status(here: lab.Lab) -> None:
    """Print what runs and how to use it."""
    for path in sorted((here.state_dir / 'run').glob('*.json')):
        pid = process.Daemon(path.stem, here.state_dir).pid
        print(f'{path.stem:10} {f"process {pid}" if pid else "not running"}')
    print(f'Logs and disks are in {here.state_dir}. In a shell:')
    for line in here.ironic.exports():
        print(f'  {line}')
    print(f'  virsh -c {here.bmc.libvirt_uri} list --all')


if __name__ == '__main__':
    sys.exit(main())
