# SPDX-License-Identifier: Apache-2.0
"""A conductor whose agent restores snapshots, on an active node or a new one.

The agent is scripted, but what it runs is the real restore of the ramdisk
side with the real grant.
"""
from ironic.common import states

from ironic_snapshot import restore_record
from tests.contract import node_disk
from tests.contract import parent_base


class RestoreTestCase(parent_base.ParentTestCase):
    """A node that a snapshot is to be put on.

    How a user asks for that is in the method ``ask`` of those derived.

    :cvar WAITING: its state between two slices.
    """

    WAITING = states.SERVICEWAIT

    def setUp(self):
        super().setUp()
        self.hold_clock()
        #: What the agent does when it is to restore.
        self.on_restore = self.do_restore

    # What a user and an agent do

    def let_restore(self, others):
        """The agent restores, and does this with any other step."""
        self.agent.run = lambda args: (
            self.on_restore(args) if 'operation' in args else others(args))

    def begin(self, on_restore=None, **args):
        """The agent has got its first slice."""
        if on_restore:
            self.on_restore = on_restore
        self.ask(**args)
        self.assert_waits()
        self.heartbeat()

    def beat(self, on_restore=None, seconds=60):
        """A slice ends; the agent does this in the next one."""
        if on_restore:
            self.on_restore = on_restore
        self.clock.advance(seconds)
        self.heartbeat()

    def do_restore(self, args):
        return node_disk.restore(self.disk, args)

    def report(self, touched, **changes):
        """An agent that answers at the end of a slice."""
        def run(args):
            return {
                'protocol': 1, 'snapshot': args['snapshot'],
                'operation': args['operation'], 'more': True,
                'touched': touched, 'progress': {
                    'phase': 'compare', 'percent': 10, 'total_bytes': 10000,
                    'read_bytes': 1000, 'fetched_bytes': 30,
                    'written_bytes': 20, 'rate': 50, 'eta': 180,
                    'moved': int(self.clock.time()), **changes}}
        return run

    @staticmethod
    def failing(text):
        """An agent that ends with an error."""
        def run(args):
            raise RuntimeError(text)
        return run

    # What must hold

    @property
    def restoration(self):
        return restore_record.load(self.node)

    def assert_waits(self):
        self.assertEqual(self.WAITING, self.node.provision_state,
                         self.node.last_error)
