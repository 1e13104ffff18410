# SPDX-License-Identifier: Apache-2.0
"""Files such as servers have, made from a seed.

Real ones from Debian's packages, logs, a database, and files that nothing
compresses (a fifth, as media, archives and encrypted files are).
"""

import collections.abc
import hashlib
import os
import pathlib
import random
import sqlite3
import stat
import subprocess

MIB = 1 << 20

#: Parts of all that is in use.
INCOMPRESSIBLE = 0.20
LOGS = 0.16
DATABASE = 0.10

#: What is written between the rest and deleted in the end, so that free
#: space holds old data and files are in pieces.
CHURN = 0.20

SERVICES = ('sshd', 'systemd', 'nginx', 'postgres', 'kernel', 'cron',
            'dhclient', 'ironic-conductor', 'sudo', 'rsyslogd')
WORDS = ('accepted connection from peer closed session opened for user root '
         'request completed status error timeout while reading response '
         'header upstream checkpoint starting buffers written removed '
         'recycled sync files longest average distance estimate link is up '
         'full duplex flow control worker process started exited signal '
         'reload configuration cache miss hit evicted slow query duration '
         'node state provision power management interface driver').split()
LINES_A_CHUNK = 4096
ROW_BYTES = 140
ROWS_A_CHUNK = 5000


