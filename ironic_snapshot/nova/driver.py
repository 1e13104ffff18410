# SPDX-License-Identifier: Apache-2.0
"""Nova's Ironic driver, with snapshots.

    compute_driver = ironic_snapshot.nova.driver.IronicSnapshotDriver

"Create image", "create backup" and "shelve" of a server run the service step
``deploy.snapshot`` on its node. The driver only asks and waits: the disk goes
from the node to Swift, and Glance gets the image from the conductor.
"""
import contextlib
import re
import threading

from nova.compute import power_state
from nova.compute import task_states
from nova.compute import vm_states
import nova.conf
from nova import exception
from nova.image import glance
from nova.virt import hardware
from nova.virt.ironic import driver as ironic_driver
from oslo_log import log

from ironic_snapshot.nova import conf as snapshot_conf
from ironic_snapshot.nova import image
from ironic_snapshot.nova import node_state
from ironic_snapshot.nova import servicing
from ironic_snapshot_core import clock
from ironic_snapshot_core import errors

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)

snapshot_conf.register_opts(CONF)

# What the service step takes as the name of a snapshot.
_NOT_IN_NAMES = re.compile('[^A-Za-z0-9 ._:~+-]')
_NOT_IN_FRONT = ' ._:~+-'
_NAME_LIMIT = 127


