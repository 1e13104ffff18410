# SPDX-License-Identifier: Apache-2.0
"""The rounds of a benchmark: every program once in each, one at a time.

What stores only what has changed runs three times in each: for ``root``, for
``changed``, and for ``changed`` once more, which is ``unchanged`` then. For
the programs, the three are one disk: they find them under one path.
"""

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import typing

import requests

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import pack
from ironic_snapshot_core.store import directory
from ipa_snapshot_hardware import budget
from ironic_snapshot_cli import selection
from tests.benchmark import disks
from tests.benchmark import limits
from tests.benchmark import measure
from tests.benchmark import peers
from tests.benchmark import restores
from tests.benchmark import results
from tests.functional.lab import report
from tests.servers import swift

#: The runs of a program that stores only what has changed: what its name is
#: followed by, and the disk.
TURNS = {'': 'root', '-day': 'changed', '-unchanged': 'unchanged'}

#: All that can be run.
NAMES = (*(f'{program.name}{turn}'
           for program in (peers.Ours(), peers.OursToNothing(),
                           *peers.peers())
           for turn in (TURNS if program.incremental else [''])),
         *restores.NEEDS,
         'ours-swift', 'ours-swift-line', 'compress', 'read', 'put',
         'put-line', 'changes', 'read-hash', 'metadata')

#: The same names, by what needs Swift.
OF_SWIFT = ('ours-swift', 'ours-swift-line', 'put', 'put-line',
            'ours-restore-swift', 'ours-restore-swift-line', 'get',
            'get-line')

#: What our command imports for it, when it comes to that.
OF_OUR_SWIFT = ('ironic_snapshot_cli.swift_repository',
                'keystoneauth1.session', 'swiftclient.authv1')

#: Too slow to be run as often as the others, and no close call.
MOST_ROUNDS = {'qemu-zlib': 2, 'restic': 3, 'ours-restore-slow': 2,
               'ours-rollback': 2}

#: What is run on this disk beside ours, and how often; nothing is demanded.
PEERS_OF_AGED = ('qemu-zstd', 'partclone', 'borg')
ROUNDS_OF_AGED = 3

CLUSTER_SIZE = 256 * 1024
STARTS = 7

IMPORTING = """\
import time
import ironic_python_agent.agent
started = time.perf_counter()
import ipa_snapshot_hardware.manager
print(time.perf_counter() - started)
"""


