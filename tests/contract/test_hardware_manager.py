# SPDX-License-Identifier: Apache-2.0
"""The hardware manager inside the real agent's command machinery.

Real: the agent's extension, dispatch, hints, logging and encoding, the disk,
the capture and Swift. Drawn: the list of the machine's disks.
"""

import contextlib
import json
import threading
import time

import pytest
from ironic_python_agent import config as _config  # noqa: F401  options
from ironic_python_agent import errors
from ironic_python_agent import hardware
from oslo_config import cfg

from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import machine
from ipa_snapshot_hardware import manager
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import session
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import swift as swift_store
from tests import agent_log
from tests import disks
from tests.contract import agent_commands
from tests.contract import capture_requests as requests
from tests.contract.agent_commands import BY_SERIAL
from tests.contract.agent_commands import Agent
from tests.contract.agent_commands import device
from tests.contract.agent_commands import node
from tests.contract.agent_commands import step

MiB = 1024 * 1024
GiB = 1024 * MiB

CANARY = agent_log.CANARY
OTHER = '44444444-4444-4444-8444-444444444444'

use = agent_commands.use
output = agent_log.output


def test_what_ironic_is_told_about_the_step(use):
    use(device('/dev/sda'))
    found = Agent().run('get_service_steps', node=node(), ports=[])
    answer = found['command_result']
    ours, restore = answer['service_steps']['SnapshotHardwareManager']
    assert restore['step'] == 'restore'
    argsinfo = ours.pop('argsinfo')
    assert ours == {
        'step': 'snapshot',
        'interface': 'deploy',
        'priority': 0,
        'reboot_requested': False,
        'abortable': True,
    }
    assert argsinfo['grant']['required'] is True
    assert argsinfo['workers']['required'] is False
    versions = answer['hardware_manager_version']
    assert versions['SnapshotHardwareManager'] == '5'
    # The generic manager's own steps are still there.
    assert answer['service_steps']['Machine']


def test_argsinfo_names_the_arguments_that_are_taken(use):
    use(device('/dev/sda'))
    found, _ = manager.SnapshotHardwareManager().get_service_steps({}, [])
    required, optional = agent_commands.argument_names(found)
    assert required == set(requests.arguments()) - {'workers', 'memory_limit'}
    assert optional == {
        'workers',
        'memory_limit',
        'all_blocks',
        'skip_gaps',
        'allow_bad_sectors',
        'adaptive_level',
        'bandwidth_limit',
        'io_priority',
        'slice_seconds',
        'parent',
        'full_reason',
        'redundancy',
        'upload',
        'hash',
    }


class SlowCapture:
    """Slices of a second; a disk of packs that take 0.8 s each."""

    PACKS = 16

    def __init__(self, target, folder, proxy, lifetime_s):
        self.target = target
        self.proxy = proxy
        self.lifetime_s = lifetime_s
        self.content = disks.random_bytes(self.PACKS * MiB)
        self.path = folder / 'disk'
        self.path.write_bytes(self.content)
        proxy.rule(method='PUT', match='/pack-', delay_s=0.8, times=None)

    def slice(self, agent):
        """Run the step once, with a fresh grant."""
        url = self.proxy.url + '/' + self.target.url.split('/', 3)[3]
        grant = requests.mint(url, lifetime_s=self.lifetime_s)
        args = requests.arguments(
            grant=grant.to_dict(), pack_size=MiB, slice_seconds=1
        )
        found = agent.run(
            'execute_service_step',
            step=step(args),
            node=node(BY_SERIAL),
            ports=[],
        )
        assert found['command_status'] == 'SUCCEEDED', found
        return found['command_result']['service_result']

    def stored(self, match='/pack-'):
        """Requests that have stored such an object."""
        return [
            entry
            for entry in self.proxy.log
            if match in entry.path and entry.status == 201
        ]

    def wait_until_refused(self):
        """Wait until nothing is on its way any more, however long it takes.

        Each of the two uploads has been refused then; or, on a machine that
        is very slow, whatever comes before the first.
        """
        deadline = time.monotonic() + 60
        refused = []
        while len(refused) < 2 and not any('/pack-' not in e for e in refused):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            refused = [e.path for e in self.proxy.log if e.status == 401]

    def check(self):
        """Compare what was stored with the disk."""
        store = self.target.token_store()
        prefix = layout.attempt_prefix(requests.LINEAGE, requests.SNAPSHOT)
        report = manifest.CaptureReport.from_bytes(
            store.get(prefix + layout.REPORT, MiB)
        )
        assert requests.read_back(store, report) == self.content


