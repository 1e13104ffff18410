# SPDX-License-Identifier: Apache-2.0
"""Shutting the operating system down before the ramdisk.

Ironic by itself powers a node off hard before servicing. A file system that
was shut down needs no journal replay, in the node and in every clone.
"""
from ironic.common import exception
from ironic.common import states
from ironic.conductor import utils as manager_utils
from oslo_log import log

LOG = log.getLogger(__name__)

CLEAN = 'clean'
FORCED = 'forced'
OFF = 'off'

# A system that is still booting does not notice the power button; so it is
# pressed again.
_REQUESTS = 3


def shut_down(task, timeout):
    """Ask the operating system to shut down and wait for it.

    Never fails: what follows (Ironic's own power-off) is the fall-back.

    :param task: a TaskManager with an exclusive lock.
    :param timeout: seconds to wait; 0 or None: do not ask.
    :returns: ``clean`` when it went down by itself, ``off`` when it was down
        already, ``forced`` when it is still to be powered off hard.
    """
    node = task.node
    try:
        if task.driver.power.get_power_state(task) == states.POWER_OFF:
            return OFF
        if not timeout or not _can_shut_down(task):
            return FORCED
        LOG.info('Asking the operating system of node %s to shut down, for '
                 'up to %s s', node.uuid, timeout)
        for _request in range(_REQUESTS):
            if _ask(task, timeout // _REQUESTS):
                return CLEAN
        LOG.warning('Node %s did not shut down by itself and is powered off',
                    node.uuid)
        return FORCED
    except Exception as exc:
        # Whatever the BMC cannot do, Ironic's own power-off will say.
        LOG.warning('Node %(node)s cannot be asked to shut down: %(error)s',
                    {'node': node.uuid, 'error': exc})
        return FORCED
    finally:
        # As Ironic's own prepare_inband_service does: a power state of "off"
        # seen from outside during servicing makes Nova stop the instance.
        node.power_state = states.POWER_ON
        node.save()


def _can_shut_down(task):
    return (not task.node.disable_power_off
            and states.SOFT_POWER_OFF
            in task.driver.power.get_supported_power_states(task))


def _ask(task, timeout):
    try:
        manager_utils.node_power_action(task, states.SOFT_POWER_OFF,
                                        timeout=timeout)
    except exception.IronicException as exc:
        LOG.debug('Node %(node)s is not off yet: %(error)s',
                  {'node': task.node.uuid, 'error': exc})
        return False
    return True
