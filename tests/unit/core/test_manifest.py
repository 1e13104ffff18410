# SPDX-License-Identifier: Apache-2.0
"""Reports and manifests."""

import dataclasses
import json

import blake3
import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import GiB, KiB, MiB

A = 'aaaaaaaa-0000-4000-8000-000000000001'
B = 'bbbbbbbb-0000-4000-8000-000000000002'
C = 'cccccccc-0000-4000-8000-000000000003'
OLDER = 'dddddddd-0000-4000-8000-000000000004'
PARENT = 'eeeeeeee-0000-4000-8000-000000000005'
KEY = b'a key of the conductors'
LINEAGE = layout.Lineage(B, C)

DISK = manifest.Disk(
    size=10 * GiB, logical_sector_size=512, physical_sector_size=4096,
    serial='S1', wwn='0x5000', model='Disk', partition_table='gpt',
    name='/dev/sda')
PACK = manifest.PackRecord.new(
    attempt=A, name='pack-000001', size=64 * MiB, etag='a' * 32,
    clusters=700, live_bytes=60 * MiB)
#: Of an older attempt: the middle of one, and second copies.
TRIMMED = manifest.PackRecord(
    attempt=OLDER, name='pack-000007', size=64 * MiB, etag='b' * 32,
    clusters=300, live_bytes=10 * MiB, start=8 * MiB, length=32 * MiB,
    generations=3)
SPARE = manifest.PackRecord(
    attempt=OLDER, name='pack-000002', size=64 * MiB, etag='e' * 32,
    clusters=300, live_bytes=0, start=0, length=0, generations=9)
OBJECT = manifest.ObjectRecord(size=256 * KiB, etag='c' * 32,
                               digest='d' * 64)
HEAD = manifest.HeadRecord(
    name='v1/head', size=256 * KiB, etag='c' * 32, digest='d' * 64)
OWN = manifest.AttemptRecord(A, LINEAGE, OBJECT)
TOTALS = manifest.Totals(
    virtual_bytes=10 * GiB, used_bytes=5 * GiB, read_bytes=5 * GiB,
    zero_bytes=4 * GiB, data_bytes=1 * GiB, stored_bytes=64 * MiB,
    clusters=4096, new_clusters=700)
REGION = manifest.Region(
    start=1 * MiB, length=9 * GiB, name='partition 1', content='ext4',
    method='allocated', reason='', used_bytes=4 * GiB)
REPORT = manifest.CaptureReport(
    snapshot=A, disk=DISK, cluster_size=256 * KiB, codec='zstd',
    codec_level=1, digest='blake3-256', parent=None,
    full_reason='it is the first of its lineage', packs=(PACK,),
    attempts=(OWN,),
    map=OBJECT, head=HEAD, totals=TOTALS, regions=(REGION,),
    unreadable=(manifest.Unreadable(4096, 512),),
    timings={'read': 1.5, 'total': 2}, software={'agent': '1.0'},
    hints=(manifest.HintRecord('dm-thin', 'pool 4711, 12'),))
#: What another builds upon may be of another node.
INCREMENTAL = dataclasses.replace(
    REPORT, parent=PARENT, full_reason=None, packs=(TRIMMED, SPARE, PACK),
    attempts=(manifest.AttemptRecord(OLDER, layout.Lineage(C, B), OBJECT),
              OWN))


def make(report=REPORT, **changes):
    fields = dict(
        name='golden', description='', lineage=LINEAGE, sequence=0,
        node=manifest.NodeRecord(B, 'node-1', None), project='p',
        consistency='clean', started_at='2026-01-31T12:00:00Z',
        created_at='2026-01-31T12:10:00Z',
        image=manifest.ImageRecord('v1/x/disk.qcow2', 65 * MiB),
        software={'conductor': '2.0'})
    return manifest.Manifest.from_report(report, **{**fields, **changes})


def seal(fields):
    fields = {key: value for key, value in fields.items() if key != 'seal'}
    canonical = json.dumps(fields, sort_keys=True, separators=(',', ':'))
    fields['seal'] = blake3.blake3(canonical.encode()).hexdigest()
    return json.dumps(fields, sort_keys=True, separators=(',', ':')).encode()


