# SPDX-License-Identifier: Apache-2.0
"""A model of a thin pool: devices, snapshots, writes; and what is written.

It does what dm-thin and LVM do, with a number in the place of each block's
content. It can also be more eager than dm-thin: write in place whatever is
not shared at the moment, and give ids that say nothing.
"""

import copy
import itertools

CHUNK = 64 << 10


class Device:
    """A thin device: block -> (block of the pool, time)."""

    def __init__(self, uuid, transaction, created):
        self.uuid = uuid
        self.transaction = transaction
        self.created = self.snapped = created
        self.map = {}


class ThinPool:
    """A pool.

    :param eager: write in place whatever is not shared now.
    :param nameless: volumes have no ids of their own, and LVM does not
        count what it does.
    """

    uuids = itertools.count(1)

    def __init__(self, blocks, *, eager=False, nameless=False):
        self.content = [0] * blocks
        self._holders = [0] * blocks
        self.time = self.transaction = 0
        self.devices = {}
        self._eager = eager
        self._nameless = nameless
        self._contents = itertools.count(1)

    def create(self, number):
        """Make a device that is empty."""
        assert number not in self.devices
        self.devices[number] = Device(
            self._uuid(number), self.transaction, self.time)
        self._changed()

    def snapshot(self, origin, number):
        """Make a device that shares all there is in another."""
        assert number not in self.devices
        self.time += 1
        made = Device(self._uuid(number), self.transaction, self.time)
        made.map = dict(self.devices[origin].map)
        for data, _ in made.map.values():
            self._holders[data] += 1
        self.devices[origin].snapped = self.time
        self.devices[number] = made
        self._changed()

    def delete(self, number):
        for block in list(self.devices[number].map):
            self.discard(number, block)
        del self.devices[number]
        self._changed()

    def write(self, number, block):
        """Write something new; False if the pool is full."""
        device = self.devices[number]
        data = None
        if block in device.map:
            data, time = device.map[block]
            shared = self._holders[data] > 1
            if shared or not self._eager and device.snapped > time:
                data = None
        if data is None:
            if 0 not in self._holders:
                return False
            data = self._holders.index(0)
            self._drop(device, block)
            device.map[block] = data, self.time
            self._holders[data] += 1
        self.content[data] = next(self._contents)
        return True

    def discard(self, number, block):
        """Drop a block; the disk may forget it when nobody has it."""
        self._drop(self.devices[number], block)

    def copy(self):
        """Give the pool as it is at this moment."""
        found = copy.copy(self)
        found.content = list(self.content)
        found._holders = list(self._holders)
        found.devices = copy.deepcopy(self.devices)
        return found

    def xml(self):
        """Give the metadata as thin_dump prints them."""
        lines = [
            f'<superblock uuid="" time="{self.time}" '
            f'transaction="{self.transaction}" flags="0" version="2" '
            f'data_block_size="{CHUNK // 512}" '
            f'nr_data_blocks="{len(self.content)}">']
        for number, device in sorted(self.devices.items()):
            lines.append(
                f'  <device dev_id="{number}" '
                f'mapped_blocks="{len(device.map)}" '
                f'transaction="{device.transaction}" '
                f'creation_time="{device.created}" '
                f'snap_time="{device.snapped}">')
            for block, data, count, time in _runs(device.map):
                if count == 1:
                    lines.append(
                        f'    <single_mapping origin_block="{block}" '
                        f'data_block="{data}" time="{time}"/>')
                else:
                    lines.append(
                        f'    <range_mapping origin_begin="{block}" '
                        f'data_begin="{data}" length="{count}" '
                        f'time="{time}"/>')
            lines.append('  </device>')
        return '\n'.join([*lines, '</superblock>', ''])

    # Private

    def _drop(self, device, block):
        data, _ = device.map.pop(block, (None, None))
        if data is not None:
            self._holders[data] -= 1
            if not self._holders[data]:
                self.content[data] = -next(self._contents)

    def _uuid(self, number):
        return f'volume-{number if self._nameless else next(self.uuids)}'

    def _changed(self):
        if not self._nameless:
            self.transaction += 1


def used(blocks, places, **options):
    """Make a pool with a root, and a snapshot of it.

    :param places: of the root that were written to, in this order.
    """
    pool = ThinPool(blocks, **options)
    pool.create(1)
    for place in places:
        pool.write(1, place)
    pool.snapshot(1, 2)
    return pool


def _runs(mapping):
    """Give (block, block of the pool, count, time), joined."""
    runs = []
    for block, (data, time) in sorted(mapping.items()):
        if runs:
            first, start, count, when = runs[-1]
            if (first + count, start + count, when) == (block, data, time):
                runs[-1] = (first, start, count + 1, when)
                continue
        runs.append((block, data, 1, time))
    return runs