@disks.needs_loop
class TestWithSwift:
    """Commands to the agent, objects in Swift."""

    @pytest.fixture
    def image(self, tmp_path):
        path = tmp_path / 'disk'
        path.write_bytes(disks.draw('AbA-c-', MiB))
        return path

    @pytest.fixture
    def loop(self, image, use):
        with disks.loop_device(image) as loop:
            use(device(loop))
            yield loop

    def run(self, agent, target, **changes):
        args = requests.arguments(
            **({'grant': target.mint().to_dict()} | changes)
        )
        return agent.run(
            'execute_service_step',
            step=step(args),
            node=node(BY_SERIAL),
            ports=[],
            service_version=hardware.get_current_versions(),
        )

    def test_a_snapshot(self, loop, target):
        found = self.run(Agent(), target)
        assert found['command_status'] == 'SUCCEEDED', found
        answer = found['command_result']['service_result']
        assert len(json.dumps(answer)) <= 1536
        prefix = layout.attempt_prefix(requests.LINEAGE, requests.SNAPSHOT)
        store = target.token_store()
        info = store.stat(prefix + layout.REPORT)
        assert answer['report']['etag'] == info.etag
        assert answer['report']['size'] == info.size
        assert answer['more'] is False
        report = manifest.CaptureReport.from_bytes(
            store.get(prefix + layout.REPORT, MiB)
        )
        assert report.disk.name == loop
        assert report.system == machine.describe()
        assert report.disk.serial == 'S3R1AL'
        assert report.disk.wwn == '0x5000c500a0b1c2d3'
        assert report.disk.model == 'Model'
        assert answer['totals'] == {
            'virtual_bytes': 6 * MiB,
            'read_bytes': 6 * MiB,
            'data_bytes': 4 * MiB,
            'stored_bytes': sum(pack.size for pack in report.packs),
            'shared_bytes': 0,
            'new_clusters': 3 * MiB // requests.SMALL,
            'packs': 1,
        }
        assert (answer['parent'], answer['full_reason']) == (None, 'asked for')

    def test_a_snapshot_upon_another(self, image, loop, target):
        self.run(Agent(), target)
        store = target.token_store()
        report = manifest.CaptureReport.from_bytes(
            store.get(requests.PREFIX + layout.REPORT, MiB)
        )
        parent = requests.commit(store, report)
        child = requests.snapshot_id(2)
        own = layout.attempt_prefix(requests.LINEAGE, child)
        manifest_of = layout.manifest_name(
            requests.LINEAGE, requests.SNAPSHOT
        ).removesuffix('manifest')

        def run(*readable):
            return self.run(
                Agent(),
                target,
                snapshot=child,
                parent={
                    'snapshot': parent.snapshot,
                    'lineage': {
                        'node': parent.lineage.node,
                        'generation': parent.lineage.generation,
                    },
                    'manifest': {
                        'size': parent.size,
                        'digest': parent.digest,
                    },
                },
                full_reason=None,
                redundancy=16,
                grant=target.mint(prefix=own, readable=readable).to_dict(),
            )

        denied = run(manifest_of)
        assert denied['command_status'] == 'FAILED'
        assert f'GET below {requests.PREFIX}' in str(denied['command_error'])
        found = run(manifest_of, requests.PREFIX)
        assert found['command_status'] == 'SUCCEEDED', found
        answer = found['command_result']['service_result']
        assert (answer['parent'], answer['full_reason']) == (
            requests.SNAPSHOT,
            None,
        )
        assert answer['totals']['stored_bytes'] == 0
        assert answer['totals']['packs'] == 0
        assert answer['totals']['shared_bytes'] == report.packs[0].live_bytes
        names = {
            info.name.removeprefix(own) for info in store.list(own)
        }
        assert names == {'map', 'report'}
        report = manifest.CaptureReport.from_bytes(
            store.get(own + layout.REPORT, MiB)
        )
        assert requests.read_back(store, report) == image.read_bytes()
        assert set(report.software) >= {'ironic-python-agent', 'kernel'}

    def test_no_secret_is_left_in_log_or_answer(self, loop, target, output):
        # evaluate_hardware_support comes after logging is set up.
        manager.SnapshotHardwareManager().evaluate_hardware_support()
        secret = target.mint().permissions[0].secret
        found = self.run(Agent(), target)
        text = output.getvalue()
        assert found['command_status'] == 'SUCCEEDED', found
        assert found['command_result']['service_step']['args']['grant'] == {}
        assert secret not in json.dumps(found)
        assert secret not in text
        # Not because nothing was logged: the agent printed the step, and
        # the library below us the request.
        assert 'Executing command: service.execute_service_step' in text
        assert "'secret': '***'" in text
        assert 'temp_url_sig=***' in text
        assert 'Service step completed' in text

    def test_no_secret_is_left_after_a_failure(self, loop, target, output):
        manager.SnapshotHardwareManager().evaluate_hardware_support()
        secret = target.mint().permissions[0].secret
        found = self.run(Agent(), target, codec='xz')
        assert found['command_status'] == 'FAILED'
        assert '[unsupported-feature]' in found['command_error']['details']
        assert secret not in json.dumps(found)
        assert 'Traceback' in output.getvalue()
        assert secret not in output.getvalue()

    def test_no_secret_is_left_when_the_agent_is_busy(
        self, loop, target, output, monkeypatch
    ):
        manager.SnapshotHardwareManager().evaluate_hardware_support()
        started, go_on = threading.Event(), threading.Event()
        real = capture.capture

        def slow(*args, **kwargs):
            started.set()
            assert go_on.wait(30)
            return real(*args, **kwargs)

        monkeypatch.setattr(capture, 'capture', slow)
        agent = Agent()
        grant = target.mint()
        args = requests.arguments(grant=grant.to_dict())
        first = agent.execute_command(
            'service.execute_service_step',
            step=step(args),
            node=node(BY_SERIAL),
            ports=[],
        )
        assert started.wait(30)
        args = requests.arguments(grant=grant.to_dict())
        try:
            with pytest.raises(errors.AgentIsBusy):
                agent.execute_command(
                    'service.execute_service_step',
                    step=step(args),
                    node=node(BY_SERIAL),
                    ports=[],
                )
        finally:
            go_on.set()
            first.join()
        assert first.command_status == 'SUCCEEDED'
        assert 'agent is still executing' in output.getvalue()
        assert grant.permissions[0].secret not in output.getvalue()

    def test_no_secret_is_left_in_a_step_without_a_name(
        self, loop, target, output
    ):
        manager.SnapshotHardwareManager().evaluate_hardware_support()
        grant = target.mint()
        malformed = step(requests.arguments(grant=grant.to_dict()))
        del malformed['step']
        Agent().run(
            'execute_service_step',
            step=malformed,
            node=node(BY_SERIAL),
            ports=[],
        )
        assert 'Malformed service_step' in output.getvalue()
        assert grant.permissions[0].secret not in output.getvalue()

    def test_a_capture_of_several_slices(self, target, use, tmp_path, proxy):
        """Each grant is good for some of the packs only."""
        slow = SlowCapture(target, tmp_path, proxy, lifetime_s=3)
        agent = Agent()
        with disks.loop_device(slow.path) as loop:
            use(device(loop))
            first = slow.slice(agent)
            # Without a fresh grant it gets nowhere.
            slow.wait_until_refused()
            before = len(slow.stored())
            time.sleep(1.5)
            assert len(slow.stored()) == before < slow.PACKS
            slices = 0
            answer = first
            while answer['more']:
                answer = slow.slice(agent)
                slices += 1
        assert first.keys() == {'protocol', 'snapshot', 'more', 'progress'}
        assert first['progress'].keys() == answer['progress'].keys()
        assert first['progress']['percent'] <= 100
        assert answer['progress']['percent'] == 100
        assert slices >= 2
        assert len({entry.expires for entry in slow.stored()}) >= 2
        assert len({entry.path for entry in slow.stored()}) == slow.PACKS
        assert len(slow.stored()) == slow.PACKS
        slow.check()

    def test_the_agent_restarts(self, target, use, tmp_path, proxy):
        slow = SlowCapture(target, tmp_path, proxy, lifetime_s=60)
        with disks.loop_device(slow.path) as loop:
            use(device(loop))
            agent = Agent()
            while not slow.stored('/checkpoint-'):
                assert slow.slice(agent)['more'] is True
            agent_commands.kill()
            before = len(slow.stored())
            use(device(loop))
            agent = Agent()
            while (answer := slow.slice(agent))['more']:
                pass
        assert answer['progress']['percent'] == 100
        assert [
            entry
            for entry in proxy.log
            if entry.method == 'GET'
            and '/checkpoint-' in entry.path
            and entry.status == 200
        ]
        # What a checkpoint tells of is not sent again.
        assert 0 <= len(slow.stored()) - slow.PACKS < before
        slow.check()

    def test_a_second_snapshot_on_the_same_agent(self, loop, target):
        agent = Agent()
        for snapshot in (requests.SNAPSHOT, OTHER):
            prefix = layout.attempt_prefix(requests.LINEAGE, snapshot)
            found = agent.run(
                'execute_service_step',
                step=step(
                    requests.arguments(
                        snapshot=snapshot,
                        grant=target.mint(prefix=prefix).to_dict(),
                    )
                ),
                node=node(BY_SERIAL),
                ports=[],
            )
            assert found['command_status'] == 'SUCCEEDED', found
            assert found['command_result']['service_result']['more'] is False

    def test_no_secret_is_left_by_the_background(
        self, loop, target, output, monkeypatch
    ):
        """The capture fails between slices, with all it knows."""
        manager.SnapshotHardwareManager().evaluate_hardware_support()
        go_on = threading.Event()

        def fail(disk, store, wanted, **options):
            assert go_on.wait(30)
            raise RuntimeError(
                f'PUT {target.url}/x?temp_url_sig={CANARY}&temp_url_expires=1'
            )

        monkeypatch.setattr(capture, 'capture', fail)
        agent = Agent()
        found = self.run(agent, target, slice_seconds=1)
        assert found['command_result']['service_result']['more'] is True
        go_on.set()
        requests.join_captures()
        text = output.getvalue()
        assert 'has ended: PUT' in text
        assert 'Traceback' in text
        found = self.run(agent, target)
        assert '[internal-error]' in found['command_error']['details']
        assert 'temp_url_sig=***' in found['command_error']['details']
        assert CANARY not in json.dumps(found)
        assert CANARY not in output.getvalue()

    @pytest.mark.parametrize('bandwidth_limit', [0, 8 * MiB])
    def test_a_pack_on_its_way_is_no_standstill(
        self, target, bandwidth_limit
    ):
        stop = executor.Stop()
        clock = executor.StoppableClock(stop)
        counters = progress.CaptureProgress(clock)
        asked = []
        wanted = requests.wanted(bandwidth_limit=bandwidth_limit)
        means = session.Means(
            auth.GrantAuth(target.mint()),
            clock,
            stop,
            counters,
            lambda: asked.append(1),
        )
        name = wanted.prefix + 'pack-000001'
        data = bytes(4 * MiB)
        with contextlib.closing(
            manager._store(wanted, means, connections=1)
        ) as store:
            for transfer in (
                lambda: store.put(name, data),
                lambda: store.get(name, len(data)),
            ):
                before = counters.state().moved
                began = clock.monotonic()
                transfer()
                # More if a store that is busy had to be asked again.
                assert counters.state().moved - before >= len(data)
                if bandwidth_limit:
                    assert clock.monotonic() - began >= 0.2

    def test_a_mounted_disk_is_one_clear_error(self, loop, target, tmp_path):
        folder = tmp_path / 'mnt'
        folder.mkdir()
        with disks.mounted(loop, folder):
            found = self.run(Agent(), target)
        error = found['command_error']
        assert error['type'] == 'CommandExecutionError'
        assert error['details'].startswith(f'[disk-busy] Disk {loop}: ')
        assert f'is mounted at {folder}' in error['details']
        assert '\n' not in error['details']

    def test_a_surprise_is_an_error_with_a_code(
        self, loop, target, monkeypatch
    ):
        def fail(*args, **kwargs):
            raise RuntimeError('who\nknows')

        monkeypatch.setattr(capture, 'capture', fail)
        found = self.run(Agent(), target)
        assert found['command_error']['details'] == (
            '[internal-error] RuntimeError: who knows'
        )

    def test_another_version_starts_over(self, loop, target):
        found = Agent().run(
            'execute_service_step',
            step=step(requests.arguments(grant=target.mint().to_dict())),
            node=node(BY_SERIAL),
            ports=[],
            service_version={'SnapshotHardwareManager': '0'},
        )
        assert found['command_status'] == 'CLEAN_VERSION_MISMATCH'
        assert 'secret' not in json.dumps(found)


