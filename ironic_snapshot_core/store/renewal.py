# SPDX-License-Identifier: Apache-2.0
"""Requests that outlive the grant they began with.

A grant lasts for an hour, a capture may take many. Whoever holds the grant
gets fresh ones on the way; a request that is refused because the grant has
expired waits for the next instead of failing.

When a grant has expired is for the store to say: the clock of a ramdisk may
be off by hours, so no request is held back because of it.
"""

import logging
import typing

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core.store import auth as auths

LOG = logging.getLogger(__name__)

T = typing.TypeVar('T')

#: Seconds for which a request waits for a fresh grant.
PATIENCE_S = 3600.0

#: Grants in a row that may be refused by the first request that uses them.
#: More are no accident: the clocks of conductor and store disagree.
FRESH_TRIES = 3

#: What a fresh grant may help against.
EXPIRED = (errors.GrantExpired, errors.ClockSkew)

_POLL_S = 0.5


class Renewal:
    """Repeats what failed for want of a fresh grant, when there is one.

    :param auth: of the store; :meth:`GrantAuth.renew` is what is waited for.
    :param clock: its sleep may raise, to give up.
    :param ask: called when a request begins to wait.
    :param patience_s: seconds until it gives up.
    """

    def __init__(self, auth: auths.GrantAuth, clock: clocks.Clock,
                 ask: typing.Callable[[], None],
                 patience_s: float = PATIENCE_S) -> None:
        self._auth = auth
        self._clock = clock
        self._ask = ask
        self._patience_s = patience_s

    def run(self, call: typing.Callable[[], T]) -> T:
        """Do something, again if need be.

        :param call: idempotent.
        :raises StoreError: as the call does; GrantExpired or ClockSkew when
            no fresh grant came in time, or none was any good.
        """
        waits = 0
        while True:
            used = self._auth.grant
            try:
                return call()
            except errors.AccessDenied:
                # The store cannot tell a signature that is outdated from a
                # wrong one when the request and the renewal crossed.
                if self._auth.grant is used:
                    raise
            except EXPIRED as e:
                if waits == FRESH_TRIES:
                    raise
                waits += self._auth.grant is used
                self._wait(used, e)

    # Private

    def _wait(self, used: grants.Grant, error: errors.StoreError) -> None:
        deadline = self._clock.monotonic() + self._patience_s
        if self._auth.grant is used:
            LOG.info('%s Waiting for a fresh grant.', error)
            self._ask()
        while self._auth.grant is used:
            if self._clock.monotonic() >= deadline:
                raise error
            self._clock.sleep(_POLL_S)
