"""From a source to a row: the frames show their numbers, and the boxes are known."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctp.build.config import TranscodeConfig
from ctp.build.convert import convert
from ctp.build.layouts import FrameFolder, FrameZip, Source
from ctp.data.catalog import VideoEntry
from ctp.data.shards import ShardRow
from ctp.rng import generator
from ctp.storage import Storage
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.limits import DecodingLimits

Encode = Callable[..., bytes]
Paint = Callable[..., np.ndarray]
ReadNumbers = Callable[[np.ndarray], list[int]]

CONFIG = TranscodeConfig(short_side_px=32)
RATE = Fraction(12)


def frames_of(row: ShardRow) -> np.ndarray:
    with VideoReader(EncodedVideo(row.id, "", row.data)) as reader:
        return reader.read(range(reader.num_frames), short_side_px=row.height)


@pytest.fixture
def jpeg(paint_number: Paint) -> Callable[..., bytes]:
    """`jpeg(number, ...)`: a picture file that shows a number."""

    def make(number: int, **size: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(paint_number(number, **size)).save(file, "JPEG")
        return file.getvalue()

    return make


@pytest.fixture(params=["local", "s3"])
def sequence(request: pytest.FixtureRequest, tmp_path: Path, jpeg: Callable[..., bytes]) -> Storage:
    """Twelve pictures of 96x64 with GOT-10k's annotations."""
    local = request.param == "local"
    uri = str(tmp_path) if local else request.getfixturevalue("s3_bucket")
    place = Storage.from_uri(uri).join("GOT-10k_Train_000001")
    for number in range(12):
        place.join(f"{number + 1:08d}.jpg").write_bytes(jpeg(number))
    lines = (f"{number},10.5,30,20\n" for number in range(12))
    place.join("groundtruth.txt").write_bytes("".join(lines).encode())
    place.join("absence.label").write_bytes(b"0\n" * 11 + b"1\n")
    place.join("cover.label").write_bytes(b"8\n" * 11 + b"0\n")
    place.join("meta_info.ini").write_bytes(b"[METAINFO]\nobject_class: fish\n")
    return place


def tracked(place: Storage) -> Source:
    return Source("seq", FrameFolder(place.uri, RATE, has_boxes=True))


def test_a_video_is_transcoded(
    tmp_path: Path, encode_video: Encode, read_numbers: ReadNumbers
) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(encode_video(20, format="avi", codec="mpeg4"))
    entry = VideoEntry("run/a.avi", str(path), "run")
    row = convert(Source("run/a.avi", entry, "run"), CONFIG)
    assert (row.id, row.label, row.num_frames, row.rate) == ("run/a.avi", "run", 20, 25.0)
    assert (row.width, row.height) == (48, 32)
    assert read_numbers(frames_of(row)) == list(range(20))
    assert row.boxes is row.absence is row.cover is None


def test_without_transcoding_the_bytes_are_kept(tmp_path: Path, encode_video: Encode) -> None:
    data = encode_video(20, rotation=90)
    (tmp_path / "a.mp4").write_bytes(data)
    row = convert(Source("a", VideoEntry("a", str(tmp_path / "a.mp4"))), None)
    assert row.data == data
    assert (row.num_frames, row.rate, row.width, row.height) == (20, 25.0, 64, 96)


def test_boxes_are_scaled_with_the_pictures(sequence: Storage, read_numbers: ReadNumbers) -> None:
    row = convert(tracked(sequence), CONFIG)
    assert (row.num_frames, row.rate, row.width, row.height) == (12, 12.0, 48, 32)
    assert read_numbers(frames_of(row)) == list(range(12))
    # half the size; left 6, top 10.5, width 30, height 20 is (6, 10.5) to (36, 30.5)
    assert row.boxes is not None
    assert row.boxes.dtype == np.float32
    assert row.boxes[6].tolist() == [3, 5.25, 18, 15.25]
    assert row.boxes.shape == (12, 4)
    assert row.absence is not None
    assert row.absence.tolist() == [0] * 11 + [1]
    assert row.cover is not None
    assert row.cover.tolist() == [8] * 11 + [0]
    assert row.label == "fish"


