# SPDX-License-Identifier: Apache-2.0
"""Threads that stand back, so that the agent always gets its turn.

Linux keeps both priorities per thread; a thread begins with those of the
thread that starts it. What the kernel refuses is left as it is: a capture
does not depend on it.
"""

import ctypes
import functools
import logging
import os
import platform
import threading

from ironic_snapshot_core import errors

LOG = logging.getLogger(__name__)

NORMAL = 'normal'
LOW = 'low'
IDLE = 'idle'
#: How urgently the disk is read.
PRIORITIES = (NORMAL, LOW, IDLE)

#: Of the threads of a capture; the agent's own have 0.
NICENESS = 10

# linux/ioprio.h: the class, and within it 0 to 7, 7 being the last.
_CLASS_SHIFT = 13
_VALUES = {LOW: 2 << _CLASS_SHIFT | 7, IDLE: 3 << _CLASS_SHIFT}
_WHO_PROCESS = 1
_THIS_THREAD = 0

# No C library has a function for it, and the number is the machine's.
_IOPRIO_SET = {
    'x86_64': 251,
    'aarch64': 30,
    'riscv64': 30,
    'ppc64le': 273,
    's390x': 282,
}


def validate(io_priority: str) -> str:
    """Return the priority if it is one.

    :raises InvalidValue: it is none.
    """
    if io_priority not in PRIORITIES:
        raise errors.InvalidValue(
            'io_priority', io_priority, f'it is none of {PRIORITIES}'
        )
    return io_priority


def lower(io_priority: str) -> None:
    """Let the calling thread stand back from now on.

    :param io_priority: one of :data:`PRIORITIES`; the CPU priority is
        lowered with each of them.
    :raises InvalidValue: when it is none of them.
    """
    validate(io_priority)
    try:
        _lower_cpu()
        if io_priority != NORMAL:
            _lower_io(_VALUES[io_priority])
    except OSError as error:
        _log_once(str(error))


# Private


def _lower_cpu() -> None:
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, thread, NICENESS)


def _lower_io(value: int) -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        raise OSError(f'no I/O priorities known on {platform.machine()}')
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _WHO_PROCESS, _THIS_THREAD, value):
        code = ctypes.get_errno()
        raise OSError(code, f'ioprio_set: {os.strerror(code)}')


@functools.lru_cache(maxsize=8)
def _log_once(reason: str) -> None:
    LOG.debug('The priority of a thread stays as it is: %s', reason)