def fill(root: pathlib.Path, packages: pathlib.Path, size: int,
         seed: str) -> None:
    """Fill a mounted file system as a few months of use would.

    :param packages: a tree of installed packages to take files from.
    :param size: of all files together, in bytes.
    """
    rng = random.Random(seed)
    doomed = root / 'var/tmp/doomed'
    doomed.mkdir(parents=True)
    rounds = 4
    churned = int(size * CHURN / rounds)
    chosen = choose(packages, int(
        size * (1 - INCOMPRESSIBLE - LOGS - DATABASE)))
    share = -(-len(chosen) // rounds)
    for turn in range(rounds):
        write_files(doomed / f'noise-{turn}', rng, churned // 2, noise)
        copy(packages, root, chosen[turn * share:(turn + 1) * share])
        write_files(doomed / f'log-{turn}', rng, churned // 2, log_text)
        write_files(root / f'srv/media-{turn}', rng,
                    int(size * INCOMPRESSIBLE / rounds), noise)
        write_files(root / f'var/log/old-{turn}', rng,
                    int(size * LOGS / rounds), log_text)
    write_database(root / 'var/lib/inventory.db', rng, int(size * DATABASE))
    # On the disk first: what is deleted before it is written never was.
    _flush(root)
    remove(doomed)


def live_a_day(root: pathlib.Path, packages: pathlib.Path,
               seed: str) -> None:
    """Change 2 to 4 % of what :func:`fill` has made."""
    rng = random.Random(seed)
    for folder in sorted((root / 'var/log').glob('old-*')):
        for path in sorted(folder.iterdir()):
            with open(path, 'ab') as file:
                file.write(log_text(rng, path.stat().st_size // 20))
    with sqlite3.connect(root / 'var/lib/inventory.db') as database:
        rows = database.execute('SELECT max(id) FROM item').fetchone()[0]
        first = rng.randrange(max(1, rows * 9 // 10))
        database.execute(
            'UPDATE item SET seen = seen + 1 WHERE id BETWEEN ? AND ?',
            (first, first + rows // 20))
    database.close()
    media = sorted((root / 'srv').glob('*/*'))
    for path in rng.sample(media, max(1, len(media) // 50)):
        size = path.stat().st_size
        path.unlink()
        path.with_name(path.name + '-new').write_bytes(noise(rng, size))
    # An upgrade writes new files and renames them over the old ones.
    for name in choose(packages, _size(root / 'usr') // 50):
        new = root / f'{name}.dpkg-new'
        if _is_regular(root / name):
            new.write_bytes((root / name).read_bytes())
            new.rename(root / name)
    _flush(root)


def wear(root: pathlib.Path, packages: pathlib.Path, size: int,
         seed: str) -> None:
    """Fill, delete and refill, so that files and free space are in pieces.

    :param size: what is left of files in the end, in bytes.
    """
    rng = random.Random(seed)
    regular = [name for name in choose(packages, size)
               if _is_regular(packages / name)]
    rng.shuffle(regular)
    alive: list[tuple[pathlib.Path, int]] = []
    held = number = 0
    # Twice over and above: a third is deleted each time.
    for turn in range(4):
        folder = root / f'turn-{turn}'
        folder.mkdir()
        while held < size * (1.0 if turn == 3 else 1.3):
            number += 1
            path = folder / f'file-{number:06d}'
            kind = rng.random()
            if kind < 0.5 and regular:
                data = (packages / regular.pop()).read_bytes()
            else:
                make = noise if kind > 1 - INCOMPRESSIBLE else log_text
                data = make(rng, _some_size(rng))
            path.write_bytes(data)
            alive.append((path, len(data)))
            held += len(data)
        _flush(root)
        if turn < 3:
            rng.shuffle(alive)
            while held > size * 0.6:
                path, length = alive.pop()
                path.unlink()
                held -= length
            _flush(root)


def choose(packages: pathlib.Path, size: int) -> list[str]:
    """Choose files of a tree, the same ones each time.

    :param size: about that many bytes; all files if there are fewer.
    :returns: paths relative to the tree, folders before what is in them.
    """
    names = [os.path.relpath(os.path.join(folder, name), packages)
             for folder, folders, files in os.walk(packages)
             for name in (*folders, *files)]
    chosen, total = [], 0
    for name in sorted(names, key=lambda name: hashlib.blake2b(
            os.fsencode(name)).digest()):
        status = os.lstat(packages / name)
        if stat.S_ISREG(status.st_mode):
            if total + status.st_size > size:
                continue
            total += status.st_size
        chosen.append(name)
    return sorted(chosen)


def copy(packages: pathlib.Path, root: pathlib.Path,
         names: list[str]) -> None:
    """Copy files with all that they are."""
    listed = b'\0'.join(os.fsencode(name) for name in names)
    reading = subprocess.Popen(
        ['tar', '--create', f'--directory={packages}', '--no-recursion',
         '--null', '--verbatim-files-from', '--files-from=-'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writing = subprocess.Popen(
        ['tar', '--extract', f'--directory={root}', '--numeric-owner',
         '--preserve-permissions'], stdin=reading.stdout)
    assert reading.stdin and reading.stdout
    reading.stdout.close()
    reading.stdin.write(listed)
    reading.stdin.close()
    for process in (reading, writing):
        if process.wait():
            raise subprocess.CalledProcessError(
                process.returncode, process.args)


def write_files(folder: pathlib.Path, rng: random.Random, size: int,
                make: collections.abc.Callable[[random.Random, int], bytes]
                ) -> None:
    """Write files of many sizes, together of one."""
    folder.mkdir(parents=True)
    number = 0
    while size > 0:
        data = make(rng, min(size, _some_size(rng)))
        (folder / f'{number:05d}').write_bytes(data)
        size -= len(data)
        number += 1


def noise(rng: random.Random, size: int) -> bytes:
    """Make bytes that nothing compresses."""
    return rng.randbytes(size)


def log_text(rng: random.Random, size: int) -> bytes:
    """Make lines such as logs have."""
    messages = [' '.join(rng.choices(WORDS, k=rng.randint(4, 12)))
                for _ in range(200)]
    now = rng.randrange(1_600_000_000, 1_700_000_000)
    chunks, made = [], 0
    while made < size:
        lines = []
        for value in rng.choices(range(1 << 32), k=LINES_A_CHUNK):
            now += value & 3
            lines.append(
                f'{now}.{value % 997:03d} host-17 '
                f'{SERVICES[value % 10]}[{value % 31337}]: '
                f'{messages[(value >> 8) % 200]} id={value:08x} '
                f'took={value % 8191}us\n')
        chunks.append(''.join(lines).encode())
        made += len(chunks[-1])
    return b''.join(chunks)[:size]


def write_database(path: pathlib.Path, rng: random.Random,
                   size: int) -> None:
    """Write an SQLite database of about a size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path)
    database.execute('PRAGMA journal_mode = OFF')
    database.execute('PRAGMA synchronous = OFF')
    database.execute('CREATE TABLE item (id INTEGER PRIMARY KEY, uuid TEXT,'
                     ' name TEXT, note TEXT, seen INTEGER, price REAL)')
    for _ in range(max(1, size // ROW_BYTES // ROWS_A_CHUNK)):
        values = rng.choices(range(1 << 62), k=ROWS_A_CHUNK)
        database.executemany(
            'INSERT INTO item VALUES (NULL, ?, ?, ?, ?, ?)', (
                (f'{value:016x}{value * 7919:020x}',
                 f'{WORDS[value % 50]}-{value % 100003}',
                 ' '.join(WORDS[(value >> shift) % len(WORDS)]
                          for shift in range(0, 54, 6)),
                 value % 86400, value % 1000000 / 100)
                for value in values))
    database.commit()
    database.close()


def remove(folder: pathlib.Path) -> None:
    """Delete a folder of folders of files."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(parent, name))
        for name in folders:
            os.rmdir(os.path.join(parent, name))
    folder.rmdir()


# Private


def _flush(root: pathlib.Path) -> None:
    """Write one file system out."""
    subprocess.run(['sync', '--file-system', str(root)], check=True)


def _some_size(rng: random.Random) -> int:
    """Many small ones and a few large: 4 KiB to 16 MiB."""
    return min(16 * MIB, max(4096, int(rng.lognormvariate(11.0, 1.8))))


def _is_regular(path: pathlib.Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _size(tree: pathlib.Path) -> int:
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, files in os.walk(tree) for name in files)
