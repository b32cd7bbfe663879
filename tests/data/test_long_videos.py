"""Long videos: a clip costs the bytes of its frames, and is the same as that of the whole file."""

from __future__ import annotations

import io
import os
import signal
import struct
import tarfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctp.data import catalog
from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.reading import VideoOpener
from ctp.data.sources import open_catalog
from ctp.data.time_limit import time_limit
from ctp.storage import BYTES_READ, Storage, StorageError
from ctp.video import index_cache
from ctp.video.decode import VideoReader
from ctp.video.encoded import VideoError
from ctp.video.index_cache import IndicesInMemory

Encode = Callable[..., bytes]

GOPS = {"g": "10", "bf": "2", "sc_threshold": "0"}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"options": GOPS},
    "index first": {"options": GOPS, "format_options": {"movflags": "faststart"}},
    "H.265": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=10:open-gop=1:log-level=none"},
    },
    "key frames": {"codec": "mpeg4", "options": {"g": "1"}},
    "fragments": {"options": GOPS, "format_options": {"movflags": "frag_keyframe+empty_moov"}},
    "fragments with an index": {
        "options": GOPS,
        "format_options": {"movflags": "dash+global_sidx"},
    },
    "edit list": {"options": GOPS, "times": range(-20, 40)},
    "turned": {"options": GOPS, "rotation": 90},
    "MPEG-4": {"codec": "mpeg4", "options": {"g": "10"}},
    "Matroska": {"format": "matroska", "options": GOPS},
    "Matroska without an index": {
        "format": "matroska",
        "options": GOPS,
        "format_options": {"live": "1"},
    },
    "WebM": {"format": "webm", "codec": "libvpx-vp9", "options": {"g": "10", "cpu-used": "8"}},
    "counted by decoding": {"format": "mov", "codec": "jpeg2000"},
    "an AVI file with a wrong name": {"format": "avi", "options": GOPS},
}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as another process, whose memory holds no index."""
    monkeypatch.setattr(index_cache, "IN_MEMORY", IndicesInMemory())


@pytest.fixture
def every_file_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "LONG_BYTES", 1)


def outcome(entry: VideoEntry, wanted: list[int], *, is_long: bool) -> Any:
    """The number of frames and some of them, or the reason why there are none."""
    try:
        if not is_long:
            with VideoReader(entry.read()) as reader:
                return reader.num_frames, frames_of(reader, wanted)
        with VideoOpener().open(entry) as reader:
            return reader.num_frames, frames_of(reader, wanted)
    except VideoError as error:
        return error.reason


def frames_of(reader: VideoReader, wanted: list[int]) -> list[tuple[int, bytes]]:
    numbers = sorted({number % reader.num_frames for number in wanted})
    found: dict[int, bytes] = {}
    reader.decode(numbers, lambda i, frame: found.update({i: frame.to_ndarray().tobytes()}))
    return list(found.items())


def check_same_outcome(path: Path, data: bytes, rng: np.random.Generator) -> Any:
    """Check that a file has the same outcome in parts, before and after it was indexed."""
    path.write_bytes(data)
    entry = VideoEntry(path.name, str(path))
    for _ in range(2):
        wanted = rng.integers(1000, size=4).tolist()
        whole = outcome(entry, wanted, is_long=False)
        assert outcome(entry, wanted, is_long=True) == whole
    return whole


@pytest.mark.usefixtures("every_file_is_long")
@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_faults_are_those_of_the_whole_file(
    kind: str, tmp_path: Path, encode_video: Encode
) -> None:
    data, rng = encode_video(60, **KINDS[kind]), np.random.default_rng(0)
    name = "v.mkv" if KINDS[kind].get("format", "mp4") in {"matroska", "webm"} else "v.mp4"
    num_frames, _ = check_same_outcome(tmp_path / name, data, rng)
    assert num_frames > 20
    for share in (0.2, 0.8, 0.97, 0.999):
        check_same_outcome(tmp_path / name, data[: int(share * len(data))], rng)
    for _ in range(12):
        damaged = bytearray(data)
        at = int(rng.integers(len(data) - 8))
        damaged[at : at + 8] = rng.bytes(8)
        check_same_outcome(tmp_path / name, bytes(damaged), rng)


@pytest.fixture(scope="module")
def film(encode_video: Encode) -> bytes:
    """A file of more than 16 MiB whose 300 frames take about 1 MB: the rest is skipped.

    The packets of the last 100 frames are behind the padding.
    """
    data = encode_video(300, width=320, height=240, options={"g": "30"})
    return pad(data, 20 * 2**20)


def pad(data: bytes, num_bytes: int) -> bytes:
    """Insert bytes that no packet uses into the middle of a plain MP4 file's packets."""
    at = data.index(b"stco")
    count = struct.unpack_from(">I", data, at + 8)[0]
    chunks = list(struct.unpack_from(f">{count}I", data, at + 12))
    cut = chunks[2 * count // 3]
    moved = [chunk + num_bytes * (chunk >= cut) for chunk in chunks]
    table = data[: at + 12] + struct.pack(f">{count}I", *moved) + data[at + 12 + 4 * count :]
    size = table.index(b"mdat") - 4
    mdat = struct.pack(">I", struct.unpack_from(">I", table, size)[0] + num_bytes)
    return table[:size] + mdat + table[size + 4 : cut] + bytes(num_bytes) + table[cut:]


def clip(entry: VideoEntry, first: int) -> np.ndarray:
    with VideoOpener([entry]) as opener, opener.open(entry) as reader:
        assert reader.num_frames == 300
        return reader.read(range(first, first + 32, 4), short_side_px=64)


def whole_clip(entry: VideoEntry, first: int) -> np.ndarray:
    with VideoReader(entry.read()) as reader:
        return reader.read(range(first, first + 32, 4), short_side_px=64)


def test_a_clip_costs_the_bytes_of_its_packets(
    tmp_path: Path, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film.mp4").write_bytes(film)
    [entry] = open_catalog(str(tmp_path))
    expected = {first: whole_clip(entry, first) for first in (40, 265)}
    frames_bytes = len(film) - 20 * 2**20
    tracemalloc.start()
    try:
        BYTES_READ.take()
        np.testing.assert_array_equal(clip(entry, 40), expected[40])
        assert BYTES_READ.take() < 2**20  # the tables, and all packets once
        np.testing.assert_array_equal(clip(entry, 265), expected[265])
        assert BYTES_READ.take() < frames_bytes / 2
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 12 * 2**20
    forget(monkeypatch)  # another process reads the file of the index, and no table
    np.testing.assert_array_equal(clip(entry, 40), expected[40])
    assert BYTES_READ.take() < frames_bytes / 2


def test_a_member_of_a_tar_is_read_in_parts(tmp_path: Path, film: bytes) -> None:
    with tarfile.open(tmp_path / "films.tar", "w") as tar:
        for name in ("a.mp4", "b.mp4"):
            info = tarfile.TarInfo(name)
            info.size = len(film)
            tar.addfile(info, io.BytesIO(film))
    for entry in open_catalog(str(tmp_path)):
        expected = whole_clip(entry, 265)
        for _ in range(2):
            BYTES_READ.take()
            np.testing.assert_array_equal(clip(entry, 265), expected)
            assert BYTES_READ.take() < 2**22


def test_a_clip_of_an_object_takes_few_requests(film: bytes, faulty_s3: Any) -> None:
    place = Storage.from_uri(f"{faulty_s3.bucket}/film.mp4")
    place.write_bytes(film)
    [entry] = open_catalog(place.uri)
    requests = []
    for first in (40, 265, 265):
        faulty_s3.fail()
        np.testing.assert_array_equal(clip(entry, first), whole_clip(entry, first))
        requests.append(Counter(each["method"] for each in faulty_s3.log()))
    # whole_clip takes a HEAD and a GET; a clip a HEAD before and after it, and one for its size
    assert requests[1:] == [Counter(HEAD=4, GET=2)] * 2
    assert requests[0].total() < 16


@pytest.mark.usefixtures("every_file_is_long")
@pytest.mark.parametrize(
    ("name", "coding"),
    [("v.mp4", {"options": GOPS}), ("v.mkv", {"format": "matroska", "codec": "rawvideo"})],
)
@pytest.mark.parametrize("fault", [{"kind": "cut", "times": 2}, {"kind": "status", "value": 500}])
def test_a_failing_storage_is_not_the_fault_of_the_video(
    fault: dict[str, Any],
    name: str,
    coding: dict[str, Any],
    encode_video: Encode,
    faulty_s3: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(catalog, "RETRY_SECONDS", (0.0, 0.0))
    place = Storage.from_uri(f"{faulty_s3.bucket}/{name}")
    place.write_bytes(encode_video(150, **coding))
    entry = VideoEntry("v", place.uri)
    with VideoOpener().open(entry) as reader:
        expected = reader.read([141, 145], short_side_px=64)
    with VideoOpener().open(entry) as reader:
        faulty_s3.fail(fault | {"method": "GET"})
        if "times" in fault:
            np.testing.assert_array_equal(reader.read([141, 145], short_side_px=64), expected)
        else:
            with pytest.raises(StorageError, match="cannot read"):
                reader.read([141, 145], short_side_px=64)


@pytest.mark.usefixtures("every_file_is_long")
def test_the_time_limit_of_a_video_does_not_count_the_storage(
    encode_video: Encode, faulty_s3: Any
) -> None:
    place = Storage.from_uri(f"{faulty_s3.bucket}/v.mp4")
    place.write_bytes(encode_video(150, options=GOPS))
    with VideoOpener().open(VideoEntry("v", place.uri)) as reader, time_limit(60):
        faulty_s3.fail({"kind": "slow", "value": 1.0, "method": "GET", "times": 1})
        begun = time.monotonic()
        reader.read([141, 145], short_side_px=64)
        elapsed = time.monotonic() - begun
        counted = 60 - signal.getitimer(signal.ITIMER_REAL)[0]
    assert elapsed >= 1
    assert counted < elapsed - 0.9


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
@pytest.mark.parametrize("remote", [False, True], ids=["local", "S3"])
@pytest.mark.usefixtures("every_file_is_long")
def test_a_file_that_changes_is_noticed(
    name: str, remote: bool, tmp_path: Path, encode_video: Encode, request: Any
) -> None:
    root = request.getfixturevalue("s3_bucket") if remote else str(tmp_path)
    place = Storage.from_uri(f"{root}/{name}")
    old, new = (
        encode_video(number, options=GOPS, format="matroska" if name.endswith("mkv") else "mp4")
        for number in (40, 60)
    )
    place.write_bytes(old)
    entry = VideoEntry(name, place.uri)
    with VideoOpener().open(entry) as reader:
        reader.read([3], short_side_px=64)
        place.write_bytes(new[: len(old)])
        with pytest.raises(VideoError, match="has changed since it was opened"):
            reader.read([30], short_side_px=64)
    place.write_bytes(new)
    assert outcome(entry, [50], is_long=True) == outcome(entry, [50], is_long=False)
    with VideoOpener().open(entry) as reader:
        assert reader.num_frames == 60


@pytest.mark.usefixtures("every_file_is_long")
def test_a_listed_size_that_is_wrong_is_reported_as_for_short_files(
    tmp_path: Path, encode_video: Encode
) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_video(20))
    entry = VideoEntry("v", str(path), size=path.stat().st_size - 1)
    reason = outcome(entry, [1], is_long=True)
    assert "has changed since it was catalogued" in reason
    assert reason == outcome(entry, [1], is_long=False)


@pytest.mark.usefixtures("every_file_is_long")
@pytest.mark.parametrize("folder", ["{file}", "{damaged}"])
def test_a_cache_that_fails_changes_nothing(
    folder: str, tmp_path: Path, encode_video: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    places = {"file": tmp_path / "file", "damaged": tmp_path / "damaged"}
    monkeypatch.setenv("XDG_CACHE_HOME", folder.format(**places))
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_video(20))
    entry = VideoEntry("v", str(path))
    expected = outcome(entry, [3, 9], is_long=False)
    for length in (0, 3, 100, 700):
        assert outcome(entry, [3, 9], is_long=True) == expected
        for index in places["damaged"].rglob("*.npz"):
            data = index.read_bytes()
            index.write_bytes(data[:length] + bytes(len(data) - length))
        forget(monkeypatch)


@pytest.mark.usefixtures("every_file_is_long")
def test_the_index_that_was_not_used_for_the_longest_time_makes_room(
    tmp_path: Path, encode_video: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = encode_video(20), tmp_path / "cache"
    indices: list[set[Path]] = []
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        with VideoOpener().open(VideoEntry(path.name, str(path))):
            indices.append(set(folder.rglob("*.npz")).difference(*indices))
        [index] = indices[-1]
        os.utime(index, (100 - number, 100 - number))
        monkeypatch.setattr(index_cache, "MAX_DISK_BYTES", 3 * index.stat().st_size + 10)
    assert set(folder.rglob("*.npz")) == indices[0] | indices[1] | indices[3]


@pytest.mark.usefixtures("every_file_is_long")
def test_the_memory_keeps_the_indices_that_were_used_last(
    tmp_path: Path, encode_video: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # nothing is kept on the disk
    (tmp_path / "file").write_bytes(b"")
    data, entries = encode_video(200), []
    for number in range(3):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        entries.append(VideoEntry(path.name, str(path)))

    def is_kept(entry: VideoEntry) -> bool:
        BYTES_READ.take()
        with VideoOpener().open(entry):
            return not BYTES_READ.take()

    # an index of 200 packets has 200 · (3 · 8 + 2 · 1) bytes, and some beside them
    monkeypatch.setattr(index_cache, "MAX_MEMORY_BYTES", 2 * 8000)
    first, second, third = entries
    assert [is_kept(each) for each in (first, second, first, third)] == [False, False, True, False]
    assert [is_kept(each) for each in (first, third, second)] == [True, True, False]


def test_long_files_that_are_read_whole_are_named() -> None:
    sizes = {
        "a.avi": 2**25,
        "b.AVI": 2**30,
        "c.mp4": 2**31,
        "d.avi": 2**20,
        "s3://b/e.MKV?x=y": 2**31,
    }
    entries = [VideoEntry(uri, uri, size=size) for uri, size in sizes.items()]
    entries.append(VideoEntry("f", "f.parquet", offset=4, size=2**31, checksum=1))
    line = Catalog.from_entries(entries).describe_long()
    assert line.startswith("2 video file(s)")
    assert "b.AVI, has 1024 MiB" in line
    assert "jobs/build_shards.py" in line
    assert Catalog.from_entries(entries[2:]).describe_long() == ""
