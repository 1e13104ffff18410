# SPDX-License-Identifier: Apache-2.0
"""One node at Ironic's API: the service step, and the way out of it."""
from keystoneauth1 import exceptions as ksa_exceptions
from nova import exception
from openstack import exceptions as sdk_exceptions
from oslo_log import log

from ironic_snapshot.nova import node_state
from ironic_snapshot_core import errors

LOG = log.getLogger(__name__)

_STEP = {'interface': 'deploy', 'step': 'snapshot'}

_UNREACHABLE = (sdk_exceptions.SDKException, ksa_exceptions.ClientException)


class Servicing:
    """The servicing of a node with a server on it.

    :param connection: the bare metal proxy of openstacksdk.
    :param node: id of the node.
    :param instance: id of Nova's instance.
    :param clock: a Clock.
    :param interval: seconds between two looks, when waiting.
    """

    def __init__(self, connection, node, instance, clock, interval):
        self._connection = connection
        self._node = node
        self._instance = instance
        self._clock = clock
        self._interval = interval

    def check(self):
        """Look at the node, and whether a service step can begin.

        :returns: the node.
        :raises: NodeNotReady, InstanceNotFound.
        """
        try:
            node = self._get()
        except _UNREACHABLE as exc:
            raise self._not_ready(_explain(exc)) from None
        state = node.provision_state
        if state not in node_state.READY or node_state.is_serviced(node):
            raise self._not_ready(
                f'it is in the state "{state}", perhaps for another capture; '
                'try again when it is active')
        if node.is_maintenance:
            raise self._not_ready('it is in maintenance')
        return node

    def begin(self, node, args):
        """Ask for the service step.

        :param args: of the step.
        :raises: NodeNotReady when Ironic does not take it.
        """
        try:
            # The proxy's own method knows no service steps.
            node.set_provision_state(
                self._connection, 'service',
                service_steps=[{**_STEP, 'args': args}])
        except sdk_exceptions.NotSupported:
            raise self._not_ready(
                'service steps need version 1.87 of Ironic\'s API or newer'
                ) from None
        except _UNREACHABLE as exc:
            if _is_refusal(exc) or not self._may_have_begun(args['image_id']):
                raise self._not_ready(_explain(exc)) from None
            LOG.warning('Whether Ironic has taken the service step of node '
                        '%(node)s is not known: %(error)s',
                        {'node': self._node, 'error': exc})

    def look(self):
        """Look at the node.

        :returns: it, or None where Ironic cannot be asked now.
        :raises: InstanceNotFound when it is not the server's any more.
        """
        try:
            return self._get()
        except _UNREACHABLE as exc:
            LOG.warning('Ironic does not tell about node %(node)s, asking '
                        'again: %(error)s',
                        {'node': self._node, 'error': exc})
            return None

    def abort(self):
        """Ask Ironic to end it, or to forget a failure; it may not.

        A step that cannot be aborted goes on to its end.
        """
        try:
            self._connection.set_node_provision_state(self._node, 'abort')
        except _UNREACHABLE as exc:
            LOG.info('Ironic does not abort the servicing of node %(node)s: '
                     '%(error)s', {'node': self._node, 'error': exc})

    def leave(self, timeout, image=None):
        """End the servicing that there is, and wait until it has ended.

        Where Ironic cannot be asked, nothing is done.

        :param timeout: seconds.
        :param image: only if it is the one of this image.
        """
        deadline = self._clock.monotonic() + timeout
        while True:
            try:
                node = self.look()
            except exception.InstanceNotFound:
                return
            if (node is None or not node_state.is_serviced(node)
                    or (image and not node_state.is_about(node, image))):
                return
            if node.provision_state in node_state.ABORTABLE:
                self.abort()
            if self._clock.monotonic() >= deadline:
                LOG.warning('Node %(node)s is still being serviced after '
                            '%(timeout)d s',
                            {'node': self._node, 'timeout': timeout})
                return
            self._clock.sleep(self._interval)

    # Private

    def _get(self):
        try:
            node = self._connection.get_node(
                self._node, fields=node_state.FIELDS)
        except sdk_exceptions.ResourceNotFound:
            node = None
        if node is None or node.instance_id != self._instance:
            raise exception.InstanceNotFound(instance_id=self._instance)
        return node

    def _may_have_begun(self, image):
        node = self.look()
        return node is None or (node_state.is_serviced(node)
                                and node_state.is_about(node, image))

    def _not_ready(self, reason):
        return errors.NodeNotReady(self._node, reason)


def _explain(exc):
    """What Ironic says; the user has no use for the rest, the log has."""
    LOG.warning('Ironic does not do as asked: %s', exc)
    said = getattr(exc, 'details', None)
    return (f'Ironic says "{said}"' if said
            else 'Ironic does not answer, or not properly')


def _is_refusal(exc):
    """Whether Ironic has answered, and not merely failed to."""
    return 400 <= (getattr(exc, 'status_code', None) or 500) < 500
