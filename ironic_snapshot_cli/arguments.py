# SPDX-License-Identifier: Apache-2.0
"""The command line. Imports little: help must come at once."""

import argparse
import sys
import typing
from collections.abc import Callable

from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import layout
from ironic_snapshot_cli import sizes

T = typing.TypeVar('T')

#: zstd, with a level chosen on the way.
AUTO = 'auto'
QCOW2 = 'qcow2'
RAW = 'raw'
#: Instead of a file.
STDOUT = '-'
#: No parent; ``auto`` is the word for the best one as well.
NONE = 'none'
#: The identity of a system that is restored.
KEEP = 'keep'
RESET = 'reset'

_FORMATS = {'.qcow2': QCOW2, '.raw': RAW, '.img': RAW}
_MAX_NAME = 255
_MAX_DESCRIPTION = 1000
_MAX_WORKERS = 64
_MAX_REDUNDANCY = 1000
_MAX_GRACE_H = 24 * 365

_DESCRIPTION = """\
Take snapshots of disks and images, and get them back as images or disks.

REPO is a directory, or swift:CONTAINER with the credentials of OpenStack
clients (OS_CLOUD, OS_*, or ST_AUTH, ST_USER and ST_KEY) in the environment.
"""
_EPILOG = """\
exit status: 0 done; 1 failed; 2 wrong usage; 3 captured, but parts of the
disk could not be read, or verified, and damage was found; 130 interrupted
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; exits where it is wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == 'capture':
        _check_capture(parser, args)
    elif args.command == 'export':
        _check_export(parser, args)
    elif args.command == 'publish':
        _check_publish(parser, args)
    elif args.command == 'delete':
        _check_delete(parser, args)
    return args


# Private


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(
        self, parser: argparse.ArgumentParser, *_: typing.Any
    ) -> None:
        import importlib.metadata

        print(f'{parser.prog} {importlib.metadata.version(parser.prog)}')
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='ironic-snapshot',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--version',
        action=_Version,
        nargs=0,
        help='show the version and exit',
    )
    commands = parser.add_subparsers(
        title='commands', dest='command', metavar='COMMAND', required=True
    )
    _add_capture(commands)
    _add_list(commands)
    _add_show(commands)
    _add_export(commands)
    _add_restore(commands)
    _add_publish(commands)
    _add_verify(commands)
    _add_delete(commands)
    _add_prune(commands)
    return parser


def _add_command(
    commands: typing.Any, name: str, summary: str, **options: typing.Any
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, allow_abbrev=False, **options
    )
    parser.add_argument(
        '--debug',
        action='store_true',
        help='show what happens, and where an error comes from',
    )
    parser.add_argument(
        '--json', action='store_true', help='print one JSON object'
    )
    return parser


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'repository', metavar='REPO', help='directory or swift:CONTAINER'
    )


def _add_manifest_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--manifest-key',
        metavar='FILE',
        help="with a conductor's manifest_key, for the snapshots that it "
        'has committed',
    )


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--quiet', action='store_true', help='show no progress'
    )


def _add_capture(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'capture',
        'take a snapshot of a disk or an image file',
        description='Take a snapshot of a disk or of a raw image file. It is '
        'only read; nothing may write to it meanwhile.',
    )
    parser.add_argument(
        'source', metavar='SOURCE', help='block device or raw image file'
    )
    parser.add_argument(
        'repository',
        metavar='REPO',
        help='directory or swift:CONTAINER, made if missing; or null: to '
        'measure only, which stores nothing',
    )
    parser.add_argument(
        '--name',
        type=_name,
        metavar='N',
        help='of the snapshot (default: name of SOURCE, and the time)',
    )
    parser.add_argument(
        '--description',
        type=_description,
        default='',
        metavar='T',
        help='free text on one line',
    )
    _add_quiet(parser)
    what = parser.add_argument_group('what is read')
    what.add_argument(
        '--all-blocks',
        action='store_true',
        help='everything, not only what the file systems use',
    )
    what.add_argument(
        '--skip-gaps',
        action='store_true',
        help='not the inside of large gaps between partitions',
    )
    what.add_argument(
        '--allow-bad-sectors',
        action='store_true',
        help='go on past what cannot be read; the snapshot is degraded then, '
        'and says where',
    )
    what.add_argument(
        '--sector-size',
        type=int,
        choices=(512, 4096),
        help='of the disk that an image file was made for (default: 512)',
    )
    how = parser.add_argument_group('how it is stored')
    how.add_argument(
        '--parent',
        default=AUTO,
        metavar='SNAPSHOT',
        help='whose clusters are not stored again: its id, the beginning of '
        'one, or its name; or auto: the latest of the same disk that will '
        'do; or none (default: auto)',
    )
    how.add_argument(
        '--redundancy',
        type=_redundancy,
        default=0,
        metavar='N',
        help='store a second copy of what so many snapshots in a row rely '
        'on (default: 0, never)',
    )
    how.add_argument(
        '--cluster-size',
        type=_cluster_size,
        default=256 * 1024,
        metavar='SIZE',
        help='64K to 2M (default: 256K)',
    )
    how.add_argument(
        '--compression',
        choices=('zstd', 'zlib', 'none', AUTO),
        default='zstd',
        help='auto: zstd with a level that keeps up with the repository '
        '(default: zstd)',
    )
    how.add_argument(
        '--level',
        type=int,
        metavar='N',
        help='zstd: 1 to 19 (default: 1); zlib: 1 to 9 (default: 6)',
    )
    _add_cost(
        parser, 'threads that compress', 'bytes to store', 'reading the disk'
    )


def _add_cost(
    parser: argparse.ArgumentParser, threads: str, limited: str, used: str
) -> None:
    """Add what a capture or a restore may take.

    :param threads: what there are several of.
    :param limited: what is slowed down.
    :param used: what has a priority.
    """
    cost = parser.add_argument_group('what it may take')
    cost.add_argument(
        '--workers',
        type=_workers,
        default=0,
        metavar='N',
        help=f'{threads} (default: one for each processor)',
    )
    cost.add_argument(
        '--memory-limit',
        type=_size,
        default=0,
        metavar='SIZE',
        help='(default: half of what is available, at most about 1G)',
    )
    cost.add_argument(
        '--bandwidth-limit',
        type=_size,
        default=0,
        metavar='SIZE',
        help=f'{limited} per second (default: no limit)',
    )
    cost.add_argument(
        '--io-priority',
        choices=('normal', 'low', 'idle'),
        default='normal',
        help=f'of {used} (default: normal)',
    )


def _add_list(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'list',
        'list the snapshots of a repository',
        description='List the snapshots of a repository, those of each disk '
        'in their order. NEW is what a snapshot had to store, SHARED what it '
        'uses of earlier ones.',
    )
    _add_repository(parser)
    parser.add_argument(
        '--long',
        action='store_true',
        help='show whole ids and times, and why snapshots are full or '
        'damaged',
    )
    _add_manifest_key(parser)


def _add_snapshot(
    parser: argparse.ArgumentParser, **options: typing.Any
) -> None:
    parser.add_argument(
        'snapshot',
        metavar='SNAPSHOT',
        **options,
        help='id, the beginning of one (4 characters or more), or name',
    )


def _add_show(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'show',
        'tell everything about a snapshot',
        description='Tell everything about a snapshot.',
    )
    _add_repository(parser)
    _add_snapshot(parser)
    _add_manifest_key(parser)


def _add_export(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'export',
        'write a snapshot as an image file',
        description='Write a snapshot as an image file, every byte of it '
        'verified. OUT is there whole or not at all.',
    )
    _add_repository(parser)
    _add_snapshot(parser)
    parser.add_argument(
        'out',
        metavar='OUT',
        help='file.qcow2, or file.raw or file.img, or - for qcow2 on '
        'standard output',
    )
    parser.add_argument(
        '--format',
        choices=(QCOW2, RAW),
        help="of the image (default: as OUT's suffix says)",
    )
    parser.add_argument(
        '--force', action='store_true', help='replace OUT if it exists'
    )
    _add_quiet(parser)


def _add_restore(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'restore',
        'write a snapshot to a disk',
        description='Make a disk what it was when a snapshot was taken. Only '
        'what differs is fetched and written, each cluster of it verified, '
        'and read back. Until all is done the disk does not boot.',
    )
    _add_repository(parser)
    _add_snapshot(parser)
    parser.add_argument(
        'target',
        metavar='TARGET',
        help='block device or raw image file; a file that is not there is '
        'made',
    )
    parser.add_argument(
        '--yes',
        action='store_true',
        help='overwrite what is on TARGET without asking',
    )
    parser.add_argument(
        '--identity',
        choices=(KEEP, RESET),
        default=KEEP,
        help='of the system: keep it; or reset what no two machines may '
        'share, such as machine-id and SSH host keys (default: keep)',
    )
    _add_manifest_key(parser)
    _add_quiet(parser)
    _add_cost(
        parser, 'threads that compare', 'bytes to fetch', 'using the disk'
    )


def _add_publish(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'publish',
        'make an image in Glance of a snapshot',
        description='Make an image in Glance of a snapshot, with your own '
        'credentials and in your project. It is sent as it is read, every '
        'byte of it verified, and what has arrived is compared with it. '
        'Whatever goes wrong, no half image stays.',
    )
    _add_repository(parser)
    _add_snapshot(parser)
    parser.add_argument(
        '--name',
        type=_name,
        metavar='N',
        help='of the image (default: that of the snapshot)',
    )
    parser.add_argument(
        '--visibility',
        choices=('private', 'shared'),
        help='who may use it: your project; or those with whom you share it, '
        'too (default: private)',
    )
    parser.add_argument(
        '--image-id',
        type=_uuid,
        metavar='UUID',
        help='fill this image, which was created before and is queued',
    )
    parser.add_argument(
        '--property',
        type=_property,
        action='append',
        default=[],
        metavar='K=V',
        help='a property that the image is to have; may be repeated',
    )
    _add_manifest_key(parser)
    _add_quiet(parser)


def _add_verify(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'verify',
        'find out whether snapshots are undamaged',
        description='See whether all that snapshots need is there and as it '
        'was stored; without SNAPSHOT, all that the repository has. Tells '
        'what of the disk is lost, and what second copies are there for.',
    )
    _add_repository(parser)
    _add_snapshot(parser, nargs='*')
    parser.add_argument(
        '--data',
        action='store_true',
        help='read all packs, and check each cluster by its digest',
    )
    _add_manifest_key(parser)
    _add_quiet(parser)


def _add_delete(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'delete',
        'delete snapshots',
        description='Delete snapshots. The others stay complete, whatever '
        'they share with these. What no snapshot needs any more goes with '
        'the next prune.',
    )
    _add_repository(parser)
    _add_snapshot(parser, nargs='+')
    parser.add_argument('--yes', action='store_true', help='do not ask')


def _add_prune(commands: typing.Any) -> None:
    parser = _add_command(
        commands,
        'prune',
        'free what no snapshot needs',
        description='Delete what no snapshot and no capture under way needs.',
    )
    _add_repository(parser)
    parser.add_argument(
        '--grace',
        type=_grace,
        metavar='HOURS',
        help='delete only what an earlier prune has found so long ago '
        '(default: 0 for a directory, 48 for Swift)',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only tell what is there to be deleted',
    )


# Private: checks


def _check_capture(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    levels = {'zstd': range(1, 20), 'zlib': range(1, 10)}
    if args.level is not None and args.level not in levels.get(
        args.compression, ()
    ):
        parser.error(
            f'--level {args.level} is none of --compression '
            f'{args.compression}'
        )
    if args.all_blocks and args.skip_gaps:
        parser.error('--all-blocks and --skip-gaps contradict each other')


def _check_export(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    if args.out == STDOUT:
        if args.format == RAW:
            parser.error('only qcow2 can be written to standard output')
        if args.json:
            parser.error('--json and the image cannot share standard output')
        args.format = QCOW2
    if args.format is None:
        suffix = args.out[args.out.rfind('.') :].lower()
        args.format = _FORMATS.get(suffix)
    if args.format is None:
        parser.error(
            f'{args.out} does not end with {", ".join(_FORMATS)}; say which '
            'it is to be with --format'
        )


def _check_publish(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    # Imports more than help may.
    from ironic_snapshot_core import image_properties

    args.property = dict(args.property)
    try:
        image_properties.check_own(args.property)
    except errors.InvalidValue as error:
        parser.error(f'argument --property: {error}')


def _check_delete(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    if not args.yes and not sys.stdin.isatty():
        parser.error('there is nobody to ask; --yes deletes without asking')


def _refuse_with(check: Callable[[str], T]) -> Callable[[str], T]:
    """Make what argparse calls of what raises our errors."""

    def checked(text: str) -> T:
        try:
            return check(text)
        except (ValueError, errors.InvalidName, errors.InvalidValue) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


@_refuse_with
def _size(text: str) -> int:
    return geometry.between('size', sizes.parse(text), 1, 2**40)


@_refuse_with
def _cluster_size(text: str) -> int:
    return geometry.validate_cluster_size(sizes.parse(text))


@_refuse_with
def _workers(text: str) -> int:
    return geometry.between('number', int(text), 1, _MAX_WORKERS)


@_refuse_with
def _redundancy(text: str) -> int:
    return geometry.between('number', int(text), 0, _MAX_REDUNDANCY)


@_refuse_with
def _grace(text: str) -> int:
    return geometry.between('hours', int(text), 0, _MAX_GRACE_H)


@_refuse_with
def _uuid(text: str) -> str:
    return layout.validate_uuid(text.lower())


def _property(text: str) -> tuple[str, str]:
    name, equals, value = text.partition('=')
    if not equals:
        raise argparse.ArgumentTypeError('it is not like NAME=VALUE')
    return name, value


def _name(text: str) -> str:
    if not 1 <= len(text) <= _MAX_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f'it is not 1 to {_MAX_NAME} printable characters'
        )
    return text


def _description(text: str) -> str:
    if len(text) > _MAX_DESCRIPTION or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f'it is not one line of up to {_MAX_DESCRIPTION} characters'
        )
    return text
