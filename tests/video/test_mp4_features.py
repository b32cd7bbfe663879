"""Both ways to read an MP4 file, with and without FFmpeg's demuxer, give the same pictures."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.bitstream import BitStreamFilterContext

from ctp.video import decode
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.mp4 import read_sample_table
from ctp.video.planes import Crop, to_rgb

Encode = Callable[..., bytes]

VISUAL_ENTRY = 8 + 78
"""Bytes of an entry of `stsd` before its boxes; `stsd` itself has 8 before its entries."""
PARENTS = {
    "avc1": ("moov", "trak", "mdia", "minf", "stbl", "stsd", "avc1"),
    "stsd": ("moov", "trak", "mdia", "minf", "stbl", "stsd"),
    "stbl": ("moov", "trak", "mdia", "minf", "stbl"),
    "minf": ("moov", "trak", "mdia", "minf"),
    "trak": ("moov", "trak"),
    "moov": ("moov",),
}
QUARTER_TURN = (0, 1, 0, -1, 0, 0, 0, 0, 1 << 14)
MIRROR = (-1, 0, 0, 0, 1, 0, 0, 0, 1 << 14)


def box(kind: str, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind.encode() + content


def find_boxes(data: bytes, path: tuple[str, ...]) -> list[int]:
    """The positions of the boxes along a path, in a file whose only track is video."""
    positions = []
    start, stop = 0, len(data)
    for kind in path:
        at = start
        while data[at + 4 : at + 8] != kind.encode():
            assert at < stop, kind
            at += int.from_bytes(data[at : at + 4], "big")
        positions.append(at)
        stop = at + int.from_bytes(data[at : at + 4], "big")
        start = at + {"stsd": 16, "avc1": VISUAL_ENTRY}.get(kind, 8)
    return positions


def add(data: bytes, parent: str, content: bytes) -> bytes:
    """Add bytes at the end of a box; the index must be at the file's end."""
    positions = find_boxes(data, PARENTS[parent])
    at = positions[-1] + int.from_bytes(data[positions[-1] : positions[-1] + 4], "big")
    changed = bytearray(data[:at] + content + data[at:])
    for position in positions:
        size = int.from_bytes(changed[position : position + 4], "big") + len(content)
        changed[position : position + 4] = size.to_bytes(4, "big")
    return bytes(changed)


def set_matrix(data: bytes, header: str, matrix: tuple[int, ...]) -> bytes:
    """Set the matrix of `mvhd` or `tkhd`, in units of 1/65536 (its last column: 1/2^30)."""
    start = data.index(header.encode()) + 4 + {"mvhd": 36, "tkhd": 40}[header]
    return data[:start] + struct.pack(">9i", *(each << 16 for each in matrix)) + data[start + 36 :]


def colr(kind: str, *numbers: int, is_full: bool | None = None) -> bytes:
    range_byte = b"" if is_full is None else bytes([is_full << 7])
    return box("colr", kind.encode() + struct.pack(">3H", *numbers) + range_byte)


def second_description(data: bytes) -> bytes:
    entry = find_boxes(data, PARENTS["avc1"])[-1]
    size = int.from_bytes(data[entry : entry + 4], "big")
    changed = bytearray(add(data, "stsd", data[entry : entry + size]))
    changed[entry - 4 : entry] = (2).to_bytes(4, "big")
    return bytes(changed)


def rename_description(data: bytes) -> bytes:
    name = find_boxes(data, PARENTS["avc1"])[-1] + 4
    return data[:name] + b"avc3" + data[name + 4 :]


def external(data: bytes) -> bytes:
    at = data.index(b"url ") + 7
    return data[:at] + b"\0" + data[at + 1 :]


def with_sei(data: bytes, rotation: int, packets: set[int]) -> bytes:
    """Put an orientation message before the pictures of these packets."""
    options = f"h264_metadata=display_orientation=insert:rotate={rotation}"
    with tempfile.NamedTemporaryFile() as file:
        with av.open(io.BytesIO(data)) as old, av.open(file.name, "w", format="mp4") as new:
            source = old.streams.video[0]
            stream = new.add_stream_from_template(source)
            turn = BitStreamFilterContext(options, source)
            for number, packet in enumerate(old.demux(source)):
                if not packet.size:
                    continue
                for each in turn.filter(packet) if number in packets else [packet]:
                    each.stream = stream
                    new.mux(each)
        return file.read()


