# SPDX-License-Identifier: Apache-2.0
"""The main job, for real, from nothing to a second machine that boots.

Run by ``tools/demo``. Every step that is checked here is also a functional
test; this one tells what it sees.
"""

import argparse
import json
import subprocess
import sys
import time
import typing

import requests

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from tests.functional.lab import contents
from tests.functional.lab import lab as lab_
from tests.functional.lab import machine
from tests.functional.lab import process
from tests.functional.lab import report

NOTE = 'written before the snapshot'
STEPS = [{'interface': 'deploy', 'step': 'snapshot',
          'args': {'name': 'golden'}}]
CHUNK_BYTES = 1 << 20


class Failed(Exception):
    """Something is not as it must be; the message says what."""


class Demo:
    """One run.

    :param here: a lab that is up.
    """

    def __init__(self, here: lab_.Lab) -> None:
        self.lab = here
        self.node = here.node('node-0')
        self.image = here.state_dir / 'golden.qcow2'
        #: The node's disk as it lay while its system was off.
        self.offline = here.state_dir / 'offline.raw'
        self.seconds: dict[str, float] = {}
        self.said: list[str] = []
        self.record: dict[str, typing.Any] = {}

    def run(self) -> None:
        """Do it all.

        :raises Failed: a check did not hold.
        """
        for what, step in (
                ('an active node', self.make_active),
                ('the snapshot', self.take_snapshot),
                ('the node, back in its own system', self.see_node_back),
                ('the image, by one GET from Swift', self.download),
                ('the files of the image against those of the disk',
                 self.compare),
                ('a second machine from the image', self.boot_second)):
            started = time.monotonic()
            with report.phase(what):
                step()
            self.seconds[what] = time.monotonic() - started
        self.account()

    def make_active(self) -> None:
        """Enrol the node, with an operating system that runs."""
        self.node.enroll()
        self.node.adopt()
        self.node.shell(f'echo "{NOTE}" > /root/note && sync')
        self._note_console('node-0', self.node.console.text())

    def take_snapshot(self) -> None:
        """Ask for it as a user does, and watch."""
        self.mark = self.node.console.mark()
        arguments = ['node', 'service', self.node.name, '--service-steps',
                     json.dumps(STEPS)]
        report.say(f"$ baremetal {' '.join(arguments[:4])} "
                   f"'{arguments[4]}'")
        self.lab.ironic.cli(*arguments)
        self.slices = 0
        self.node.wait('active', progress=self._on_change,
                       tick=self._show_progress)
        self.record = self.node.show()['driver_internal_info']['snapshot']
        if self.record['status'] != 'committed':
            raise Failed(f'the snapshot is {self.record["status"]}')
        self.manifest = catalogue.read(
            self.lab.store(self.record['container']),
            layout.Lineage(self.node.uuid, self.record['generation']),
            self.record['snapshot'], self.lab.manifest_key.encode())

    def _on_change(self, seconds: float, state: str) -> None:
        report.say(f'    {seconds:5.1f} s: {state}')
        if state.startswith('service wait') and not self.offline.exists():
            # The system is off and the ramdisk only reads: what a copy
            # holds now is what the snapshot must hold.
            machine.copy_sparse(self.node.disk_path, self.offline)

    def _show_progress(self) -> None:
        """Show what the node record says, after each slice."""
        info = self.node.show()['driver_internal_info']
        progress = info.get('snapshot', {}).get('progress')
        if not progress or progress['slices'] == self.slices:
            return
        self.slices = progress['slices']
        left = f', {progress["eta"]} s left' if 'eta' in progress else ''
        report.say(
            f'             {progress["phase"]}: {progress["percent"]} % of '
            f'{report.megabytes(progress["total_bytes"])} at '
            f'{report.megabytes(progress["rate"])}/s{left}; '
            f'{report.megabytes(progress["stored_bytes"])} in '
            f'{progress["packs"]} packs')

    def see_node_back(self) -> None:
        """The node starts its own system again, once."""
        boots = self.node.console.wait_up(self.mark)
        text = self.node.console.text(self.mark)
        self._note_console('node-0', text)
        if boots != 2 or text.count('SNAPSHOT-LAB down clean') != 1:
            raise Failed('the node was not shut down and booted once')

    def download(self) -> None:
        """Fetch the whole image; nothing is put together here."""
        swift = self.lab.swift
        started = time.monotonic()
        answer = requests.get(
            self._url(self.record['result']['image']), stream=True,
            headers={'X-Auth-Token': swift.token()}, timeout=60)
        answer.raise_for_status()
        with self.image.open('wb') as file:
            file.writelines(answer.iter_content(CHUNK_BYTES))
        size = self.image.stat().st_size
        rate = size / (time.monotonic() - started)
        report.say(f'{report.megabytes(size)} at '
                   f'{report.megabytes(int(rate))}/s')
        if size != self.record['result']['image_bytes']:
            raise Failed(f'the image has {size} bytes, not those of the '
                         'record')

    def compare(self) -> None:
        """The image is sound, and has every file that the disk has."""
        raw = self.image.with_suffix('.raw')
        for arguments in (['check', str(self.image)],
                          ['convert', '-O', 'raw', str(self.image),
                           str(raw)]):
            done = subprocess.run(['qemu-img', *arguments], text=True,
                                  stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
            for line in done.stdout.splitlines():
                report.say(f'qemu-img {arguments[0]}: {line}')
            if done.returncode:
                raise Failed(f'qemu-img {arguments[0]}')
        scratch = self.lab.state_dir / 'files'
        there = contents.files(self.offline, scratch)
        here = contents.files(raw, scratch)
        raw.unlink()
        other = contents.differences(there, here)
        if other:
            raise Failed(f'not the same in the image: {other[:5]}')
        report.say(f'{len(here)} files, folders and links: same names, '
                   'owners, modes and contents')

    def boot_second(self) -> None:
        """A machine that never saw the disk starts from the image."""
        with self.lab.boot_image(self.image, 'second') as second:
            boots = second.console.wait_up()
            self._note_console('second', second.console.text())
            note = second.shell.run('cat /root/note').strip()
        self.said.append(f'second  its /root/note: "{note}"')
        if boots != 2 or note != NOTE:
            raise Failed('the second machine does not go on from where the '
                         'first was')

    def account(self) -> None:
        """Print what came of it."""
        result = self.record['result']
        totals = self.manifest.totals
        print('\nWhat the machines said on their serial consoles')
        for line in self.said:
            print(f'  {line}')
        print('\nWhat is in Swift, container', self.record['container'])
        for name, size in self._objects():
            print(f'  {size:>12,}  {name}')
        print('\nThe snapshot')
        for what, value in (
                ('name and id', f'{self.record["name"]}, '
                                f'{self.record["snapshot"]}'),
                ('kind', f'full: {self.manifest.full_reason}'),
                ('shutdown', self.record['shutdown']),
                ('disk', f'{totals.virtual_bytes:,} bytes'),
                ('in use', f'{totals.used_bytes:,} bytes'),
                ('not zero', f'{totals.data_bytes:,} bytes, in clusters of '
                             f'{self.manifest.cluster_size:,}'),
                ('stored', f'{totals.stored_bytes:,} bytes'),
                ('image', f'{result["image_bytes"]:,} bytes'),
                ('captured in', f'{result["seconds"]} s')):
            print(f'  {what:15} {value}')
        print('\nWhat was read of the disk')
        for region in self.manifest.regions:
            print(f'  {_describe(region)}')
        print('\nHow long it took')
        for what, seconds in self.seconds.items():
            print(f'  {seconds:6.1f} s  {what}')
        print(flush=True)

    def _objects(self) -> list[tuple[str, int]]:
        container = self.record.get('container', 'ironic-snapshots')
        answer = requests.get(
            self._url('', container), params={'format': 'json'}, timeout=10,
            headers={'X-Auth-Token': self.lab.swift.token()})
        if answer.status_code != 200:
            return []
        return [(each['name'], each['bytes']) for each in answer.json()]

    def _url(self, name: str, container: str | None = None) -> str:
        container = container or self.record['container']
        swift = self.lab.swift
        url = f'{swift.url}/v1/{swift.account}/{container}'
        return f'{url}/{name}' if name else url

    def _note_console(self, who: str, text: str) -> None:
        self.said += [f'{who:7} {line.strip()}' for line in text.splitlines()
                      if line.startswith('SNAPSHOT-LAB')]


def _describe(region: manifests.Region) -> str:
    why = f' ({region.reason})' if region.reason else ''
    return (f'{region.name or region.content:14} {region.content:10} '
            f'{region.used_bytes:>13,} of {region.length:>13,} bytes: '
            f'{region.method}{why}')


def how_to_go_on(here: lab_.Lab) -> None:
    """Print how a lab that stays up is used, and ended."""
    print('The lab stays up. To use it, in a shell:')
    for line in here.ironic.exports():
        print(f'  {line}')
    print('  baremetal node list')
    print('What the node printed, what runs, and the end of it:')
    for command in ('console node-0', 'status', 'down'):
        print(f'  {sys.executable} -m tests.functional.lab {command}')
    print(flush=True)


def main() -> int:
    """Run the demo and say how it went."""
    parser = argparse.ArgumentParser(prog='tools/demo', description=__doc__)
    parser.add_argument('--keep', action='store_true',
                        help='leave the lab up afterwards')
    arguments = parser.parse_args()
    here = lab_.Lab(machines=1)
    started = time.monotonic()
    failure = ''
    try:
        here.up()
        Demo(here).run()
    except (Failed, process.LabError, subprocess.SubprocessError,
            requests.RequestException, OSError) as error:
        failure = f'{error}'
        if isinstance(error, subprocess.CalledProcessError):
            failure += f'\n{error.stderr or ""}'
    except BaseException:
        here.down(keep_files=True)
        raise
    if arguments.keep and not failure:
        how_to_go_on(here)
    else:
        here.down(keep_files=bool(failure))
    if failure:
        print(f'{failure}\nLogs and disks are in {here.state_dir}')
    print(f'DEMO {"FAILED" if failure else "PASSED"} '
          f'in {time.monotonic() - started:.0f} s')
    return 1 if failure else 0


if __name__ == '__main__':
    sys.exit(main())
