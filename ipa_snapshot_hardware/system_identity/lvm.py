# SPDX-License-Identifier: Apache-2.0
"""Logical volumes of one disk, for as long as they are looked at."""

import collections.abc
import contextlib
import json
import re

from ipa_snapshot_hardware.survey import tool
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import volume

#: What blkid calls a physical volume.
CONTENT = 'LVM2_member'

# Volumes that hold others and no file system.
_POOLS = ('thin-pool', 'cache-pool', 'vdo-pool')
_INACTIVE = -1


@contextlib.contextmanager
def activated(
    members: collections.abc.Sequence[volume.Volume],
) -> collections.abc.Iterator[list[volume.Volume]]:
    """Give the logical volumes of some physical volumes.

    LVM sees these and nothing else; so a group of which a part is on
    another disk is refused, and no other disk's group is touched, even if
    it has the same name. At the end they are no longer active.

    :raises Obstacle: LVM cannot do it, or a group is not complete.
    """
    if not members:
        yield []
        return
    lvm = _Lvm([member.path for member in members])
    groups = lvm.groups()
    try:
        for group in groups:
            lvm.run('vgchange', '--activate', 'y', '--select', group)
        yield lvm.volumes()
    finally:
        for group in groups:
            lvm.run('vgchange', '--activate', 'n', '--select', group)


# Private


class _Lvm:
    """LVM with sight of a few devices."""

    def __init__(self, devices: list[str]) -> None:
        shown = ','.join(f'"a|^{re.escape(each)}$|"' for each in devices)
        only = f'[{shown},"r|.*|"]'
        # No files of the ramdisk's are asked or written, no daemon, and not
        # udev, which may be behind, or not there.
        self._config = (
            f'devices {{ filter={only} global_filter={only} '
            'use_devicesfile=0 obtain_device_list_from_udev=0 scan_lvs=0 } '
            'activation { udev_sync=0 udev_rules=0 monitoring=0 '
            'auto_activation_volume_list=[] } '
            'global { event_activation=0 use_lvmpolld=0 notify_dbus=0 } '
            'backup { backup=0 archive=0 }'
        )

    def run(self, command: str, *arguments: str) -> str:
        answer = tool.run(
            'lvm',
            command,
            *arguments,
            '--config',
            self._config,
            watch=volume.no_watch,
        )
        if answer.tool.code:
            tool.LOG.info('lvm %s: %s', command, answer.tool.errors)
            last = answer.tool.errors.strip().rsplit('\n', 1)[-1].strip()
            raise obstacle.Obstacle(f'lvm {command} failed: {last}')
        return answer.text

    def groups(self) -> list[str]:
        """Give a selection of each group."""
        found = []
        for each in self._report('vgs', 'vg_name,vg_uuid,vg_missing_pv_count'):
            if each['vg_missing_pv_count'] != '0':
                raise obstacle.Obstacle(
                    f'the volume group {each["vg_name"]} is not complete on '
                    'this disk'
                )
            found.append(f'vg_uuid={each["vg_uuid"]}')
        return found

    def volumes(self) -> list[volume.Volume]:
        found = []
        fields = 'vg_name,lv_name,segtype,lv_kernel_minor'
        for each in self._report('lvs', fields):
            minor = int(each['lv_kernel_minor'])
            if minor == _INACTIVE or each['segtype'] in _POOLS:
                continue
            group, name = each['vg_name'], each['lv_name']
            mapped = '-'.join(
                part.replace('-', '--') for part in (group, name)
            )
            # That one is made by the kernel, the others by udev.
            found.append(
                volume.probe(
                    f'/dev/dm-{minor}',
                    f'{group}/{name}',
                    aliases=(f'/dev/{group}/{name}', f'/dev/mapper/{mapped}'),
                )
            )
        return found

    def _report(self, command: str, fields: str) -> list[dict[str, str]]:
        text = self.run(command, '--reportformat', 'json', '--options', fields)
        try:
            [report] = json.loads(text)['report']
            [lines] = report.values()
        except (ValueError, KeyError, AttributeError):
            raise obstacle.Obstacle(
                f'the answer of lvm {command} makes no sense'
            ) from None
        # A volume of several segments is listed once for each.
        unique = {tuple(sorted(line.items())): line for line in lines}
        return list(unique.values())
