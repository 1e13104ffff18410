# SPDX-License-Identifier: Apache-2.0
"""Mount a file system where nobody else can reach it.

The mount is *detached*: it has no place in any tree of folders, there is only
a descriptor of its root. No other process finds it, nothing can be mounted
below it, and the kernel takes it away with the descriptor, even when this
process is killed. See fsopen(2), fsconfig(2) and fsmount(2), of Linux 5.2;
the C library has no functions for them before glibc 2.36.
"""

import collections.abc
import contextlib
import ctypes
import errno
import os
import struct

from ipa_snapshot_hardware.system_identity import obstacle

#: The file systems that can be mounted, as blkid names them, and by which
#: driver.
DRIVERS = {
    'ext2': 'ext4',
    'ext3': 'ext4',
    'ext4': 'ext4',
    'xfs': 'xfs',
    'btrfs': 'btrfs',
}

# What is mounted by which driver, unless told otherwise: a file system that
# says "panic on errors" may not; two xfs of one UUID are what a clone has.
_OPTIONS = {
    'ext4': (('errors', 'remount-ro'),),
    'xfs': (('nouuid', None),),
    'btrfs': (),
}

# The numbers are those of every architecture: <asm-generic/unistd.h>.
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
# <linux/mount.h>
_CLOEXEC = 1
_SET_FLAG = 0
_SET_STRING = 1
_CREATE = 6
_NOSUID, _NODEV, _NOEXEC, _NOATIME = 0x2, 0x4, 0x8, 0x10

# s_feature_compat, s_journal_inum; see survey/ext.py for the source.
_EXT_SUPER = 1024
_EXT_COMPAT, _EXT_JOURNAL = 0x5C, 0xE0
_EXT_HAS_JOURNAL = 0x4
# num_devices; see survey/btrfs.py.
_BTRFS_SUPER = 64 << 10
_BTRFS_DEVICES = 136

_Options = collections.abc.Sequence[tuple[str, str | None]]
_Argument = ctypes.c_int | ctypes.c_uint | bytes | None

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@contextlib.contextmanager
def mounted(
    device: str, content: str, options: _Options = ()
) -> collections.abc.Iterator[int]:
    """Give a descriptor of the root of a file system, read-write.

    Its journal is replayed. Neither devices, nor programs, nor programs of
    another user's rights on it have any effect. At the end all is written
    out and the file system is unmounted, if no other descriptor of it is
    open.

    :param content: one of :data:`DRIVERS`.
    :param options: of the mount; None as the value of a flag.
    :raises Obstacle: it cannot be mounted, is not on this device alone, or
        could not be written out.
    """
    driver = DRIVERS[content]
    _check_alone(device, driver)
    root = _mount(device, driver, (*_OPTIONS[driver], *options))
    try:
        yield root
        if _libc.syncfs(root):
            raise obstacle.Obstacle(
                f'{device} cannot be written: '
                f'{os.strerror(ctypes.get_errno())}'
            )
    finally:
        os.close(root)


# Private


def _check_alone(device: str, driver: str) -> None:
    """Check that the kernel would open no other device for it."""
    if driver == 'ext4':
        data = _read(device, _EXT_SUPER, 1024)
        [compatible] = struct.unpack_from('<I', data, _EXT_COMPAT)
        [inode] = struct.unpack_from('<I', data, _EXT_JOURNAL)
        if compatible & _EXT_HAS_JOURNAL and not inode:
            raise obstacle.Obstacle(
                f'the journal of {device} is on another device'
            )
    elif driver == 'btrfs':
        data = _read(device, _BTRFS_SUPER, 1024)
        [devices] = struct.unpack_from('<Q', data, _BTRFS_DEVICES)
        if devices != 1:
            raise obstacle.Obstacle(
                f'the btrfs of {device} is on {devices} devices'
            )


def _read(device: str, offset: int, size: int) -> bytes:
    try:
        with open(device, 'rb', buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise obstacle.Obstacle(
            f'{device} cannot be read: {error.strerror}'
        ) from None
    if len(data) < size:
        raise obstacle.Obstacle(f'{device} is too small')
    return data


def _mount(device: str, driver: str, options: _Options) -> int:
    context = -1
    try:
        context = _call(_FSOPEN, driver.encode(), ctypes.c_uint(_CLOEXEC))
        for key, value in (('source', device), *options):
            _configure(
                context,
                _SET_FLAG if value is None else _SET_STRING,
                key.encode(),
                None if value is None else value.encode(),
            )
        _configure(context, _CREATE, None, None)
        place = _call(
            _FSMOUNT,
            ctypes.c_int(context),
            ctypes.c_uint(_CLOEXEC),
            ctypes.c_uint(_NOSUID | _NODEV | _NOEXEC | _NOATIME),
        )
    except OSError as error:
        raise obstacle.Obstacle(
            f'{driver} on {device} cannot be mounted: '
            f'{_explain(context, error)}'
        ) from None
    finally:
        if context >= 0:
            os.close(context)
    # That descriptor only names the place; this one is a folder's.
    try:
        return os.open(
            '.', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place
        )
    finally:
        os.close(place)


def _configure(
    context: int, command: int, key: bytes | None, value: bytes | None
) -> None:
    _call(
        _FSCONFIG,
        ctypes.c_int(context),
        ctypes.c_uint(command),
        key,
        value,
        ctypes.c_int(0),
    )


def _call(number: int, *arguments: _Argument) -> int:
    answer: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def _explain(context: int, error: OSError) -> str:
    """Give what the kernel has to say of it, which may be nothing."""
    if error.errno == errno.ENOSYS:
        return 'the kernel of the ramdisk is older than 5.2'
    said = ''
    with contextlib.suppress(OSError):
        # One message a read, of the form "e text".
        while context >= 0:
            said = os.read(context, 1024).decode(errors='replace')[2:]
    return said.strip() or error.strerror or 'unknown error'
