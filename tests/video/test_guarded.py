"""A video that takes its process with it costs itself, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp.isolation import LostError
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.guarded import Guarded

Work = Guarded[EncodedVideo, str]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import guarded_work

    with Guarded(guarded_work.make, video_seconds=0.5) as work:
        yield work


def video(name: str, uri: str = "/v.mp4") -> EncodedVideo:
    return EncodedVideo(name, uri, b"")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad", "is bad"),
        ("crash", "the decoder crashed (SIGSEGV)"),
        ("hang", "the decoder took longer than 0.5 s"),
    ],
)
def test_it_is_told_of_the_video_and_the_next_one_is_done(
    name: str, reason: str, work: Work
) -> None:
    with pytest.raises(VideoError) as caught:
        work(video(name))
    error = caught.value
    assert (error.video_id, error.uri, error.reason) == (name, "/v.mp4", reason)
    assert work(video("good")) == "made of good"


def test_a_video_is_tried_again_for_it_may_have_been_chance(work: Work, tmp_path: Path) -> None:
    assert work(video("flaky", str(tmp_path / "met"))) == "made of flaky"


def test_a_loss_on_no_video_is_nobodys_fault(work: Work) -> None:
    with pytest.raises(LostError):
        work(video("between"))
