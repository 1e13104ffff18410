# SPDX-License-Identifier: Apache-2.0
"""What is in the lab's Swift account, for tests to look at."""

import collections.abc
import time

import requests

from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import swift as swift_store
from tests.servers import swift

#: The default of [snapshot]container.
CONTAINER = 'ironic-snapshots'
#: The default of [snapshot]grant_ttl, in seconds.
GRANT_TTL_S = 3600
KEY_HEADER = 'X-Container-Meta-Temp-URL-Key'
TIMEOUT_S = 10.0

#: Prefix -> the moments at which grants for it may expire.
Grants = list[tuple[str, collections.abc.Sequence[int]]]


class Account:
    """The account, with its owner's rights and without any proxy."""

    def __init__(self, server: swift.SwiftServer) -> None:
        self._server = server
        self._url = f'{server.url}/v1/{server.account}'

    def store(self, container: str) -> swift_store.SwiftStore:
        """Return a container as our own store."""
        return swift_store.SwiftStore(
            f'{self._url}/{container}',
            auth.TokenAuth(self._server.token, lambda: None))

    def containers(self) -> dict[str, str]:
        """Return the URL and key of each container that has a key."""
        headers = {'X-Auth-Token': self._server.token()}
        listed = requests.get(self._url, headers=headers,
                              params={'format': 'json'}, timeout=TIMEOUT_S)
        listed.raise_for_status()
        found = {}
        for each in listed.json():
            url = f'{self._url}/{each["name"]}'
            answer = requests.head(url, headers=headers, timeout=TIMEOUT_S)
            if KEY_HEADER in answer.headers:
                found[url] = answer.headers[KEY_HEADER]
        return found

    def granted(self, container_url: str, since: int) -> Grants:
        """Return what may have been granted since a moment (Unix time).

        That is, attempts, and snapshots for those that build upon them.
        """
        store = self.store(container_url.rpartition('/')[2])
        prefixes = {info.name.rpartition('/')[0] + '/'
                    for info in store.list('v1/')
                    if '/attempts/' in info.name
                    or info.name.endswith('/manifest')}
        expiries = range(since + GRANT_TTL_S,
                         int(time.time()) + GRANT_TTL_S + 1)
        return [(prefix, expiries) for prefix in sorted(prefixes)]