def test_a_test_sequence_has_one_box(sequence: Storage) -> None:
    sequence.join("groundtruth.txt").write_bytes(b"2,4,6,8\n")
    row = convert(tracked(sequence), CONFIG)
    assert row.boxes is not None
    assert row.boxes.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("groundtruth.txt", b"1,2,3,4\n" * 11, "11 boxes for 12 frames"),
        ("groundtruth.txt", b"1,2,3\n" * 12, r"groundtruth\.txt: expected lines of left,top"),
        ("cover.label", b"1\n" * 13, "13 labels of frames for 12 frames"),
        ("absence.label", b"no\n" * 12, r"absence\.label: expected an 8-bit number"),
        ("00000003.jpg", b"this is text", "a frame cannot be decoded"),
        ("00000003.jpg", b"", "is empty"),
    ],
)
def test_annotations_that_do_not_fit_are_a_video_error(
    name: str, data: bytes, reason: str, sequence: Storage
) -> None:
    sequence.join(name).write_bytes(data)
    with pytest.raises(VideoError, match=reason) as caught:
        convert(tracked(sequence), CONFIG)
    assert caught.value.video_id == "seq"


def test_frames_of_a_folder_in_the_order_of_their_numbers(
    tmp_path: Path, jpeg: Callable[..., bytes], read_numbers: ReadNumbers
) -> None:
    for number in range(12):
        (tmp_path / f"img_{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "notes.txt").write_text("no picture")
    row = convert(Source("a", FrameFolder(str(tmp_path), RATE), "run"), CONFIG)
    assert read_numbers(frames_of(row)) == list(range(12))
    assert (row.label, row.boxes) == ("run", None)


def test_a_folder_without_frames_is_a_video_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"has no frames; looked for \.jpg"):
        convert(Source("a", FrameFolder(str(tmp_path), RATE)), CONFIG)


def test_frames_of_two_sizes_are_a_video_error(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number, width=96 + 2 * number))
    with pytest.raises(VideoError, match="has frames of different sizes"):
        convert(Source("a", FrameFolder(str(tmp_path), RATE)), CONFIG)


