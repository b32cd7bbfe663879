"""A run that logs nothing is asked why: at first after two minutes, then ever more seldom."""

from __future__ import annotations

import time

import pytest

from ctp.cluster.train import SILENT_SECONDS, _Silence


def test_silence_is_told_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    silence = _Silence()
    told = []
    for seconds in range(int(9 * SILENT_SECONDS)):
        now = 1000.0 + seconds
        if silence.is_worth_a_word(is_over=False):
            told.append(seconds / SILENT_SECONDS)
    assert told == [1, 2, 4, 8]
    assert not silence.is_worth_a_word(is_over=True)
    assert silence.seconds() == 0
    now += SILENT_SECONDS
    assert silence.is_worth_a_word(is_over=False)
