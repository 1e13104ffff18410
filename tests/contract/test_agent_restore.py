# SPDX-License-Identifier: Apache-2.0
"""The step ``restore`` inside the real agent's command machinery.

Real: the agent's extensions, dispatch, logging and encoding, block devices,
the restore and Swift. Drawn: the list of the machine's disks.
"""

import base64
import functools
import gzip
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time

import pytest

from ipa_snapshot_hardware import manager
from ipa_snapshot_hardware import restore
from ipa_snapshot_hardware.disk import memory as memory_disk
from ipa_snapshot_hardware.system_identity import reset
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import layout
from ironic_snapshot_core import units
from ironic_snapshot_core.store import renewal
from tests import agent_log
from tests import disks
from tests.contract import agent_commands
from tests.contract import capture_requests as requests
from tests.contract.agent_commands import Agent
from tests.contract.agent_commands import device
from tests.contract.agent_commands import node
from tests.contract.agent_commands import step

MiB = units.MiB
OPERATION = '55555555-5555-4555-8555-555555555555'
OTHER = '66666666-6666-4666-8666-666666666666'
CANARY = agent_log.CANARY
TABLE = 'label: gpt\nstart=2048, size=4096\nstart=8192, size=2048\n'
PARTITIONS = {1: (2048, 4096), 2: (8192, 2048)}
SIZE = 12 * MiB

use = agent_commands.use
output = agent_log.output

pytestmark = disks.needs_loop
needs_partprobe = pytest.mark.skipif(
    not shutil.which('partprobe'), reason='the agent needs partprobe for it'
)


def partitioned(path, table, size=SIZE, seed=0):
    """Write a disk of noise with a partition table."""
    path.write_bytes(disks.random_bytes(size, seed))
    subprocess.run(
        ['sfdisk', '--quiet', '--wipe=always', str(path)],
        input=table.encode(),
        check=True,
        capture_output=True,
    )
    return path.read_bytes()


def known_partitions(loop):
    """Give start and size of the partitions that the kernel knows."""
    found = {}
    folder = pathlib.Path('/sys/class/block') / os.path.basename(loop)
    for each in folder.glob('*/partition'):
        found[int(each.read_text())] = tuple(
            int((each.parent / name).read_text()) for name in ('start', 'size')
        )
    return found


def is_bootable(path):
    """Whether a firmware would find anything on a disk."""
    with open(path, 'rb') as disk:
        start = disk.read(1024)
    return start[510:512] == b'\x55\xaa' or start[512:520] == b'EFI PART'


class Snapshot:
    """A snapshot in Swift.

    :param content: of its disk.
    """

    def __init__(self, store, content, id_=requests.SNAPSHOT):
        self.id = id_
        self.content = content
        disk = memory_disk.MemoryDisk(content, serial='S3R1AL')
        self.report = requests.run(
            disk, store, pack_size=MiB, fields={'snapshot': id_}
        ).report
        self.record = requests.commit(store, self.report)


