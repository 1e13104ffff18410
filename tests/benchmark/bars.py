# SPDX-License-Identifier: Apache-2.0
"""How fast and how small a capture has to be; each is met or missed."""

import dataclasses

from tests.benchmark import results

MIB = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """One demand.

    :param text: what is demanded.
    :param value: what was found, in the demand's unit.
    :param limit: the most that is allowed, or the least.
    :param at_least: whether it is the least.
    :param detail: the figures behind it.
    """

    text: str
    value: float
    limit: float
    at_least: bool = False
    detail: str = ''

    @property
    def met(self) -> bool:
        if self.at_least:
            return self.value >= self.limit
        return self.value <= self.limit


def evaluate(found: results.Results) -> list[Bar]:
    """Give every demand for which there are figures."""
    return [*_against_peers(found), *_against_limits(found),
            *_of_size(found), *_of_memory(found), *_of_facts(found)]


# Private


def _against_peers(found: results.Results) -> list[Bar]:
    ours = found.get('root', 'ours')
    bars = []
    fastest = found.fastest_peer('root')
    if ours and fastest:
        bars.append(Bar(
            'full capture into a directory: wall time, of the fastest '
            'compressing peer', ours.wall / fastest.wall, 0.45,
            detail=f'{ours.wall:.2f} s; {fastest.title}: '
            f'{fastest.wall:.2f} s'))
    qemu = found.get('root', 'qemu-zstd')
    if ours and qemu and ours.stored and qemu.stored:
        bars.append(Bar(
            'stored bytes, of qemu-img -c zstd', ours.stored / qemu.stored,
            1.03, detail=f'{ours.stored / 1e6:.0f} MB; '
            f'{qemu.stored / 1e6:.0f} MB'))
    return bars


def _against_limits(found: results.Results) -> list[Bar]:
    null = found.get('root', 'ours-null')
    bars = []
    compress = found.get('root', 'compress')
    if null and compress:
        bars.append(Bar(
            'capture to nowhere: speed, of digest + compress from memory',
            compress.wall / null.wall, 0.80, at_least=True,
            detail=f'{null.wall:.2f} s; limit {compress.wall:.2f} s'))
    ours, put = found.get('root', 'ours-swift'), found.get('root', 'put')
    if ours and null and put:
        slower = max(null.wall, put.wall)
        bars.append(Bar(
            'capture into Swift: wall time, of the slower of capture to '
            'nowhere and plain PUTs', ours.wall / slower, 1.25,
            detail=f'{ours.wall:.2f} s; {null.wall:.2f} s; '
            f'{put.wall:.2f} s'))
    return bars


def _of_size(found: results.Results) -> list[Bar]:
    empty, small = found.get('empty', 'ours'), found.get('small', 'ours')
    if not empty or not small:
        return []
    return [Bar('1 TiB disk, mostly empty: wall time, of a disk of just '
                'what is used', empty.wall / small.wall, 1.5,
                detail=f'{empty.wall:.2f} s; {small.wall:.2f} s')]


def _of_memory(found: results.Results) -> list[Bar]:
    bars = []
    for disk, size in (('root', '4 GiB'), ('empty', '1 TiB')):
        peaks = [each.peak for each in found.series if each.disk == disk
                 and each.kind == 'ours' and each.samples]
        if not peaks:
            continue
        bars.append(Bar(f'peak memory, {size} disk, MiB', max(peaks) / MIB,
                        400))
        bound = found.facts.get(f'memory_bound_{disk}')
        if bound:
            bars.append(Bar(
                f'peak memory, {size} disk, of the stated formula',
                max(peaks) / bound, 1.0,
                detail=f'formula: {bound / MIB:.0f} MiB'))
    root, empty = found.get('root', 'ours'), found.get('empty', 'ours')
    if root and empty:
        bars.append(Bar('peak memory: 1 TiB disk, of that of 4 GiB',
                        empty.peak / root.peak, 1.1,
                        detail=f'{empty.peak / MIB:.0f} MiB; '
                        f'{root.peak / MIB:.0f} MiB'))
    return bars


def _of_facts(found: results.Results) -> list[Bar]:
    facts = found.facts
    bars = [Bar(text, facts[name], limit) for name, text, limit in (
        ('help_seconds', 'ironic-snapshot --help, seconds', 0.3),
        ('import_seconds', 'the agent imports the ramdisk side, seconds',
         0.5)) if name in facts]
    if 'metadata_gathered' in facts:
        bars.append(Bar(
            'what is known of 4 million clusters: memory, MB',
            facts['metadata_gathered'] / 1e6, 200,
            detail='while the documents are made: '
            f'{facts["metadata_most"] / 1e6:.0f} MB'))
        seconds = facts['metadata_gathering'], facts['metadata_writing']
        bars.append(Bar(
            'what is known of 4 million clusters: seconds', sum(seconds), 10,
            detail=f'gathering {seconds[0]:.1f} s, documents '
            f'{seconds[1]:.1f} s'))
    return bars