BOTH = pytest.mark.parametrize(
    'report', [REPORT, INCREMENTAL], ids=['full', 'incremental'])


@BOTH
def test_a_report_comes_back(report):
    data = report.to_bytes()
    assert manifest.CaptureReport.from_bytes(data) == report


@BOTH
@pytest.mark.parametrize('key', [None, KEY])
def test_a_manifest_comes_back(report, key):
    found = make(report)
    assert manifest.Manifest.from_bytes(found.to_bytes(key), key) == found


@pytest.mark.parametrize('key', [None, KEY])
def test_who_knows_its_digest_needs_no_key(key):
    data = make(INCREMENTAL).to_bytes(key)
    assert manifest.Manifest.from_bytes(
        data, None, verified=True) == make(INCREMENTAL)
    with pytest.raises(errors.Corrupted):
        manifest.Manifest.from_bytes(data + b' ', None, verified=True)
    with pytest.raises(errors.UnsupportedFeature):
        manifest.Manifest.from_bytes(
            make(features=('time-travel',)).to_bytes(key), None,
            verified=True)


def test_a_new_pack_is_in_the_image_as_a_whole():
    assert (PACK.start, PACK.length, PACK.generations) == (0, 64 * MiB, 1)
    assert not PACK.spare
    assert not TRIMMED.spare
    assert SPARE.spare


def test_nothing_new_needs_no_attempt_of_its_own():
    found = make(dataclasses.replace(
        INCREMENTAL, packs=(TRIMMED, SPARE),
        attempts=INCREMENTAL.attempts[:1]))
    assert manifest.Manifest.from_bytes(found.to_bytes(None), None) == found


@BOTH
def test_a_manifest_has_what_the_report_has(report):
    found = make(report)
    for field in dataclasses.fields(report):
        if field.name not in ('snapshot', 'software', 'version',
                              'checkpoints'):
            assert getattr(found, field.name) == getattr(report, field.name)
    assert found.id == report.snapshot
    assert found.software == {'agent': '1.0', 'conductor': '2.0'}


@pytest.mark.parametrize('read', [
    (REPORT.to_bytes(), manifest.CaptureReport.from_bytes),
    (make().to_bytes(None),
     lambda data: manifest.Manifest.from_bytes(data, None)),
    (make().to_bytes(KEY),
     lambda data: manifest.Manifest.from_bytes(data, KEY)),
    (INCREMENTAL.to_bytes(), manifest.CaptureReport.from_bytes),
    (make(INCREMENTAL).to_bytes(None),
     lambda data: manifest.Manifest.from_bytes(data, None)),
    (make(INCREMENTAL).to_bytes(KEY),
     lambda data: manifest.Manifest.from_bytes(data, KEY)),
], ids=['report', 'manifest', 'keyed', 'incremental report',
        'incremental manifest', 'incremental keyed'])
def test_every_flipped_bit_is_found(read):
    data, decode = read
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises((errors.Corrupted, errors.UnsupportedVersion)):
            decode(bytes(changed))


def test_only_the_holder_of_the_key_can_write_one():
    found = make()
    for data, key in ((found.to_bytes(None), KEY),
                      (found.to_bytes(b'other'), KEY),
                      (found.to_bytes(KEY), None)):
        with pytest.raises(errors.Corrupted):
            manifest.Manifest.from_bytes(data, key)


def test_a_newer_version_is_refused_by_its_number():
    for fields, read in (
            (json.loads(REPORT.to_bytes()),
             manifest.CaptureReport.from_bytes),
            (json.loads(make().to_bytes(None)),
             lambda data: manifest.Manifest.from_bytes(data, None))):
        # Whatever else the newer version may have.
        with pytest.raises(errors.UnsupportedVersion, match='version 2'):
            read(seal(fields | {'version': 2, 'news': {}}))


