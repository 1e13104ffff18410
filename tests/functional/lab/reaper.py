# SPDX-License-Identifier: Apache-2.0
"""Runs a program and takes care of the orphans it leaves.

libvirtd's machines are nobody's children. When one has ended, libvirtd waits
until process 1 has taken note, for 40 seconds; in a container process 1 may
be a program that never does. This one does, in its place.
"""

import ctypes
import os
import signal
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run the command given as arguments; end when it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'prctl')
    child = subprocess.Popen(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: os.kill(child.pid, got))
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == '__main__':
    sys.exit(main())