class IronicSnapshotDriver(ironic_driver.IronicDriver):
    """The driver of Nova for Ironic, with snapshots."""

    def __init__(self, virtapi, read_only=False):
        super().__init__(virtapi, read_only)
        self._image_api = glance.API()
        self._clock = clock.SystemClock()
        self._message_threads = threading.BoundedSemaphore(
            CONF.ironic_snapshot.max_concurrent_backups)

    def init_host(self, host):
        """Say how many images can be created at the same time."""
        super().init_host(host)
        LOG.info('Images of at most %(number)d servers are created at the '
                 'same time; others wait in the task state image_snapshot, '
                 'and in releases of Nova with native threads so do new '
                 'servers. [DEFAULT]max_concurrent_snapshots raises it',
                 {'number': CONF.max_concurrent_snapshots})

    def snapshot(self, context, instance, image_id, update_task_state):
        """Capture the root disk of a server, and wait for the image.

        The system of the server is shut down, and boots again when its disk
        is captured.

        :param image_id: of the image that Nova's API has created.
        :param update_task_state: takes the task states on the way.
        :raises: NovaException with one sentence about what went wrong; Nova
            deletes the image then. InstanceNotFound or ImageNotFound when
            there is nobody left to make it for.
        """
        try:
            with self._take_thread(instance):
                self._snapshot(context, instance, image_id,
                               update_task_state)
        except errors.Error as exc:
            # Only what a NovaException says reaches the user.
            raise exception.NovaException(str(exc)) from None

    def get_info(self, instance, use_cache=True):
        """Tell the power state of a server: not that of its ramdisk.

        While the node is serviced it goes off and on, and so does one whose
        server is stopped. To believe that would make Nova stop the server,
        also in the middle of a capture.
        """
        info = super().get_info(instance, use_cache=use_cache)
        if not instance.node or (
                use_cache and info.state == instance.power_state):
            return info
        try:
            node = self._servicing(instance).look()
        except exception.InstanceNotFound:
            return info
        if node is None or not node_state.is_serviced(node):
            return info
        return hardware.InstanceInfo(state={
            vm_states.ACTIVE: power_state.RUNNING,
            vm_states.STOPPED: power_state.SHUTDOWN,
        }.get(instance.vm_state, instance.power_state))

    def destroy(self, context, instance, *args, **kwargs):
        """Destroy a server; a capture of its disk is aborted first.

        Ironic would refuse, or leave the network of the ramdisk behind.
        """
        if instance.node:
            self._servicing(instance).leave(
                CONF.ironic_snapshot.abort_timeout)
        super().destroy(context, instance, *args, **kwargs)

    # Private

    def _servicing(self, instance):
        return servicing.Servicing(
            self.ironic_connection, instance.node, instance.uuid,
            self._clock, CONF.ironic_snapshot.poll_interval)

    @contextlib.contextmanager
    def _take_thread(self, instance):
        """Hold one of the threads that take messages, if it is in one.

        :raises: NodeNotReady when too many are held.
        """
        if instance.task_state == task_states.IMAGE_SNAPSHOT:
            # Nova has a pool of threads for these.
            yield
            return
        if not self._message_threads.acquire(blocking=False):
            raise errors.NodeNotReady(
                instance.node, 'as many servers as [ironic_snapshot]'
                'max_concurrent_backups allows are being backed up or '
                'shelved; try again later')
        try:
            yield
        finally:
            self._message_threads.release()

    def _snapshot(self, context, instance, image_id, update_task_state):
        node_servicing = self._servicing(instance)
        node = node_servicing.check()
        was_off = node.power_state == ironic_driver.ironic_states.POWER_OFF
        was_active = node.provision_state == node_state.ACTIVE
        name = image.prepare(self._image_api, context, instance, image_id)
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        node_servicing.begin(node, {
            'destination': 'glance', 'image_id': image_id,
            **_snapshot_name(name)})
        try:
            self._wait(context, instance, image_id, node_servicing,
                       update_task_state)
        except (exception.InstanceNotFound,
                exception.UnexpectedDeletingTaskStateError):
            # Whoever deletes the server aborts it.
            raise
        except Exception:
            node_servicing.leave(CONF.ironic_snapshot.abort_timeout, image_id)
            if was_active:
                # A failure that left no trace on the machine is no reason
                # to leave one on the node.
                self._forget_failure(node_servicing)
            self._restore_power(instance, was_off)
            raise
        self._restore_power(instance, was_off)

    def _wait(self, context, instance, image_id, node_servicing,
              update_task_state):
        """Wait for the image, and for the node to run its own system.

        :raises: ImageNotMade, ImageNotFound, InstanceNotFound,
            UnexpectedDeletingTaskStateError.
        """
        deadline = self._clock.monotonic() + CONF.ironic_snapshot.timeout
        publishing = False
        while True:
            self._check_not_deleted(instance)
            node = node_servicing.look()
            status = image.status(self._image_api, context, image_id)
            if node is not None:
                state = node_state.read(node, image_id)
                if state.publishing and not publishing:
                    update_task_state(
                        task_state=task_states.IMAGE_UPLOADING,
                        expected_state=task_states.IMAGE_PENDING_UPLOAD)
                    publishing = True
                if not state.serviced:
                    if state.failure:
                        raise errors.ImageNotMade(
                            instance.node, image_id, state.failure)
                    # The conductor has asked Glance itself.
                    if state.published and status in (image.ACTIVE, None):
                        return
            if self._clock.monotonic() >= deadline:
                raise errors.ImageNotMade(
                    instance.node, image_id,
                    f'{CONF.ironic_snapshot.timeout} s have passed; raise '
                    '[ironic_snapshot]timeout if it takes so long')
            self._clock.sleep(CONF.ironic_snapshot.poll_interval)

    @staticmethod
    def _check_not_deleted(instance):
        """Look whether there is still a server.

        :raises: InstanceNotFound, UnexpectedDeletingTaskStateError.
        """
        try:
            instance.refresh()
        except exception.InstanceNotFound:
            raise
        except Exception as exc:
            # The conductor of Nova, or the way to it. No reason to give up
            # what may have run for hours.
            LOG.warning('Nova cannot tell about the server now: %s', exc,
                        instance=instance)
        if instance.task_state == task_states.DELETING:
            raise exception.UnexpectedDeletingTaskStateError(
                instance_uuid=instance.uuid, expected={}, actual={})

    @staticmethod
    def _forget_failure(node_servicing):
        with contextlib.suppress(exception.InstanceNotFound):
            node = node_servicing.look()
            if (node is not None
                    and node.provision_state == node_state.SERVICE_FAILED):
                node_servicing.abort()

    def _restore_power(self, instance, was_off):
        """Ironic ends servicing with the machine on."""
        if not was_off:
            return
        try:
            self.power_off(instance)
        except Exception as exc:
            # Nova's power sync does it a little later.
            LOG.warning('The server was off before its disk was captured, '
                        'and cannot be powered off again: %(error)s',
                        {'error': exc}, instance=instance)


def _snapshot_name(name):
    """The name of the image, as far as a snapshot may have it.

    :returns: an argument of the service step, or nothing.
    """
    name = _NOT_IN_NAMES.sub('_', name).lstrip(_NOT_IN_FRONT)[:_NAME_LIMIT]
    return {'name': name} if name else {}
