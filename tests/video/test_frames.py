"""Frames are what FFmpeg shows when it decodes the whole file: number, order, times and pixels."""

from __future__ import annotations

import io
import os
import random
import struct
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from ctp.video import decode
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.pictures import find_shown, open_headers

Encode = Callable[..., bytes]

NUM_FRAMES = 30
FORMATS_WITHOUT_TIMES = {"h264", "hevc", "m4v", "mpegvideo"}

X264 = "scenecut=0:keyint=10:min-keyint=10:bframes=3"
X265 = "keyint=10:bframes=3:log-level=none"
MPEG_B = {"g": "10", "bf": "2"}
SOURCES: dict[str, dict[str, Any]] = {
    "H.264": {"options": {"x264-params": X264}},
    "H.264, open GOPs": {"options": {"x264-params": X264 + ":open-gop=1"}},
    "H.264, no B-frames": {"options": {"x264-params": "keyint=10:bframes=0"}},
    "H.264, interlaced": {"options": {"x264-params": X264 + ":tff=1"}},
    "H.264, fake interlaced": {"options": {"x264-params": X264 + ":fake-interlaced=1"}},
    "H.264, intra refresh": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "H.265": {"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=0"}},
    "H.265, open GOPs": {"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=1"}},
    "H.265, RADL": {"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=0:radl=2"}},
    "H.265, fields": {"codec": "libx265", "options": {"x265-params": X265 + ":interlace=tff"}},
    "MPEG-4": {"codec": "mpeg4", "options": {"g": "10"}},
    "MPEG-4, B-frames": {"codec": "mpeg4", "options": MPEG_B},
    "MPEG-2, B-frames": {"codec": "mpeg2video", "options": MPEG_B},
    "MPEG-2, closed GOPs": {
        "codec": "mpeg2video",
        "options": MPEG_B | {"flags": "+cgop", "sc_threshold": "1000000000"},
    },
    "MPEG-1, B-frames": {"codec": "mpeg1video", "options": MPEG_B},
    "VP8": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}},
    "VP9": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "16", "cpu-used": "6", "g": "20"}},
    "AV1": {"codec": "libsvtav1", "options": {"preset": "12", "g": "15"}},
    "motion JPEG": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "MS-MPEG-4": {"codec": "msmpeg4", "options": {"g": "10"}},
    "WMV 1": {"codec": "wmv1", "options": {"g": "10"}},
    "WMV 2": {"codec": "wmv2", "options": {"g": "10"}},
    "Flash": {"codec": "flv", "options": {"g": "10"}},
    "H.263+": {"codec": "h263p", "options": {"g": "10"}},
    "FFV1": {"codec": "ffv1"},
    "GIF": {"codec": "gif", "pix_fmt": "rgb8"},
    "PNG": {"codec": "png", "pix_fmt": "rgb24"},
    "ProRes": {"codec": "prores", "pix_fmt": "yuv422p10le"},
    "Cinepak": {"codec": "cinepak", "pix_fmt": "rgb24"},
    "RealVideo": {"codec": "rv20", "width": 128, "height": 96},
}
H26X = ["mp4", "mov", "matroska", "mpegts", "flv", "nut"]
CONTAINERS = {
    "H.264": [*H26X, "avi", "h264", "mpeg", "3gp", "ismv"],
    "H.265": [*H26X, "hevc"],
    "MPEG-4": ["mp4", "mov", "avi", "matroska", "mpegts", "m4v", "3gp"],
    "MPEG-2": ["mpegts", "mpeg", "vob", "matroska", "mp4", "mpeg2video", "mxf", "avi"],
    "MPEG-1": ["mpeg", "mpegts", "matroska", "mpeg1video"],
    "VP8": ["webm", "ivf", "avi"],
    "VP9": ["webm", "mp4", "ivf"],
    "AV1": ["mp4", "matroska", "ivf", "obu"],
    "motion JPEG": ["avi", "mov"],
    "MS-MPEG-4": ["avi", "asf"],
    "WMV 1": ["asf"],
    "WMV 2": ["asf", "avi"],
    "Flash": ["flv"],
    "H.263+": ["avi"],
    "FFV1": ["matroska"],
    "GIF": ["gif"],
    "PNG": ["mov"],
    "ProRes": ["mov"],
    "Cinepak": ["avi"],
    "RealVideo": ["rm"],
}
WRITABLE = [
    (source, container)
    for source in SOURCES
    for container in CONTAINERS[source if source in CONTAINERS else source.split(",")[0]]
]