FEATURES: dict[str, tuple[bool, Callable[[bytes], bytes]]] = {
    "none": (True, lambda data: data),
    "colr, BT.709": (True, lambda d: add(d, "avc1", colr("nclx", 1, 1, 1, is_full=False))),
    "colr, full range": (True, lambda d: add(d, "avc1", colr("nclx", 5, 6, 5, is_full=True))),
    "colr, BT.2020": (True, lambda d: add(d, "avc1", colr("nclx", 9, 16, 9, is_full=False))),
    "colr, QuickTime": (True, lambda d: add(d, "avc1", colr("nclc", 1, 1, 1))),
    "colr, RGB": (False, lambda d: add(d, "avc1", colr("nclx", 1, 13, 0, is_full=True))),
    "colr, profile": (False, lambda d: add(d, "avc1", box("colr", b"prof" + bytes(128)))),
    "two colr": (False, lambda d: add(d, "avc1", 2 * colr("nclx", 1, 1, 1, is_full=True))),
    "pasp": (True, lambda d: add(d, "avc1", box("pasp", struct.pack(">2I", 4, 3)))),
    "clap": (
        False,
        lambda d: add(d, "avc1", box("clap", struct.pack(">8I", 32, 1, 32, 1, 0, 1, 0, 1))),
    ),
    "fiel": (True, lambda d: add(d, "avc1", box("fiel", b"\1\0"))),
    "an unknown box in the description": (False, lambda d: add(d, "avc1", box("zzzz", bytes(8)))),
    "an unknown box in the tables": (False, lambda d: add(d, "stbl", box("zzzz", bytes(8)))),
    "an unknown box in the track": (False, lambda d: add(d, "trak", box("zzzz", bytes(8)))),
    "an unknown box in the movie": (False, lambda d: add(d, "moov", box("zzzz", bytes(8)))),
    "an unknown box in the file": (False, lambda d: d + box("zzzz", bytes(8))),
    "turned movie": (False, lambda d: set_matrix(d, "mvhd", QUARTER_TURN)),
    "mirrored movie": (False, lambda d: set_matrix(d, "mvhd", MIRROR)),
    "turned track": (False, lambda d: set_matrix(d, "tkhd", QUARTER_TURN)),
    "turned track in a mirrored movie": (
        False,
        lambda d: set_matrix(set_matrix(d, "tkhd", QUARTER_TURN), "mvhd", MIRROR),
    ),
    "orientation of all pictures": (False, lambda d: with_sei(d, 90, set(range(40)))),
    "orientation of the first picture": (False, lambda d: with_sei(d, 180, {0})),
    "orientation of a later picture": (False, lambda d: with_sei(d, 180, {20})),
    "two descriptions": (False, second_description),
    "parameters in the packets": (False, rename_description),
    "packets in another file": (False, external),
    "groups of packets": (
        False,
        lambda d: add(d, "stbl", box("sbgp", bytes(4) + b"rap " + bytes(4))),
    ),
}


def pictures(data: bytes) -> list[np.ndarray]:
    """All frames, both ways of reading them."""
    with VideoReader(EncodedVideo("id", "uri", data)) as reader:
        numbers = range(reader.num_frames)
        whole = reader.read(numbers, short_side_px=64)
        square = reader.read_square(numbers, Crop(1, x=0.5, y=0.5, flip=False), 64)
        return [whole, to_rgb(torch.from_numpy(square), 64).numpy()]


@pytest.fixture(scope="module")
def plain(encode_video: Encode) -> bytes:
    """No colours in the stream, and the index at the end."""
    return encode_video(24, options={"g": "10", "bf": "2"})


@pytest.mark.parametrize("feature", FEATURES)
def test_both_ways_show_the_same(
    feature: str, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_read_here, change = FEATURES[feature]
    data = change(plain)
    assert (read_sample_table(data) is not None) == is_read_here
    shown = pictures(data)
    monkeypatch.setattr(decode, "read_sample_table", lambda data: None)
    for picture, expected in zip(shown, pictures(data), strict=True):
        np.testing.assert_array_equal(picture, expected)


def as_matroska(data: bytes) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        with av.open(io.BytesIO(data)) as old, av.open(file.name, "w", format="matroska") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    new.mux(packet)
        return file.read()


@pytest.mark.parametrize("feature", [name for name in FEATURES if "colr, " in name])
def test_colours_are_those_of_a_matroska_file(feature: str, coloured: bytes) -> None:
    data = FEATURES[feature][1](coloured)
    for picture, expected in zip(pictures(data), pictures(as_matroska(data)), strict=True):
        assert np.abs(picture.astype(int) - expected).max() <= 5


def test_the_matrix_in_colr_is_used(coloured: bytes) -> None:
    """Red as in BT.601: decoded as BT.709, it is another colour."""
    red = [pictures(FEATURES[name][1](coloured))[0][0] for name in ("none", "colr, BT.709")]
    assert np.abs(red[0].astype(int) - (220, 30, 30)).max() < 8
    assert np.abs(red[0].astype(int) - red[1]).max() > 12


@pytest.fixture(scope="module")
def coloured() -> bytes:
    """Red frames, whose colours only the file describes."""
    picture = np.full((48, 64, 3), (220, 30, 30), np.uint8)
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(6):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file.read()


def test_the_movie_turns_like_the_track(plain: bytes) -> None:
    movie, track = (pictures(FEATURES[f"turned {name}"][1](plain)) for name in ("movie", "track"))
    assert movie[0].shape == (24, 96, 64, 3)
    for first, second in zip(movie, track, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("feature", "quarter_turns"), [("first", 2), ("all", 1), ("later", 0)], ids=["1", "all", "20"]
)
def test_messages_turn_all_pictures_or_none(feature: str, quarter_turns: int, plain: bytes) -> None:
    """The first picture decides, wherever a clip begins."""
    pictures_of = {"first": "the first picture", "all": "all pictures", "later": "a later picture"}
    data = FEATURES[f"orientation of {pictures_of[feature]}"][1](plain)
    upright = pictures(plain)[0]
    turned = np.rot90(upright, quarter_turns, axes=(1, 2))
    np.testing.assert_array_equal(pictures(data)[0], turned)
    with VideoReader(EncodedVideo("id", "uri", data)) as reader:
        np.testing.assert_array_equal(reader.read([21], short_side_px=64)[0], turned[21])
