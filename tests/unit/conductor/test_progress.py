# SPDX-License-Identifier: Apache-2.0
import pytest

from ironic_snapshot import progress
from ironic_snapshot_core import errors
from ironic_snapshot_core.manifest import format_time

NOW = 1_700_000_000
REPORT = {'phase': 'clusters', 'percent': 37, 'total_bytes': 1000,
          'read_bytes': 370, 'data_bytes': 300, 'stored_bytes': 120,
          'packs': 2, 'rate': 10, 'eta': 63, 'moved': 490}


def test_reported():
    found = progress.CaptureProgress(slices=4, asked_at='earlier').reported(
        {**REPORT, 'unknown': 'x' * 10000}, NOW)
    assert found == progress.CaptureProgress(
        **REPORT, slices=5, asked_at='earlier',
        updated_at=format_time(NOW), moved_at=format_time(NOW))
    assert progress.CaptureProgress.from_dict(found.to_dict()) == found


def test_eta_need_not_be_known():
    for report in ({**REPORT, 'eta': None},
                   {key: REPORT[key] for key in REPORT if key != 'eta'}):
        found = progress.CaptureProgress(eta=5).reported(report, NOW)
        assert found.eta is None


BAD = [None, [], 'clusters', 7, {}] + [
    {**REPORT, name: value}
    for name in REPORT if name != 'phase'
    for value in (-1, 1.5, True, '7', 2 ** 63, [7], float('nan'))
] + [{**REPORT, 'percent': 101}] + [
    {**REPORT, 'phase': value}
    for value in (None, '', 7, 'Clusters', 'a' * 33, 'a\n', 'a b', '<b>')
] + [{key: value for key, value in REPORT.items() if key != name}
     for name in REPORT if name != 'eta']


@pytest.mark.parametrize('report', BAD, ids=range(len(BAD)))
def test_nonsense_is_refused(report):
    with pytest.raises(errors.Corrupted) as caught:
        progress.CaptureProgress().reported(report, NOW)
    assert len(str(caught.value)) < 120


def test_moving():
    this = progress.CaptureProgress().asked(NOW).reported(REPORT, NOW)
    this.check_moving(900, NOW + 899)
    with pytest.raises(errors.Stalled) as caught:
        this.check_moving(900, NOW + 900)
    assert '"clusters" for 900 s' in str(caught.value)
    this.check_moving(0, NOW + 10 ** 6)
    same = this.reported({**REPORT, 'percent': 38}, NOW + 800)
    with pytest.raises(errors.Stalled):
        same.check_moving(900, NOW + 900)
    moved = this.reported({**REPORT, 'moved': 491}, NOW + 800)
    moved.check_moving(900, NOW + 1600)


def test_new_agent_has_its_time():
    this = progress.CaptureProgress().asked(NOW).reported(REPORT, NOW)
    this = this.restarted(NOW + 5000).asked(NOW + 5000)
    this = this.reported({**REPORT, 'moved': 0}, NOW + 5060)
    this.check_moving(900, NOW + 5900)


def test_agent_that_never_moves_anything():
    this = progress.CaptureProgress().asked(NOW)
    this = this.reported({**REPORT, 'moved': 0}, NOW + 60).asked(NOW + 60)
    this = this.reported({**REPORT, 'moved': 0}, NOW + 960)
    with pytest.raises(errors.Stalled):
        this.check_moving(900, NOW + 960)


def test_of_a_restore():
    report = {'phase': 'write', 'percent': 37, 'total_bytes': 1000,
              'read_bytes': 370, 'fetched_bytes': 120, 'written_bytes': 300,
              'rate': 10, 'eta': None, 'moved': 490}
    this = progress.RestoreProgress().asked(NOW).reported(report, NOW)
    assert (this.fetched_bytes, this.written_bytes) == (120, 300)
    assert progress.RestoreProgress.from_dict(this.to_dict()) == this
    with pytest.raises(errors.Stalled, match='fetched or written'):
        this.check_moving(900, NOW + 900)
    for name in ('fetched_bytes', 'written_bytes'):
        with pytest.raises(errors.Corrupted):
            progress.RestoreProgress().reported(
                {**report, name: None}, NOW)


def test_answering():
    progress.CaptureProgress().check_answering(900, NOW, 'the agent is silent')
    this = progress.CaptureProgress().asked(NOW)
    this.check_answering(900, NOW + 899, 'the agent is silent')
    this.check_answering(0, NOW + 10 ** 6, 'the agent is silent')
    with pytest.raises(errors.Stalled, match='agent is silent for 900 s'):
        this.check_answering(900, NOW + 900, 'the agent is silent')


def test_clock_that_jumps_back_stalls_nothing():
    this = progress.CaptureProgress().asked(NOW).reported(REPORT, NOW)
    this.check_moving(900, NOW - 10 ** 6)
    this.check_answering(900, NOW - 10 ** 6, 'why')
