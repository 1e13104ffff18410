# SPDX-License-Identifier: Apache-2.0
"""Looking for secrets in everything the lab has written."""
import json
import pathlib
import re
import sqlite3

from ironic_snapshot_core import grant
from tests.servers import cloud
from tests.servers import swift

# Names of secrets followed by a value that is not masked.
_PATTERNS = (
    re.compile(r'temp_url_sig=(?!\*)[^&\s\'"]+'),
    re.compile(r'X-Auth-Token["\']?: ["\']?(?!\*)AUTH_tk\w+'),
)
# A storage server of Swift logs the whole address of each request, signature
# and all, as where it comes from. They are nobody's but who has the data.
_STORAGE_LOGS = frozenset(f'{name}.log' for name in swift.STORAGE_SERVERS)


def secrets(lab) -> dict[str, str]:
    """Every secret of the lab: value -> what it is.

    The signatures are made again from the key: for each attempt that has
    left anything in Swift, and each second it may have expired at.
    """
    found = {
        lab.manifest_key: 'manifest key',
        lab.swift.token(): 'Swift token',
    }
    if lab.is_cloud:
        found.update({lab.cloud.credentials(user)['password']:
                      f'password of {user}' for user in cloud.USERS})
    for url, key in lab.containers().items():
        found[key] = f'signing key of {url}'
        path = '/' + url.split('/', 3)[3]
        for prefix, expires in lab.granted(url):
            for moment in expires:
                for method in ('GET', 'PUT'):
                    found[grant.sign(key, method, path, moment, prefix)] = (
                        f'signature for {prefix}')
    return found


def search(lab, node, wanted: dict[str, str]) -> list[str]:
    """Where one of the secrets stands: file or field, and which."""
    hits = []
    for name, text in _texts(lab, node):
        for pattern in _PATTERNS:
            hits += [f'{name}: {pattern.pattern}'
                     for _match in pattern.finditer(text)]
        # Much faster than a search for each of thousands.
        for word in set(re.findall(r'[0-9A-Za-z_]{32,}', text)):
            if word in wanted:
                hits.append(f'{name}: {wanted[word]}')
    return hits


def _texts(lab, node):
    yield 'node', json.dumps(node.show())
    yield 'history', json.dumps(node.history())
    for path in sorted({*lab.log_dir.rglob('*'),
                        *lab.state_dir.rglob('*.log')}):
        if path.is_file() and path.name not in _STORAGE_LOGS:
            yield str(path), path.read_text(errors='replace')
    for path in sorted((lab.state_dir / 'machines').glob('*/console.log')):
        yield str(path), path.read_text(errors='replace')
    for path in sorted(lab.state_dir.glob('ironic/*.sqlite')):
        yield str(path), _dump(path)


def _dump(path: pathlib.Path) -> str:
    with sqlite3.connect(f'file:{path}?mode=ro', uri=True) as database:
        return '\n'.join(database.iterdump())
