# SPDX-License-Identifier: Apache-2.0
"""The hardware manager: the one place that knows the agent.

It finds the disk by the agent's rules, reads the agent's configuration and
speaks the agent's errors. Everything else is in the other modules, which
run without an agent.
"""

import contextlib
import dataclasses
import functools
import os

# Before what reads its options on being imported.
from ironic_python_agent import config as _config  # noqa: F401
from ironic_python_agent import device_hints
from ironic_python_agent import disk_utils
from ironic_python_agent import errors
from ironic_python_agent import hardware
from ironic_python_agent import partition_utils
from ironic_python_agent import utils
from oslo_config import cfg
from oslo_log import log

from ironic_snapshot_core import errors as core_errors
from ironic_snapshot_core import qcow2_sequence
from ironic_snapshot_core import redact
from ironic_snapshot_core import units
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import machine
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import redaction
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import restore
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware import restore_step
from ipa_snapshot_hardware import session
from ipa_snapshot_hardware import software
from ipa_snapshot_hardware import stream
from ipa_snapshot_hardware import stream_request
from ipa_snapshot_hardware import upload
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.disk import target
from ipa_snapshot_hardware.system_identity import reset

CONF = cfg.CONF
LOG = log.getLogger(__name__)

# What the agent takes for a root disk when it is given no hints.
_LEAST_ROOT_SIZE = 4 * units.GiB
# Ironic keeps the error in a column of limited size.
_MESSAGE_LIMIT = 1000
# States of a node while Ironic deploys it.
_DEPLOYING = frozenset({'deploying', 'wait call-back'})

_BOTH = {
    'protocol': 'Version of these arguments.',
    'snapshot': 'UUID of the snapshot.',
    'lineage': 'Node and generation the snapshot belongs to.',
}
_BOTH_OPTIONAL = {
    'workers': 'Most worker threads; 0 for one each processor.',
    'memory_limit': 'Most memory to use in bytes; 0 for automatic.',
    'slice_seconds': 'Seconds after which the step answers.',
}
_SNAPSHOT = _BOTH | {
    'name': 'Name of the snapshot.',
    'cluster_size': 'Size of a cluster in bytes.',
    'codec': 'Compression of the clusters.',
    'codec_level': 'Level of the compression.',
    'digest': 'Digest of the clusters.',
    'pack_size': 'Wanted size of a pack in bytes.',
    'grant': 'Where the snapshot may be stored; set by the conductor.',
}
_SNAPSHOT_OPTIONAL = _BOTH_OPTIONAL | {
    'all_blocks': 'Read everything, whatever the file systems say.',
    'skip_gaps': 'Leave out the inside of large unpartitioned gaps.',
    'allow_bad_sectors': 'Go on past what cannot be read, recording it.',
    'adaptive_level': 'Choose the level of the compression on the way.',
    'bandwidth_limit': 'Most bytes to move to and from Swift per second; 0 '
    'for no limit.',
    'io_priority': 'Priority of reading: normal, low or idle.',
    'parent': 'Snapshot to build upon; set by the conductor.',
    'full_reason': 'Why there is no parent; set by the conductor.',
    'redundancy': 'Snapshots in a row that rely on one copy; 0 for all.',
    'upload': 'Where the image goes instead of a store; set by the conductor.',
    'hash': 'Hash of the image that goes there.',
}
_RESTORE = _BOTH | {
    'manifest': 'Size and digest of the manifest of the snapshot.',
    'operation': 'UUID of this restore; the same one goes on with it.',
    'verb': 'rollback: onto the disk it was taken of; clone: onto another.',
    'identity': 'Identity of the system: keep it, or reset it.',
    'grant': 'Where the snapshot may be read; set by the conductor.',
}
_RESTORE_OPTIONAL = _BOTH_OPTIONAL | {
    'target_serial': 'Serial number of the disk; without it the root disk.',
    'bandwidth_limit': 'Most bytes to fetch per second; 0 for no limit.',
    'io_priority': 'Priority of the disk: normal, low or idle.',
}
_CONFIG_DRIVE = {
    'configdrive': 'Content of the config drive, gzipped and in base64, or '
    'its URL; set by the conductor.',
}


