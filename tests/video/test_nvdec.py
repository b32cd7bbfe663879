"""Decoding by NVDEC gives the frames of the CPU. What it cannot decode, the CPU does.

The tests of the engine itself need a GPU. They expect the same bytes, with no tolerance: H.264 and
HEVC define every pixel exactly, and the CPU does the rest in both cases.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from ctp.video.decode import VideoReader
from ctp.video.encoded import DecodingError, EncodedVideo, VideoError
from ctp.video.nvdec import Nvdec, to_planar
from ctp.video.planes import Crop, upright_planes

Encode = Callable[..., bytes]

NUM_FRAMES = 30
SIZE = {"width": 250, "height": 162}  # no multiples of 16; the engine takes HEVC from 144 on
CROP = Crop(share=0.7, x=0.3, y=0.8, flip=True)
OPEN_GOPS = {"g": "10", "bf": "3", "x264-params": "scenecut=0:open-gop=1"}
HEVC = {"x265-params": "keyint=10:bframes=3:open-gop=1:log-level=none"}
BT709 = {"x264-params": "keyint=10:colormatrix=bt709:range=tv"}
FULL_RANGE = {"x264-params": "keyint=10:colormatrix=smpte170m:fullrange=on"}

KINDS: dict[str, dict[str, Any]] = {
    "mp4": {"options": OPEN_GOPS},
    "mp4, BT.709": {"options": BT709},
    "mp4, full range": {"options": FULL_RANGE},
    "mp4, turned": {"options": OPEN_GOPS, "rotation": 90},
    "mkv": {"format": "matroska", "options": OPEN_GOPS},
    "ts": {"format": "mpegts", "options": OPEN_GOPS, "times": range(100, 130)},
    "avi": {"format": "avi", "options": OPEN_GOPS},
    "bare H.264": {"format": "h264", "options": OPEN_GOPS},
    "mp4, HEVC": {"codec": "libx265", "options": HEVC},
    "mkv, HEVC, 10 bit": {
        "format": "matroska", "codec": "libx265", "options": HEVC, "pix_fmt": "yuv420p10le",
    },
}  # fmt: skip


def read(data: bytes, nvdec: Nvdec | None = None) -> list[np.ndarray]:
    """Read squares and whole frames, near and far from each other, one of them twice."""
    with VideoReader(EncodedVideo("the-id", "the-uri", data), nvdec=nvdec) as reader:
        assert reader.num_frames == NUM_FRAMES
        return [
            reader.read_square([3, 4, 4, 17, 29], CROP, 64),
            reader.read([0, 12, 28], short_side_px=48),
        ]


def check_equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for first, second in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def why_not() -> str:
    """Return why NVDEC cannot be used here, or ""."""
    try:
        Nvdec().check()
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture
def nvdec(why_not: str) -> Nvdec:
    if why_not:
        pytest.skip(why_not)
    return Nvdec()


@pytest.fixture
def no_nvdec(why_not: str) -> Nvdec:
    if not why_not:
        pytest.skip("NVDEC works here")
    return Nvdec()


@pytest.mark.parametrize("kind", KINDS)
def test_nvdec_gives_the_frames_of_the_cpu(kind: str, nvdec: Nvdec, encode_video: Encode) -> None:
    data = encode_video(NUM_FRAMES, **SIZE, **KINDS[kind])
    ours = read(data, nvdec)
    assert nvdec.take_refused() == {}, "the CPU decoded it"
    check_equal(ours, read(data))


@pytest.mark.parametrize(
    ("of_engine", "kind"),
    [
        *(("nv12", kind) for kind in ("mp4", "mp4, BT.709", "mp4, full range", "mp4, HEVC")),
        ("p010le", "mkv, HEVC, 10 bit"),
    ],
)
def test_the_formats_of_the_engine_hold_the_same_values(
    of_engine: str, kind: str, encode_video: Encode
) -> None:
    data = encode_video(2, **SIZE, **KINDS[kind])
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            came = to_planar(frame.reformat(format=of_engine), VideoReformatter())
            assert (came.pts, came.color_range) == (frame.pts, frame.color_range)
            ours, theirs = (upright_planes(each, VideoReformatter()) for each in (came, frame))
            check_equal(list(ours), list(theirs))


def test_a_format_that_the_engine_should_not_give_is_refused() -> None:
    with pytest.raises(DecodingError, match="format yuv444p"):
        to_planar(av.VideoFrame(64, 64, "yuv444p"), VideoReformatter())


# ---- without the engine -------------------------------------------------------------------------


@pytest.mark.usefixtures("no_nvdec")
def test_a_node_without_nvdec_says_what_is_missing(why_not: str) -> None:
    for part in ("libcuda.so.1", "NVIDIA_DRIVER_CAPABILITIES", "--scaling.decoder cpu"):
        assert part in why_not


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "mp4, HEVC"])
def test_the_cpu_decodes_what_nvdec_cannot_and_it_is_named(
    kind: str, no_nvdec: Nvdec, encode_video: Encode
) -> None:
    data = encode_video(NUM_FRAMES, **SIZE, **KINDS[kind])
    check_equal(read(data, no_nvdec), read(data))
    ((codec, text),) = no_nvdec.take_refused().items()
    assert codec == ("hevc" if "HEVC" in kind else "h264")
    assert "the-id" in text
    assert "Operation not permitted" in text, "FFmpeg's reason"
    assert no_nvdec.take_refused() == {}


@pytest.mark.parametrize("format", ["mp4", "avi"])
def test_the_cpu_decodes_other_codecs_and_one_line_names_the_first(
    format: str, encode_video: Encode
) -> None:
    data, nvdec = encode_video(NUM_FRAMES, codec="mpeg4", format=format), Nvdec()
    check_equal(read(data, nvdec), read(data))
    with VideoReader(EncodedVideo("second", "second", data), nvdec=nvdec) as reader:
        reader.read([0], short_side_px=48)
    ((codec, text),) = nvdec.take_refused().items()
    assert codec == "mpeg4"
    assert "the-id" in text
    assert "H.264 and HEVC alone" in text


def test_a_damaged_video_has_the_reason_of_the_cpu(no_nvdec: Nvdec, encode_damaged: Encode) -> None:
    reasons = []
    for nvdec in (None, no_nvdec):
        video = EncodedVideo("the-id", "the-uri", encode_damaged(60, 23))
        with (
            pytest.raises(VideoError) as error,
            VideoReader(video, nvdec=nvdec) as reader,
        ):
            reader.read([23], short_side_px=48)
        reasons.append(error.value.reason)
    assert reasons[0] == reasons[1]
