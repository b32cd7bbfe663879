"""The sample table: the same packets as FFmpeg's demuxer returns, or no table."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ctp.video import decode
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.mp4 import Run, SampleTable, read_sample_table

Encode = Callable[..., bytes]

PLAIN: dict[str, dict[str, Any]] = {
    "B-frames": {"options": {"g": "10", "bf": "3"}},
    "open GOPs": {"options": {"x264-params": "keyint=10:open-gop=1:bframes=3:scenecut=0"}},
    "no B-frames": {"options": {"g": "8", "bf": "0", "sc_threshold": "0"}},
    "variable rate": {"times": [i**2 // 3 + i for i in range(40)]},
    "index first": {"format_options": {"movflags": "faststart"}},
    "mov": {"format": "mov"},
    "key frames only": {"options": {"g": "1"}},
    "MPEG-4, key frames only": {"codec": "mpeg4", "options": {"g": "1"}},
    "H.265": {"codec": "libx265", "options": {"x265-params": "keyint=10:log-level=none"}},
}
NOT_PLAIN: dict[str, dict[str, Any]] = {
    "fragments": {"format_options": {"movflags": "frag_keyframe+empty_moov"}},
    "cut by an edit list": {"times": range(-20, 20)},
    "late start": {"times": range(100, 140)},
    "turned": {"rotation": 90},
    "MPEG-4": {"codec": "mpeg4"},
    "Matroska": {"format": "matroska"},
    "AVI": {"format": "avi"},
}


def table_of(data: bytes) -> SampleTable:
    table = read_sample_table(data)
    assert table is not None
    return table


def check_against_ffmpeg(data: bytes, table: SampleTable) -> None:
    with av.open(io.BytesIO(data), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert table.extradata == stream.codec_context.extradata
        assert table.codec == stream.codec_context.name
    assert table.position.tolist() == [packet.pos for packet in packets]
    assert table.size.tolist() == [packet.size for packet in packets]
    assert table.is_key.tolist() == [packet.is_keyframe for packet in packets]
    shown = np.array([packet.pts for packet in packets])
    np.testing.assert_array_equal(table.shown - table.shown.min(), shown - shown.min())


@pytest.mark.parametrize("kind", PLAIN)
def test_the_packets_are_those_that_ffmpeg_finds(kind: str, encode_video: Encode) -> None:
    data = encode_video(40, **PLAIN[kind])
    check_against_ffmpeg(data, table_of(data))


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_other_files_are_left_to_ffmpeg(kind: str, encode_video: Encode) -> None:
    assert read_sample_table(encode_video(40, **NOT_PLAIN[kind])) is None


def test_damaged_files_have_no_table_or_a_correct_one(encode_video: Encode) -> None:
    """Lost or changed bytes never give an error or packets outside of the file."""
    data = encode_video(12, options={"bf": "2"}, format_options={"movflags": "faststart"})
    rng = np.random.default_rng(0)
    for length in range(0, 2000, 7):
        assert read_sample_table(data[:length]) is None
    for _ in range(2000):
        broken = bytearray(data)
        at = int(rng.integers(1200))  # the index
        broken[at : at + 4] = rng.bytes(4)
        table = read_sample_table(bytes(broken))
        assert table is None or (table.position + table.size).max() <= len(data)


@pytest.mark.parametrize("box", [b"mvhd", b"mdhd"])
def test_a_time_scale_of_0_is_left_to_ffmpeg(box: bytes, encode_video: Encode) -> None:
    data = encode_video(12)
    units = data.index(box) + 4 + 12
    assert table_of(data).units_per_second > 0
    assert read_sample_table(data[:units] + bytes(4) + data[units + 4 :]) is None


def decoded(data: bytes, frames: list[int]) -> list[np.ndarray]:
    found: dict[int, np.ndarray] = {}
    with VideoReader(EncodedVideo("id", "uri", data)) as reader:
        reader.decode(frames, lambda number, frame: found.update({number: frame.to_ndarray()}))
    return [found[number] for number in frames]


@pytest.mark.parametrize("kind", PLAIN)
def test_pixels_are_those_that_ffmpeg_decodes(
    kind: str, encode_video: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode_video(40, **PLAIN[kind])
    wanted = [[0, 3, 9, 27, 39], [5], [38, 39], list(range(40))]
    fast = [decoded(data, frames) for frames in wanted]
    monkeypatch.setattr(decode, "read_sample_table", lambda data: None)
    for frames, pictures in zip(wanted, fast, strict=True):
        np.testing.assert_array_equal(pictures, decoded(data, frames))


def test_only_the_needed_packets_are_decoded(encode_video: Encode) -> None:
    options = {"g": "10", "bf": "0", "sc_threshold": "0"}
    data = encode_video(40, options=options)
    table = table_of(data)
    runs = table.runs([2, 3, 25])
    assert [run.packets for run in runs] == [[0, 1, 2, 3], [20, 21, 22, 23, 24, 25]]
    assert [run.frames for run in runs] == [[2, 3], [25]]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_key_frames_are_decoded_in_one_run(codec: str, encode_video: Encode) -> None:
    table = table_of(encode_video(40, codec=codec, options={"g": "1"}))
    assert table.runs([2, 3, 25]) == [Run([2, 3, 25], [2, 3, 25])]


# the two bytes after the start code: kind (2 bits), 0 and 1, time at 25 frames/s (5 bits), 1, coded
@pytest.mark.parametrize("changed", [1 << 14, 1 << 5], ids=["a P-VOP", "not coded"])
def test_mpeg4_with_other_pictures_is_left_to_ffmpeg(changed: int, encode_video: Encode) -> None:
    data = bytearray(encode_video(12, codec="mpeg4", options={"g": "1"}))
    at = data.rindex(b"\0\0\1\xb6") + 4
    header = int.from_bytes(data[at : at + 2], "big")
    assert header >> 5 & 1
    data[at : at + 2] = (header ^ changed).to_bytes(2, "big")
    assert read_sample_table(bytes(data)) is None


def test_frames_that_no_other_refers_to_are_skipped(encode_video: Encode) -> None:
    params = "keyint=12:min-keyint=12:bframes=2:b-adapt=0:b-pyramid=none:scenecut=0"
    data = encode_video(24, options={"x264-params": params})
    table = table_of(data)
    [run] = table.runs([0, 9])
    whole = range(int(table.packet_of_frame[9]) + 1)
    left_out = sorted(set(whole) - set(run.packets))
    shown = np.argsort(table.packet_of_frame)[left_out]
    # the B-frames between I, P, P; those before the third P follow it in the file
    assert set(shown.tolist()) == {1, 2, 4, 5}


@pytest.mark.skipif(
    "CTP_REAL_VIDEOS" not in os.environ, reason="CTP_REAL_VIDEOS names no folder of real videos"
)
def test_real_files() -> None:
    found = 0
    for path in sorted(Path(os.environ["CTP_REAL_VIDEOS"]).rglob("*.mp4")):
        data = path.read_bytes()
        table = read_sample_table(data)
        if table is not None:
            found += 1
            check_against_ffmpeg(data, table)
    assert found