class SnapshotHardwareManager(hardware.HardwareManager):
    """Takes snapshots of the root disk, and restores them."""

    HARDWARE_MANAGER_NAME = 'SnapshotHardwareManager'
    # Raised when the arguments or the result of a step change; Ironic starts
    # over when it differs within one service operation.
    HARDWARE_MANAGER_VERSION = '5'

    def __init__(self):
        super().__init__()
        self._sessions = session.Sessions()

    def evaluate_hardware_support(self):
        # The agent's logging is set up by now, and no command has come yet.
        redaction.install()
        return hardware.HardwareSupport.SERVICE_PROVIDER

    def get_service_steps(self, node, ports):
        return [
            _step('snapshot', _SNAPSHOT, _SNAPSHOT_OPTIONAL, abortable=True),
            _restore_step(),
        ]

    def get_deploy_steps(self, node, ports):
        return [
            _step('write_config_drive', _CONFIG_DRIVE, {}),
            _restore_step(),
        ]

    def snapshot(self, node, ports, **args):
        """Capture the root disk, or go on with it, for one slice.

        The capture runs in the background and outlives the step: see
        :mod:`session`.

        :param node: the node, as Ironic sends it.
        :param ports: its ports; not used.
        :param args: see :mod:`request`, or with ``upload``, and without a
            store, :mod:`stream_request`; the grant in it is emptied.
        :returns: a small dict: when ``more`` is true, how far the capture
            is; else see :func:`capture.summarise` and
            :func:`stream.summarise`.
        :raises CommandExecutionError: with our error's code in brackets.
        """
        if 'upload' in args:
            wanted, outcome = self._slice(
                node,
                args,
                stream_request.parse,
                _stream,
                stream_request.take_grant,
            )
        else:
            wanted, outcome = self._slice(node, args, request.parse, _capture)
        if isinstance(outcome, stream.Streamed):
            return stream.summarise(wanted, outcome)
        if isinstance(outcome, capture.Captured):
            return capture.summarise(outcome)
        return {
            'protocol': arguments.PROTOCOL,
            'snapshot': wanted.snapshot,
            'more': True,
            'progress': outcome.to_dict(),
        }

    def restore(self, node, ports, **args):
        """Restore a snapshot to a disk, or go on with it, for one slice.

        Like a capture it runs in the background. A service step or a deploy
        step.

        :param node: the node, as Ironic sends it.
        :param ports: its ports; not used.
        :param args: see :mod:`restore_request`; the grant in it is emptied.
        :returns: a small dict: when ``more`` is true, see
            :func:`restore_step.report`; else :func:`restore_step.summarise`.
        :raises CommandExecutionError: with our error's code in brackets.
        """
        wanted, outcome = self._slice(
            node, args, restore_request.parse, _restore
        )
        if isinstance(outcome, restore_step.Done):
            return restore_step.summarise(wanted, outcome)
        return restore_step.report(wanted, outcome)

    def write_config_drive(self, node, ports, configdrive):
        """Write a config drive to the root disk that was restored.

        The agent's own steps do that only together with an image.

        :param node: the node, as Ironic sends it.
        :param ports: its ports; not used.
        :param configdrive: its content, gzipped and in base64, or its URL.
        :raises CommandExecutionError: the root disk is not found.
        :raises DeploymentError: there is no room for it, or it cannot be had.
        """
        try:
            device = _find_root_disk(node)
        except core_errors.Error as error:
            raise _command_error(error.code, error) from None
        partition_utils.create_config_drive_partition(
            node['uuid'], device.name, configdrive
        )

    # Private

    def _slice(self, node, args, parse, work, take=arguments.take_grant):
        """Begin the work or go on with it, until the slice is over.

        :param parse: makes a request of the arguments and the grant.
        :param work: does it in the background, given the node, the request
            and a session's means.
        :param take: takes the grant out of the arguments.
        :returns: the request, and what came of it or how far it is.
        :raises CommandExecutionError: with our error's code in brackets.
        """
        redaction.install()
        try:
            grant = take(args)
            wanted = parse(args, grant)
            live = self._sessions.attend(
                wanted, grant, functools.partial(work, node, wanted)
            )
            return wanted, live.wait(wanted.slice_seconds)
        except core_errors.Error as error:
            raise _command_error(error.code, error) from None
        except errors.RESTError:
            raise
        except Exception as error:
            LOG.exception('Snapshot %s failed', args.get('snapshot'))
            text = f'{type(error).__name__}: {error}'
            raise _command_error('internal-error', text) from None


# Private


