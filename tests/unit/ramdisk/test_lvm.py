# SPDX-License-Identifier: Apache-2.0
"""LVM metadata, sound and hostile.

What LVM2 itself writes is in tests/contract/test_survey_volumes.py.
"""

import struct

import hypothesis
import pytest
from hypothesis import strategies as st

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import KiB
from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.disk import memory
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm
from ipa_snapshot_hardware.survey import lvm_text
from tests import physical_volume
from tests.physical_volume import AREA
from tests.physical_volume import area
from tests.physical_volume import crc
from tests.physical_volume import device
from tests.physical_volume import group
from tests.physical_volume import label
from tests.physical_volume import linear
from tests.physical_volume import segment
from tests.physical_volume import volume

# A physical volume of 12 MiB that begins 1 MiB into the disk.
START = 1 * MiB
LENGTH = physical_volume.LENGTH

ROOT = volume('root', linear(2, 3))


def disk(text, **options):
    """Return a disk with a physical volume."""
    return disk_of(area(text, **options))


def disk_of(*areas, label_=None):
    content = bytearray(START + LENGTH + MiB)
    content[START + 512 : START + 1024] = label_ or label()
    offset = START + AREA[0]
    for each in areas:
        content[offset : offset + len(each)] = each
        offset = START + LENGTH - len(areas[-1])
    return memory.MemoryDisk(bytes(content))


def looked(start, length, name):
    """Find the first KiB of each MiB of a volume in use."""
    extents = extent.DataExtents()
    for at in range(start, start + length, MiB):
        extents.add(at, at + KiB)
    return look.Look('ext4', manifest.ALLOCATED, '', extents)


def survey(source):
    found = lvm.survey_lvm(source, START, LENGTH, looked)
    return found, list(found.extents)


def reason(source):
    """Return why a physical volume is not looked through."""
    with pytest.raises(look.Doubt) as caught:
        survey(source)
    return caught.value.reason


def in_mib(extents):
    return [((start - START) / MiB, (end - START) / MiB)
            for start, end in extents]


def test_linear_volume_is_looked_through():
    found, extents = survey(disk(group(ROOT)))
    assert (found.method, found.reason) == (manifest.ALLOCATED, '')
    part = KiB / MiB
    # Header; three looked at; the end. The free extents are none.
    assert in_mib(extents) == [(0, 1), (3, 3 + part), (4, 4 + part),
                               (5, 5 + part), (11, 12)]
    assert found.inner == (manifest.Region(
        START + 3 * MiB, 3 * MiB, 'volume vg/root', 'ext4',
        manifest.ALLOCATED, '', 3 * KiB),)


def test_volumes_in_the_order_of_the_disk():
    found, _ = survey(disk(group(
        volume('zeta', linear(0, 1)), volume('alpha', linear(8, 2)),
        volume('root-1.b+c', linear(1, 3)))))
    assert [region.name for region in found.inner] == [
        'volume vg/zeta', 'volume vg/root-1.b+c', 'volume vg/alpha']


def test_group_without_volumes():
    found, extents = survey(disk(group()))
    assert found.method == manifest.ALLOCATED
    assert in_mib(extents) == [(0, 1), (11, 12)]


def test_first_and_last_mib_are_data_even_of_small_headers():
    own = (4096, 64 * KiB)
    found, extents = survey(disk_of(
        area(group(devices=device(start=256, count=11)), own=own),
        label_=label(areas=(own,), data_start=128 * KiB)))
    assert found.method == manifest.ALLOCATED
    assert in_mib(extents) == [(0, 1), (11, 12)]


def test_text_around_the_end_of_its_area():
    found, _ = survey(disk(group(ROOT), at=AREA[1] - 512))
    assert found.method == manifest.ALLOCATED


