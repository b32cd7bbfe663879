"""Opening videos: each is read once and ahead of its use, and errors come where it is opened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ctp.data.catalog import VideoEntry
from ctp.data.reading import READ_AHEAD, VideoOpener
from ctp.video.encoded import EncodedVideo, VideoError


@dataclass(frozen=True)
class CountedVideo(VideoEntry):
    """A video in memory that records the thread of each read; without data it cannot be read."""

    data: bytes = b""
    reads: list[str] = field(default_factory=list)

    def read(self) -> EncodedVideo:
        self.reads.append(threading.current_thread().name)
        if not self.data:
            raise VideoError(self.id, self.uri, "is gone")
        return EncodedVideo(self.id, self.uri, self.data)


Videos = Callable[..., list[CountedVideo]]


@pytest.fixture
def videos(encode_video: Callable[..., bytes]) -> Videos:
    """`videos("a", "b")`: videos of three frames."""
    data = encode_video(3)
    return lambda *ids: [CountedVideo(each, f"/{each}", data=data) for each in ids]


def test_videos_are_opened_in_any_order_and_read_once(videos: Videos) -> None:
    a, b, c = videos("a", "b", "c")
    with VideoOpener([a, b, c, a, b]) as opener:
        for entry in (b, a, c, a, b):
            with opener.open(entry) as reader:
                assert reader.num_frames == 3
    assert [len(entry.reads) for entry in (a, b, c)] == [1, 1, 1]


def test_only_a_few_videos_are_read_ahead(videos: Videos) -> None:
    many = videos(*map(str, range(3 * READ_AHEAD)))
    with VideoOpener(many) as opener:
        for opened, entry in enumerate(many, start=1):
            with opener.open(entry):
                assert sum(len(each.reads) for each in many) <= opened + READ_AHEAD
    assert all(len(entry.reads) == 1 for entry in many)


@pytest.mark.parametrize("upcoming", [["a"], []])
def test_an_unexpected_video_is_read_when_it_is_opened(videos: Videos, upcoming: list[str]) -> None:
    [entry] = videos("b")
    with VideoOpener(videos(*upcoming)) as opener, opener.open(entry) as reader:
        assert reader.num_frames == 3
    assert entry.reads == [threading.current_thread().name]


def test_an_error_is_raised_at_each_use_of_its_video(videos: Videos) -> None:
    bad, [good] = CountedVideo("bad", "/bad"), videos("good")
    with VideoOpener([bad, good, bad, good]) as opener:
        for _ in range(2):
            with pytest.raises(VideoError, match="is gone"), opener.open(bad):
                pass
            with opener.open(good) as reader:
                assert reader.num_frames == 3
    assert len(bad.reads) == 1


def test_a_video_with_too_few_frames_is_refused(videos: Videos) -> None:
    [entry] = videos("a")
    opener = VideoOpener()
    with opener.open(entry, min_frames=3):
        pass
    with pytest.raises(VideoError, match=r"3 frame.*4"), opener.open(entry, min_frames=4):
        pass