class Benchmark:
    """One benchmark.

    :param scratch: an empty folder on the file system that is written to.
    :param rounds: how often each program is run.
    :param cold: drop the page cache before each run.
    :param only: names of the programs to run; empty for all.
    """

    def __init__(self, scratch: pathlib.Path, rounds: int, scale: float,
                 cold: bool, only: typing.Collection[str]) -> None:
        self._scratch = scratch
        self._rounds = rounds
        self._cold = cold
        #: With what each of them needs.
        self._only = {*only, *(restores.NEEDS[each] for each in only
                               if each in restores.NEEDS)}
        self._disks = {name: disks.build(name, scale) for name in (
            'root', 'aged', 'small', 'empty', 'changed')}
        self._disks['unchanged'] = dataclasses.replace(
            self._disks['changed'], name='unchanged')
        self._series: dict[tuple[str, str], results.Series] = {}
        self._swift: swift.SwiftServer | None = None
        self._swift_cpu: list[float] = []
        self._read_hash: list[float] = []
        self._found = results.Results(
            started=datetime.datetime.now(datetime.timezone.utc).isoformat(
                timespec='seconds'),
            machine=_machine(scratch), versions=peers.versions(),
            options={'rounds': rounds, 'scale': scale, 'cold': cold},
            disks={name: _sizes(disk) for name, disk in self._disks.items()})
        # A name of its own, for what is measured when it comes back.
        self._restored = dataclasses.replace(
            self._disks['root'], name='restored')
        self._found.disks['restored'] = self._found.disks['root']

    def run(self) -> results.Results:
        """Do it all; takes minutes."""
        with contextlib.ExitStack() as stack:
            if any(map(self._wants, OF_SWIFT)):
                self._swift = stack.enter_context(
                    swift.SwiftServer(self._scratch / 'swift'))
            self._found.facts['cores'] = len(os.sched_getaffinity(0))
            for number in range(self._rounds):
                with report.phase(f'round {number + 1} of {self._rounds}'):
                    self._round(number)
        if self._swift_cpu:
            self._found.facts['swift_cpu_seconds'] = statistics.median(
                self._swift_cpu)
        if self._read_hash:
            self._found.facts['read_hash_program_seconds'] = (
                statistics.median(self._read_hash))
        with report.phase('starts and documents'):
            self._measure_starts()
            if self._wants('metadata'):
                self._measure_metadata()
        return self._found

    # Private

    def _round(self, number: int) -> None:
        ours = peers.Ours()
        root = self._disks['root']
        turns = self._turns(number, ours)
        self._incremental(number, ours, 'ours', turns[:1])
        self._program(number, root, peers.OursToNothing(), 'ours')
        for peer in peers.peers():
            if peer.incremental:
                self._incremental(
                    number, peer, 'peer', self._turns(number, peer))
                peers.clear(self._folder(root, peer))
            else:
                self._program(number, root, peer, 'peer')
        self._limits(root)
        if self._swift:
            self._into_swift(number, root, self._swift)
        # Last: the limits above are about the packs of the first run alone.
        self._incremental(number, ours, 'ours', turns[1:])
        if number == 0 and len(turns) > 1:
            self._verify_earlier(ours)
        self._limits_of_changes()
        self._roll_back(number, ours)
        peers.clear(self._folder(root, ours))
        for name in ('small', 'empty'):
            self._program(number, self._disks[name], peers.Ours(), 'ours')
        if number < ROUNDS_OF_AGED:
            aged = self._disks['aged']
            self._program(number, aged, peers.Ours(), 'ours')
            for peer in peers.peers():
                if peer.name in PEERS_OF_AGED:
                    self._program(number, aged, peer, 'peer')

    def _program(self, number: int, disk: disks.Disk,
                 program: peers.Program, kind: str) -> None:
        """Run one program once, in an empty folder."""
        if self._wants(program.name) and _is_due(number, program):
            folder = self._folder(disk, program)
            peers.clear(folder)
            self._run(number, disk, program, kind, folder)
            peers.exported(folder, disk).unlink(missing_ok=True)
            peers.clear(folder)

    def _turns(self, number: int, program: peers.Program) -> list[str]:
        """Give the runs up to the last that is asked for."""
        turns = list(TURNS) if _is_due(number, program) else []
        while turns and not self._wants(f'{program.name}{turns[-1]}'):
            turns.pop()
        return turns

    def _incremental(self, number: int, program: peers.Program, kind: str,
                     turns: typing.Sequence[str]) -> None:
        """Run one program for one state of a disk after another."""
        folder = self._folder(self._disks['root'], program)
        for turn in turns:
            if not turn:
                peers.clear(folder)
            disk = self._in_its_place(self._disks[TURNS[turn]])
            self._run(number, disk, program, kind, folder, turn)

    def _run(self, number: int, disk: disks.Disk, program: peers.Program,
             kind: str, folder: pathlib.Path, turn: str = '') -> None:
        """Run one program once; the first time, check what it stored."""
        self._settle(disk)
        sample = program.run(disk, folder)
        self._note(disk, f'{program.name}{turn}', program.title, kind,
                   program.compresses, sample)
        if number == 0:
            verified = program.verify(disk, folder)
            self._add_verified(disk, f'{program.name}{turn}', verified)
            if isinstance(program, peers.Ours):
                self._bound_memory(disk, program.told['data_bytes'])
        if disk.name == 'root':
            for each in restores.of(program):
                self._restore(number, each, program, disk, folder)

    def _restore(self, number: int, restore: restores.Restore,
                 program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path) -> None:
        """Restore once what was stored; the first time, compare it."""
        if not self._wants(restore.name) or not _is_due(number, restore):
            return
        out = self._scratch / 'out'
        peers.clear(out)
        self._settle_folder(folder)
        sample = restore.run(program, disk, folder, out)
        self._note(self._restored, restore.name, restore.title, restore.kind,
                   False, sample)
        if number == 0:
            expected = (disk.raw if restore.keeps_all
                        else peers.exported(folder, disk))
            measure.run([['cmp', str(expected),
                          str(restore.image(disk, out))]])
            self._add_verified(self._restored, restore.name,
                               'every byte (cmp)')
            if restore.name == 'ours-restore':
                self._bound_memory_of_restore(folder, program)
        peers.clear(out)

    def _roll_back(self, number: int, ours: peers.Ours) -> None:
        """Restore to a disk that has changed, and to a blank one.

        It changes as it did in a day. That is taken from the image of its
        snapshot, in which there is nothing that was deleted before.
        """
        root, later = self._disks['root'], self._exported(
            self._disks['changed'])
        if not later.exists():
            return
        folder = self._folder(root, ours)
        slow = restores.OntoSlowDisk()
        rollback = restores.Rollback(
            peers.exported(folder, root), later, CLUSTER_SIZE)
        for each in (slow, rollback):
            self._restore(number, each, ours, root, folder)
        if rollback.printed:
            for name, value in rollback.told.items():
                self._found.facts[f'rollback_{name}'] = value

    def _verify_earlier(self, ours: peers.Ours) -> None:
        """See that later captures have left the earlier ones whole."""
        root, changed = self._disks['root'], self._disks['changed']
        folder = self._folder(root, ours)
        ours.verify(root, folder)
        self._add_verified(root, ours.name, 'again after later captures')
        self._add_verified(
            changed, f'{ours.name}-day', ours.check(changed, folder))
        peers.exported(
            folder, self._disks['unchanged']).unlink(missing_ok=True)

    def _add_verified(self, disk: disks.Disk, name: str, verified: str
                      ) -> None:
        series = self._series[disk.name, name]
        series.verified = ', '.join(filter(None, [series.verified, verified]))
        if verified:
            report.say(f'  {disk.name}: {series.title}: restored; equal: '
                       f'{verified}')

    def _limits(self, disk: disks.Disk) -> None:
        image = self._exported(disk)
        if not image.exists():
            return
        cores = str(len(os.sched_getaffinity(0)))
        for name, title, arguments in (
                ('compress', 'limit: digest + compress from memory',
                 [str(image), str(CLUSTER_SIZE), cores]),
                ('read', 'limit: reading what is stored',
                 [str(image), str(disk.raw), str(CLUSTER_SIZE)])):
            if self._wants(name):
                self._settle(disk)
                self._limit(disk, name, title, arguments)

    def _limits_of_changes(self) -> None:
        """Measure what the second and the third capture are up against."""
        before, changed, unchanged = (
            self._disks[name] for name in TURNS.values())
        image = self._exported(changed)
        if not image.exists():
            return
        cores = str(len(os.sched_getaffinity(0)))
        if self._wants('changes'):
            told = self._limit(
                changed, 'changes', 'limit: digest + compress of what is new',
                [str(self._exported(before)), str(image), str(CLUSTER_SIZE),
                 cores])
            self._found.facts['changed_clusters'] = told['clusters']
        if self._wants('read-hash'):
            self._settle(unchanged)
            told = self._limit(
                unchanged, 'read-hash',
                'limit: reading and digest of what is in use',
                [str(image), str(unchanged.raw), str(CLUSTER_SIZE), cores])
            self._read_hash.append(told['program_seconds'])

    def _limit(self, disk: disks.Disk, name: str, title: str,
               arguments: list[str], env: dict[str, str] | None = None,
               command: str | None = None) -> dict[str, float]:
        """Measure one limit.

        :param command: of the limits, if not the name.
        :returns: what it told, and the seconds of the whole program.
        """
        sample, printed = measure.run(
            [[sys.executable, '-W', 'ignore', '-m', 'tests.benchmark.limits',
              command or name, *arguments]], env=env)
        told: dict[str, float] = json.loads(printed)
        told['program_seconds'] = sample.wall
        self._note(disk, name, title, 'limit', False, measure.Sample(
            round(told['seconds'], 3), 0.0, 0,
            int(told.get('stored', told['bytes']))))
        return told

    def _into_swift(self, number: int, disk: disks.Disk,
                    server: swift.SwiftServer) -> None:
        for program in (peers.OursToSwift(server),
                        peers.OursToSwiftOverLine(server)):
            self._program(number, disk, program, 'ours')
            if self._wants(program.name):
                if program.name == 'ours-swift':
                    self._swift_cpu.append(program.server_cpu)
                    self._gets(server, program.container)
                _empty_container(server, program.container)
        packs = sorted(self._folder(disk, peers.Ours()).rglob('pack-*'))
        if not packs:
            return
        url = f'{server.storage_url}/plain'
        for name, title, options in (
                ('put', 'limit: plain PUTs of the packs', []),
                ('put-line', 'limit: plain PUTs of the packs, '
                 f'{limits.LINE_TITLE}', ['--rate', str(limits.LINE)])):
            if self._wants(name):
                env = {'SWIFT_TOKEN': server.token()}
                requests.put(
                    url, headers={'X-Auth-Token': env['SWIFT_TOKEN']},
                    timeout=60).raise_for_status()
                os.sync()
                self._limit(disk, name, title,
                            [*options, url, *map(str, packs)], env, 'put')
                _empty_container(server, 'plain')

    def _gets(self, server: swift.SwiftServer, container: str) -> None:
        """Measure what a restore from a container is up against."""
        packs = [name for name in _list_container(server, container)
                 if '/pack-' in name]
        for name, title, options in (
                ('get', 'limit: plain GETs of the packs', []),
                ('get-line', 'limit: plain GETs of the packs, '
                 f'{limits.LINE_TITLE}', ['--rate', str(limits.LINE)])):
            if self._wants(name):
                self._limit(
                    self._restored, name, title,
                    [*options, f'{server.storage_url}/{container}', *packs],
                    {'SWIFT_TOKEN': server.token()}, 'get')

    def _note(self, disk: disks.Disk, name: str, title: str, kind: str,
              compresses: bool, sample: measure.Sample) -> None:
        series = self._series.get((disk.name, name))
        if series is None:
            series = self._series[disk.name, name] = results.Series(
                disk.name, name, title, kind, compresses)
            self._found.series.append(series)
        series.samples.append(sample)
        report.say(f'  {disk.name}: {title}: {sample.wall:.2f} s')

    def _in_its_place(self, disk: disks.Disk) -> disks.Disk:
        """Put one state of a disk where all its states are captured."""
        place = self._scratch / 'place/disk.raw'
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            place.hardlink_to(disk.raw)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The disks lie on another file system.
            measure.run([['cp', '--sparse=always', '--reflink=auto',
                          str(disk.raw), str(place)]])
        return dataclasses.replace(disk, raw=place)

    def _settle(self, disk: disks.Disk) -> None:
        """Bring the page cache into the same state before each run."""
        os.sync()
        if self._cold:
            pathlib.Path('/proc/sys/vm/drop_caches').write_text('3')
        else:
            limits.read(disk.raw, disk.raw, 4096)

    def _settle_folder(self, folder: pathlib.Path) -> None:
        """Do the same for what a program has stored."""
        os.sync()
        if self._cold:
            pathlib.Path('/proc/sys/vm/drop_caches').write_text('3')
            return
        for path in sorted(folder.rglob('*')):
            if path.is_file():
                limits.read(path, path, 4096)

    def _measure_starts(self) -> None:
        facts = self._found.facts
        facts['help_seconds'] = statistics.median(
            measure.run([[peers.program(), '--help']])[0].wall
            for _ in range(STARTS))
        facts['import_seconds'] = statistics.median(
            float(measure.run([[sys.executable, '-W', 'ignore', '-c',
                                IMPORTING]])[1])
            for _ in range(STARTS))

    def _measure_metadata(self) -> None:
        _, printed = measure.run([[
            sys.executable, '-W', 'ignore', '-m', 'tests.benchmark.metadata']])
        for name, value in json.loads(printed).items():
            self._found.facts[f'metadata_{name}'] = value

    def _bound_memory(self, disk: disks.Disk, data_bytes: int) -> None:
        """Say how much the stated formula lets a capture of a disk take."""
        size = disk.raw.stat().st_size
        codec = codecs.get_codec(codecs.DEFAULT_CODEC)
        planned = budget.plan(
            disk_size=size, cluster_size=CLUSTER_SIZE,
            pack_size=pack.TARGET_SIZE, codec=codec)
        fitted = budget.fit(
            planned, cluster_size=CLUSTER_SIZE, codec=codec,
            clusters=-(-data_bytes // CLUSTER_SIZE))
        self._found.facts[f'memory_bound_{disk.name}'] = (
            fitted.memory
            + _program_itself('ironic_snapshot_cli.capture'))

    def _bound_memory_of_restore(self, folder: pathlib.Path,
                                 program: peers.Program) -> None:
        """Say how much the stated formula lets a restore take."""
        assert isinstance(program, peers.Ours)
        store = directory.DirectoryStore(folder)
        manifest = selection.find(store, program.told['snapshot'])
        formula = budget.plan_restore(manifest).memory
        for name, modules in (
                ('restored', ['ironic_snapshot_cli.restore']),
                ('restored_swift', ['ironic_snapshot_cli.restore',
                                    *OF_OUR_SWIFT])):
            self._found.facts[f'memory_bound_{name}'] = (
                formula + _program_itself(*modules))

    def _exported(self, disk: disks.Disk) -> pathlib.Path:
        """Name the image of a disk that ``ours`` has left."""
        ours = peers.Ours()
        return peers.exported(
            self._folder(self._disks['root'], ours), disk)

    def _folder(self, disk: disks.Disk,
                program: peers.Program) -> pathlib.Path:
        return self._scratch / f'{disk.name}-{program.name}'

    def _wants(self, name: str) -> bool:
        return not self._only or name in self._only


# Private


def _program_itself(*modules: str) -> int:
    """Measure what no formula speaks of: the memory of the program.

    :param modules: that it has.
    """
    taken, _ = measure.run([[
        sys.executable, '-W', 'ignore', '-c',
        f'import {", ".join(modules)}']])
    return taken.peak


def _is_due(number: int,
            program: peers.Program | restores.Restore) -> bool:
    """Whether a program still runs in a round."""
    return number < MOST_ROUNDS.get(program.name, number + 1)


def _machine(scratch: pathlib.Path) -> dict[str, str]:
    model = 'unknown'
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            model = line.partition(':')[2].strip()
            break
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    filesystem = measure.run([[
        'stat', '--file-system', '--format=%T', str(scratch)]])[1].strip()
    release = platform.freedesktop_os_release()
    return {
        'processor': f'{len(os.sched_getaffinity(0))} cores of {model}',
        'memory': f'{memory / (1 << 30):.0f} GiB',
        'file system written to': filesystem,
        'system': f'{release.get("PRETTY_NAME")}, Linux '
                  f'{platform.release()}, Python '
                  f'{platform.python_version()}',
    }


def _sizes(disk: disks.Disk) -> dict[str, int]:
    status = disk.raw.stat()
    return {'virtual': status.st_size, 'allocated': status.st_blocks * 512}


def _list_container(server: swift.SwiftServer, name: str) -> list[str]:
    """List a container: not all when there are very many."""
    return requests.get(
        f'{server.storage_url}/{name}', timeout=60,
        headers={'X-Auth-Token': server.token()}).text.splitlines()


def _empty_container(server: swift.SwiftServer, name: str) -> None:
    """Delete a container's objects: disks are small."""
    url = f'{server.storage_url}/{name}'
    headers = {'X-Auth-Token': server.token()}
    while names := _list_container(server, name):
        for each in names:
            requests.delete(f'{url}/{each}', headers=headers, timeout=60)


@contextlib.contextmanager
def scratch_folder(parent: pathlib.Path) -> typing.Iterator[pathlib.Path]:
    """Give a folder that is deleted in the end."""
    folder = parent / f'benchmark-run-{os.getpid()}'
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
