# SPDX-License-Identifier: Apache-2.0
"""What makes one installation of a system differ from another.

Files are only emptied or removed, never made: so owners, modes and SELinux
labels are those that the system itself gives when it makes them anew. What
is not here stays, the host name first of all.
"""

import dataclasses
import enum
import os
import stat

from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import tree


class Action(enum.Enum):
    """What is done to what a rule names."""

    EMPTY = enum.auto()
    """Nothing is left in the file."""
    REMOVE_FILE = enum.auto()
    """A regular file is removed. Of a symbolic link the system would make
    the same again, and go on with what it leads to: there is none wanted."""
    REMOVE_ALL = enum.auto()
    """Whatever it is, it is removed: folders with all they hold, links
    without what they lead to."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Some files of a folder that are part of the identity.

    :param what: for people; several rules may be about the same.
    :param folder: from the root of the system, without the first slash.
    :param names: shell patterns.
    :param harmless: where a symbolic link may lead and is left as it is.
    """

    what: str
    folder: str
    names: tuple[str, ...]
    action: Action = Action.REMOVE_FILE
    harmless: tuple[str, ...] = ()


RULES = (
    # Empty, not missing nor "uninitialized": both of these make the next
    # boot a first one, in which systemd enables and disables units by
    # presets. See machine-id(5), "First Boot Semantics".
    Rule('machine-id', 'etc', ('machine-id',), Action.EMPTY),
    # systemd would take the ID from here, the same page says.
    Rule(
        'D-Bus machine-id',
        'var/lib/dbus',
        ('machine-id',),
        harmless=('/etc/machine-id', '../../../etc/machine-id'),
    ),
    Rule(
        'SSH host keys',
        'etc/ssh',
        ('ssh_host_*key', 'ssh_host_*key.pub', 'ssh_host_*key-cert.pub'),
    ),
    # As "cloud-init clean", but for scripts and handlers that an image may
    # have brought, and for the seed.
    Rule(
        'cloud-init state',
        'var/lib/cloud',
        ('instance', 'instances', 'data', 'sem'),
        Action.REMOVE_ALL,
    ),
    Rule('random seed', 'var/lib/systemd', ('random-seed',)),
    Rule('random seed', 'var/lib/urandom', ('random-seed',)),
    Rule('random seed', 'var/lib', ('random-seed',)),
    # What udev's generator of persistent names and cloud-init write.
    Rule(
        'names of network interfaces',
        'etc/udev/rules.d',
        ('70-persistent-net.rules', '85-persistent-net-cloud-init.rules'),
        harmless=('/dev/null',),
    ),
    # Leases and the identifiers that they were given for. Not those that a
    # DHCP server has given.
    Rule('DHCP leases', 'var/lib/dhcp', ('dhclient*',), Action.REMOVE_ALL),
    Rule('DHCP leases', 'var/lib/dhclient', ('*',), Action.REMOVE_ALL),
    Rule('DHCP leases', 'var/lib/dhcpcd', ('*',), Action.REMOVE_ALL),
    Rule('DHCP leases', 'var/lib/wicked', ('*.xml',), Action.REMOVE_ALL),
    Rule('DHCP leases', 'etc', ('dhcpcd.duid',), Action.REMOVE_ALL),
    Rule(
        'DHCP leases',
        'var/lib/NetworkManager',
        ('*.lease',),
        Action.REMOVE_ALL,
    ),
    # Stable IPv6 addresses and DHCP identifiers are made from it.
    Rule(
        'NetworkManager secret key', 'var/lib/NetworkManager', ('secret_key',)
    ),
)


def apply(rule: Rule, parent: int) -> int:
    """Do what a rule says.

    :param parent: descriptor of the rule's folder.
    :returns: how many files or folders were emptied or removed.
    :raises Obstacle: something is not what it should be, or resists.
    """
    count = 0
    for name in tree.matching(parent, rule.names):
        try:
            count += _apply(rule, parent, name)
        except obstacle.Obstacle as problem:
            raise obstacle.Obstacle(
                f'/{rule.folder}: {problem.reason}'
            ) from None
        except OSError as error:
            raise obstacle.Obstacle(
                f'/{rule.folder}/{name}: {error.strerror}'
            ) from None
    return count


# Private


def _apply(rule: Rule, parent: int, name: str) -> bool:
    kind = tree.kind(parent, name)
    if kind == stat.S_IFLNK and rule.harmless:
        if os.readlink(name, dir_fd=parent) in rule.harmless:
            return False
    if rule.action is Action.EMPTY:
        return tree.empty(parent, name)
    if rule.action is Action.REMOVE_FILE and kind != stat.S_IFREG:
        raise obstacle.Obstacle(f'{name} is no regular file')
    tree.remove(parent, name)
    return True
