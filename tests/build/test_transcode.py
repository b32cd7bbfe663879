"""Transcoding: each frame shows its number, so that lost, repeated or swapped ones are noticed."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from pydantic import ValidationError

from ctp.build.config import TranscodeConfig
from ctp.build.transcode import Facts, encode_frames, inspect, transcode
from ctp.build.transcode import stored_size as size_of
from ctp.data.sources import open_catalog
from ctp.storage import StorageError
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.mp4 import read_sample_table

Encode = Callable[..., bytes]
Paint = Callable[..., np.ndarray]
ReadNumbers = Callable[[np.ndarray], list[int]]

REAL_VIDEOS = os.environ.get("CTP_REAL_VIDEOS")
CONFIG = TranscodeConfig(short_side_px=48)
H264 = TranscodeConfig(codec="h264", short_side_px=48, gop_frames=8)
CODECS = pytest.mark.parametrize("config", [CONFIG, H264], ids=["mpeg4", "h264"])
REORDERED = {"g": "30", "bf": "3"}
SOURCES: dict[str, dict[str, Any]] = {
    "mp4": {"options": REORDERED},
    "mp4, H.265": {"codec": "libx265", "options": {"x265-params": "bframes=3:log-level=none"}},
    "mp4, 10 bit": {"options": REORDERED, "pix_fmt": "yuv420p10le"},
    "mp4, 4:4:4": {"options": REORDERED, "pix_fmt": "yuv444p"},
    "avi, MPEG-4, B-frames": {"format": "avi", "codec": "mpeg4", "options": {"bf": "2"}},
    "avi, motion JPEG": {"format": "avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mkv, odd size": {"format": "matroska", "codec": "ffv1", "width": 97, "height": 65},
    "ts, late start": {"format": "mpegts", "times": range(100, 140)},
    "bare H.264": {"format": "h264", "options": REORDERED},
}


def video_of(data: bytes) -> EncodedVideo:
    return EncodedVideo("the-id", "the-uri", data)


def packets(data: bytes) -> list[av.Packet]:
    with av.open(io.BytesIO(data)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def frames_of(data: bytes, short_side_px: int = 48) -> np.ndarray:
    with VideoReader(video_of(data)) as reader:
        return reader.read(range(reader.num_frames), short_side_px=short_side_px)


@CODECS
@pytest.mark.parametrize("kind", SOURCES)
def test_all_frames_in_their_order(
    kind: str, config: TranscodeConfig, encode_video: Encode, read_numbers: ReadNumbers
) -> None:
    coded = transcode(video_of(encode_video(40, **SOURCES[kind])), config)
    assert read_numbers(frames_of(coded)) == list(range(40))


def test_each_frame_decodes_alone(encode_video: Encode, read_numbers: ReadNumbers) -> None:
    coded = transcode(video_of(encode_video(24, options=REORDERED)), CONFIG)
    found = packets(coded)
    assert all(packet.is_keyframe and packet.pts == packet.dts for packet in found)
    with av.open(io.BytesIO(coded)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("mpeg4", "yuv420p")
        extradata = context.extradata
    for number in (23, 0, 7):
        decoder = av.CodecContext.create("mpeg4", "r")
        decoder.extradata = extradata
        [frame] = [*decoder.decode(found[number]), *decoder.decode(None)]
        assert read_numbers(frame.to_ndarray(format="rgb24")[None]) == [number]


def test_a_lower_quantizer_is_closer_to_the_source(encode_video: Encode) -> None:
    source = encode_video(8, format="matroska", codec="ffv1", width=72, height=48)
    coded = [transcode(video_of(source), CONFIG.replace(quantizer=q)) for q in (2, 6, 20)]
    wanted = frames_of(source).astype(int)
    errors = [np.square(frames_of(each) - wanted).mean() for each in coded]
    assert errors == sorted(errors)
    assert len(coded[0]) > len(coded[1]) > len(coded[2])


def test_h264_has_short_closed_groups_without_b_frames(encode_video: Encode) -> None:
    coded = transcode(video_of(encode_video(40, options=REORDERED)), H264)
    found = packets(coded)
    assert [packet.is_keyframe for packet in found] == [i % 8 == 0 for i in range(40)]
    assert all(packet.pts == packet.dts for packet in found)
    with av.open(io.BytesIO(coded)) as container:
        kinds = [PictureType(frame.pict_type).name for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert not container.streams.audio
    assert kinds == ["I" if i % 8 == 0 else "P" for i in range(40)]


@pytest.mark.parametrize("number", [7, 8, 15])
def test_a_group_decodes_alone(
    number: int, encode_video: Encode, read_numbers: ReadNumbers
) -> None:
    coded = transcode(video_of(encode_video(24)), H264)
    first = number // 8 * 8
    with av.open(io.BytesIO(coded)) as container:
        decoder = av.CodecContext.create("h264", "r")
        decoder.extradata = container.streams.video[0].codec_context.extradata
    group = packets(coded)[first : number + 1]
    shown = [frame for packet in [*group, None] for frame in decoder.decode(packet)]
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in shown])
    assert read_numbers(pictures) == list(range(first, number + 1))


@pytest.mark.parametrize(
    "times",
    [[i**2 // 3 + i for i in range(40)], range(7, 47), [*range(20), *range(500, 520)]],
    ids=["variable rate", "late start", "pause"],
)
@CODECS
def test_frames_keep_their_times(
    times: list[int], config: TranscodeConfig, encode_video: Encode
) -> None:
    coded = transcode(video_of(encode_video(40, times=times)), config)
    seconds = [packet.pts * packet.time_base for packet in packets(coded)]
    assert seconds == [Fraction(time - times[0], 25) for time in times]


def test_the_rate_is_the_average(encode_video: Encode) -> None:
    coded = transcode(video_of(encode_video(41, times=range(0, 82, 2))), CONFIG)
    assert inspect(video_of(coded)) == Facts(41, 12.5, 72, 48)


@pytest.mark.parametrize(("turn", "mirrored"), [(90, False), (180, False), (270, True)])
def test_the_stored_picture_is_upright(
    turn: int, mirrored: bool, encode_video: Encode, read_numbers: ReadNumbers
) -> None:
    source = encode_video(10, rotation=turn, mirrored=mirrored)
    coded = transcode(video_of(source), CONFIG)
    assert packets(coded)[0].stream.codec_context.height == (48 if turn == 180 else 72)
    assert read_sample_table(coded) is not None  # None for a rotated video
    wanted, found = frames_of(source), frames_of(coded)
    assert wanted.shape == found.shape
    assert np.abs(wanted.astype(int) - found).mean() < 8
    assert inspect(video_of(source)).height == (64 if turn == 180 else 96)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((320, 240), (192, 144)),
        ((240, 320), (144, 192)),
        ((1920, 1080), (256, 144)),
        ((432, 240), (260, 144)),  # 259.2
        ((144, 144), (144, 144)),
        ((100, 80), (100, 80)),  # never larger
        ((97, 65), (96, 64)),  # x264 requires even numbers
        ((1, 1), (2, 2)),
    ],
)
def test_the_shorter_side_has_the_given_length(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert size_of(*size, short_side_px=144) == wanted


@pytest.mark.parametrize(
    "kind",
    [
        {"codec": "mjpeg", "pix_fmt": "yuvj420p", "format": "matroska"},
        {"options": {"colorspace": "bt709", "color_range": "tv"}},
        {"options": {"color_range": "pc"}},
    ],
    ids=["full range", "BT.709", "full range, tagged"],
)
def test_colours_stay(kind: dict[str, Any], encode_video: Encode) -> None:
    source = encode_video(4, **kind)
    wanted = frames_of(source).astype(int)
    # a coarser quantizer rounds the mean colour of a block
    found = frames_of(transcode(video_of(source), CONFIG.replace(quantizer=2))).astype(int)
    assert np.abs(wanted.mean((1, 2)) - found.mean((1, 2))).max() < 3


@CODECS
def test_equal_videos_give_equal_bytes(config: TranscodeConfig, encode_video: Encode) -> None:
    sources = [video_of(encode_video(12, width=64 + 2 * i, height=48)) for i in range(5)]
    coded = {tuple(transcode(source, config) for source in sources) for _ in range(10)}
    assert len(coded) == 1


@CODECS
@pytest.mark.parametrize("num_frames", [1, 20])
def test_the_index_is_at_the_front_and_readable_by_our_reader(
    num_frames: int, config: TranscodeConfig, encode_video: Encode
) -> None:
    coded = transcode(video_of(encode_video(num_frames)), config)
    assert coded.index(b"moov") < coded.index(b"mdat")
    table = read_sample_table(coded)
    assert table is not None
    assert len(table.size) == num_frames


def test_frames_become_a_video(paint_number: Paint, read_numbers: ReadNumbers) -> None:
    pictures = (paint_number(number) for number in range(20))
    coded = encode_frames(pictures, 20, Fraction(12), CONFIG)
    assert inspect(video_of(coded)) == Facts(20, 12.0, 72, 48)
    assert read_numbers(frames_of(coded)) == list(range(20))


def test_frames_of_two_sizes_are_refused(paint_number: Paint) -> None:
    pictures = [paint_number(0), paint_number(1, width=98)]
    with pytest.raises(ValueError, match="has frames of different sizes"):
        encode_frames(pictures, 2, Fraction(12), CONFIG)


@pytest.mark.parametrize(("format", "times"), [("mp4", 0), ("matroska", 1)])
def test_a_source_is_decoded_once(
    format: str, times: int, encode_video: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = video_of(encode_video(20, format=format))
    really, opened = av.open, []
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or really(*a, **k))
    assert inspect(video) == Facts(20, 25.0, 96, 64)
    assert len(opened) == times  # an MP4 file is not opened with FFmpeg
    transcode(video, CONFIG)
    assert len(opened) == 2 * times + 1


@pytest.mark.parametrize("rotation", [0, 90])
def test_facts_of_a_video(rotation: int, encode_video: Encode) -> None:
    facts = inspect(video_of(encode_video(10, rotation=rotation)))
    assert facts == Facts(10, 25.0, *((64, 96) if rotation else (96, 64)))
    assert inspect(video_of(encode_video(1, format="avi", codec="mpeg4"))).rate == 25


def damaged(data: bytes, how: str) -> bytes:
    media = data.index(b"mdat")
    broken = {
        "text": b"this is text",
        "half": data[: len(data) // 2],
        "scribbled over": data[: media + 8] + b"\xff" * (len(data) - media - 8),
    }
    return broken[how]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("text", "cannot be opened as a video"),
        ("half", "is truncated"),
        ("scribbled over", "cannot be decoded"),
    ],
)
def test_a_damaged_video_is_a_video_error(how: str, reason: str, encode_video: Encode) -> None:
    whole = encode_video(40, format_options={"movflags": "faststart"})
    with pytest.raises(VideoError, match=reason) as caught:
        transcode(video_of(damaged(whole, how)), CONFIG)
    assert (caught.value.video_id, caught.value.uri) == ("the-id", "the-uri")


def test_a_full_disk_is_not_the_fault_of_the_video(encode_video: Encode) -> None:
    video = EncodedVideo("a", "/a.mp4", encode_video(40))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write a video to .* or set TMPDIR"):
            transcode(video, TranscodeConfig())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.skipif(REAL_VIDEOS is None, reason="CTP_REAL_VIDEOS names no folder of real videos")
def test_real_videos() -> None:
    for entry in open_catalog(str(REAL_VIDEOS)):
        video = entry.read()
        coded = transcode(video, TranscodeConfig())
        before, after = inspect(video), inspect(video_of(coded))
        assert (after.num_frames, after.rate) == (before.num_frames, pytest.approx(before.rate))
        assert min(after.width, after.height) == min(144, before.width, before.height) // 2 * 2
        assert read_sample_table(coded) is not None


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of 2"):
        TranscodeConfig(short_side_px=145)


@pytest.mark.parametrize(
    "options", [{"crf": 20}, {"gop_frames": 4}, {"codec": "h264", "quantizer": 3}]
)
def test_an_option_of_the_other_codec_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="has no such option"):
        TranscodeConfig(**options)
