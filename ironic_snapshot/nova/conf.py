# SPDX-License-Identifier: Apache-2.0
"""The options of the compute driver: group ``[ironic_snapshot]``.

They stand in ``nova.conf``.
"""
from oslo_config import cfg

GROUP = 'ironic_snapshot'

OPTS = [
    cfg.IntOpt('poll_interval',
               default=10, min=1,
               help='Seconds between two looks at a node whose disk is being '
                    'captured, and at its image.'),
    cfg.IntOpt('timeout',
               default=86400, min=600,
               help='Seconds after which a capture and the publication of '
                    'its image are given up. What stands still is found out '
                    'by the conductor much earlier; this is for when there '
                    'is no conductor.'),
    cfg.IntOpt('abort_timeout',
               default=1800, min=60,
               help='Seconds that a node gets to boot back into its own '
                    'system after a capture is aborted.'),
    cfg.IntOpt('max_concurrent_backups',
               default=16, min=1,
               help='Servers that are backed up or shelved at the same time '
                    'by one nova-compute; one more is refused at once. Nova '
                    'does these in the threads that take its messages, of '
                    'which there are [DEFAULT]executor_thread_pool_size, '
                    'and each is held until the image is there. How many '
                    'images are created at the same time otherwise is said '
                    'by [DEFAULT]max_concurrent_snapshots.'),
]


def register_opts(conf):
    """Register everything that the driver reads with `conf`."""
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    """The options, for oslo-config-generator."""
    yield GROUP, OPTS
