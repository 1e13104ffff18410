# SPDX-License-Identifier: Apache-2.0
"""Take from a disk's system what no two machines may share.

This is for a disk that a snapshot of another machine was restored to. Its
file systems are mounted, which is done nowhere else: never those of a disk
that is captured, and of the disk that was written only afterwards.
"""

import collections.abc
import contextlib
import dataclasses
import logging
import os

from ironic_snapshot_core import errors
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.system_identity import boot_seed
from ipa_snapshot_hardware.system_identity import config_drive
from ipa_snapshot_hardware.system_identity import filesystem
from ipa_snapshot_hardware.system_identity import lvm
from ipa_snapshot_hardware.system_identity import mount
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import rules
from ipa_snapshot_hardware.system_identity import system
from ipa_snapshot_hardware.system_identity import volume

LOG = logging.getLogger(__name__)

# Of what an error names.
_MOST_REASONS = 5
# Of the name of a place in the account, in characters.
_LONGEST_PLACE = 60


@dataclasses.dataclass(frozen=True)
class Reset:
    """What was reset in one place.

    :param place: volume and file system, such as ``sda2 ext4``,
        ``vg/root xfs`` or ``sda3 btrfs @``.
    :param what: such as ``machine-id``, ``SSH host keys (6)``; empty when
        there was nothing left to reset.
    """

    place: str
    what: tuple[str, ...]

    def __str__(self) -> str:
        return f'{self.place}: {", ".join(self.what) or "nothing left"}'


def reset(device: str, *, config_drive_follows: bool = False) -> list[Reset]:
    """Reset the identity of every system on a disk.

    Nothing may have the disk open for writing, or any part of it mounted.
    It may be done again, after an interruption for example.

    :param device: path of the disk, a block device.
    :param config_drive_follows: whether the agent will write a config drive.
    :returns: one for each system, and for each other partition where there
        was something to reset.
    :raises IdentityNotReset: something of it is as it was, or no system was
        found whose identity could be reset.
    """
    work = _Work(device)
    with work.collecting():
        volumes = volume.find(device)
        work.reset_systems(volumes)
        work.reset_partitions(volumes, config_drive_follows)
        work.flush()
    if work.obstacles:
        raise errors.IdentityNotReset(device, _sentence(work.obstacles))
    for each in work.account:
        LOG.info('Identity reset in %s', each)
    return work.account


# Private


class _Work:
    """A disk, and what has been reset of it so far."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.account: list[Reset] = []
        self.obstacles: list[str] = []

    @contextlib.contextmanager
    def collecting(self) -> collections.abc.Iterator[None]:
        """Go on after what fails, and keep the reason.

        So nothing else is left that could have been reset, and the error
        names all that was not.
        """
        try:
            yield
        except (obstacle.Obstacle, look.Doubt) as problem:
            self.obstacles.append(problem.reason)
        except OSError as error:
            self.obstacles.append(f'{self._device}: {error.strerror}')

    def reset_systems(self, volumes: list[volume.Volume]) -> None:
        members = [each for each in volumes if each.content == lvm.CONTENT]
        with contextlib.ExitStack() as stack:
            logical = stack.enter_context(lvm.activated(members))
            everything = [*volumes, *logical]
            file_systems = []
            for each in everything:
                if each.content in mount.DRIVERS:
                    with self.collecting():
                        file_systems.append(
                            stack.enter_context(filesystem.opened(each))
                        )
            roots = []
            for found in file_systems:
                with self.collecting():
                    roots += stack.enter_context(filesystem.roots(found))
            if not roots:
                raise obstacle.Obstacle(_no_system(everything))
            for root in roots:
                self._reset_root(root, file_systems)

    def reset_partitions(
        self, volumes: list[volume.Volume], config_drive_follows: bool
    ) -> None:
        for each in volumes:
            with self.collecting():
                if config_drive.is_one(each):
                    config_drive.clear(
                        each, another_follows=config_drive_follows
                    )
                    self._record(f'{each.name} {each.content}', 'config drive')
                elif each.content == boot_seed.CONTENT:
                    if boot_seed.remove(each):
                        self._record(
                            f'{each.name} {each.content}', 'random seed'
                        )

    def flush(self) -> None:
        """Have the disk itself write what it may only keep in its cache."""
        descriptor = os.open(self._device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _reset_root(
        self,
        root: filesystem.Root,
        file_systems: list[filesystem.FileSystem],
    ) -> None:
        counts: dict[str, int] = {}
        with contextlib.ExitStack() as stack, self.collecting():
            seen = system.System(root, file_systems, stack)
            for rule in rules.RULES:
                with self.collecting(), seen.folder(rule.folder) as folder:
                    if folder is None:
                        continue
                    counts[rule.what] = counts.get(rule.what, 0) + rules.apply(
                        rule, folder
                    )
        self._record(
            root.name,
            *(
                what if count == 1 else f'{what} ({count})'
                for what, count in counts.items()
                if count
            ),
        )

    def _record(self, place: str, *what: str) -> None:
        shown = obstacle.printable(place, _LONGEST_PLACE)
        self.account.append(Reset(shown, what))


def _no_system(volumes: list[volume.Volume]) -> str:
    found = sorted({each.content for each in volumes if each.content})
    return (
        'no Linux system was found on an ext4, xfs or btrfs (there is: '
        f'{", ".join(found) or "nothing known"})'
    )


def _sentence(reasons: list[str]) -> str:
    shown = '; '.join(reasons[:_MOST_REASONS])
    more = len(reasons) - _MOST_REASONS
    return f'{shown}; and {more} more' if more > 0 else shown
