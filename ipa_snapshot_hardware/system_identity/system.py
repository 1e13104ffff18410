# SPDX-License-Identifier: Apache-2.0
"""A system as it sees itself: its root, and what it mounts below."""

import collections.abc
import contextlib
import fnmatch

from ipa_snapshot_hardware.system_identity import filesystem
from ipa_snapshot_hardware.system_identity import fstab
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import rules
from ipa_snapshot_hardware.system_identity import tree

# Nothing of these outlives a boot.
_VOLATILE = ('tmpfs', 'ramfs', 'none', 'swap')
_LARGEST_TABLE = 256 << 10
# The subvolume that holds all others.
_TOP = ('0', '5')


class System:
    """A system whose folders are looked for where it would look.

    :param stack: closes what is opened here.
    :param file_systems: all of the disk, mounted.
    :raises Obstacle: the system mounts, at a place that matters, something
        that is not known or not on the disk.
    """

    def __init__(
        self,
        root: filesystem.Root,
        file_systems: collections.abc.Sequence[filesystem.FileSystem],
        stack: contextlib.ExitStack,
    ) -> None:
        self._root = root
        self._file_systems = file_systems
        # None: what is mounted there is gone with the next boot.
        self._mounts: dict[str, int | None] = {'': root.folder}
        entries = self._entries()
        own = next((each for each in entries if not each.place), None)
        for entry in entries:
            if entry.place and _matters(entry.place):
                self._mounts[entry.place] = self._mount(entry, own, stack)

    @contextlib.contextmanager
    def folder(self, path: str) -> collections.abc.Iterator[int | None]:
        """Give a descriptor of a folder; None where there is none.

        :param path: from the root, without the first slash.
        :raises Obstacle: as :func:`tree.folder`.
        """
        place = max(
            (each for each in self._mounts if _is_within(path, each)), key=len
        )
        top = self._mounts[place]
        if top is None:
            yield None
            return
        with tree.folder(top, path.removeprefix(place)) as found:
            yield found

    # Private

    def _entries(self) -> list[fstab.Entry]:
        with tree.folder(self._root.folder, 'etc') as etc:
            assert etc is not None  # or it would be no root
            data = tree.read(etc, 'fstab', _LARGEST_TABLE)
        return fstab.parse(data.decode(errors='surrogateescape'))

    def _mount(
        self,
        entry: fstab.Entry,
        own: fstab.Entry | None,
        stack: contextlib.ExitStack,
    ) -> int | None:
        if entry.content in _VOLATILE and 'bind' not in entry.options:
            return None
        wanted = fstab.resolve(
            entry,
            own,
            self._root.on.volume,
            [each.volume for each in self._file_systems],
        )
        for each in self._file_systems:
            if each.volume == wanted:
                return self._part(each, entry, stack)
        raise obstacle.Obstacle(
            f'/{entry.place} is on {entry.source}, which is not one ext4, '
            'xfs or btrfs of this disk'
        )

    def _part(
        self,
        found: filesystem.FileSystem,
        entry: fstab.Entry,
        stack: contextlib.ExitStack,
    ) -> int:
        """Give what the options of an entry say is mounted."""
        if found.volume.content != 'btrfs':
            return found.top
        path, number = entry.option('subvol'), entry.option('subvolid')
        if path is not None:
            folder = stack.enter_context(tree.folder(found.top, path))
            if folder is not None:
                return folder
        elif number in _TOP:
            return found.top
        elif number is None:
            return found.default
        raise obstacle.Obstacle(
            f'the btrfs subvolume of /{entry.place} is not found'
        )


# Private


def _is_within(path: str, place: str) -> bool:
    return not place or path == place or path.startswith(f'{place}/')


def _matters(place: str) -> bool:
    """Tell whether a rule's folder is on what is mounted at a place.

    :raises Obstacle: what a rule would remove is itself a mount.
    """
    for rule in rules.RULES:
        inner = place.removeprefix(f'{rule.folder}/')
        if inner != place and any(
            fnmatch.fnmatchcase(inner.split('/')[0], name)
            for name in rule.names
        ):
            raise obstacle.Obstacle(f'/{place} is a file system of its own')
    return any(_is_within(rule.folder, place) for rule in rules.RULES)