def test_frames_of_a_zip(
    tmp_path: Path, jpeg: Callable[..., bytes], read_numbers: ReadNumbers
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("list.txt", "no picture")
        for number in (11, 3, 0, *range(4, 11), 1, 2):
            file.writestr(f"frames/{number}.jpg", jpeg(number))
    row = convert(Source("a", FrameZip(str(path), RATE)), CONFIG)
    assert read_numbers(frames_of(row)) == list(range(12))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(VideoError, match="is a damaged ZIP"):
        convert(Source("a", FrameZip(str(path), RATE)), CONFIG)


def test_hidden_names_are_no_frames(
    sequence: Storage, jpeg: Callable[..., bytes], read_numbers: ReadNumbers, tmp_path: Path
) -> None:
    for number in range(12):
        sequence.join(f"._{number + 1:08d}.jpg").write_bytes(b"Mac OS X")
    sequence.join("._groundtruth.txt").write_bytes(b"Mac OS X")
    sequence.join("groundtruth.txt").write_bytes(
        b"\xef\xbb\xbf" + sequence.join("groundtruth.txt").read_bytes()
    )
    row = convert(tracked(sequence), CONFIG)
    assert read_numbers(frames_of(row)) == list(range(12))
    assert row.boxes is not None
    assert row.boxes[6].tolist() == [3, 5.25, 18, 15.25]
    path = tmp_path / "mac.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(12):
            file.writestr(f"v/{number:05d}.jpg", jpeg(number))
            file.writestr(f"__MACOSX/v/._{number:05d}.jpg", b"Mac OS X")
    row = convert(Source("a", FrameZip(str(path), RATE)), CONFIG)
    assert read_numbers(frames_of(row)) == list(range(12))


def test_frames_behind_a_loop_of_links(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "latest").symlink_to(".")
    (tmp_path / "current").symlink_to(".")
    assert convert(Source("a", FrameFolder(str(tmp_path), RATE)), CONFIG).num_frames == 3


def zip_of(path: Path, pictures: Mapping[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", packing) as file:
        for name, data in pictures.items():
            file.writestr(name, data)


def peak_mib(source: Source) -> float:
    """Convert a source that is refused; return the memory that this took."""
    tracemalloc.start()
    try:
        with pytest.raises(VideoError):
            convert(source, CONFIG)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ({f"{i}.jpg": bytes(60 * 2**20) for i in range(2)}, "unpacks to 125829120 bytes"),
        ({"0.jpg": bytes(70 * 2**20)}, r"0\.jpg of 73400320 bytes, expected at most 67108864"),
    ],
)
def test_a_zip_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(
    pictures: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.zip"
    zip_of(path, pictures)
    source = Source("a", FrameZip(str(path), RATE))
    with pytest.raises(VideoError, match=reason):
        convert(source, CONFIG)
    assert peak_mib(source) < 4


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "liar.zip"
    zip_of(path, {"0.jpg": bytes(50 * 2**20)})
    data = path.read_bytes()
    assert data.count(struct.pack("<I", 50 * 2**20)) == 2
    path.write_bytes(data.replace(struct.pack("<I", 50 * 2**20), struct.pack("<I", 1000)))
    source = Source("a", FrameZip(str(path), RATE))
    with pytest.raises(VideoError, match="damaged ZIP"):
        convert(source, CONFIG)
    assert peak_mib(source) < 4


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_another_packing_is_refused(packing: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    zip_of(path, {"0.jpg": bytes(1000)}, packing)
    with pytest.raises(VideoError, match="expected stored or deflated"):
        convert(Source("a", FrameZip(str(path), RATE)), CONFIG)


def test_a_long_video_of_frames_is_unpacked_one_by_one(
    tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    path = tmp_path / "long.zip"
    padding = generator(0, "padding").bytes(2**20)
    zip_of(path, {f"{i:03d}.jpg": jpeg(i) + padding for i in range(24)}, zipfile.ZIP_STORED)
    tracemalloc.start()
    row = convert(Source("a", FrameZip(str(path), RATE)), CONFIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row.num_frames == 24
    assert peak < path.stat().st_size + 8 * 2**20


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("L", (9000, 9000)).save(tmp_path / "0.png")
    with pytest.raises(VideoError, match="9000x9000 pixels"):
        convert(Source("a", FrameFolder(str(tmp_path), RATE)), CONFIG)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_zip_is_a_video_error_or_gives_a_row(
    seed: int, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    path = tmp_path / "a.zip"
    zip_of(path, {f"{i}.jpg": jpeg(i) for i in range(2)})
    data, rng = bytearray(path.read_bytes()), generator(seed, "zip")
    start = len(data) - 250 if seed % 2 else 0  # the directory is at the end
    for place in rng.integers(start, len(data), 3):
        data[place] = rng.integers(256)
    path.write_bytes(data)
    with suppress(VideoError):
        convert(Source("a", FrameZip(str(path), RATE)), CONFIG)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file of this size whose pixels are missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    pixels = struct.pack(">I", 100) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + pixels


def zip_source(path: Path, *pictures: bytes) -> Source:
    with zipfile.ZipFile(path, "w") as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(f"{number}.png", picture)
    return Source("the-id", FrameZip(str(path), RATE))


@pytest.mark.parametrize("size", [(7000, 6000), (16000, 16000), (40000, 30000)])
def test_pictures_with_too_many_pixels_are_a_video_error(
    size: tuple[int, int], tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    source = zip_source(tmp_path / "a.zip", jpeg(0), png_header(*size))
    with pytest.raises(VideoError, match=rf"{size[0]}x{size[1]}.*36.*data\.max_megapixels"):
        convert(source, CONFIG)


def test_a_larger_limit_accepts_larger_pictures(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    source = zip_source(tmp_path / "a.zip", jpeg(0), jpeg(1))  # 96x64
    assert convert(source, CONFIG, limits=DecodingLimits(0.0062)).num_frames == 2
    with pytest.raises(VideoError, match=r"96x64.*at most 0\.0061 "):
        convert(source, CONFIG, limits=DecodingLimits(0.0061))


DAMAGED_PICTURES = {
    "empty": b"",
    "text": b"text",
    "no pixels": png_header(10, 10),
    "no width": png_header(0, 10),
    "TIFF": b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\x01" * 99,
    "GIF": b"GIF89a\x01\x00",
    "BMP": b"BM" + b"\xff" * 60,
    "WebP": b"RIFF\xff\xff\xff\xffWEBPVP8 \x00\x00",
}


@pytest.mark.parametrize("kind", DAMAGED_PICTURES)
def test_damaged_pictures_are_a_video_error(
    kind: str, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    source = zip_source(tmp_path / "a.zip", jpeg(0), DAMAGED_PICTURES[kind])
    with pytest.raises(VideoError, match="a frame cannot be decoded"):
        convert(source, CONFIG)


def test_a_video_with_too_many_pixels_is_a_video_error(
    tmp_path: Path, encode_video: Encode
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(encode_video(3))
    for config in (CONFIG, None):
        source = Source("the-id", VideoEntry("the-id", str(path)))
        with pytest.raises(VideoError, match=r"96x64.*data\.max_megapixels"):
            convert(source, config, limits=DecodingLimits(0.006))


def test_a_video_that_is_too_long_for_a_shard_is_a_video_error(
    tmp_path: Path, encode_video: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctp.build.convert.MAX_VIDEO_BYTES", 99)
    (tmp_path / "a.mp4").write_bytes(encode_video(20))
    with pytest.raises(VideoError, match="expected at most 99"):
        convert(Source("a", VideoEntry("a", str(tmp_path / "a.mp4"))), None)


def test_a_missing_file_is_a_video_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be read"):
        convert(Source("a", VideoEntry("a", str(tmp_path / "a.mp4"))), CONFIG)
