"""A run without log lines is reported: first after two minutes, then after twice that, …"""

from __future__ import annotations

import time

import pytest

from ctp.cluster.waiting import SILENT_SECONDS, Silence


def test_reports_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    silence = Silence()
    reported = []
    for seconds in range(int(9 * SILENT_SECONDS)):
        now = 1000.0 + seconds
        if silence.should_report(has_progress=False):
            reported.append(seconds / SILENT_SECONDS)
    assert reported == [1, 2, 4, 8]
    assert not silence.should_report(has_progress=True)
    assert silence.seconds() == 0
    now += SILENT_SECONDS
    assert silence.should_report(has_progress=False)