class Rig:
    """A snapshot in Swift, a disk to restore it to, and an agent's machine.

    :param target: the container.
    :param use: puts the agent on a machine.
    """

    def __init__(self, target, snapshot, use, folder):
        self.target = target
        self.store = target.token_store()
        self.snapshot = snapshot
        self.use = use
        self.folder = folder
        self.path = folder / 'disk'
        partitioned(self.path, 'label: dos\n', seed=1)

    def grant(self, url=None, lifetime_s=600, prefixes=None):
        if prefixes is None:
            id_ = self.snapshot.id
            prefixes = [
                layout.snapshot_prefix(requests.LINEAGE, id_),
                layout.attempt_prefix(requests.LINEAGE, id_),
            ]
        return grants.mint(
            url or self.target.url,
            requests.KEY,
            int(time.time()) + lifetime_s,
            [('GET', each) for each in prefixes],
        )

    def arguments(self, **changes):
        args = {
            'protocol': 1,
            'snapshot': self.snapshot.id,
            'lineage': {
                'node': requests.NODE,
                'generation': requests.GENERATION,
            },
            'manifest': {
                'size': self.snapshot.record.size,
                'digest': self.snapshot.record.digest,
            },
            'operation': OPERATION,
            'verb': 'rollback',
            'identity': 'keep',
            'workers': 1,
        } | changes
        return {'grant': self.grant().to_dict()} | args

    def run(self, agent=None, extension='service', node=None, **changes):
        """Run a slice; give what Ironic is told."""
        return (agent or Agent()).run(
            f'execute_{extension}_step',
            extension,
            step=step(self.arguments(**changes), 'restore'),
            node=node or agent_commands.node(),
            ports=[],
        )

    def answer(self, agent=None, extension='service', **changes):
        """Run a slice that succeeds; give its result."""
        found = self.run(agent, extension, **changes)
        assert found['command_status'] == 'SUCCEEDED', found
        return found['command_result'][f'{extension}_result']

    def error(self, agent=None, **changes):
        """Run a slice that fails; give the text of its error."""
        found = self.run(agent, **changes)
        assert found['command_status'] == 'FAILED', found
        assert found['command_error']['type'] == 'CommandExecutionError'
        return found['command_error']['details']

    def capture(self, agent):
        """Ask for a capture meanwhile."""
        prefix = layout.attempt_prefix(requests.LINEAGE, OTHER)
        grant = self.target.mint(prefix=prefix)
        args = requests.arguments(snapshot=OTHER, grant=grant.to_dict())
        return agent.run(
            'execute_service_step',
            step=step(args),
            node=node(),
            ports=[],
        )


@pytest.fixture(scope='module')
def container(swift):
    return requests.SwiftContainer(swift, 'agent-restore')


@pytest.fixture(scope='module')
def snapshot(container, tmp_path_factory):
    path = tmp_path_factory.mktemp('snapshot') / 'disk'
    return Snapshot(container.token_store(), partitioned(path, TABLE))


@pytest.fixture
def rig(container, snapshot, use, tmp_path):
    return Rig(container, snapshot, use, tmp_path)


@pytest.fixture
def loop(rig):
    with disks.loop_device(rig.path) as loop:
        rig.use(device(loop))
        yield loop


class TestWhatIronicIsTold:
    """Of the step, before it is run."""

    @pytest.mark.parametrize('extension', ['service', 'deploy'])
    def test_the_step(self, use, extension):
        use(device('/dev/sda'))
        found = Agent().run(
            f'get_{extension}_steps', extension, node=node(), ports=[]
        )
        answer = found['command_result']
        *_, ours = answer[f'{extension}_steps']['SnapshotHardwareManager']
        argsinfo = ours.pop('argsinfo')
        assert ours == {
            'step': 'restore',
            'interface': 'deploy',
            'priority': 0,
            'reboot_requested': False,
            'abortable': False,
        }
        assert argsinfo['grant']['required'] is True
        assert argsinfo['target_serial']['required'] is False
        versions = answer['hardware_manager_version']
        assert versions['SnapshotHardwareManager'] == '5'

    def test_argsinfo_names_the_arguments_that_are_taken(self):
        _, found = manager.SnapshotHardwareManager().get_deploy_steps({}, [])
        required, optional = agent_commands.argument_names(found)
        assert required == {
            'protocol',
            'snapshot',
            'lineage',
            'manifest',
            'operation',
            'verb',
            'identity',
            'grant',
        }
        assert optional == {
            'target_serial',
            'workers',
            'memory_limit',
            'bandwidth_limit',
            'io_priority',
            'slice_seconds',
        }


