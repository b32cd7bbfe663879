"""Truncation: only what the file's structure says is missing at its end counts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo, VideoError

Encode = Callable[..., bytes]

NUM_FRAMES = 40
KINDS: dict[str, dict[str, Any]] = {
    "mp4": {"format_options": {"movflags": "faststart"}},
    "fragmented mp4": {"format_options": {"movflags": "frag_keyframe+empty_moov"}},
    "avi": {"format": "avi", "codec": "mpeg4", "options": {"g": "10"}},
    "avi, motion JPEG": {"format": "avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "matroska": {"format": "matroska"},
}


def num_frames(data: bytes) -> int:
    with VideoReader(EncodedVideo("id", "uri", data)) as reader:
        found: list[int] = []
        reader.decode(range(reader.num_frames), lambda number, frame: found.append(number))
        assert found == list(range(reader.num_frames))
        return reader.num_frames


@pytest.mark.parametrize("kind", ["mp4", "avi", "avi, motion JPEG", "matroska"])
@pytest.mark.parametrize("share", [0.7, 0.8])
def test_a_cut_file_is_refused(kind: str, share: float, encode_video: Encode) -> None:
    data = encode_video(NUM_FRAMES, **KINDS[kind], width=192, height=128)
    with pytest.raises(VideoError, match=r"is truncated: \d+% of its video"):
        num_frames(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lacks_little_has_the_frames_that_are_left(
    kind: str, encode_video: Encode
) -> None:
    data = encode_video(NUM_FRAMES, **KINDS[kind])
    end = data.rindex(b"idx1") if kind.startswith("avi") else len(data)
    assert NUM_FRAMES - 10 < num_frames(data[: end - 60]) <= NUM_FRAMES


@pytest.mark.parametrize("kind", ["avi", "avi, motion JPEG"])
def test_an_avi_file_without_its_index_is_whole(kind: str, encode_video: Encode) -> None:
    data = encode_video(NUM_FRAMES, **KINDS[kind])
    assert num_frames(data[: data.rindex(b"idx1")]) == NUM_FRAMES


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_an_avi_file_that_was_never_finished_is_whole(size: int, encode_video: Encode) -> None:
    data = bytearray(encode_video(NUM_FRAMES, **KINDS["avi"]))
    movi = data.index(b"movi") - 4
    for at in (4, movi):
        data[at : at + 4] = struct.pack("<I", size)
    assert num_frames(bytes(data[: data.rindex(b"idx1")])) == NUM_FRAMES


@pytest.mark.parametrize("every", [2, 5])
def test_empty_chunks_of_an_avi_file_are_no_missing_frames(
    every: int, encode_video: Encode
) -> None:
    """The header counts them: 5 chunks per frame."""
    times = range(0, NUM_FRAMES * every, every)
    data = encode_video(NUM_FRAMES, **KINDS["avi"], times=times)
    assert data.count(b"00dc\0\0\0\0") >= (every - 1) * (NUM_FRAMES - 1)
    assert num_frames(data) == NUM_FRAMES


def test_a_matroska_file_without_its_index_is_whole(encode_video: Encode) -> None:
    """Many key frames make the index more than a tenth of the file."""
    data = encode_video(NUM_FRAMES, format="matroska", options={"g": "1"}, width=16, height=16)
    index = data.rindex(bytes.fromhex("1c53bb6b"))
    assert num_frames(data[:index]) == NUM_FRAMES


def test_an_mp4_file_whose_last_box_is_cut_is_whole(encode_video: Encode) -> None:
    data = encode_video(NUM_FRAMES, **KINDS["mp4"])
    rest = struct.pack(">I4s", len(data), b"free") + bytes(10)
    assert num_frames(data + rest) == NUM_FRAMES


def test_a_transport_stream_ends_anywhere(encode_video: Encode) -> None:
    """Recordings stop where they stop; the format does not say how long they are."""
    data = encode_video(NUM_FRAMES, format="mpegts", options={"g": "10"})
    assert NUM_FRAMES / 2 < num_frames(data[: len(data) * 3 // 4]) < NUM_FRAMES
