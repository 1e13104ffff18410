# SPDX-License-Identifier: Apache-2.0
"""A deployment from a snapshot beside Ironic's own of the same image.

Run by ``tools/compare-deployments``. Time, disk of the conductor and memory of
the ramdisk; one machine, one disk, one system, one Swift.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import sys
import threading
import time

from ironic_snapshot_core import layout
from tests.functional.lab import lab as lab_
from tests.functional.lab import machine
from tests.functional.lab import node as node_
from tests.functional.lab import process
from tests.functional.lab import report

#: Random bytes in a file beside the system, in MiB; its disk has no room for
#: much more.
BALLAST_MIB = 384
SAMPLE_S = 1.0
#: What the file system counts in, in bytes.
BLOCK = 512
SHELL_TIMEOUT_S = 10.0

#: The folders of Ironic where images get to.
CONDUCTOR_FOLDERS = ('ironic', 'www')
RAMDISK = 'snapshot-lab-ramdisk'
MEMORY = ('hostname; sed -n "s/^MemTotal: *//p; s/^MemAvailable: *//p" '
          '/proc/meminfo')

#: The deploy steps that write the disk.
WRITING = ('restore', 'write_image')

HEADER = ('deployment', 'all', 'writing', 'conductor', 'ramdisk')
UNITS = ('', 's', 's', 'MB of disk', 'MB of memory')


class Watch:
    """What a deployment takes, while it goes on.

    :param folders: where the conductor puts files.
    :param node: what is deployed; used by a thread of its own.
    """

    def __init__(self, folders: list[pathlib.Path],
                 node: node_.Node) -> None:
        self._folders = folders
        self._node = node
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._at_first = self._disk_bytes()
        #: Most bytes on the conductor's disk, beside what was there.
        self.disk_bytes = 0
        #: Least and most bytes of the ramdisk's memory that are in use.
        self.memory_bytes: list[int] = []
        #: Seconds by deploy step.
        self.seconds: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> 'Watch':
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()
        self.wall_s = time.monotonic() - self._started

    def _run(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(SAMPLE_S):
            self.disk_bytes = max(
                self.disk_bytes, self._disk_bytes() - self._at_first)
            step = self._node.show()['deploy_step'].get('step', '')
            now = time.monotonic()
            self.seconds[step] += now - before
            before = now
            # No machine answers while it boots.
            with contextlib.suppress(process.LabError, OSError):
                name, total, free = self._node.shell(
                    MEMORY, SHELL_TIMEOUT_S).replace(' kB', '').split()
                if name == RAMDISK:
                    used = (int(total) - int(free)) << 10
                    self.memory_bytes = [
                        min([used, *self.memory_bytes]),
                        max([used, *self.memory_bytes])]

    def _disk_bytes(self) -> int:
        sizes = {}
        for folder in self._folders:
            for root, _, names in os.walk(folder):
                for name in names:
                    # Gone since it was listed, perhaps.
                    with contextlib.suppress(FileNotFoundError):
                        found = os.lstat(os.path.join(root, name))
                        # An image may have several names.
                        sizes[found.st_ino] = found.st_blocks * BLOCK
        return sum(sizes.values())


class Comparison:
    """One run.

    :param here: a lab that is up.
    """

    def __init__(self, here: lab_.Lab) -> None:
        self.lab = here
        self.target = here.node('node-1')
        self.rows: list[tuple[str, ...]] = []

    def run(self) -> None:
        """Take a snapshot, and deploy it in every way."""
        with report.phase('a snapshot, and its image'):
            snapshot, image = self._take_snapshot()
        self.target.enroll()
        self.target.provide()
        self._deploy('from the snapshot', 'direct-snapshot',
                     snapshot=snapshot)
        direct = node_.image_info(
            self.lab.publish(image), machine.sha256(image))
        self._deploy('direct, fetched by the ramdisk', 'direct', **direct)
        self._deploy('direct, cached by the conductor', 'direct', **direct,
                     image_download_source='local')
        self._print(image.stat().st_size)

    def _take_snapshot(self) -> tuple[str, pathlib.Path]:
        source = self.lab.node('node-0')
        source.enroll()
        source.adopt()
        source.shell(f'head -c {BALLAST_MIB}M /dev/urandom > /srv/ballast; '
                     'sync')
        since = source.console.mark()
        source.snapshot(name='golden')
        source.wait('active')
        source.console.wait_up(since)
        source.power_off()
        record = source.show()['driver_internal_info']['snapshot']
        image = self.lab.state_dir / 'golden.qcow2'
        with image.open('wb') as file:
            file.writelines(self.lab.store().iter_bytes(layout.image_name(
                layout.Lineage(source.uuid, record['generation']),
                record['snapshot'])))
        return record['snapshot'], image

    def _deploy(self, how: str, interface: str,
                **instance_info: object) -> None:
        if self.target.show()['provision_state'] == 'active':
            self.target.undeploy()
        self.target.client.update_node(
            self.target.uuid, deploy_interface=interface)
        folders = [self.lab.state_dir / name for name in CONDUCTOR_FOLDERS]
        with (report.phase(how),
              Watch(folders, self.lab.node(self.target.name)) as watch):
            self.target.deploy(**instance_info)
        least, most = watch.memory_bytes
        writing_s = sum(watch.seconds[step] for step in WRITING)
        self.rows.append((
            how, f'{watch.wall_s:.0f}', f'{writing_s:.0f}',
            f'{watch.disk_bytes / 1e6:.0f}', f'{(most - least) / 1e6:.0f}'))
        report.say(' '.join(self.rows[-1]))

    def _print(self, image_bytes: int) -> None:
        print(f'\nAn image of {report.megabytes(image_bytes)}, on a disk of '
              f'{report.megabytes(self.target.machine.disk_bytes)}')
        for row in (HEADER, UNITS, *self.rows):
            print(f'  {row[0]:34}' + ''.join(f'{each:>15}'
                                             for each in row[1:]))
        print(flush=True)


def main() -> int:
    """Run the comparison."""
    argparse.ArgumentParser(
        prog='tools/compare-deployments', description=__doc__).parse_args()
    here = lab_.Lab()
    here.up()
    try:
        Comparison(here).run()
    except BaseException:
        here.down(keep_files=True)
        raise
    here.down()
    return 0


if __name__ == '__main__':
    sys.exit(main())
