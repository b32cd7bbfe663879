"""Decoding: each frame shows its number, so that a wrong one is noticed; errors are VideoErrors."""

from __future__ import annotations

import io
import os
import random
import wave
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ctp.data.sources import open_catalog
from ctp.video.decode import Clock, VideoReader
from ctp.video.encoded import EncodedVideo, VideoError

Encode = Callable[..., bytes]
Paint = Callable[..., np.ndarray]
ReadNumbers = Callable[[np.ndarray], list[int]]

NUM_FRAMES = 40
GOPS = {"g": "10", "bf": "3", "x264-params": "scenecut=0:b-adapt=0:min-keyint=10"}
OPEN_GOPS = GOPS | {"x264-params": GOPS["x264-params"] + ":open-gop=1"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}
HEVC = {"x265-params": "keyint=10:bframes=3:open-gop=1:log-level=none"}
SHORT_GOPS = {"g": "10", "bf": "2"}
PREDICTED = {"g": "10"}

KINDS: dict[str, dict[str, Any]] = {
    "mp4": {"options": GOPS},
    "mp4, open GOPs": {"options": OPEN_GOPS},
    "mp4, intra refresh": {"options": REFRESH},
    "mp4, late start": {"options": GOPS, "times": range(100, 140)},
    "mp4, variable rate": {"options": GOPS, "times": [i**2 // 3 + i for i in range(40)]},
    "mp4, fragmented": {
        "options": GOPS,
        "format_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "mp4, index first": {"options": GOPS, "format_options": {"movflags": "faststart"}},
    "mp4, 10 bit": {"options": GOPS, "pix_fmt": "yuv420p10le"},
    "mp4, H.265": {"codec": "libx265", "options": HEVC},
    "mp4, MPEG-4": {"codec": "mpeg4", "options": SHORT_GOPS},
    "mov": {"format": "mov", "options": GOPS},
    "mkv, open GOPs": {"format": "matroska", "options": OPEN_GOPS},
    "mkv, late start": {"format": "matroska", "options": GOPS, "times": range(100, 140)},
    "mkv, grey": {"format": "matroska", "codec": "ffv1", "pix_fmt": "gray"},
    "mkv, odd size": {"format": "matroska", "codec": "ffv1", "width": 97, "height": 65},
    "webm": {"format": "webm", "codec": "libvpx", "options": PREDICTED},
    "avi, MPEG-4": {"format": "avi", "codec": "mpeg4", "options": PREDICTED},
    "avi, MPEG-4, B-frames": {"format": "avi", "codec": "mpeg4", "options": SHORT_GOPS},
    "avi, MPEG-4, odd size": {"format": "avi", "codec": "mpeg4", "width": 97, "height": 65},
    "avi, H.264": {"format": "avi", "options": GOPS},
    "avi, motion JPEG": {"format": "avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ts": {"format": "mpegts", "options": GOPS},
    "ts, late start": {"format": "mpegts", "options": OPEN_GOPS, "times": range(100, 140)},
    "mpg": {"format": "mpeg", "codec": "mpeg1video", "options": SHORT_GOPS},
    "vob": {"format": "vob", "codec": "mpeg2video", "options": SHORT_GOPS},
    "wmv": {"format": "asf", "codec": "wmv2", "options": PREDICTED},
    "flv": {"format": "flv", "options": GOPS},
    "bare H.264": {"format": "h264", "options": GOPS},
    "bare MPEG-1": {"format": "mpeg1video", "codec": "mpeg1video", "options": SHORT_GOPS},
}


def reader(data: bytes) -> VideoReader:
    return VideoReader(EncodedVideo("the-id", "the-uri", data))


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_requested_frames(
    kind: str, encode_video: Encode, read_numbers: ReadNumbers
) -> None:
    with reader(encode_video(NUM_FRAMES, **KINDS[kind])) as video:
        assert video.num_frames == NUM_FRAMES
        everything = video.read(range(NUM_FRAMES), short_side_px=64)
        assert read_numbers(everything) == list(range(NUM_FRAMES))
        for first in reversed(range(NUM_FRAMES)):  # in reverse, so that each needs a seek
            wanted = sorted([first, first, min(first + 7, 39), min(first + 12, 39)])
            frames = video.read(wanted, short_side_px=48)
            assert frames.dtype == np.uint8
            assert read_numbers(frames) == wanted


@pytest.mark.parametrize(
    "kind", ["mp4, open GOPs", "mkv, open GOPs", "ts, late start", "mpg", "vob"]
)
def test_the_same_pixels_wherever_decoding_starts(kind: str, encode_video: Encode) -> None:
    with reader(encode_video(NUM_FRAMES, **KINDS[kind])) as video:
        everything = video.read(range(NUM_FRAMES), short_side_px=64)
        for number in (0, 9, 10, 11, 17, 29, 30, 39):
            alone = video.read([number], short_side_px=64)
            np.testing.assert_array_equal(alone[0], everything[number])


TIMES = [i**2 // 3 + i for i in range(2, 42)]


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ({"options": GOPS}, TIMES),
        ({"options": GOPS, "format_options": {"movflags": "frag_keyframe+empty_moov"}}, TIMES),
        ({"format": "mpegts", "options": GOPS}, TIMES),
        ({"format": "avi", "codec": "mpeg4", "options": SHORT_GOPS}, range(40)),
        ({"format": "h264", "options": GOPS}, range(40)),
    ],
    ids=["mp4", "mp4, fragmented", "ts", "avi", "bare H.264"],
)
def test_the_presentation_times(
    kind: dict[str, Any], times: Sequence[int], encode_video: Encode
) -> None:
    with reader(encode_video(NUM_FRAMES, times=times, **kind)) as video:
        clock = video.clock
    seconds = [time * clock.time_base for time in clock.times]
    assert seconds == [Fraction(time - times[0], 25) for time in times]
    assert clock.rate == pytest.approx(39 * 25 / (times[-1] - times[0]))


def test_a_clock_of_few_frames() -> None:
    assert Clock.from_times([7, 9, 12], Fraction(2, 50)) == Clock([0, 2, 5], Fraction(1, 25))
    assert Clock.from_times([7], Fraction(1, 1000)).rate == 25
    assert Clock.from_rate(3, Fraction(30000, 1001)).rate == pytest.approx(29.97003)


def test_one_frame(encode_video: Encode, read_numbers: ReadNumbers) -> None:
    for kind in (KINDS["mp4"], KINDS["avi, MPEG-4"], KINDS["mkv, grey"]):
        with reader(encode_video(1, **kind)) as video:
            assert video.num_frames == 1
            assert read_numbers(video.read([0, 0, 0], short_side_px=64)) == [0, 0, 0]


@pytest.mark.parametrize("cut", [20, 25])  # at a key frame, and in the middle of a GOP
def test_frames_cut_by_an_edit_list_are_not_shown(
    cut: int, encode_video: Encode, read_numbers: ReadNumbers
) -> None:
    data = encode_video(NUM_FRAMES, options=GOPS, times=range(-cut, NUM_FRAMES - cut))
    with reader(data) as video:
        assert video.num_frames == NUM_FRAMES - cut
        frames = video.read([0, 7, 14], short_side_px=64)
        assert read_numbers(frames) == [cut, cut + 7, cut + 14]


@pytest.mark.parametrize(
    ("width", "height", "scaled"),
    [(96, 64, (32, 48)), (64, 96, (48, 32)), (64, 64, (32, 32)), (98, 64, (32, 49)),
     (400, 40, (32, 320)), (96, 32, (32, 96)), (32, 24, (32, 43))],
)  # fmt: skip
def test_the_shorter_side_is_scaled(
    width: int, height: int, scaled: tuple[int, int], encode_video: Encode,
    read_numbers: ReadNumbers,
) -> None:  # fmt: skip
    with reader(encode_video(3, width=width, height=height)) as video:
        frames = video.read([0, 1, 2], short_side_px=32)
        assert frames.shape == (3, *scaled, 3)
        assert read_numbers(frames) == [0, 1, 2]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotated_videos_are_turned_upright(
    rotation: int, mirrored: bool, encode_video: Encode, paint_number: Paint
) -> None:
    data = encode_video(5, codec="mpeg4", rotation=rotation, mirrored=mirrored)
    with reader(data) as video:
        frames = video.read([3, 4], short_side_px=64)
    # the rotation is counter-clockwise, the mirror comes after it
    shown = np.rot90(paint_number(4), rotation // 90)
    shown = shown[:, ::-1] if mirrored else shown
    assert frames[1].shape == shown.shape
    assert np.abs(frames[1].astype(int) - shown).mean() < 8


def test_the_matrix_of_a_phone_held_upright(encode_video: Encode, paint_number: Paint) -> None:
    """The sense of rotation, independent of FFmpeg's writer: a QuickTime matrix as phones write."""
    data = encode_video(2, codec="mpeg4")
    one = (1 << 16).to_bytes(4, "big")
    minus_one = (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    # x' = -y, y' = x: the stored top is shown on the right
    quarter_clockwise = zero + one + zero + minus_one + zero + zero
    start = data.index(b"tkhd") + 44
    assert data[start : start + 24] == one + zero * 3 + one + zero
    with reader(data[:start] + quarter_clockwise + data[start + 24 :]) as video:
        frames = video.read([0], short_side_px=64)
    shown = np.rot90(paint_number(0), -1)
    assert np.abs(frames[0].astype(int) - shown).mean() < 8


# ---- damage -------------------------------------------------------------------------------------


def sound(*, with_picture: bool) -> bytes:
    """An audio file, with a cover picture or without."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska" if not with_picture else "mp4") as container:
        audio: Any = container.add_stream("aac", rate=8000, layout="mono")
        cover: Any = None
        if with_picture:
            cover = container.add_stream("png", rate=1)
            cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        if cover:
            picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(cover.encode(picture))
            container.mux(cover.encode(None))
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return buffer.getvalue()


def bad_input(kind: str, encode: Encode) -> bytes:
    index_first = {"options": GOPS, "format_options": {"movflags": "faststart"}}
    match kind:
        case "text":
            return b"404 not found: this is no video\n" * 40
        case "nothing":
            return b""
        case "noise":
            return np.random.default_rng(0).bytes(20_000)
        case "mp4 without its end, where the index is":
            return encode(NUM_FRAMES, options=GOPS)[:-2000]
        case "mp4 cut in the middle, index first":
            data = encode(NUM_FRAMES, **index_first)
            return data[: len(data) * 2 // 3]
        case "avi cut in the middle":
            data = encode(NUM_FRAMES, format="avi", codec="mjpeg", pix_fmt="yuvj420p")
            return data[: len(data) // 2]
        case "mp4 without a frame":
            return encode(0)
        case "avi without a frame":
            return encode(0, format="avi", codec="mpeg4")
        case "sound":
            return sound(with_picture=False)
        case "sound in a wav":
            return wav()
        case "sound with a cover":
            return sound(with_picture=True)
        case "unknown codec":
            return encode(3).replace(b"avc1", b"zzzz")
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "cannot be opened as a video"),
        ("nothing", "cannot be opened as a video"),
        ("noise", "cannot be opened as a video"),
        ("mp4 without its end, where the index is", "cannot be opened as a video"),
        ("mp4 cut in the middle, index first", r"is truncated: \d+% of its video"),
        ("avi cut in the middle", r"is truncated: \d+% of its video"),
        ("mp4 without a frame", "has no (frames|video stream)|cannot be opened"),
        ("avi without a frame", "has no (frames|video stream)|cannot be opened"),
        ("sound", "has no video stream"),
        ("sound in a wav", "is in no format of FFmpeg that can hold a video"),
        ("sound with a cover", "has no video stream"),
        ("unknown codec", "has a codec that FFmpeg cannot decode"),
    ],
)
def test_a_file_that_is_not_a_video_is_an_error(
    kind: str, reason: str, encode_video: Encode
) -> None:
    with pytest.raises(VideoError, match=reason) as caught:
        reader(bad_input(kind, encode_video))
    assert (caught.value.video_id, caught.value.uri) == ("the-id", "the-uri")
    assert "the-id" in str(caught.value)
    assert "the-uri" in str(caught.value)
    assert len(caught.value.reason.splitlines()) == 1


def test_packets_that_cannot_be_decoded_are_an_error(encode_video: Encode) -> None:
    data = bytearray(encode_video(NUM_FRAMES, options=GOPS))
    with av.open(io.BytesIO(data), "r") as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    for start, size in packets[20:30]:  # the third group of pictures
        data[start : start + size] = bytes(size)
    with pytest.raises(VideoError, match="cannot be decoded"):
        reader(bytes(data))


def test_a_picture_that_cannot_be_decoded_is_an_error(
    encode_video: Encode, read_numbers: ReadNumbers
) -> None:
    data = bytearray(encode_video(NUM_FRAMES, format="mov", codec="png", pix_fmt="rgb24"))
    with av.open(io.BytesIO(data), "r") as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    start, size = packets[22]
    data[start : start + size] = bytes(size)
    with reader(bytes(data)) as video:
        assert read_numbers(video.read([0, 15], short_side_px=64)) == [0, 15]
        assert read_numbers(video.read([32, 39], short_side_px=64)) == [32, 39]
        with pytest.raises(VideoError, match="frame 22 of 40 cannot be decoded"):
            video.read([15, 22, 39], short_side_px=64)


def test_a_frame_size_that_changes_is_an_error(encode_video: Encode) -> None:
    streams = [encode_video(5, format="h264", width=width) for width in (96, 128)]
    with (
        reader(b"".join(streams)) as video,
        pytest.raises(VideoError, match="has frames of different sizes"),
    ):
        video.read([0, 9], short_side_px=64)


def corrupted(data: bytes, rng: random.Random) -> bytes:
    """Change, zero, remove or cut bytes, more often near the ends than in the middle."""
    at = int(len(data) * rng.choice([rng.random(), rng.random() ** 4, 1 - rng.random() ** 4]))
    length = rng.randrange(1, 200)
    match rng.randrange(4):
        case 0:
            return data[:at] + rng.randbytes(length) + data[at + length :]
        case 1:
            return data[:at] + bytes(length) + data[at + length :]
        case 2:
            return data[:at] + data[at + length :]
        case _:
            return data[:at]


@pytest.mark.parametrize(
    "kind", ["mp4", "mp4, index first", "avi, MPEG-4", "mkv, late start", "ts"]
)
def test_a_damaged_video_is_decoded_or_an_error(kind: str, encode_video: Encode) -> None:
    data = encode_video(20, **{**KINDS[kind], "times": range(20)})
    reasons = []
    for number in range(40):
        rng = random.Random(f"{kind}{number}")
        try:
            with reader(corrupted(data, rng)) as video:
                wanted = sorted(rng.choices(range(video.num_frames), k=4))
                assert video.read(wanted, short_side_px=64).shape[:2] == (4, 64)
        except VideoError as error:
            reasons.append(error.reason)
    assert 0 < len(reasons) < 40
    assert all(len(reason.splitlines()) == 1 for reason in reasons)


def test_an_empty_parameter_set_is_an_error(encode_video: Encode) -> None:
    options = {"x265-params": "keyint=10:log-level=none"}
    data = bytearray(encode_video(20, codec="libx265", options=options))
    size = data.index(b"hvcC") + 4 + 26  # of the first parameter set
    assert data[size - 3] & 63 == 32
    data[size : size + 2] = bytes(2)
    with pytest.raises(VideoError):
        reader(bytes(data))


# ---- real videos --------------------------------------------------------------------------------

REAL_VIDEOS = os.environ.get("CTP_REAL_VIDEOS")


@pytest.mark.skipif(REAL_VIDEOS is None, reason="CTP_REAL_VIDEOS names no folder of real videos")
def test_a_real_video_is_decoded_or_an_error() -> None:
    rng = np.random.default_rng(0)
    reasons = []
    catalog = open_catalog(str(Path(str(REAL_VIDEOS))))
    for entry in catalog:
        try:
            with VideoReader(entry.read()) as video:
                for _ in range(3):
                    wanted = sorted(rng.integers(video.num_frames, size=5).tolist())
                    frames = video.read(wanted, short_side_px=112)
                    assert len(frames) == 5
                    assert min(frames.shape[1:3]) == 112
        except VideoError as error:
            reasons.append(str(error))
    print(f"{len(catalog) - len(reasons)} of {len(catalog)} videos decode", *reasons, sep="\n")


def test_an_extreme_aspect_ratio_is_refused(encode_video):
    data = encode_video(3, width=1200, height=16)
    with (
        VideoReader(EncodedVideo("strip", "strip.mp4", data)) as reader,
        pytest.raises(VideoError, match="has 1200x16 pixels"),
    ):
        reader.read([0], short_side_px=112)
