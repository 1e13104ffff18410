# SPDX-License-Identifier: Apache-2.0
"""The hardware manager: the one place that knows the agent.

It finds the disk by the agent's rules, reads the agent's configuration and
speaks the agent's errors. Everything else is in the other modules, which
run without an agent.
"""

import contextlib
import functools
import os

from ironic_python_agent import device_hints
from ironic_python_agent import errors
from ironic_python_agent import hardware
from ironic_python_agent import utils
from oslo_config import cfg
from oslo_log import log

from ironic_snapshot_core import errors as core_errors
from ironic_snapshot_core import redact
from ironic_snapshot_core import units
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import redaction
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import session
from ipa_snapshot_hardware import software
from ipa_snapshot_hardware.disk import block

CONF = cfg.CONF
LOG = log.getLogger(__name__)

# What the agent takes for a root disk when it is given no hints.
_LEAST_ROOT_SIZE = 4 * units.GiB
# Ironic keeps the error in a column of limited size.
_MESSAGE_LIMIT = 1000

_ARGSINFO = {
    'protocol': 'Version of these arguments.',
    'snapshot': 'UUID of the snapshot.',
    'name': 'Name of the snapshot.',
    'lineage': 'Node and generation the snapshot belongs to.',
    'cluster_size': 'Size of a cluster in bytes.',
    'codec': 'Compression of the clusters.',
    'codec_level': 'Level of the compression.',
    'digest': 'Digest of the clusters.',
    'pack_size': 'Wanted size of a pack in bytes.',
    'grant': 'Where the snapshot may be stored; set by the conductor.',
}
_OPTIONAL_ARGSINFO = {
    'workers': 'Most worker threads; 0 for one each processor.',
    'memory_limit': 'Most memory to use in bytes; 0 for automatic.',
    'all_blocks': 'Read everything, whatever the file systems say.',
    'skip_gaps': 'Leave out the inside of large unpartitioned gaps.',
    'allow_bad_sectors': 'Go on past what cannot be read, recording it.',
    'adaptive_level': 'Choose the level of the compression on the way.',
    'bandwidth_limit': 'Most bytes to send per second; 0 for no limit.',
    'io_priority': 'Priority of reading: normal, low or idle.',
    'slice_seconds': 'Seconds after which the step answers.',
    'parent': 'Snapshot to build upon; set by the conductor.',
    'full_reason': 'Why there is no parent; set by the conductor.',
    'redundancy': 'Snapshots in a row that rely on one copy; 0 for all.',
}


class SnapshotHardwareManager(hardware.HardwareManager):
    """Takes snapshots of the root disk, as a service step."""

    HARDWARE_MANAGER_NAME = 'SnapshotHardwareManager'
    # Raised when the arguments or the result of a step change; Ironic starts
    # over when it differs within one service operation.
    HARDWARE_MANAGER_VERSION = '3'

    def __init__(self):
        super().__init__()
        self._sessions = session.Sessions()

    def evaluate_hardware_support(self):
        # The agent's logging is set up by now, and no command has come yet.
        redaction.install()
        return hardware.HardwareSupport.SERVICE_PROVIDER

    def get_service_steps(self, node, ports):
        argsinfo = {
            name: {'description': text, 'required': True}
            for name, text in _ARGSINFO.items()
        }
        for name, text in _OPTIONAL_ARGSINFO.items():
            argsinfo[name] = {'description': text, 'required': False}
        return [
            {
                'step': 'snapshot',
                'interface': 'deploy',
                'priority': 0,
                'reboot_requested': False,
                'abortable': True,
                'argsinfo': argsinfo,
            }
        ]

    def snapshot(self, node, ports, **args):
        """Capture the root disk, or go on with it, for one slice.

        The capture runs in the background and outlives the step: see
        :mod:`session`.

        :param node: the node, as Ironic sends it.
        :param ports: its ports; not used.
        :param args: see :mod:`request`; the grant in it is emptied.
        :returns: a small dict: when ``more`` is true, how far the capture
            is; else see :func:`capture.summarise`.
        :raises CommandExecutionError: with our error's code in brackets.
        """
        redaction.install()
        try:
            grant = request.take_grant(args)
            wanted = request.parse(args, grant)
            live = self._sessions.attend(
                wanted, grant, functools.partial(_capture, node, wanted)
            )
            return _answer(wanted, live.wait(wanted.slice_seconds))
        except core_errors.Error as error:
            raise _command_error(error.code, error) from None
        except errors.RESTError:
            raise
        except Exception as error:
            LOG.exception('Snapshot %s failed', args.get('snapshot'))
            text = f'{type(error).__name__}: {error}'
            raise _command_error('internal-error', text) from None


# Private


def _command_error(code, error):
    text = ' '.join(redact.redact(str(error)).split())
    return errors.CommandExecutionError(f'[{code}] {text}'[:_MESSAGE_LIMIT])


def _answer(wanted, outcome):
    if isinstance(outcome, capture.Captured):
        return capture.summarise(outcome)
    return {
        'protocol': request.PROTOCOL,
        'snapshot': wanted.snapshot,
        'more': True,
        'progress': outcome.to_dict(),
    }


def _capture(node, wanted, means):
    """Capture; in the background."""
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
        allowed = budget.plan(
            disk_size=disk.size,
            cluster_size=wanted.cluster_size,
            pack_size=wanted.pack_size,
            codec=wanted.codec,
            workers=wanted.workers,
            memory_limit=wanted.memory_limit,
        )
        store = _store(wanted, means, allowed)
        with contextlib.closing(store):
            return capture.capture(
                disk,
                store,
                wanted,
                allowed=allowed,
                clock=means.clock,
                stop=means.stop,
                software=software.versions('ironic-python-agent'),
                counters=means.counters,
                readable=lambda prefix: bool(
                    means.auth.grant.find('GET', prefix)
                ),
            )


def _store(wanted, means, allowed):
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
            pool_size=allowed.uploads + 1,
            pace=pace,
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
