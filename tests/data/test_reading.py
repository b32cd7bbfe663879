"""Opening videos: each is read once and ahead of its use, and errors come where it is opened."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from ctp.data.catalog import VideoEntry
from ctp.data.reading import READ_AHEAD, READ_AHEAD_BYTES, VideoOpener
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.limits import DecodingLimits


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


@dataclass(frozen=True)
class SizedVideo(CountedVideo):
    """A video of which reading is counted as that of a large file."""

    open_or_read: list[str] = field(default_factory=list)
    """Shared by several: ids of those whose bytes are in memory."""

    def read(self) -> EncodedVideo:
        self.open_or_read.append(self.id)
        return super().read()


def sized_videos(data: bytes, number: int, size: int | None) -> list[SizedVideo]:
    shared: list[str] = []
    return [
        SizedVideo(str(i), f"/{i}", size=size, data=data, open_or_read=shared)
        for i in range(number)
    ]


@pytest.mark.parametrize(
    ("size", "most"),
    [
        (READ_AHEAD_BYTES // 3, 3),
        (READ_AHEAD_BYTES, 1),
        (4 * READ_AHEAD_BYTES, 1),
        (1, 1 + READ_AHEAD),
    ],
)
def test_no_more_bytes_than_allowed_are_open_or_read_ahead(
    size: int, most: int, encode_video: Callable[..., bytes]
) -> None:
    many = sized_videos(encode_video(3), 12, size)
    in_memory, counts = many[0].open_or_read, []
    with VideoOpener(many) as opener:
        for entry in many:
            with opener.open(entry):
                time.sleep(0.05)  # the threads read as far as they may
                counts.append(len(in_memory))
                in_memory.remove(entry.id)
            assert entry.id not in in_memory
    assert max(counts) <= most + 1  # the next one may begin when this one is closed
    assert counts[0] == most
    assert [len(entry.reads) for entry in many] == [1] * 12


def test_videos_that_are_kept_do_not_block_one_that_is_needed(
    encode_video: Callable[..., bytes],
) -> None:
    a, b, c = sized_videos(encode_video(3), 3, READ_AHEAD_BYTES)
    with VideoOpener([a, b, c, a, b, c]) as opener:  # all three are kept until the end
        for entry in (c, a, b, b, a, c):
            with opener.open(entry) as reader:
                assert reader.num_frames == 3
    assert [len(entry.reads) for entry in (a, b, c)] == [1, 1, 1]


def test_videos_that_are_never_opened_do_not_block_others(
    encode_video: Callable[..., bytes],
) -> None:
    """Each replacement lets another video be read ahead, until all threads wait."""
    data = encode_video(3)
    many, replacements = (sized_videos(data, 3 * READ_AHEAD, READ_AHEAD_BYTES) for _ in range(2))
    with VideoOpener(many) as opener:
        for entry in replacements:
            assert count_frames(opener, replace(entry, id=f"other {entry.id}")) == 3
        for entry in many[2 * READ_AHEAD :]:
            assert count_frames(opener, entry) == 3
    assert [len(entry.reads) for entry in many[2 * READ_AHEAD :]] == [1] * READ_AHEAD


def test_closing_ends_the_threads_that_wait(encode_video: Callable[..., bytes]) -> None:
    many = sized_videos(encode_video(3), 5, READ_AHEAD_BYTES)
    before = set(threading.enumerate())
    with VideoOpener(many) as opener, opener.open(many[0]):
        pass
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert not many[4].reads


def count_frames(opener: VideoOpener, entry: VideoEntry) -> int:
    with opener.open(entry) as reader:
        return reader.num_frames


def test_the_size_of_a_file_is_found_when_the_catalogue_does_not_know_it(
    tmp_path: Path, encode_video: Callable[..., bytes]
) -> None:
    size, entries = READ_AHEAD_BYTES, []
    for number in range(5):
        path = tmp_path / f"{number}.avi"  # its name tells that it is read whole
        with path.open("wb") as file:  # the padding is skipped, and takes no disk space
            file.write(encode_video(3, format="avi"))
            file.truncate(size)
        entries.append(VideoEntry(path.name, str(path)))
    tracemalloc.start()
    try:
        with VideoOpener(entries) as opener:
            assert [count_frames(opener, entry) for entry in entries] == [3] * 5
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < most_bytes < 2.5 * size


def test_a_video_that_needs_too_much_memory_is_refused(videos: Videos) -> None:
    [entry] = videos("a")
    with VideoOpener(limits=DecodingLimits(1.0)) as opener:
        with (
            pytest.raises(VideoError, match=r"more than \d+ MiB of memory"),
            opener.open(entry),
        ):
            np.ones(2**32, np.uint8)  # as if a decoder allocated this much
        with opener.open(entry) as reader:
            assert reader.num_frames == 3
