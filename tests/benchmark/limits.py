# SPDX-License-Identifier: Apache-2.0
"""What nothing can be faster than, on this machine.

compress
    digest and compression of exactly the clusters that a capture stores,
    from memory, on all cores: no reading, no packing, no storing
read
    reading the same clusters from the disk image, one after another
read-hash
    reading them and digest of each, on all cores
changes
    digest and compression, as above, of the clusters of one image whose
    content is nowhere in another
put
    plain PUTs of files to a container, from memory
get
    plain GETs of objects of a container, into nowhere

Run as a program, it does one of them and prints a line of JSON. ``image`` is
a raw image that ironic-snapshot has exported: holes are what it did not
store; ``before`` is one as well.
"""

import argparse
import concurrent.futures
import errno
import http.client
import inspect
import itertools
import json
import os
import pathlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core.store import limit
from ipa_snapshot_hardware import budget

Job = TypeVar('Job')

MIB = 1 << 20

#: Held in memory at a time.
BATCH = 1024 * MIB
READ = 4 * MIB

#: Connections: as many as a capture has uploads.
CONNECTIONS = 2

#: A line that is slower than disk and cores, in bytes per second.
LINE = 125_000_000
LINE_TITLE = '1 Gbit/s'

#: Sent at once where a line is shared.
PIECE = 256 * 1024


def compress(image: pathlib.Path, cluster_size: int,
             threads: int) -> dict[str, float]:
    """Digest and compress every cluster that is not zero."""
    return _compress(_clusters(image, cluster_size), cluster_size, threads)


def changes(before: pathlib.Path, image: pathlib.Path, cluster_size: int,
            threads: int) -> dict[str, float]:
    """Digest and compress what no cluster of an earlier image has.

    A content counts once, however often it is in the image. Finding it is
    not counted.
    """
    digest = digests.DEFAULT_DIGEST.digest
    known = set(map(digest, _clusters(before, cluster_size)))

    def new() -> Iterator[bytes]:
        for cluster in _clusters(image, cluster_size):
            found = digest(cluster)
            if found not in known:
                known.add(found)
                yield cluster

    return _compress(new(), cluster_size, threads)


def read(image: pathlib.Path, source: pathlib.Path,
         cluster_size: int) -> dict[str, float]:
    """Read from the source what the image holds."""
    wanted = list(runs(image, cluster_size))
    buffer = memoryview(bytearray(READ))
    size = 0
    started = time.perf_counter()
    with open(source, 'rb', buffering=0) as file:
        for start, end in wanted:
            while start < end:
                file.seek(start)
                count = file.readinto(buffer[:min(READ, end - start)])
                if not count:
                    break       # the disk's last cluster is a shorter one
                start += count
                size += count
    return {'seconds': time.perf_counter() - started, 'bytes': size}


def read_hash(image: pathlib.Path, source: pathlib.Path, cluster_size: int,
              threads: int) -> dict[str, float]:
    """Read from the source what the image holds, and digest each cluster."""
    digest = digests.DEFAULT_DIGEST.digest
    step = max(cluster_size, READ - READ % cluster_size)
    jobs = iter([(at, min(at + step, end))
                 for start, end in runs(image, cluster_size)
                 for at in range(start, end, step)])
    lock = threading.Lock()

    def work(fd: int) -> int:
        buffer = memoryview(bytearray(step))
        size = 0
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                return size
            start, end = job
            read = 0
            while start + read < end and (count := os.preadv(
                    fd, [buffer[read:end - start]], start + read)):
                read += count
            for at in range(0, read, cluster_size):
                digest(buffer[at:min(at + cluster_size, read)])
            size += read

    with (open(source, 'rb') as file,
          concurrent.futures.ThreadPoolExecutor(threads) as pool):
        started = time.perf_counter()
        size = sum(pool.map(work, [file.fileno()] * threads))
        seconds = time.perf_counter() - started
    return {'seconds': seconds, 'bytes': size, 'threads': threads}


def put(files: list[pathlib.Path], container_url: str, token: str,
        rate: int = 0) -> dict[str, float]:
    """PUT files, from memory, over a few connections.

    :param rate: of a line that all share, in bytes per second; 0: no limit.
    """
    line = limit.RateLimit(rate) if rate else None
    contents = [(path.name, path.read_bytes()) for path in files]
    url = urllib.parse.urlsplit(container_url)

    def send(connection: http.client.HTTPConnection,
             content: tuple[str, bytes]) -> None:
        name, data = content
        connection.request(
            'PUT', f'{url.path}/{name}',
            _sent_over(line, data) if line else data,
            {'X-Auth-Token': token, 'Content-Length': str(len(data))})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 201:
            raise OSError(f'PUT: {answer.status} {answer.reason}')

    return {'seconds': _over_connections(url, contents, CONNECTIONS, send),
            'bytes': sum(len(data) for _, data in contents)}