def _step(name, required, optional, abortable=False):
    return {
        'step': name,
        'interface': 'deploy',
        'priority': 0,
        'reboot_requested': False,
        'abortable': abortable,
        'argsinfo': {
            each: {'description': text, 'required': each in required}
            for each, text in (required | optional).items()
        },
    }


def _restore_step():
    # Not abortable: the disk is not bootable meanwhile.
    return _step('restore', _RESTORE, _RESTORE_OPTIONAL)


def _command_error(code, error):
    text = ' '.join(redact.redact(str(error)).split())
    return errors.CommandExecutionError(f'[{code}] {text}'[:_MESSAGE_LIMIT])


def _capture(node, wanted, means):
    """Capture; in the background."""
    with _root_disk(node, wanted) as disk:
        allowed = _plan(disk, wanted, wanted.pack_size)
        store = _store(wanted, means, allowed.uploads + 1)
        with contextlib.closing(store):
            return capture.capture(
                disk,
                store,
                wanted,
                allowed=allowed,
                clock=means.clock,
                stop=means.stop,
                software=software.versions('ironic-python-agent'),
                system=machine.describe(),
                counters=means.counters,
                readable=functools.partial(_may_read, means),
            )


def _stream(node, wanted, means):
    """Send an image; in the background."""
    with (
        _root_disk(node, wanted) as disk,
        upload.Upload(
            means.auth,
            _tls_verification(),
            limit.RateLimit(wanted.bandwidth_limit, means.clock).take
            if wanted.bandwidth_limit
            else upload.unlimited,
        ) as sink,
    ):
        return stream.stream(
            disk,
            sink,
            means.auth,
            wanted,
            allowed=_plan(disk, wanted, qcow2_sequence.GROUP_SIZE),
            clock=means.clock,
            stop=means.stop,
            ask=means.ask,
            counters=means.counters,
            system=machine.describe(),
        )


@contextlib.contextmanager
def _root_disk(node, wanted):
    """Open the disk that the node boots from, to read it."""
    device = _find_root_disk(node)
    LOG.info(
        'Snapshot %(snapshot)s of node %(node)s: capturing %(device)s',
        {
            'snapshot': wanted.snapshot,
            'node': node.get('uuid'),
            'device': device.name,
        },
    )
    with block.BlockDisk(
        device.name,
        serial=device.serial,
        wwn=device.wwn,
        model=device.model,
    ) as disk:
        yield disk


def _plan(disk, wanted, pack_size):
    return budget.plan(
        disk_size=disk.size,
        cluster_size=wanted.cluster_size,
        pack_size=pack_size,
        codec=wanted.codec,
        workers=wanted.workers,
        memory_limit=wanted.memory_limit,
    )


def _restore(node, wanted, means):
    """Restore, and what is to be done after that; in the background."""
    device = _find_target(node, wanted.target_serial)
    LOG.info(
        'Snapshot %(snapshot)s of node %(node)s: restoring it to %(device)s '
        '(%(verb)s)',
        {
            'snapshot': wanted.snapshot,
            'node': node.get('uuid'),
            'device': device.name,
            'verb': wanted.verb,
        },
    )
    with _telling_of_writes(device.name, means):
        return _write(device, wanted, means)


def _write(device, wanted, means):
    with target.BlockTarget(
        device.name,
        serial=device.serial,
        wwn=device.wwn,
        model=device.model,
    ) as disk:
        store = _store(wanted, means, budget.MOST_FETCHES)
        with contextlib.closing(store):
            manifest = restore_step.read_manifest(
                store, wanted, functools.partial(_may_read, means)
            )
            restored = restore.restore(
                store,
                manifest,
                disk,
                # The store keeps to the limit, and more evenly.
                dataclasses.replace(wanted, bandwidth_limit=0),
                allowed=budget.plan_restore(
                    manifest,
                    workers=wanted.workers,
                    memory_limit=wanted.memory_limit,
                ),
                clock=means.clock,
                stop=means.stop,
                counters=means.counters,
            )
        size, serial = disk.size, disk.serial
    # The kernel knows the partitions there were before; perhaps even when
    # nothing differs, if an agent before this one did not come so far.
    disk_utils.partprobe(device.name)
    disk_utils.udev_settle()
    identity = []
    if wanted.identity == restore_request.RESET:
        means.counters.begin(progress.IDENTITY)
        # It is changed from now on, even if the restore had nothing to do.
        means.counters.touch()
        identity = reset.reset(
            device.name, config_drive_follows=_writes_config_drive(wanted)
        )
    return restore_step.Done(
        restored, serial, size, tuple(str(each) for each in identity)
    )