class TestRootDisk:
    """Which disk is taken; nothing is opened for it."""

    def find(self, node_):
        hardware.cache_node(node_)
        return manager._find_root_disk(node_).name

    def refuse(self, node_):
        hardware.cache_node(node_)
        with pytest.raises(manager.core_errors.DiskError) as caught:
            manager._find_root_disk(node_)
        return str(caught.value)

    def test_the_only_disk(self, use):
        use(device('/dev/sda'))
        assert self.find(node()) == '/dev/sda'

    def test_a_small_disk_beside_it_is_no_candidate(self, use):
        use(device('/dev/sda', size=GiB), device('/dev/sdb'))
        assert self.find(node()) == '/dev/sdb'

    def test_two_disks_and_no_hints(self, use):
        use(device('/dev/sda'), device('/dev/sdb', size=16 * GiB))
        message = self.refuse(node())
        assert '/dev/sda, /dev/sdb' in message
        assert 'root_device' in message

    def test_hints_decide(self, use):
        use(device('/dev/sda', serial='A'), device('/dev/sdb', serial='B'))
        assert self.find(node({'serial': 'B'})) == '/dev/sdb'

    def test_hints_of_the_instance_come_first(self, use):
        use(device('/dev/sda', serial='A'), device('/dev/sdb', serial='B'))
        asked = node({'serial': 'B'})
        asked['instance_info']['root_device'] = {'serial': 'A'}
        assert self.find(asked) == '/dev/sda'

    def test_hints_that_match_two(self, use):
        use(device('/dev/sda'), device('/dev/sdb'))
        message = self.refuse(node({'model': 'Model'}))
        assert 'match /dev/sda, /dev/sdb' in message

    def test_hints_that_match_none(self, use):
        use(device('/dev/sda'))
        assert 'using these hints' in self.refuse(node({'serial': 'X'}))

    def test_no_disk_at_all(self, use):
        use()
        assert 'No suitable device' in self.refuse(node())

    def test_a_skipped_disk_is_no_candidate(self, use):
        use(device('/dev/sda', serial='A'), device('/dev/sdb', serial='B'))
        assert (
            self.find(node(skip_block_devices=[{'serial': 'A'}])) == '/dev/sdb'
        )

    def test_a_disk_that_is_skipped_and_wanted(self, use):
        use(device('/dev/sda', serial='A'), device('/dev/sdb', serial='B'))
        message = self.refuse(
            node({'serial': 'A'}, skip_block_devices=[{'serial': 'A'}])
        )
        assert 'using these hints' in message


