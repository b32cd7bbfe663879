"""The ledger of bad videos: each once, kept whole, and a limit."""

from __future__ import annotations

import pickle

import pytest

from ctp.data.quarantine import Ledger, QuarantineLimitError, Rejected
from ctp.video.encoded import VideoError

FIRST = Rejected("a", "s3://x/a", "is empty")
SECOND = Rejected("b", "/ä b", 'has no "frames"\nat all')


def test_an_entry_tells_all_of_an_error() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a", "s3://x/a", "is empty")))
    assert Rejected.of(error) == FIRST


def test_each_video_once_under_its_first_reason() -> None:
    ledger = Ledger()
    assert ledger.add([FIRST, SECOND])
    assert not ledger.add([FIRST, Rejected("a", "elsewhere", "another reason")])
    assert not ledger.add([])
    assert list(ledger) == [FIRST, SECOND]
    assert len(ledger) == 2


def test_json_lines_there_and_back() -> None:
    ledger = Ledger([FIRST, SECOND])
    data = ledger.to_jsonl()
    assert data.count(b"\n") == 2
    assert list(Ledger.from_jsonl(data)) == [FIRST, SECOND]
    assert list(Ledger.from_jsonl(Ledger().to_jsonl())) == []


def test_the_limit() -> None:
    ledger = Ledger([FIRST, SECOND])
    ledger.check(20, 0.1)  # exactly at it
    with pytest.raises(QuarantineLimitError, match=r"2 of 19 .*= 0\.1 .*a: is empty; b: has no"):
        ledger.check(19, 0.1)
    Ledger().check(10, 0.0)
    with pytest.raises(QuarantineLimitError):
        Ledger([FIRST]).check(10**9, 0.0)
