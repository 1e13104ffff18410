# SPDX-License-Identifier: Apache-2.0
"""The agent's own heartbeats beside captures at full CPU.

A process of its own, for the threads of one interpreter share more than the
cores. Prints one line of JSON; ``worst`` is the longest time between two
heartbeats, in intervals.
"""

import json
import os
import time

from ironic_python_agent import agent

from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import session
from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import units
from tests import disks
from tests.contract import capture_process
from tests.contract import capture_requests

SECONDS = 10
INTERVAL_S = 2.0


class Agent:
    """What the heartbeater wants to know of the agent, and its API."""

    heartbeat_timeout = INTERVAL_S
    advertise_address = advertise_protocol = generated_cert = None
    api_urls = ()

    def __init__(self):
        self.api_client = self
        self.beats = []
        self.heartbeater = agent.IronicPythonAgentHeartbeater(self)
        # Otherwise a part of it that is left to chance.
        self.heartbeater.min_jitter_multiplier = 1.0
        self.heartbeater.max_jitter_multiplier = 1.0

    def set_agent_advertise_addr(self):
        pass

    def get_node_uuid(self):
        return capture_requests.NODE

    def heartbeat(self, **told):
        self.beats.append(time.monotonic())

    def worst(self):
        return max(
            (later - earlier) / INTERVAL_S
            for earlier, later in zip(
                self.beats, self.beats[1:], strict=False
            )
        )


def main():
    content = disks.random_bytes(128 * units.MiB)
    wanted = capture_requests.wanted(workers=os.cpu_count(), codec_level=3)
    until = time.monotonic() + SECONDS
    captured = 0

    def work(means):
        nonlocal captured
        while time.monotonic() < until:
            disk = memory_disk.MemoryDisk(content)
            found = capture.capture(
                disk,
                capture_process.NullStore(0),
                wanted,
                allowed=budget.plan(
                    disk_size=disk.size,
                    cluster_size=wanted.cluster_size,
                    pack_size=wanted.pack_size,
                    codec=wanted.codec,
                    workers=wanted.workers,
                    memory_limit=0,
                ),
                clock=means.clock,
                stop=means.stop,
                software={},
            )
            captured += disk.size
        return found

    ours = Agent()
    began, cpu = time.monotonic(), time.process_time()
    ours.heartbeater.start()
    session.Sessions().attend(wanted, capture_requests.mint(), work).wait(100)
    told = {
        'seconds': time.monotonic() - began,
        'cpu_s': time.process_time() - cpu,
        'captured_bytes': captured,
        'beats': len(ours.beats),
        'worst': ours.worst(),
    }
    ours.heartbeater.stop()
    print(json.dumps(told))


if __name__ == '__main__':
    main()