def test_an_unknown_feature_is_refused_by_its_name():
    data = make(features=('time-travel',)).to_bytes(None)
    with pytest.raises(errors.UnsupportedFeature, match='time-travel'):
        manifest.Manifest.from_bytes(data, None)


@pytest.mark.parametrize('path, value', [
    (('snapshot',), 'x'),
    (('snapshot',), A.upper()),
    (('cluster_size',), 5),
    (('cluster_size',), 4 * MiB),
    (('disk', 'size'), 0),
    (('disk', 'size'), 1000),
    (('disk', 'size'), 20 * GiB),
    (('disk', 'logical_sector_size'), 520),
    (('disk', 'serial'), 'x' * 5000),
    (('disk', 'serial'), None),
    (('packs', 0, 'attempt'), '../x'),
    (('packs', 0, 'name'), 'index'),
    (('packs', 0, 'name'), '../pack-000001'),
    (('packs', 0, 'size'), 0),
    (('packs', 0, 'size'), 64 * MiB + 1),
    (('packs', 0, 'size'), 6 * GiB),
    (('packs', 0, 'etag'), 'A' * 32),
    (('packs', 0, 'etag'), '"' + 'a' * 31),
    (('packs', 0, 'digest'), 'b' * 64),
    (('packs', 0, 'start'), -256 * KiB),
    (('packs', 0, 'start'), 1),
    (('packs', 0, 'start'), 64 * MiB + 256 * KiB),
    (('packs', 0, 'start'), 256 * KiB),
    (('packs', 0, 'length'), -256 * KiB),
    (('packs', 0, 'length'), 512),
    (('packs', 0, 'length'), 64 * MiB + 256 * KiB),
    (('packs', 0, 'length'), None),
    (('packs', 0, 'generations'), 0),
    (('packs', 0, 'generations'), 10 ** 6),
    (('attempts', 0, 'id'), 'x'),
    (('attempts', 0, 'id'), B),
    (('attempts', 0, 'lineage', 'node'), '../x'),
    (('attempts', 0, 'lineage', 'url'), 'x'),
    (('attempts', 0, 'index', 'digest'), 'd' * 63),
    (('attempts', 0, 'index', 'size'), 0),
    (('attempts',), []),
    (('attempts',), None),
    (('hints', 0, 'kind'), 'x' * 5000),
    (('hints', 0, 'key'), 'x' * 5000),
    (('hints', 0, 'key'), None),
    (('hints', 0, 'more'), ''),
    (('parent',), B),
    (('full_reason',), None),
    (('full_reason',), 'x' * 5000),
    (('map', 'digest'), 'd' * 63),
    (('packs', 0, 'clusters'), -1),
    (('packs', 0, 'live_bytes'), 65 * MiB),
    (('packs', 0, 'url'), 'http://x'),
    (('map', 'size'), -1),
    (('head', 'size'), 1000),
    (('totals', 'read_bytes'), -1),
    (('totals', 'virtual_bytes'), 1),
    (('timings', 'read'), 'x'),
    (('codec_level',), '1'),
    (('version',), True),
])
def test_what_a_report_cannot_say(path, value):
    fields = json.loads(REPORT.to_bytes())
    assert manifest.CaptureReport.from_bytes(seal(fields)) == REPORT
    inner = fields
    for each in path[:-1]:
        inner = inner[each]
    inner[path[-1]] = value
    with pytest.raises(errors.Corrupted):
        manifest.CaptureReport.from_bytes(seal(fields))


def test_a_pack_there_twice_is_refused():
    fields = json.loads(REPORT.to_bytes())
    fields['packs'] *= 2
    with pytest.raises(errors.Corrupted, match='twice'):
        manifest.CaptureReport.from_bytes(seal(fields))


def forget_parent(fields):
    fields |= {'parent': None, 'full_reason': 'asked for'}