def test_two_equal_areas():
    second = (11 * MiB + 64 * KiB, 1 * MiB - 64 * KiB)
    both = label(areas=(AREA, second))
    text = group(ROOT)
    found, _ = survey(disk_of(area(text), area(text, own=second),
                              label_=both))
    assert found.method == manifest.ALLOCATED
    changed = text.replace('seqno = 2', 'seqno = 3')
    assert reason(disk_of(area(text), area(changed, own=second),
                          label_=both)) == 'lvm: metadata areas differ'


def inner_reasons(*volumes):
    found, extents = survey(disk(group(*volumes)))
    assert found.method == manifest.ALLOCATED
    for region in found.inner:
        if region.method == manifest.WHOLE:
            assert any(start <= region.start
                       and region.start + region.length <= end
                       for start, end in extents)
    return {region.name.removeprefix('volume vg/'): region.reason
            for region in found.inner}


def test_volume_of_several_segments_is_whole():
    two = (linear(0, 2), linear(4, 1).replace('segment1', 'segment2'))
    found, extents = survey(disk(group(volume('home', *two))))
    assert in_mib(extents) == [(0, 3), (5, 6), (11, 12)]
    assert [(region.name, region.reason) for region in found.inner] == [
        ('volume vg/home', 'lvm: 2 segments')] * 2


def test_origin_of_a_snapshot_is_whole():
    """The snapshot reads what its origin has freed since."""
    assert inner_reasons(
        volume('home', linear(0, 2)), volume('cow', linear(2, 2)), ROOT
        .replace('2]', '4]'),
        volume('snapshot0', segment(
            1, 'snapshot', chunk_size=8, origin='"home"',
            cow_store='"cow"'))) == {
        'home': 'lvm: below snapshot', 'cow': 'lvm: below snapshot',
        'root': ''}


def test_thin_pool_is_whole():
    assert inner_reasons(
        volume('pool', segment(1, 'thin-pool', metadata='"pool_tmeta"',
                               pool='"pool_tdata"', zero_new_blocks=1)),
        volume('thin', segment(1, 'thin', thin_pool='"pool"', device_id=1,
                               external_origin='"root"')),
        volume('pool_tmeta', linear(0, 1), status='"READ", "WRITE"'),
        volume('pool_tdata', linear(5, 5), status='"READ", "WRITE"'),
        volume('lvol0_pmspare', linear(1, 1), status='"READ", "WRITE"'),
        ROOT) == {
        'pool_tmeta': 'lvm: below thin-pool',
        'pool_tdata': 'lvm: below thin-pool',
        'lvol0_pmspare': 'lvm: hidden', 'root': 'lvm: below thin'}


def test_cache_with_settings_of_its_own_is_whole():
    cache = segment(1, 'cache', cache_pool='"fast"', origin='"root"')
    cache = cache[:-1] + 'policy_settings { migration_threshold=2048 } }'
    assert inner_reasons(
        ROOT, volume('fast', linear(5, 1)), volume('slow', cache)) == {
        'root': 'lvm: below cache', 'fast': 'lvm: below cache'}


@pytest.mark.parametrize('status', ['"READ", "WRITE", "VISIBLE", "LOCKED"',
                                    '"READ", "VISIBLE", "NEW_THING"'])
def test_unusual_status_of_a_volume(status):
    assert inner_reasons(volume('root', linear(0, 1), status=status)) == {
        'root': 'lvm: unusual status'}


def test_skipped_activation_is_no_obstacle():
    assert inner_reasons(volume('root', linear(0, 1),
                                flags='"ACTIVATION_SKIP"')) == {'root': ''}


def test_stripes_over_one_device_are_whole():
    striped = segment(1, 'striped', extent_count=4, stripe_count=2,
                      stripe_size=128, stripes='["pv0", 0, "pv0", 5]')
    found, extents = survey(disk(group(volume('s', striped))))
    assert in_mib(extents) == [(0, 3), (6, 8), (11, 12)]
    assert {region.reason for region in found.inner} == {'lvm: stripes'}


