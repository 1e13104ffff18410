# SPDX-License-Identifier: Apache-2.0
"""Compare ironic-snapshot with what people use instead.

Prints a table of medians and whether the demands are met. Everything it
writes lies in the cache and is deleted, but the disks, which are kept for
the next time.
"""

import argparse
import json
import pathlib
import signal
import sys
import types

from tests.benchmark import bars
from tests.benchmark import results
from tests.benchmark import rounds
from tests.benchmark import tables
from tests.functional.lab import paths
from tests.functional.lab import process
from tests.functional.lab import report


def main() -> int:
    """Run the benchmark, or show what an earlier one has found."""
    args = _parse()
    signal.signal(signal.SIGTERM, _end)
    try:
        if args.read:
            found = results.from_dict(json.loads(args.read.read_text()))
        else:
            found = _measure(args)
    except process.LabError as error:
        report.warn(f'FAILED: {error}')
        return 1
    judged = bars.evaluate(found)
    print(tables.text(found, judged))
    if args.json:
        args.json.write_text(json.dumps(
            {**found.to_dict(), 'bars': [
                {'text': bar.text, 'value': round(bar.value, 4),
                 'limit': bar.limit, 'at_least': bar.at_least,
                 'met': bar.met, 'detail': bar.detail}
                for bar in judged]}, indent=1) + '\n')
    if args.rst:
        args.rst.write_text(tables.rst(found, judged))
    missed = any(not bar.met for bar in judged)
    return 1 if args.check and missed else 0


def _measure(args: argparse.Namespace) -> results.Results:
    with rounds.scratch_folder(args.scratch) as scratch:
        return rounds.Benchmark(
            scratch, args.rounds, args.scale, args.cold,
            args.only).run()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='tools/benchmark', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, metavar='N',
                        help='runs of each program (default: 5)')
    parser.add_argument(
        '--scale', type=float, default=1.0, metavar='X',
        help='make the disks smaller, for a quick look (default: 1)')
    parser.add_argument('--cold', action='store_true',
                        help='drop the page cache before each run')
    parser.add_argument('--only', metavar='NAME,...', default='',
                        help=f'run only these: {", ".join(rounds.NAMES)}')
    parser.add_argument(
        '--scratch', type=pathlib.Path, default=paths.cache_dir(),
        metavar='DIR', help='where to store (default: %(default)s)')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE',
                        help='write every sample and all else')
    parser.add_argument('--rst', type=pathlib.Path, metavar='FILE',
                        help='write the tables for the documentation')
    parser.add_argument(
        '--read', type=pathlib.Path, metavar='FILE',
        help='measure nothing; show what --json has written')
    parser.add_argument('--check', action='store_true',
                        help='fail when a demand is missed')
    args = parser.parse_args()
    args.only = [name for name in args.only.split(',') if name]
    unknown = sorted({*args.only}.difference(rounds.NAMES))
    if unknown:
        parser.error(f'--only: there is no {", ".join(unknown)}')
    if args.rounds < 1 or not 0 < args.scale <= 1:
        parser.error('there is at least one round, and a scale above 0 and '
                     'up to 1')
    return args


def _end(number: int, _: types.FrameType | None) -> None:
    """Let everything be taken down when the program is told to end."""
    sys.exit(128 + number)


if __name__ == '__main__':
    sys.exit(main())