class Shown(NamedTuple):
    """A full decode."""

    times: list[int | None]
    pictures: list[np.ndarray]
    time_base: Fraction
    format: str


def decode_fully(data: bytes) -> Shown:
    with av.open(io.BytesIO(data), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = [(f.pts, luma(f)) for f in container.decode(stream)]
        assert stream.time_base is not None
        times, pictures = zip(*frames, strict=True)
        return Shown(list(times), list(pictures), stream.time_base, container.format.name)


def luma(frame: av.VideoFrame) -> np.ndarray:
    """The first plane of a frame, whatever its format."""
    plane = frame.planes[0]
    return np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[:, : frame.width]


def reader(data: bytes) -> VideoReader:
    return VideoReader(EncodedVideo("id", "uri", data))


def read(video: VideoReader, wanted: Iterable[int]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    video.decode(list(wanted), lambda number, frame: found.update({number: luma(frame).copy()}))
    return found


def check_against_full_decode(data: bytes) -> Shown:
    shown = decode_fully(data)
    num_frames = len(shown.pictures)
    with reader(data) as video:
        assert video.num_frames == num_frames
        check_pictures(read(video, range(num_frames)), shown)
        times = [time * video.clock.time_base for time in video.clock.times]
    rng = random.Random(0)
    for _ in range(3):
        with reader(data) as video:
            wanted = sorted(rng.sample(range(num_frames), min(3, num_frames)))
            found = read(video, wanted)
            assert sorted(found) == wanted
            check_pictures(found, shown)
    stored = sorted({time for time in shown.times if time is not None})
    if shown.format not in FORMATS_WITHOUT_TIMES and len(stored) == num_frames:
        assert times == [(time - stored[0]) * shown.time_base for time in stored]
    assert all(first < second for first, second in pairwise(times))
    return shown


def check_pictures(found: dict[int, np.ndarray], shown: Shown) -> None:
    wrong = [n for n, each in found.items() if not np.array_equal(each, shown.pictures[n])]
    assert not wrong


def encode_source(encode: Encode, source: str, container: str, **changes: Any) -> bytes:
    size = {"width": 64, "height": 48}
    return encode(NUM_FRAMES, format=container, **(size | SOURCES[source] | changes))


@pytest.mark.parametrize(("source", "container"), WRITABLE, ids=lambda value: value)
def test_every_codec_and_container(source: str, container: str, encode_video: Encode) -> None:
    shown = check_against_full_decode(encode_source(encode_video, source, container))
    assert len(shown.pictures) == NUM_FRAMES


# ---- copies of packets that begin, end or have gaps where their encoder did not ----------------


def copy_packets(
    data: bytes, container: str, keep: Callable[[int], bool], *, dts_only: bool = False
) -> bytes:
    """Write the packets whose numbers `keep` accepts to another file.

    Args:
        dts_only: store the decoding time as the presentation time, as copies from AVI do.
    """
    with tempfile.NamedTemporaryFile() as file:
        with av.open(io.BytesIO(data)) as old, av.open(file.name, "w", format=container) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for number, packet in enumerate(old.demux(video=0)):
                if packet.size and keep(number):
                    packet.pts = packet.dts if dts_only else packet.pts
                    packet.stream = stream
                    new.mux(packet)
        return file.read()


DROPPED = {3, 4, 5, 22, 26}
CUTS: dict[str, Callable[[int], bool]] = {
    "starts between key frames": lambda number: number >= 5,
    "starts at a key frame": lambda number: number >= 10,
    "ends early": lambda number: number < 23,
    "gap of one": lambda number: number != 14,
    "gaps": lambda number: number not in DROPPED,
}
COPIED = [
    ("H.264", "matroska"), ("H.264", "mp4"), ("H.264, open GOPs", "matroska"),
    ("H.264, open GOPs", "mp4"), ("H.264, interlaced", "matroska"),
    ("H.264, intra refresh", "matroska"), ("H.265", "mp4"), ("H.265, open GOPs", "matroska"),
    ("H.265, RADL", "mpegts"), ("MPEG-4", "avi"), ("MPEG-4, B-frames", "avi"),
    ("MPEG-4, B-frames", "matroska"), ("MPEG-2, B-frames", "mpegts"),
    ("MPEG-2, closed GOPs", "mpegts"), ("MPEG-1, B-frames", "matroska"),
]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("source", "container"), COPIED, ids=lambda value: value)
def test_copies_of_some_packets(
    source: str, container: str, cut: str, encode_video: Encode
) -> None:
    whole = encode_source(encode_video, source, container)
    shown = check_against_full_decode(copy_packets(whole, container, CUTS[cut]))
    assert len(shown.pictures) < NUM_FRAMES


@pytest.mark.parametrize("source", ["H.264", "H.265", "MPEG-4, B-frames"])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_presentation_times_that_are_decoding_times(
    source: str, container: str, encode_video: Encode
) -> None:
    """A copy from a file without presentation times: the decoder alone knows the order."""
    whole = encode_source(encode_video, source, "mp4")
    copy = copy_packets(whole, container, lambda number: True, dts_only=True)
    # an edit list cuts those before 0
    assert len(check_against_full_decode(copy).pictures) >= NUM_FRAMES - 2


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
@pytest.mark.parametrize("source", ["H.264", "MPEG-4"])
def test_gaps_in_the_times(source: str, container: str, encode_video: Encode) -> None:
    """In AVI these are empty chunks: the file lists more packets than it has."""
    times = [3 * number + 5 * (number > 12) for number in range(NUM_FRAMES)]
    if source == "H.264" and container == "avi":
        pytest.skip("FFmpeg does not write it")
    shown = check_against_full_decode(encode_source(encode_video, source, container, times=times))
    assert len(shown.pictures) == NUM_FRAMES


TS_PACKET_BYTES = 188


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
@pytest.mark.parametrize(
    "source", ["H.264, open GOPs", "H.264, interlaced", "H.265, open GOPs", "MPEG-2, B-frames"]
)
def test_recordings_that_begin_anywhere(source: str, share: float, encode_video: Encode) -> None:
    """Also before the first parameter sets, and in the middle of a picture."""
    data = encode_source(encode_video, source, "mpegts")
    start = int(len(data) * share) // TS_PACKET_BYTES * TS_PACKET_BYTES
    assert len(check_against_full_decode(data[start:]).pictures) < NUM_FRAMES


@pytest.mark.parametrize("source", ["H.264", "H.265, open GOPs", "MPEG-2, B-frames", "MPEG-4"])
def test_joined_recordings(source: str, encode_video: Encode) -> None:
    """The times start again in the middle."""
    parts = [
        encode_source(encode_video, source, "mpegts", times=range(first, first + NUM_FRAMES))
        for first in (200, 100)
    ]
    assert len(check_against_full_decode(b"".join(parts)).pictures) == 2 * NUM_FRAMES


@pytest.mark.parametrize("cut", [8, 10, 13])
@pytest.mark.parametrize("source", ["H.264", "H.264, open GOPs", "H.265, open GOPs", "MPEG-4"])
def test_edit_lists_that_cut_the_start(source: str, cut: int, encode_video: Encode) -> None:
    times = range(-cut, NUM_FRAMES - cut)
    shown = check_against_full_decode(encode_source(encode_video, source, "mp4", times=times))
    assert len(shown.pictures) == NUM_FRAMES - cut


@pytest.mark.parametrize(
    "edits",
    [[(12, 0), (10, 4)], [(10, 10), (10, 0)], [(8, 0), (8, 20)], [(5, None), (30, 0)], [(9, 3)]],
    ids=["repeated", "exchanged", "a part left out", "late", "both ends cut"],
)
@pytest.mark.parametrize("source", ["H.264", "MPEG-4", "H.265, open GOPs"])
def test_edit_lists(source: str, edits: list[tuple[int, int | None]], encode_video: Encode) -> None:
    """Each edit is a number of frames and the first of them, or None for a pause."""
    data = encode_source(encode_video, source, "mp4")
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        assert stream.time_base is not None
        times = sorted(p.pts for p in file.demux(stream) if p.size and p.pts is not None)
        per_frame = times[1] - times[0]
    kind = data.index(b"elst")
    start = kind - 12  # of edts, which holds it alone
    stop = start + int.from_bytes(data[start : start + 4], "big")
    offset = int.from_bytes(data[kind + 16 : kind + 20], "big")
    rows = [
        struct.pack(">Iihh", 40 * n, -1 if first is None else offset + per_frame * first, 1, 0)
        for n, first in edits
    ]
    elst = box(b"elst", struct.pack(">II", 0, len(rows)) + b"".join(rows))
    edts = box(b"edts", elst)
    changed = bytearray(data[:start] + edts + data[stop:])
    for parent in (b"moov", b"trak"):
        at = changed.index(parent) - 4
        size = int.from_bytes(changed[at : at + 4], "big") + len(edts) - (stop - start)
        changed[at : at + 4] = size.to_bytes(4, "big")
    check_against_full_decode(bytes(changed))


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


# ---- packets that are not one picture ----------------------------------------------------------


@pytest.mark.parametrize("container", ["avi", "mp4", "matroska"])
def test_packed_b_frames(container: str, encode_video: Encode) -> None:
    """DivX and Xvid write a P-VOP and the B-VOP before it in one packet, and a filler after it."""
    whole = encode_source(encode_video, "MPEG-4, B-frames", "avi")
    with tempfile.NamedTemporaryFile() as file:
        with av.open(io.BytesIO(whole)) as old, av.open(file.name, "w", format=container) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            packets = pack([bytes(packet) for packet in old.demux(video=0) if packet.size])
            vop = packets[0].index(b"\0\0\1\xb6")
            packets[0] = packets[0][:vop] + b"\0\0\1\xb2DivX503b1393p" + packets[0][vop:]
            for number, data in enumerate(packets):
                packet = av.Packet(data)
                packet.pts = packet.dts = number
                packet.duration, packet.time_base = 1, Fraction(1, 25)
                packet.stream, packet.is_keyframe = stream, vop_type(data) == 0
                new.mux(packet)
        packed = file.read()
    shown = check_against_full_decode(packed)
    assert len(shown.pictures) == len(decode_fully(whole).pictures)


FILLER = b"\0\0\1\xb6" + bytes([0b01_0_1_0000, 0b0_1_0_01111])
"""A P-VOP that is not coded: type, seconds, marker, 5 bits of time (1/25 s), marker, flag."""


def pack(packets: list[bytes]) -> list[bytes]:
    """Put the first B-VOP after each P-VOP into its packet."""
    packed: list[bytes] = []
    for data in packets:
        kinds = [vop_type(each) for each in packed[-1:]]
        if vop_type(data) == 2 and kinds == [1]:
            packed[-1] += data
            packed.append(FILLER)
        else:
            packed.append(data)
    return packed


def vop_type(packet: bytes) -> int:
    """0 to 2 for I, P, B; -1 for two VOPs or a filler."""
    if packet == FILLER or packet.count(b"\0\0\1\xb6") != 1:
        return -1
    return packet[packet.index(b"\0\0\1\xb6") + 4] >> 6


class BitWriter:
    def __init__(self) -> None:
        self.bits = ""

    def put(self, value: int, count: int) -> BitWriter:
        self.bits += f"{value:0{count}b}"
        return self

    def golomb(self, *values: int) -> BitWriter:
        for value in values:
            code = f"{value + 1:b}"
            self.bits += "0" * (len(code) - 1) + code
        return self

    def align(self) -> BitWriter:
        self.bits += "0" * (-len(self.bits) % 8)
        return self

    def end(self) -> bytes:
        self.bits += "1"
        self.align()
        return int(self.bits, 2).to_bytes(len(self.bits) // 8, "big")


def fields_of_h264(num_frames: int) -> tuple[list[bytes], list[bytes]]:
    """Parameter sets and fields of a video of 32×32 pixels, two I_PCM macroblocks a field."""
    sequence = BitWriter().put(77, 8).put(0, 8).put(30, 8).golomb(0, 0, 2, 1).put(0, 1)
    sequence.golomb(1, 0).put(0, 1).put(0, 1).put(1, 1).put(0, 1).put(0, 1)
    pictures = BitWriter().golomb(0, 0).put(0, 2).golomb(0, 0, 0).put(0, 3).golomb(0, 0, 0)
    pictures.put(1, 1).put(0, 2)
    fields = []
    for number in range(num_frames):
        for parity in range(2):
            is_idr = number == parity == 0
            bits = BitWriter().golomb(0, 7, 0).put(number % 16, 4).put(1, 1).put(parity, 1)
            bits = bits.golomb(0).put(0, 2) if is_idr else bits.put(0, 1)
            bits.golomb(0, 1)
            for _ in range(2):
                bits.golomb(25).align()
                for value in [20 + 5 * number] * 256 + [128] * 128:
                    bits.put(value, 8)
            fields.append(unit(0x65 if is_idr else 0x61, bits))
    return [unit(0x67, sequence), unit(0x68, pictures)], fields


def unit(header: int, bits: BitWriter) -> bytes:
    return b"\0\0\0\1" + bytes([header]) + bits.end()


@pytest.mark.parametrize("per_packet", [1, 2])
@pytest.mark.parametrize("container", ["h264", "mpegts", "matroska", "mp4"])
def test_two_fields_are_one_frame(container: str, per_packet: int) -> None:
    parameters, fields = fields_of_h264(8)
    raw = b"".join(parameters + fields)
    if container == "h264":
        data = raw
    else:
        packets = [b"".join(fields[i : i + per_packet]) for i in range(0, 16, per_packet)]
        packets[0] = b"".join(parameters) + packets[0]
        data = write_packets(raw, packets, container, Fraction(per_packet, 50))
    shown = check_against_full_decode(data)
    assert [int(picture[0, 0]) for picture in shown.pictures] == [20 + 5 * i for i in range(8)]


def write_packets(raw: bytes, packets: list[bytes], container: str, step: Fraction) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        with av.open(io.BytesIO(raw)) as old, av.open(file.name, "w", format=container) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for number, data in enumerate(packets):
                packet = av.Packet(data)
                packet.pts = packet.dts = number
                packet.duration, packet.time_base, packet.stream = 1, step, stream
                packet.is_keyframe = number == 0
                new.mux(packet)
        return file.read()


# ---- what it costs -----------------------------------------------------------------------------

BY_HEADERS = [
    ("H.264", "mpegts"), ("H.264, open GOPs", "matroska"), ("H.264, interlaced", "mpegts"),
    ("H.265, open GOPs", "matroska"), ("MPEG-4, B-frames", "avi"), ("MPEG-2, B-frames", "mpegts"),
    ("VP8", "webm"), ("VP9", "webm"), ("AV1", "mp4"), ("motion JPEG", "avi"), ("FFV1", "matroska"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "container"), BY_HEADERS, ids=lambda value: value)
def test_headers_show_the_frames_of_usual_files(
    source: str, container: str, encode_video: Encode
) -> None:
    data = encode_source(encode_video, source, container)
    with av.open(io.BytesIO(data)) as file:
        context = file.streams.video[0].codec_context
        headers = open_headers(context.codec.canonical_name, context.extradata or b"")
        packets = [packet for packet in file.demux(video=0) if packet.size]
        found = [headers.read(bytes(packet), packet.is_keyframe) for packet in packets]
        headers.finish()
    shown = find_shown(found, [packet.pts for packet in packets], [False] * len(packets))
    assert sorted(shown) == sorted(decode_fully(data).times)


def test_a_video_is_counted_once(encode_video: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_source(encode_video, "Cinepak", "avi")
    opened: list[Any] = []
    original = av.open
    monkeypatch.setattr(decode.av, "open", lambda *a, **k: opened.append(a) or original(*a, **k))
    for expected in (2, 1, 1):  # once to open it, and once to count its pictures
        with VideoReader(EncodedVideo("counted", "counted.avi", data)) as video:
            assert video.num_frames == NUM_FRAMES
        assert len(opened) == expected
        opened.clear()


# ---- real videos --------------------------------------------------------------------------------

REAL_VIDEOS = os.environ.get("CTP_REAL_VIDEOS")


@pytest.mark.skipif(REAL_VIDEOS is None, reason="CTP_REAL_VIDEOS names no folder of real videos")
def test_real_videos_have_the_frames_of_a_full_decode() -> None:
    folder = Path(str(REAL_VIDEOS))
    suffixes = {".mp4", ".avi", ".mkv", ".webm", ".ts"}
    paths = [
        path
        for root in (folder / "clips", folder.parent / "cases")
        for path in sorted(root.rglob("*"))
        # files that other tests are about
        if path.suffix in suffixes and not path.name.startswith("._") and "damaged" not in str(path)
    ]
    assert paths
    for path in paths:
        data = path.read_bytes()
        with reader(data) as video:
            assert video.num_frames == len(decode_fully(data).pictures), path