def test_physical_volume_inside_a_volume_is_not_followed():
    source = disk(group(ROOT))
    source.content[START + 3 * MiB + 512 : START + 3 * MiB + 1024] = label()
    found, _ = survey(source)
    assert found.inner[0].reason == 'lvm: inside lvm'
    assert found.inner[0].used_bytes == 3 * MiB


@pytest.mark.parametrize(('text', 'expected'), [
    (group(ROOT, status='"EXPORTED", "READ"'), 'exported'),
    (group(ROOT, status='"CLUSTERED", "READ"'), 'clustered'),
    (group(ROOT, status='"PVMOVE", "READ"'), 'pvmove'),
    (group(ROOT, status='"READ", "x\ny"'), 'unknown status'),
    (group(ROOT, flags='"NEW"'), 'unknown flags'),
    (group(ROOT, more='lock_type = "sanlock"'), 'shared'),
    (group(ROOT, more='surprise { a = 1 }'), 'unknown section'),
    (group(ROOT, devices=device() + device().replace('pv0', 'pv1')),
     'several physical volumes'),
    (group(ROOT, devices=device(status='"EXPORTED"')), 'exported'),
    (group(ROOT, devices=device(flags='"MISSING"')), 'missing'),
    (group(ROOT, devices=device(uuid='other')), 'another device'),
    (group(ROOT, devices=device(start=4096)), 'label and metadata differ'),
    (group(ROOT, devices=device(count=12)), 'larger than its device'),
    (group(ROOT, devices=device(count=-1)), 'bad pe_count'),
    (group(ROOT, devices=device(count=10**19)), 'bad pe_count'),
    (group(ROOT, devices=device(count='"ten"')), 'bad pe_count'),
    (group(ROOT).replace('extent_size', 'extend_size'), 'bad extent_size'),
    (group(ROOT).replace('physical_volumes', 'volumes'),
     'unknown section'),
    (group(ROOT, volume('home', linear(4, 2))), 'overlapping volumes'),
    (group(volume('home', linear(9, 2))), 'volume beyond the end'),
    (group(volume('home', linear(-1, 2))), 'overlapping volumes'),
    (group(volume('home', linear(0, 0))), 'bad extent_count'),
    (group(volume('home')), 'bad segments'),
    (group(volume('home', linear(0, 2)).replace(
        'segment_count = 1', 'segment_count = 2')), 'bad segments'),
    (group(volume('home', linear('"pv0"', 2))), 'bad segments'),
    (group(volume('pvmove0', segment(
        1, 'mirror', mirror_count=2, mirrors='["pv0", 0, "pv0", 5]'))),
     'mirror on the device itself'),
    (group(volume('pvmove0', segment(
        1, 'striped', stripe_count=1, stripes='["pv0", 0]', new_key=1))),
     'striped on the device itself'),
    (group(volume('home', *[
        linear(0, 1).replace('segment1', f'segment{number}')
        for number in range(1001)])), 'too many segments'),
    (group(ROOT, end='contents = "Text Format Volume Group"\nversion = 2\n'),
     'unknown metadata version'),
    (group(ROOT) + 'vg2 { id = "x" }\n', 'no single volume group'),
    (group(ROOT)[:-200], 'bad metadata text'),
    (group(ROOT) + '}', 'bad metadata text'),
    (group(ROOT, more='seqno = 2'), 'bad metadata text'),
    (group(ROOT, more='x = [1,]'), 'bad metadata text'),
    (group(ROOT, more='x = "\\n"'), 'bad metadata text'),
    (group(ROOT, more='{' * 1000), 'bad metadata text'),
    (group(ROOT, more='a {' * 100000), 'bad metadata text'),
    ('', 'unknown metadata version'),
])
def test_doubt(text, expected):
    own = (4096, 1 * MiB - 4096)
    assert reason(disk_of(area(text, own=own))) == f'lvm: {expected}'