@contextlib.contextmanager
def _telling_of_writes(name, means):
    """Have no error hide that the disk was written to."""
    try:
        yield
    except (core_errors.RestoreInterrupted, core_errors.IdentityNotReset):
        raise
    except Exception as error:
        if not means.counters.state().touched:
            raise
        reason = str(error).rstrip('.')
        if not isinstance(error, core_errors.Error):
            reason = f'{type(error).__name__}: {reason}'
        raise core_errors.RestoreInterrupted(name, reason) from error


def _writes_config_drive(wanted):
    """Tell whether the agent, later on, writes a config drive.

    It does so for a deployment whose user gave one. A node that is active
    may still have that, and nobody writes it again.
    """
    node = hardware.get_cached_node() or {}
    return (
        wanted.verb == restore_request.CLONE
        and node.get('provision_state') in _DEPLOYING
        and bool(node.get('instance_info', {}).get('configdrive'))
    )


def _may_read(means, prefix):
    return bool(means.auth.grant.find('GET', prefix))


def _store(wanted, means, connections):
    """The store: the grant's, patient, and no faster than allowed."""
    rate = None
    if wanted.bandwidth_limit:
        rate = limit.RateLimit(wanted.bandwidth_limit, means.clock)

    def pace(size):
        if rate:
            rate.take(size)
        # A pack may take long on a slow wire, and is no standstill.
        means.counters.add_moved(size)

    return retry.RetryingStore(
        swift.SwiftStore(
            means.auth.grant.container_url,
            means.auth,
            verify=_tls_verification(),
            pool_size=connections,
            pace=pace,
            receive_pace=pace,
        ),
        clock=means.clock,
        renewal=renewal.Renewal(means.auth, means.clock, means.ask),
    )


def _tls_verification():
    """How the agent is told to verify servers holds for the store too."""
    verify, _client_certificate = utils.get_ssl_client_options(CONF)
    if verify is False:
        LOG.warning(
            'The agent is configured not to verify TLS certificates; so is '
            'the store of snapshots. Use "cafile" instead of "insecure".'
        )
    return verify


def _find_root_disk(node):
    """Find the disk the node boots from, without guessing."""
    try:
        name = hardware.dispatch_to_managers(
            'get_os_install_device', permit_refresh=True
        )
    except errors.DeviceNotFound as error:
        raise core_errors.DiskNotFound('root', error.details) from None
    node = hardware.get_cached_node() or node
    candidates = hardware.dispatch_to_managers(
        'list_block_devices_check_skip_list', node
    )
    hints = node.get('instance_info', {}).get('root_device') or node.get(
        'properties', {}
    ).get('root_device')
    _check_unambiguous(candidates, hints)
    real = os.path.realpath(name)
    for device in candidates:
        if os.path.realpath(device.name) == real:
            return device
    raise core_errors.DiskUnsuitable(
        name,
        'the property "skip_block_devices" of the node keeps it from being '
        'touched, or it is no disk the agent lists',
    )


def _find_target(node, serial):
    """Find the disk to write: the one with a serial number, if named."""
    if serial is None:
        return _find_root_disk(node)
    node = hardware.get_cached_node() or node
    found = [
        device
        for device in hardware.dispatch_to_managers(
            'list_block_devices_check_skip_list', node
        )
        if device.serial == serial
    ]
    if len(found) == 1:
        return found[0]
    names = ', '.join(device.name for device in found)
    raise core_errors.DiskNotFound(
        'target',
        f'{names or "no disk that may be touched"} has the serial number '
        f'{serial!r}; name another one',
    )


def _check_unambiguous(candidates, hints):
    if hints:
        found = device_hints.find_devices_by_hints(
            [device.serialize() for device in candidates], hints
        )
        matches = [each['name'] for each in found]
        if len(matches) > 1:
            raise core_errors.DiskNotFound(
                'root',
                f'the root device hints {hints} match {", ".join(matches)}; '
                'make them match one disk only, by serial number or WWN',
            )
        return
    matches = [
        device.name
        for device in candidates
        if device.size >= _LEAST_ROOT_SIZE
    ]
    if len(matches) > 1:
        raise core_errors.DiskNotFound(
            'root',
            f'any of {", ".join(sorted(matches))} may be it; set the '
            'property "root_device" of the node, by serial number or WWN',
        )
