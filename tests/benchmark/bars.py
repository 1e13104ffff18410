# SPDX-License-Identifier: Apache-2.0
"""How fast and how small a capture has to be; each is met or missed."""

import dataclasses

from tests.benchmark import limits
from tests.benchmark import results

KIB = 1 << 10
MIB = 1 << 20

#: What a new cluster may take beside its compressed bytes: its digest and
#: where it is.
PER_NEW_CLUSTER = 40


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
            *_of_a_day(found), *_of_no_change(found), *_of_size(found),
            *_of_restores(found), *_of_rollback(found),
            *_of_memory(found), *_of_facts(found)]


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
        detail = f'{ours.wall:.2f} s; {null.wall:.2f} s; {put.wall:.2f} s'
        servers = found.facts.get('swift_cpu_seconds')
        if servers is not None:
            # Swift's servers share the cores: it cannot be faster than this.
            alone = (ours.cpu + servers) / found.facts['cores']
            detail += f'; processors alone: {alone:.2f} s'
        bars.append(Bar(
            'capture into Swift: wall time, of the slower of capture to '
            'nowhere and plain PUTs', ours.wall / slower, 1.25,
            detail=detail))
    ours, put = (found.get('root', 'ours-swift-line'),
                 found.get('root', 'put-line'))
    if ours and put:
        bars.append(Bar(
            f'capture into Swift over a line of {limits.LINE_TITLE}: wall '
            'time, of plain PUTs over it', ours.wall / put.wall, 1.25,
            detail=f'{ours.wall:.2f} s; {put.wall:.2f} s'))
    return bars


def _of_a_day(found: results.Results) -> list[Bar]:
    ours = found.get('changed', 'ours-day')
    if not ours:
        return []
    bars = []
    new = found.get('changed', 'changes')
    if new and new.stored and ours.stored is not None:
        count = int(found.facts['changed_clusters'])
        bars.append(Bar(
            'a day later: uploaded bytes, less 40 for each new cluster, of '
            'the compressed size of those',
            (ours.stored - PER_NEW_CLUSTER * count) / new.stored, 1.10,
            detail=f'{ours.stored / 1e6:.2f} MB; {count} clusters, '
            f'{new.stored / 1e6:.2f} MB'))
    others = [each for each in (found.get('changed', 'borg-day'),
                                found.get('changed', 'restic-day')) if each]
    if others:
        bars.append(Bar(
            'a day later: wall time, of the faster of borg\'s and restic\'s '
            'second runs', ours.wall / min(each.wall for each in others),
            0.6, detail='; '.join([f'{ours.wall:.2f} s', *(
                f'{each.title}: {each.wall:.2f} s' for each in others)])))
    full = found.get('root', 'ours')
    if full:
        bars.append(Bar(
            'a day later: wall time, of a full capture',
            ours.wall / full.wall, 0.5,
            detail=f'{ours.wall:.2f} s; {full.wall:.2f} s'))
    return bars


def _of_no_change(found: results.Results) -> list[Bar]:
    ours = found.get('unchanged', 'ours-unchanged')
    if not ours:
        return []
    bars = []
    if ours.stored is not None:
        bars.append(Bar(
            'an unchanged disk: uploaded KiB', ours.stored / KIB, 64,
            detail=f'{ours.stored} bytes'))
    limit = found.get('unchanged', 'read-hash')
    if limit:
        detail = f'{ours.wall:.2f} s; limit {limit.wall:.2f} s'
        program = found.facts.get('read_hash_program_seconds')
        if program is not None:
            # Ours has to start, too.
            detail += f', its program as a whole {program:.2f} s'
        bars.append(Bar(
            'an unchanged disk: wall time, of reading and digest of what is '
            'in use', ours.wall / limit.wall, 1.3, detail=detail))
    return bars


