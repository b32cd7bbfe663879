"""Reading ahead: each video once, no more at hand than asked for, errors where they fall."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from ctp.data.catalog import VideoEntry
from ctp.data.read_ahead import ReadAhead
from ctp.video.encoded import EncodedVideo, VideoError


@dataclass(frozen=True)
class Counted(VideoEntry):
    """A video in memory that counts how often it is read."""

    reads: list[str] = field(default_factory=list)
    missing: bool = False

    def read(self) -> EncodedVideo:
        self.reads.append(threading.current_thread().name)
        if self.missing:
            raise VideoError(self.id, self.uri, "is gone")
        return EncodedVideo(self.id, self.uri, self.id.encode())


def entries(*ids: str) -> list[Counted]:
    return [Counted(each, f"/{each}") for each in ids]


def test_videos_come_in_any_order_and_are_read_once() -> None:
    a, b, c = entries("a", "b", "c")
    with ReadAhead([a, b, c, a, b], depth=3) as videos:
        for entry in (b, a, c, a, b):
            assert videos.read(entry).data == entry.id.encode()
    assert [len(entry.reads) for entry in (a, b, c)] == [1, 1, 1]


def test_no_more_than_depth_are_read_ahead() -> None:
    many = entries(*map(str, range(10)))
    with ReadAhead(many, depth=2) as videos:
        for asked, entry in enumerate(many, start=1):
            videos.read(entry)
            assert sum(len(each.reads) for each in many) <= asked + 2
    assert all(len(entry.reads) == 1 for entry in many)


def test_what_was_not_announced_is_read_at_once() -> None:
    a, b = entries("a", "b")
    with ReadAhead([a], depth=1) as videos:
        assert videos.read(b).id == "b"
    assert b.reads == [threading.current_thread().name]
    nothing_ahead = ReadAhead([a])
    assert nothing_ahead.read(a).id == "a"


def test_a_video_that_cannot_be_read_says_so_each_time_it_is_asked_for() -> None:
    bad = Counted("bad", "/bad", missing=True)
    [good] = entries("good")
    with ReadAhead([bad, good, bad], depth=2) as videos:
        for _ in range(2):
            with pytest.raises(VideoError, match="is gone"):
                videos.read(bad)
            assert videos.read(good).id == "good"


def test_what_is_known_to_be_bad_is_not_tried() -> None:
    [entry] = entries("a")
    videos = ReadAhead(bad={"a": "crashed the decoder"})
    with pytest.raises(VideoError, match="crashed the decoder"):
        videos.read(entry)
    assert entry.reads == []
