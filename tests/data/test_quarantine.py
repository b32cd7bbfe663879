"""The ledger of bad videos: each once, kept whole, and a limit."""

from __future__ import annotations

import pickle

import pytest

from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger, QuarantineLimitError
from ctp.video.encoded import VideoError

FIRST = QuarantinedVideo("a", "s3://x/a", "is empty")
SECOND = QuarantinedVideo("b", "/ä b", 'has no "frames"\nat all')


def test_an_entry_contains_the_whole_error() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a", "s3://x/a", "is empty")))
    assert QuarantinedVideo.from_error(error) == FIRST


def test_each_video_once_under_its_first_reason() -> None:
    ledger = QuarantineLedger()
    assert ledger.add([FIRST, SECOND])
    assert not ledger.add([FIRST, QuarantinedVideo("a", "elsewhere", "another reason")])
    assert not ledger.add([])
    assert list(ledger) == [FIRST, SECOND]
    assert len(ledger) == 2


def test_json_lines_there_and_back() -> None:
    ledger = QuarantineLedger([FIRST, SECOND])
    data = ledger.to_jsonl()
    assert data.count(b"\n") == 2
    assert list(QuarantineLedger.from_jsonl(data)) == [FIRST, SECOND]
    assert list(QuarantineLedger.from_jsonl(QuarantineLedger().to_jsonl())) == []


def test_the_limit() -> None:
    ledger = QuarantineLedger([FIRST, SECOND])
    ledger.check(20, 0.1)  # exactly at it
    with pytest.raises(QuarantineLimitError, match=r"2 of 19 .*= 0\.1 .*a: is empty; b: has no"):
        ledger.check(19, 0.1)
    QuarantineLedger().check(10, 0.0)
    with pytest.raises(QuarantineLimitError):
        QuarantineLedger([FIRST]).check(10**9, 0.0)