class TestInOneSlice:
    """Disks that are restored before anybody asks again."""

    def test_a_rollback(self, rig, loop):
        answer = rig.answer()
        assert rig.path.read_bytes() == rig.snapshot.content
        assert len(json.dumps(answer)) <= 1024
        progress = answer.pop('progress')
        assert (progress['phase'], progress['percent']) == ('finish', 100)
        assert answer.pop('seconds') > 0
        totals = answer.pop('totals')
        assert answer == {
            'protocol': 1,
            'snapshot': requests.SNAPSHOT,
            'operation': OPERATION,
            'more': False,
            'touched': True,
            'identity': [],
            'disk': {'serial': 'S3R1AL', 'size': SIZE},
            'repaired': 0,
            'degraded': False,
        }
        assert totals['virtual_bytes'] == totals['compared_bytes'] == SIZE
        assert totals['written_bytes'] >= SIZE
        assert 0 < totals['fetched_bytes'] < SIZE + MiB

    @needs_partprobe
    def test_the_kernel_knows_the_new_partitions(self, rig, loop):
        subprocess.run(['addpart', loop, '1', '4096', '2048'], check=True)
        assert known_partitions(loop) == {1: (4096, 2048)}
        rig.answer()
        assert known_partitions(loop) == PARTITIONS

    def test_nothing_differs(self, rig, loop):
        rig.path.write_bytes(rig.snapshot.content)
        answer = rig.answer()
        assert answer['touched'] is False
        assert answer['totals']['differing_clusters'] == 0
        assert answer['totals']['written_bytes'] == 0

    def test_the_result_is_given_as_often_as_it_is_asked_for(self, rig, loop):
        agent = Agent()
        first = rig.answer(agent)
        assert first['totals']['written_bytes'] > 0
        assert rig.answer(agent) == first
        # Asked for again it is another restore, and finds nothing to do.
        assert rig.answer(agent, operation=OTHER)['touched'] is False

    def test_a_clone_is_a_deploy_step(self, rig):
        with open(rig.path, 'r+b') as disk:
            disk.truncate(SIZE + 4 * MiB)
        with disks.loop_device(rig.path) as loop:
            rig.use(device(loop, serial='ANOTHER', wwn=None))
            answer = rig.answer(extension='deploy', verb='clone')
        assert answer['disk'] == {'serial': 'ANOTHER', 'size': SIZE + 4 * MiB}
        subprocess.run(
            ['sfdisk', '--verify', str(rig.path)],
            check=True,
            capture_output=True,
        )

    def test_another_disk_by_its_serial_number(self, rig, loop):
        before = rig.path.read_bytes()
        spare = rig.folder / 'spare'
        spare.write_bytes(bytes(SIZE))
        with disks.loop_device(spare) as other:
            rig.use(device(loop), device(other, serial='SPARE'))
            answer = rig.answer(target_serial='SPARE')
        assert answer['disk']['serial'] == 'SPARE'
        assert spare.read_bytes() == rig.snapshot.content
        assert rig.path.read_bytes() == before

    def test_no_secret_is_left_in_log_or_answer(self, rig, loop, output):
        manager.SnapshotHardwareManager().evaluate_hardware_support()
        secrets = {each.secret for each in rig.grant().permissions}
        found = rig.run(extension='deploy', verb='clone')
        assert found['command_status'] == 'SUCCEEDED', found
        assert found['command_result']['deploy_step']['args']['grant'] == {}
        text = output.getvalue()
        for secret in secrets:
            assert secret not in json.dumps(found)
            assert secret not in text
        # Not because nothing was logged.
        assert 'Executing command: deploy.execute_deploy_step' in text
        assert "'secret': '***'" in text
        assert 'temp_url_sig=***' in text
        assert 'Deploy step completed' in text