def _of_restores(found: results.Results) -> list[Bar]:
    bars = []
    ours = found.get('restored', 'ours-restore')
    others = [each for each in (
        found.get('restored', 'restic-restore'),
        found.get('restored', 'borg-restore')) if each]
    if ours and others:
        bars.append(Bar(
            'restore from a directory: wall time, of the faster of restic '
            'restore and borg extract',
            ours.wall / min(each.wall for each in others), 0.6,
            detail='; '.join([f'{ours.wall:.2f} s', *(
                f'{each.title}: {each.wall:.2f} s' for each in others)])))
    qemu = found.get('restored', 'qemu-restore')
    if ours and qemu:
        bars.append(Bar(
            'restore from a directory: wall time, of qemu-img convert of the '
            'exported qcow2', ours.wall / qemu.wall, 1.0,
            detail=f'{ours.wall:.2f} s; {qemu.wall:.2f} s'))
    swift, get = (found.get('restored', 'ours-restore-swift'),
                  found.get('restored', 'get'))
    if swift and ours and get:
        bars.append(Bar(
            'restore from Swift: wall time, of the slower of restore from a '
            'directory and plain GETs',
            swift.wall / max(ours.wall, get.wall), 1.25,
            detail=f'{swift.wall:.2f} s; {ours.wall:.2f} s; '
            f'{get.wall:.2f} s'))
    line, get = (found.get('restored', 'ours-restore-swift-line'),
                 found.get('restored', 'get-line'))
    if line and get:
        bars.append(Bar(
            f'restore from Swift over a line of {limits.LINE_TITLE}: speed, '
            'of plain GETs over it', get.wall / line.wall, 0.80,
            at_least=True, detail=f'{line.wall:.2f} s; {get.wall:.2f} s'))
    for where, name in (('a directory', 'restored'),
                        ('Swift', 'restored_swift')):
        bound = found.facts.get(f'memory_bound_{name}')
        peaks = [each.peak for each in found.series
                 if each.disk == 'restored' and each.kind == 'ours'
                 and each.samples
                 and ('swift' in each.program) is (where == 'Swift')]
        if bound and peaks:
            bars.append(Bar(
                f'peak memory of a restore from {where}, of the stated '
                'formula', max(peaks) / bound, 1.0,
                detail=f'{max(peaks) / MIB:.0f} MiB; {bound / MIB:.0f} MiB'))
    return bars


def _of_rollback(found: results.Results) -> list[Bar]:
    slow, rollback = (found.get('restored', 'ours-restore-slow'),
                      found.get('restored', 'ours-rollback'))
    if not slow or not rollback:
        return []
    facts = found.facts
    differing, written = (facts['rollback_differing_bytes'],
                          facts['rollback_written_bytes'])
    part = differing / facts['rollback_virtual_bytes']
    return [
        Bar('rollback of a changed disk: speed, of a restore onto a blank '
            'disk that writes as fast', slow.wall / rollback.wall, 5.0,
            at_least=True, detail=f'{rollback.wall:.2f} s; {slow.wall:.2f} s; '
            f'{part:.1%} of the disk differ'),
        Bar('rollback of a changed disk: bytes written, of the clusters that '
            'differ',
            written / differing, 1.05,
            detail=f'{written / 1e6:.1f} MB; {differing / 1e6:.1f} MB')]


def _of_size(found: results.Results) -> list[Bar]:
    empty, small = found.get('empty', 'ours'), found.get('small', 'ours')
    if not empty or not small:
        return []
    return [Bar('1 TiB disk, mostly empty: wall time, of a disk of just '
                'what is used', empty.wall / small.wall, 1.5,
                detail=f'{empty.wall:.2f} s; {small.wall:.2f} s')]


def _of_memory(found: results.Results) -> list[Bar]:
    bars = []
    for names, size in ((('root', 'changed', 'unchanged'), '4 GiB'),
                        (('empty',), '1 TiB')):
        peaks = {}
        for each in found.series:
            if each.kind == 'ours' and each.disk in names and each.samples:
                peaks[each.disk] = max(each.peak, peaks.get(each.disk, 0))
        if not peaks:
            continue
        bars.append(Bar(f'peak memory, {size} disk, MiB',
                        max(peaks.values()) / MIB, 400))
        bounds = {disk: bound for disk in peaks if (
            bound := found.facts.get(f'memory_bound_{disk}'))}
        if bounds:
            bars.append(Bar(
                f'peak memory, {size} disk, of the stated formula',
                max(peaks[disk] / bound for disk, bound in bounds.items()),
                1.0, detail='formula: ' + ', '.join(
                    f'{bound / MIB:.0f}' for bound in bounds.values())
                + ' MiB'))
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