@pytest.mark.parametrize('change, match', [
    (lambda fields: fields['attempts'].reverse(), 'last'),
    (lambda fields: fields['attempts'].pop(), 'wrote the packs'),
    (lambda fields: fields['attempts'].pop(0), 'wrote the packs'),
    (lambda fields: fields['packs'].pop(), 'wrote the packs'),
    (lambda fields: fields['attempts'].append(
        {**fields['attempts'][1], 'id': B}), 'wrote the packs'),
    (lambda fields: fields['attempts'].insert(
        0, {**fields['attempts'][1], 'id': B}), 'wrote the packs'),
    (lambda fields: fields['attempts'].append(fields['attempts'][1]),
     'twice'),
    (lambda fields: fields.update(full_reason='asked for'), 'either'),
    (lambda fields: fields.update(parent=None), 'either'),
    (lambda fields: fields.update(parent=A), 'its own parent'),
    (lambda fields: fields.update(parent='x'), 'UUID'),
    (forget_parent, 'without a parent'),
])
def test_what_a_report_with_a_parent_cannot_say(change, match):
    fields = json.loads(INCREMENTAL.to_bytes())
    change(fields)
    with pytest.raises(errors.Corrupted, match=match):
        manifest.CaptureReport.from_bytes(seal(fields))


def test_its_own_attempt_is_of_the_lineage_of_the_manifest():
    elsewhere = dataclasses.replace(OWN, lineage=layout.Lineage(C, B))
    with pytest.raises(errors.InvalidValue, match='lineage'):
        make(dataclasses.replace(REPORT, attempts=(elsewhere,)))


@pytest.mark.parametrize('field, value', [
    ('codec', 'lzma'), ('digest', 'md5')])
def test_an_unknown_codec_or_digest_is_refused(field, value):
    fields = json.loads(REPORT.to_bytes()) | {field: value}
    with pytest.raises(errors.UnsupportedFeature, match=value):
        manifest.CaptureReport.from_bytes(seal(fields))


@pytest.mark.parametrize('changes', [
    {'sequence': -1}, {'created_at': 'yesterday'},
    {'started_at': '2026-01-31T12:00:00+01:00'}, {'name': 'x' * 5000}])
def test_what_a_manifest_cannot_say(changes):
    with pytest.raises((errors.InvalidValue, errors.InvalidName)):
        make(**changes)


def test_times():
    assert manifest.format_time(0) == '1970-01-01T00:00:00Z'
    assert manifest.parse_time('1970-01-02T00:00:00Z') == 86400
    assert manifest.format_time(
        manifest.parse_time('2026-01-31T12:00:00Z')) == (
        '2026-01-31T12:00:00Z')




SYSTEM = manifest.SystemRecord('debian', '12', 'x86_64', 'uefi', True)


@BOTH
@pytest.mark.parametrize('system', [
    SYSTEM, manifest.SystemRecord(), dataclasses.replace(
        SYSTEM, secure_boot=None)])
def test_what_is_known_of_the_system_comes_back(report, system):
    report = dataclasses.replace(report, system=system)
    assert manifest.CaptureReport.from_bytes(report.to_bytes()) == report
    found = make(report)
    assert found.system == system
    assert manifest.Manifest.from_bytes(found.to_bytes(KEY), KEY) == found


def test_of_an_unknown_system_nothing_is_written():
    """As by earlier releases, which is read all the same."""
    fields = json.loads(make().to_bytes(None))
    assert 'system' not in fields
    assert manifest.Manifest.from_bytes(seal(fields), None).system is None


@pytest.mark.parametrize('system', [
    pytest.param(None, id='null'),
    {}, 'debian',
    {**dataclasses.asdict(SYSTEM), 'more': 1},
    {**dataclasses.asdict(SYSTEM), 'distro': 'a b'},
    {**dataclasses.asdict(SYSTEM), 'version': '1' * 65},
    {**dataclasses.asdict(SYSTEM), 'architecture': '../x'},
    {**dataclasses.asdict(SYSTEM), 'firmware': 'coreboot'},
    {**dataclasses.asdict(SYSTEM), 'secure_boot': 1}])
def test_a_system_that_makes_no_sense_is_refused(system):
    fields = json.loads(make().to_bytes(None))
    with pytest.raises(errors.Corrupted):
        manifest.Manifest.from_bytes(
            seal({**fields, 'system': system}), None)