def get(names: list[str], container_url: str, token: str,
        rate: int = 0) -> dict[str, float]:
    """GET objects over as many connections as a restore has, and drop them.

    :param rate: of a line that all share, in bytes per second; 0: no limit.
    """
    line = limit.RateLimit(rate) if rate else None
    url = urllib.parse.urlsplit(container_url)
    sizes: list[int] = []

    def receive(connection: http.client.HTTPConnection, name: str) -> None:
        connection.request('GET', f'{url.path}/{name}',
                           headers={'X-Auth-Token': token})
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f'GET: {answer.status} {answer.reason}')
        buffer = bytearray(PIECE)
        while count := answer.readinto(buffer):
            sizes.append(count)
            if line:
                line.take(count)
        if answer.length:
            raise OSError('GET: the answer ended early')

    fetches = min(2 * len(os.sched_getaffinity(0)), budget.MOST_FETCHES)
    return {'seconds': _over_connections(url, names, fetches, receive),
            'bytes': sum(sizes)}


def runs(image: pathlib.Path, cluster_size: int
          ) -> Iterator[tuple[int, int]]:
    """Give where a sparse file has data, in whole clusters."""
    with open(image, 'rb') as file:
        end, size = 0, os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            # What is left of a cluster was given already.
            start = max(end, start - start % cluster_size)
            end = os.lseek(file.fileno(), max(start, end), os.SEEK_HOLE)
            end = max(end, start + 1)
            end += -end % cluster_size
            yield start, end


# Private


def _over_connections(
        url: urllib.parse.SplitResult, jobs: Iterable[Job], count: int,
        do: Callable[[http.client.HTTPConnection, Job], None]) -> float:
    """Do jobs over a few connections at a time; gives the seconds."""
    left = iter(jobs)
    lock = threading.Lock()

    def work(_: int) -> None:
        connection = http.client.HTTPConnection(
            url.hostname or '', url.port, timeout=60)
        while True:
            with lock:
                job = next(left, None)
            if job is None:
                connection.close()
                return
            do(connection, job)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        started = time.perf_counter()
        list(pool.map(work, range(count)))
        return time.perf_counter() - started


def _sent_over(line: limit.RateLimit, data: bytes) -> Iterator[memoryview]:
    for at in range(0, len(data), PIECE):
        piece = memoryview(data)[at:at + PIECE]
        line.take(len(piece))
        yield piece


def _compress(clusters: Iterator[bytes], cluster_size: int,
              threads: int) -> dict[str, float]:
    codec = codecs.get_codec(codecs.DEFAULT_CODEC)
    digest = digests.DEFAULT_DIGEST.digest

    def work(clusters: list[bytes]) -> int:
        stored = 0
        for cluster in clusters:
            digest(cluster)
            blob = codec.compress(cluster)
            stored += len(cluster if blob is None else blob)
        return stored

    seconds, size, stored, count = 0.0, 0, 0, 0
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while batch := list(itertools.islice(
                clusters, BATCH // cluster_size)):
            size += sum(map(len, batch))
            count += len(batch)
            # Small jobs, so that all threads end at about the same time.
            jobs = [batch[at:at + 16] for at in range(0, len(batch), 16)]
            started = time.perf_counter()
            stored += sum(pool.map(work, jobs))
            seconds += time.perf_counter() - started
    return {'seconds': seconds, 'bytes': size, 'stored': stored,
            'clusters': count, 'threads': threads}


def _clusters(image: pathlib.Path, cluster_size: int) -> Iterator[bytes]:
    zeroes = bytes(cluster_size)
    with open(image, 'rb', buffering=0) as file:
        for start, end in runs(image, cluster_size):
            file.seek(start)
            for _ in range(start, end, cluster_size):
                cluster = file.read(cluster_size)
                if cluster and cluster != zeroes[:len(cluster)]:
                    yield cluster


def _add_command(command: argparse.ArgumentParser,
                 function: Callable[..., dict[str, float]]) -> None:
    """Let a command call a function with its parameters, in their order."""
    parameters = inspect.signature(function).parameters
    for each in parameters.values():
        command.add_argument(each.name, type=each.annotation)
    command.set_defaults(do=lambda args: function(
        *(getattr(args, name) for name in parameters)))


def main() -> None:
    """Do one of them."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for name, function in (('compress', compress), ('read', read),
                           ('read-hash', read_hash), ('changes', changes)):
        _add_command(commands.add_parser(name), function)
    for name, what, transfer in (('put', pathlib.Path, put),
                                 ('get', str, get)):
        command = commands.add_parser(name)
        command.set_defaults(do=lambda args, transfer=transfer: transfer(
            args.what, args.url, os.environ['SWIFT_TOKEN'], args.rate))
        command.add_argument('--rate', type=int, default=0)
        command.add_argument('url')
        command.add_argument('what', type=what, nargs='+')
    args = parser.parse_args()
    do: Callable[[argparse.Namespace], dict[str, float]] = args.do
    print(json.dumps(do(args)))


if __name__ == '__main__':
    main()