@pytest.mark.parametrize(('options', 'expected'), [
    ({'damage': 1}, 'bad metadata area'),
    ({'text_damage': 1}, 'bad metadata checksum'),
    ({'flags': 1}, 'metadata ignored or being changed'),
    ({'other': (512, 100, 0, 0)}, 'metadata ignored or being changed'),
    ({'at': 0}, 'no volume group'),
    ({'at': 100}, 'bad metadata area'),
])
def test_damaged_area_is_whole(options, expected):
    at = options.pop('at', 512)
    data = bytearray(area(group(ROOT), **options))
    if at != 512:
        struct.pack_into('<Q', data, 40, at)
        struct.pack_into('<L', data, 0, crc(data[4:512]))
    assert reason(disk_of(bytes(data))) == f'lvm: {expected}'


@pytest.mark.parametrize(('label_', 'expected'), [
    (bytes(512), 'no single label'),
    (label(kind=b'LVM1 001'), 'bad label'),
    (label()[:100] + b'x' + label()[101:], 'bad label'),
    (label(areas=()), 'no metadata on this device'),
    (label(areas=((4096, 1 << 62),)), 'bad metadata area'),
    (label(areas=((1 << 63, 1 << 63),)), 'bad metadata area'),
    (label(areas=((LENGTH - 4096, 8192),)), 'bad metadata area'),
    (label(areas=((4096, 512),)), 'bad metadata area'),
    (label(data_areas=((MiB, 0), (5 * MiB, 0))), 'several data areas'),
    (label(data_areas=((MiB, 2 * MiB),)), 'several data areas'),
    (label(version=3), 'unknown header version'),
    (label(size=LENGTH + 512), 'larger than its device'),
    (label(boot=((2 * MiB, MiB),)), 'metadata inside the data'),
])
def test_odd_label_is_whole(label_, expected):
    source = disk_of(area(group(ROOT)), label_=label_)
    assert reason(source) == f'lvm: {expected}'


def test_two_labels_are_whole():
    source = disk(group(ROOT))
    source.content[START + 1024 : START + 1536] = label()
    assert reason(source) == 'lvm: no single label'


def test_label_without_end_of_its_list_is_whole():
    endless = bytearray(label(areas=[(4096, 8192)] * 27, version=0)[:512])
    endless[8 + 8 + 4 + 12 + 40 :] = bytes([1]) * (512 - 72)
    struct.pack_into('<L', endless, 16, crc(endless[20:]))
    assert reason(disk_of(area(group(ROOT)),
                          label_=bytes(endless))) == 'lvm: bad label'


ANY_DISK = disk(group(ROOT))


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=200)
def test_any_change_of_the_text_is_sound_or_refused(data):
    """With right checksums and wrong content: never another exception."""
    text = bytearray(group(ROOT, volume('home', linear(0, 2))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        size = data.draw(st.integers(0, 5))
        text[at : at + size] = data.draw(st.sampled_from([
            b'', b'{', b'}', b'[', b']', b'"', b'#', b'\n', b'=', b'9', b'-',
            b'\xff', b'\0', b'stripes', b'pv0', b'root']))
    written = area(bytes(text) + b'\0')
    at = START + AREA[0]
    ANY_DISK.content[at : at + len(written)] = written
    try:
        found, extents = survey(ANY_DISK)
    except look.Doubt:
        return
    assert extents[0][0] == START
    assert extents[-1][1] == START + LENGTH
    for region in found.inner:
        assert START + MiB <= region.start
        assert region.start + region.length <= START + 11 * MiB


def test_text_as_lvm_writes_it():
    assert lvm_text.parse('''\
vg {
id = "a\\"b\\\\c"	# comment " {
seqno = -12
list = ["x", 1,
	"y"]
empty = []

2 {
}
}
# a last one
''') == {'vg': {'id': 'a"b\\c', 'seqno': -12, 'list': ['x', 1, 'y'],
                'empty': [], '2': {}}}