class TestTls:
    """The store is verified as the agent verifies everything else."""

    @pytest.mark.parametrize(
        ('options', 'expected'),
        [
            ({}, True),
            ({'cafile': '/etc/ca.pem'}, '/etc/ca.pem'),
            ({'insecure': True}, False),
        ],
    )
    def test_by_configuration(self, options, expected):
        for name, value in options.items():
            cfg.CONF.set_override(name, value)
        try:
            assert manager._tls_verification() == expected
        finally:
            for name in options:
                cfg.CONF.clear_override(name)

    def test_it_reaches_the_store(self, use, monkeypatch, tmp_path):
        path = tmp_path / 'disk'
        path.write_bytes(bytes(MiB))
        use(device(str(path)))
        hardware.cache_node(node(BY_SERIAL))
        seen = []

        class Seen(Exception):
            pass

        def remember(*args, **kwargs):
            seen.append(kwargs['verify'])
            raise Seen

        monkeypatch.setattr(swift_store, 'SwiftStore', remember)
        cfg.CONF.set_override('cafile', '/etc/ca.pem')
        try:
            with pytest.raises(errors.CommandExecutionError, match='Seen'):
                manager.SnapshotHardwareManager().snapshot(
                    node(BY_SERIAL), [], **requests.arguments()
                )
        finally:
            cfg.CONF.clear_override('cafile')
        assert seen == ['/etc/ca.pem']
