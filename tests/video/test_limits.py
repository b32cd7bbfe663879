"""Limits of decoding: a file opens nothing but itself; large pictures are refused unallocated."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ctp.video.decode import VideoReader
from ctp.video.encoded import DecodingError, EncodedVideo, VideoError
from ctp.video.limits import (
    DEFAULT_MAX_MEGAPIXELS,
    FORMATS,
    DecodingLimits,
    limited_memory,
)
from ctp.video.planes import Crop

Encode = Callable[..., bytes]

SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=none
c=IN IP4 0.0.0.0
t=0 0
m=video 40000 RTP/AVP 96
a=rtpmap:96 H264/90000
"""
PLAYLISTS = {
    "SDP": SDP.replace("\n", "\r\n"),
    "ffconcat": "ffconcat version 1.0\nfile other.mp4\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet><Representation '
    'mimeType="video/mp4"><BaseURL>other.mp4</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
    "pattern of pictures": "picture-%03d.jpg",
    "address": "http://127.0.0.1:9/other.mp4",
}
MUXERS: dict[str, dict[str, Any]] = {
    "3gp": {"codec": "mpeg4"},
    "asf": {"codec": "wmv2"},
    "avi": {"codec": "mpeg4"},
    "dv": {"codec": "dvvideo", "width": 720, "height": 576},
    "flv": {"codec": "flv1"},
    "gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "h261": {"codec": "h261", "width": 176, "height": 144},
    "h263": {"codec": "h263", "width": 176, "height": 144},
    "h264": {},
    "hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "ivf": {"codec": "libvpx"},
    "m4v": {"codec": "mpeg4"},
    "matroska": {"codec": "ffv1"},
    "mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "mp4": {"codec": "mpeg4"},
    "mpeg": {"codec": "mpeg1video"},
    "mpeg2video": {"codec": "mpeg2video"},
    "mpegts": {"codec": "mpeg2video"},
    "mxf": {"codec": "mpeg2video"},
    "nut": {"codec": "mpeg4"},
    "ogg": {"codec": "libvpx"},
    "rm": {"codec": "rv20", "width": 176, "height": 144},
    "svcd": {"codec": "mpeg2video"},
    "swf": {"codec": "flv1"},
    "vob": {"codec": "mpeg2video"},
    "webm": {"codec": "libvpx-vp9"},
    "yuv4mpegpipe": {"codec": "wrapped_avframe"},
}
"""Format that PyAV writes -> how; the formats that cameras, players and web pages use."""