class TestIdentity:
    """What is done to the system on the disk, once it is there."""

    @pytest.fixture(scope='class')
    def installed(self, container, tmp_path_factory):
        """A snapshot of a disk with a system on it."""
        folder = tmp_path_factory.mktemp('system')
        for name, text in {
            'etc/machine-id': '0123456789abcdef0123456789abcdef\n',
            'etc/os-release': 'ID=debian\n',
            'etc/passwd': 'root:x:0:0::/root:/bin/sh\n',
            'etc/fstab': '# nothing\n',
            'etc/ssh/ssh_host_rsa_key': 'private',
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        path = tmp_path_factory.mktemp('disk') / 'disk'
        partitioned(path, 'label: gpt\nstart=2048, size=16384\n')
        subprocess.run(
            [
                'mkfs.ext4',
                '-q',
                f'-Eoffset={MiB}',
                '-d',
                str(folder),
                str(path),
                '8M',
            ],
            check=True,
        )
        return Snapshot(
            container.token_store(),
            path.read_bytes(),
            requests.snapshot_id(2),
        )

    @pytest.fixture
    def system(self, rig, installed):
        rig.snapshot = installed
        return rig

    def cat(self, path, name):
        """Read a file of the file system on a disk."""
        part = path.with_suffix('.part')
        with open(path, 'rb') as disk:
            disk.seek(MiB)
            part.write_bytes(disk.read(8 * MiB))
        return subprocess.run(
            ['debugfs', '-R', f'cat {name}', str(part)],
            check=True,
            capture_output=True,
        ).stdout

    @needs_partprobe
    def test_it_is_reset(self, system, loop):
        answer = system.answer(
            extension='deploy', verb='clone', identity='reset'
        )
        name = os.path.basename(loop)
        assert answer['identity'] == [
            f'{name}p1 ext4: machine-id, SSH host keys'
        ]
        assert self.cat(system.path, '/etc/machine-id') == b''
        assert self.cat(system.path, '/etc/os-release') == b'ID=debian\n'

    def test_it_is_kept(self, system, loop):
        assert system.answer(verb='clone')['identity'] == []
        assert system.path.read_bytes() == system.snapshot.content

    def test_there_is_no_system(self, rig, loop):
        message = rig.error(verb='clone', identity='reset')
        assert message.startswith(f'[identity-not-reset] Disk {loop}: ')
        assert rig.path.read_bytes() == rig.snapshot.content

    @needs_partprobe
    def test_a_config_drive_follows(self, system, tmp_path):
        """In a partition of its own, at the end of a larger disk."""
        content = tmp_path / 'config-drive'
        with content.open('wb') as file:
            file.truncate(MiB)
        subprocess.run(
            ['mkfs.vfat', '-n', 'CONFIG-2', str(content)],
            check=True,
            capture_output=True,
        )
        config_drive = base64.b64encode(
            gzip.compress(content.read_bytes())
        ).decode()
        with open(system.path, 'r+b') as disk:
            disk.truncate(SIZE + 70 * MiB)
        with disks.loop_device(system.path) as loop:
            system.use(device(loop))
            agent = Agent()
            system.answer(agent, extension='deploy', verb='clone')
            found = agent.run(
                'execute_deploy_step',
                'deploy',
                step=step({'configdrive': config_drive}, 'write_config_drive'),
                node=node(),
                ports=[],
            )
            assert found['command_status'] == 'SUCCEEDED', found
            assert sorted(known_partitions(loop)) == [1, 2]
            with open(f'{loop}p2', 'rb') as written:
                assert written.read(MiB) == content.read_bytes()

    @pytest.mark.parametrize(
        ('state', 'verb', 'config_drive', 'follows'),
        [
            ('deploying', 'clone', True, True),
            ('wait call-back', 'clone', True, True),
            ('deploying', 'clone', False, False),
            ('deploying', 'rollback', True, False),
            # Ironic writes one when it deploys, and then only.
            ('servicing', 'clone', True, False),
            ('service wait', 'clone', True, False),
            ('service wait', 'rollback', True, False),
        ],
    )
    def test_whether_a_config_drive_follows(
        self, rig, loop, monkeypatch, state, verb, config_drive, follows
    ):
        told = []

        def remember(device, *, config_drive_follows):
            told.append((device, config_drive_follows))
            return []

        monkeypatch.setattr(reset, 'reset', remember)
        asked = node() | {'provision_state': state}
        if config_drive:
            # As Ironic shows it to the agent.
            asked['instance_info']['configdrive'] = '******'
        extension = 'service' if state.startswith('servic') else 'deploy'
        answer = rig.answer(
            None, extension, node=asked, verb=verb, identity='reset'
        )
        assert told == [(loop, follows)]
        assert answer['touched'] is True

    def test_a_surprise_does_not_hide_that_the_disk_was_written(
        self, rig, loop, monkeypatch
    ):
        def fail(device, **options):
            raise RuntimeError('who knows')

        monkeypatch.setattr(reset, 'reset', fail)
        assert rig.error(verb='clone', identity='reset') == (
            f'[restore-interrupted] Disk {loop}: the restore was interrupted: '
            'RuntimeError: who knows. The disk is not bootable until the '
            'restore is run again.'
        )


class TestRefused:
    """What is an error before anything is written."""

    @pytest.fixture(autouse=True)
    def untouched(self, rig):
        before = rig.path.read_bytes()
        yield
        assert rig.path.read_bytes() == before

    @pytest.mark.parametrize(
        ('changes', 'text'),
        [
            ({'verb': 'wipe'}, '[invalid-value] Invalid verb'),
            ({'blank': True}, "[invalid-value] Invalid argument 'blank'"),
            ({'protocol': 2}, '[unsupported-version] '),
            (
                {'manifest': {'size': 1000, 'digest': 'ab' * 32}},
                '[object-too-large] ',
            ),
            (
                {'manifest': {'size': MiB, 'digest': 'ab' * 32}},
                '[corrupted] Corrupted v1/',
            ),
            ({'target_serial': 'NONE'}, '[disk-not-found] Disk target: no '),
        ],
    )
    def test_arguments(self, rig, loop, changes, text):
        assert rig.error(**changes).startswith(text)

    def test_a_grant_for_the_manifest_only(self, rig, loop):
        prefix = layout.snapshot_prefix(requests.LINEAGE, requests.SNAPSHOT)
        grant = rig.grant(prefixes=[prefix])
        assert rig.error(grant=grant.to_dict()) == (
            "[invalid-value] Invalid grant '(not shown)': it does not permit "
            f'GET below {requests.PREFIX}.'
        )

    def test_another_disk(self, rig, loop):
        rig.use(device(loop, serial='ANOTHER', wwn=None))
        assert rig.error().startswith(f'[target-mismatch] Disk {loop}: ')

    def test_two_disks_of_one_serial_number(self, rig, loop):
        rig.use(device(loop), device('/dev/sdb'))
        message = rig.error(target_serial='S3R1AL')
        assert message.startswith('[disk-not-found] ')
        assert f'{loop}, /dev/sdb' in message

    def test_a_disk_that_may_not_be_touched(self, rig, loop):
        spare = device('/dev/sdb', serial='SPARE')
        rig.use(device(loop), spare)
        asked = node(skip_block_devices=[{'serial': 'SPARE'}])
        message = rig.error(target_serial='SPARE', node=asked)
        assert message.startswith('[disk-not-found] ')

    def test_a_mounted_disk(self, rig, tmp_path):
        folder = tmp_path / 'mnt'
        folder.mkdir()
        spare = rig.folder / 'spare'
        spare.write_bytes(bytes(SIZE))
        with disks.loop_device(spare) as loop, disks.mounted(loop, folder):
            rig.use(device(loop))
            message = rig.error()
        assert message.startswith(f'[disk-busy] Disk {loop}: ')
        assert f'is mounted at {folder}' in message


class TestSlices:
    """Restores that take longer than a slice: each GET takes a while."""

    @pytest.fixture
    def slow(self, rig, proxy):
        proxy.rule(method='GET', match='/pack-', delay_s=0.5, times=None)
        rig.slow = proxy.url + '/' + rig.target.url.split('/', 3)[3]
        return rig

    def slice(self, rig, agent, **changes):
        grant = rig.grant(rig.slow)
        return rig.answer(
            agent, grant=grant.to_dict(), slice_seconds=1, **changes
        )

    def half(self, rig, agent):
        """Restore a part of the disk."""
        answer = self.slice(rig, agent)
        while answer['progress']['written_bytes'] < MiB:
            answer = self.slice(rig, agent)
        assert (answer['more'], answer['touched']) == (True, True)

    def finish(self, rig, agent, **changes):
        while (answer := self.slice(rig, agent, **changes))['more']:
            pass
        assert rig.path.read_bytes() == rig.snapshot.content
        return answer

    def fetched(self, proxy):
        return [
            entry
            for entry in proxy.log
            if '/pack-' in entry.path and entry.status == 206
        ]

    def test_progress_and_fresh_grants(self, slow, loop, proxy):
        agent = Agent()
        answers = []
        while not answers or answers[-1]['more']:
            answers.append(self.slice(slow, agent))
        *parts, last = answers
        assert slow.path.read_bytes() == slow.snapshot.content
        assert len(parts) >= 2
        for answer in parts:
            assert answer.keys() == {
                'protocol',
                'snapshot',
                'operation',
                'more',
                'touched',
                'progress',
            }
            assert answer['progress'].keys() == last['progress'].keys()
            assert len(json.dumps(answer)) <= 1024
        moved = [answer['progress']['moved'] for answer in answers]
        assert moved == sorted(moved)
        assert moved[-1] > moved[0]
        assert {answer['progress']['phase'] for answer in parts} <= {
            'compare',
            'write',
            'verify',
            'finish',
        }
        assert len({entry.expires for entry in self.fetched(proxy)}) >= 2

    def test_the_agent_restarts(self, slow, loop, proxy):
        self.half(slow, Agent())
        agent_commands.kill()
        assert not is_bootable(slow.path)
        slow.use(device(loop))
        proxy.clear()
        answer = self.finish(slow, Agent())
        # What was written before is compared, and not fetched again.
        assert answer['totals']['compared_bytes'] == SIZE
        assert answer['totals']['differing_bytes'] <= SIZE - MiB
        assert len(self.fetched(proxy)) < len(slow.snapshot.report.packs)

    def test_a_capture_meanwhile_is_refused(self, slow, loop):
        agent = Agent()
        self.half(slow, agent)
        found = slow.capture(agent)
        assert found['command_status'] == 'FAILED'
        assert found['command_error']['details'].startswith(
            f'[restore-running] The restore of snapshot {requests.SNAPSHOT} '
            'is writing to the disk; '
        )
        self.finish(slow, agent)
        found = slow.capture(agent)
        assert found['command_status'] == 'SUCCEEDED', found

    def test_another_restore_goes_on(self, slow, loop):
        agent = Agent()
        self.half(slow, agent)
        answer = self.finish(slow, agent, operation=OTHER)
        assert answer['operation'] == OTHER
        assert answer['totals']['differing_bytes'] <= SIZE - MiB

    def test_a_half_restored_disk_is_not_captured(self, slow, loop):
        self.half(slow, Agent())
        agent_commands.kill()
        slow.use(device(loop))
        found = slow.capture(Agent())
        assert found['command_error']['details'].startswith(
            f'[restore-unfinished] Disk {loop}: '
        )

    def test_no_grant_any_more(self, slow, loop, monkeypatch):
        """Nobody comes back; what has begun is said to be unfinished."""
        impatient = functools.partial(renewal.Renewal, patience_s=0.5)
        monkeypatch.setattr(renewal, 'Renewal', impatient)
        agent = Agent()
        self.half(slow, agent)
        expired = slow.grant(slow.slow, lifetime_s=-60)
        slow.run(agent, grant=expired.to_dict(), slice_seconds=1)
        requests.join_captures()
        grant = slow.grant(slow.slow)
        message = slow.error(agent, grant=grant.to_dict())
        assert message.startswith(f'[restore-interrupted] Disk {loop}: ')
        assert 'the grant expired' in message
        assert not is_bootable(slow.path)


class TestAfterTheFirstWrite:
    """Errors that leave a disk half written."""

    def test_a_damaged_pack(self, rig, loop):
        record = rig.snapshot.report.packs[4]
        name = requests.PREFIX + record.name
        data = bytearray(rig.store.get(name, record.size))
        data[1000] ^= 1
        rig.store.put(name, bytes(data))
        agent = Agent()
        message = rig.error(agent)
        assert message.startswith(f'[restore-interrupted] Disk {loop}: ')
        assert name in message
        assert not is_bootable(rig.path)
        # With the pack as it should be it goes on.
        data[1000] ^= 1
        rig.store.put(name, bytes(data))
        rig.answer(agent)
        assert rig.path.read_bytes() == rig.snapshot.content

    def test_no_secret_is_left_by_the_background(
        self, rig, loop, output, monkeypatch
    ):
        """The restore fails between slices, with all it knows."""
        manager.SnapshotHardwareManager().evaluate_hardware_support()
        go_on = threading.Event()

        def fail(store, manifest, target, wanted, *, counters, **options):
            counters.touch()
            assert go_on.wait(30)
            raise RuntimeError(
                f'GET {rig.target.url}/x?temp_url_sig={CANARY}'
                '&temp_url_expires=1'
            )

        monkeypatch.setattr(restore, 'restore', fail)
        agent = Agent()
        assert rig.answer(agent, slice_seconds=1)['more'] is True
        go_on.set()
        requests.join_captures()
        assert 'Traceback' in output.getvalue()
        found = rig.run(agent)
        details = found['command_error']['details']
        assert details.startswith('[restore-interrupted] ')
        assert 'temp_url_sig=***' in details
        assert CANARY not in json.dumps(found)
        assert CANARY not in output.getvalue()