def video_of(data: bytes) -> EncodedVideo:
    return EncodedVideo("the-id", "the-uri", data)


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_file_that_names_other_files_or_sockets_is_refused(
    kind: str, encode_video: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the names would be found
    (tmp_path / "other.mp4").write_bytes(encode_video(5))
    with pytest.raises(VideoError, match=r"is in no format|cannot be opened as a video"):
        VideoReader(video_of(PLAYLISTS[kind].encode()))


def test_without_the_limits_such_a_file_is_followed(
    encode_video: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would find nothing if FFmpeg did not follow the names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.mp4").write_bytes(encode_video(5))
    text = io.BytesIO(PLAYLISTS["ffconcat"].encode())
    with av.open(text) as container:
        assert len(list(container.decode(video=0))) == 5


def test_no_format_of_the_list_is_made_to_open_other_files() -> None:
    names = {name for each in FORMATS for name in each.split(",")}
    network = {"dash", "hds", "hls", "rtp", "rtsp", "sap", "sdp", "smoothstreaming"}
    scripts = {"concat", "image2", "imf", "lavfi", "tty", "vobsub", "webm_dash_manifest"}
    assert not names & (network | scripts)
    assert set(FORMATS) <= av.formats_available, "FFmpeg has another name for it"


@pytest.mark.parametrize("format", MUXERS)
def test_all_containers_of_videos_open(format: str, encode_video: Encode) -> None:
    with VideoReader(video_of(encode_video(6, format=format, **MUXERS[format]))) as reader:
        frames = reader.read([0, 2], short_side_px=32)
    assert frames.shape[0] == 2
    assert frames.std() > 10  # a picture


KINDS: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mkv": {"format": "matroska"},
    "avi": {"format": "avi", "codec": "mpeg4"},
    "ts": {"format": "mpegts", "codec": "mpeg2video"},
    "mjpeg": {"format": "mjpeg", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_larger_pictures_than_allowed_are_refused(kind: str, encode_video: Encode) -> None:
    data = encode_video(4, width=1280, height=960, **KINDS[kind])
    with VideoReader(video_of(data), DecodingLimits(1.2288)) as reader:
        assert reader.read([3], short_side_px=32).shape == (1, 32, 43, 3)
    for limit in (1.2287, 0.9):  # the decoder itself refuses what is far above the limit
        with (
            pytest.raises(VideoError) as caught,
            VideoReader(video_of(data), DecodingLimits(limit)) as reader,
        ):
            reader.read([3], short_side_px=32)
        for fact in ("1280x960", "1.229", f"at most {limit}", "data.max_megapixels"):
            assert fact in caught.value.reason


def test_the_default_limit_is_enough_for_8k() -> None:
    for size in ((7680, 4320), (8192, 4320), (8192, 4352)):
        DecodingLimits().check_size(*size)
    with pytest.raises(DecodingError, match=f"16000x16000.*at most {DEFAULT_MAX_MEGAPIXELS:g} "):
        DecodingLimits().check_size(16000, 16000)


@pytest.mark.parametrize("format", ["h264", "mpegts", "mpeg2video"])
def test_pictures_that_become_too_large_are_refused(format: str, encode_video: Encode) -> None:
    codec = {"h264": "libx264", "mpegts": "libx264", "mpeg2video": "mpeg2video"}[format]
    small, large = (
        encode_video(10, format=format, codec=codec, width=width, height=width)
        for width in (64, 1280)
    )
    refused = pytest.raises(VideoError, match=r"at most 1 megapixels.*data\.max_megapixels")
    with refused, VideoReader(video_of(small + large), DecodingLimits(1.0)) as reader:
        # MPEG-TS is refused before, because the frames of joined recordings are counted
        assert format != "mpegts"
        assert len(reader.read([0, 3], short_side_px=32)) == 2
        reader.read([0, 15], short_side_px=32)


def test_a_header_with_a_smaller_size_than_the_pictures_does_not_help(encode_video: Encode) -> None:
    data = bytearray(encode_video(10, width=1280, height=960))
    size_at = data.index(b"avc1", data.index(b"stsd")) + 28
    assert struct.unpack_from(">HH", data, size_at) == (1280, 960)
    struct.pack_into(">HH", data, size_at, 16, 16)
    with (
        pytest.raises(VideoError, match=r"1280x960 pixels.*data\.max_megapixels"),
        VideoReader(video_of(bytes(data)), DecodingLimits(0.9)) as reader,
    ):
        reader.read([5], short_side_px=32)


def test_more_memory_than_allowed_is_refused_and_the_process_continues() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    for allocate in (
        lambda: np.empty(400 * 2**20, np.uint8),
        lambda: av.VideoFrame(16000, 16000, "yuv420p"),
    ):
        with pytest.raises(DecodingError, match="more than 200 MiB"), limited_memory(200 * 2**20):
            allocate()
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
        allocate()  # nothing is left of the limit
    with limited_memory(200 * 2**20):
        assert len(np.ones(100 * 2**20, np.uint8)) == 100 * 2**20


MEASURE = """
import resource, sys
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop

video = EncodedVideo("id", "uri", sys.stdin.buffer.read())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with VideoReader(video) as reader:
    reader.read_square(range(24), Crop(1.0, 0.5, 0.5, False), 64)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_frames_are_released_when_they_are_cut(kind: str, encode_video: Encode) -> None:
    options = {"preset": "ultrafast", "g": "4", "x264-params": "ref=1:bframes=0"}
    data = encode_video(24, width=2048, height=2048, options=options, **KINDS[kind])
    done = subprocess.run([sys.executable, "-c", MEASURE], input=data, capture_output=True)
    assert not done.returncode, done.stderr
    # a frame has 6 MiB: the squares of ten of them wait to be resized, the others are released
    assert float(done.stdout) < 130
    with VideoReader(video_of(data)) as reader:
        wanted = [0, 3, 7, 8, 23]
        crop = Crop(1.0, 0.5, 0.5, False)
        together = reader.read_square(wanted, crop, 64)
        alone = [reader.read_square([number], crop, 64)[0] for number in wanted]
    np.testing.assert_array_equal(together, np.stack(alone))
