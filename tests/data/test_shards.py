"""Shards: any Parquet reader reads them, and the index gives the position of each video."""

from __future__ import annotations

import hashlib
import resource
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctp.data import shards
from ctp.data.shards import (
    SCHEMA,
    ShardError,
    ShardRow,
    read_annotations,
    read_index,
    write_shard,
)
from ctp.data.sources import open_catalog
from ctp.rng import generator
from ctp.storage import Storage, StorageError
from ctp.video.decode import VideoReader

SIZES = (0, 1, 5, 3_000_000, 70_000, 0, 1_500_000, 4_200_000, 12, 100_000)
MIB = 2**20


def make_rows(sizes: tuple[int, ...] = SIZES) -> list[ShardRow]:
    """Videos of random bytes; every third has no label, every second boxes."""
    rows = []
    for number, size in enumerate(sizes):
        rng = generator(0, number)
        boxes = np.arange(4 * number, dtype=np.float32).reshape(number, 4) / 3
        flags = (np.arange(number) % 2).astype(np.int8)
        rows.append(
            ShardRow(
                id=f"class/ä {number}.mp4",
                data=rng.bytes(size),
                num_frames=number,
                rate=25 / (number + 1),
                width=96 + number,
                height=64,
                label=None if number % 3 == 0 else f"class {number % 3}",
                boxes=boxes if number % 2 else None,
                absence=flags if number % 2 else None,
                cover=flags if number % 4 == 1 else None,
            )
        )
    return rows


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    local = request.param == "local"
    uri = tmp_path / "my shards" if local else f"{request.getfixturevalue('s3_bucket')}/my shards"
    return Storage.from_uri(uri).join("train", "a.parquet")


def test_the_indexed_range_of_the_file_is_the_video(place: Storage) -> None:
    rows = make_rows()
    write_shard(place, rows, MIB)
    index = read_index(place)
    whole = place.read_bytes()
    assert index.schema.types == [
        *(pa.string(), pa.string(), pa.int64(), pa.int64(), pa.uint32(), pa.int32())
    ]
    assert len(index) == len(rows)
    for row, found in zip(rows, index.to_pylist(), strict=True):
        data = whole[found["offset"] :][: found["size"]]
        assert data == row.data
        assert found["checksum"] == zlib.crc32(data)
        assert (found["id"], found["label"]) == (row.id, row.label)
        assert found["num_frames"] == row.num_frames


def test_shards_of_earlier_versions_do_not_know_their_numbers_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They counted packets."""
    place = Storage.from_uri(tmp_path / "a.parquet")
    with monkeypatch.context() as earlier:
        earlier.setattr(shards, "COUNTED", {})
        write_shard(place, make_rows())
    assert read_index(place)["num_frames"].null_count == len(make_rows())
    assert all(entry.num_frames is None for entry in open_catalog(place.uri))


def test_the_recorded_number_of_frames_saves_counting(
    tmp_path: Path, encode_video: Callable[..., bytes]
) -> None:
    """A wrong number shows which one is used; plain MP4 files need none."""
    files = {
        "counted": encode_video(12, format="avi", codec="cinepak", pix_fmt="rgb24"),
        "plain": encode_video(12),
    }
    rows = [ShardRow(name, data, 7, 25.0, 96, 64) for name, data in files.items()]
    write_shard(Storage.from_uri(tmp_path / "a.parquet"), rows)
    found = {}
    for entry in open_catalog(str(tmp_path)):
        with VideoReader(entry.read()) as reader:
            found[entry.id] = reader.num_frames
            assert reader.read([0, 6], short_side_px=64).shape == (2, 64, 96, 3)
    assert found == {"counted": 7, "plain": 12}


def test_any_parquet_reader_reads_all_columns(place: Storage) -> None:
    rows = make_rows()
    write_shard(place, rows, MIB)
    table = pq.read_table(place.path, filesystem=place.filesystem)
    assert table.schema.remove_metadata() == SCHEMA.remove_metadata()
    for row, found in zip(rows, table.to_pylist(), strict=True):
        assert found["data"] == row.data
        assert (found["size"], found["checksum"]) == (len(row.data), zlib.crc32(row.data))
        for name in ("id", "label", "num_frames", "rate", "width", "height"):
            assert found[name] == getattr(row, name)
        for name in ("boxes", "absence", "cover"):
            wanted = getattr(row, name)
            assert found[name] == (None if wanted is None else wanted.tolist())


def test_a_row_group_is_closed_when_it_is_long_enough(tmp_path: Path) -> None:
    write_shard(Storage.from_uri(tmp_path / "a.parquet"), make_rows((4, 4, 4, 10, 1, 9, 1)), 10)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(i).num_rows for i in range(4)] == [3, 1, 2, 1]
    assert metadata.metadata[b"ctp.shard"] == b"1"


def test_rows_are_consumed_one_by_one(tmp_path: Path) -> None:
    taken: list[str] = []

    def stream() -> Iterator[ShardRow]:
        for row in make_rows((10,) * 6):
            taken.append(row.id)
            yield row
        raise RuntimeError("the source ends early")

    with pytest.raises(RuntimeError, match="ends early"):
        write_shard(Storage.from_uri(tmp_path / "a.parquet"), stream(), 20)
    assert len(taken) == 6
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_shard(place: Storage) -> None:
    write_shard(place, make_rows((1, 2)))

    def stream() -> Iterator[ShardRow]:
        yield from make_rows((7,))
        raise RuntimeError("the source ends early")

    with pytest.raises(RuntimeError, match="ends early"):
        write_shard(place, stream())
    assert len(read_index(place)) == 2
    assert [info.path for info in place.parent.list_files()] == ["a.parquet"]


def test_the_summary_counts(place: Storage) -> None:
    rows = make_rows((10, 20, 30, 40))
    summary = write_shard(place, rows)
    data = place.read_bytes()
    assert (summary.videos, summary.frames, summary.bytes) == (4, 0 + 1 + 2 + 3, len(data))
    assert summary.checksum == hashlib.blake2b(data, digest_size=32).hexdigest()
    assert summary.labels == {"class 1": 1, "class 2": 1}


def test_a_shard_may_be_empty(place: Storage) -> None:
    assert write_shard(place, []).videos == 0
    assert len(read_index(place)) == 0
    assert pq.read_table(place.path, filesystem=place.filesystem).num_rows == 0


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    first = write_shard(Storage.from_uri(tmp_path / "a.parquet"), make_rows((5, 6)))
    assert write_shard(Storage.from_uri(tmp_path / "b.parquet"), make_rows((5, 6))) == first


def test_an_index_longer_than_the_first_read(tmp_path: Path) -> None:
    place = Storage.from_uri(tmp_path / "a.parquet")
    ids = [f"{generator(0, i).bytes(20).hex()}" for i in range(3000)]
    write_shard(place, [ShardRow(name, b"123", 1, 25.0, 2, 2) for name in ids], 300)
    assert read_index(place)["id"].to_pylist() == ids


def damage(data: bytes, how: str) -> bytes:
    footer = int.from_bytes(data[-8:-4], "little")
    broken = {
        "empty": b"",
        "text": b"this is text",
        "truncated": data[: len(data) // 2],
        "footer cut": data[: -footer // 2],
        "footer zeroed": data[: -footer - 8] + bytes(footer) + data[-8:],
        "footer too long": data[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1",
        "front cut": data[-footer // 2 - 8 :],
    }
    return broken[how]


@pytest.mark.parametrize(
    "how",
    [
        *("empty", "text", "truncated", "footer cut", "footer zeroed", "footer too long"),
        "front cut",
    ],
)
def test_damage_is_an_error_that_says_what_to_do(how: str, tmp_path: Path) -> None:
    place = Storage.from_uri(tmp_path / "a.parquet")
    write_shard(place, make_rows())
    place.write_bytes(damage(place.read_bytes(), how))
    with pytest.raises(ShardError, match=r"a\.parquet .*Build this shard again") as caught:
        read_index(place)
    assert str(caught.value).count("\n") == 0


def test_a_shard_rewritten_by_another_program_is_refused(tmp_path: Path) -> None:
    place = Storage.from_uri(tmp_path / "a.parquet")
    write_shard(place, make_rows())
    marks = dict(pq.read_metadata(tmp_path / "a.parquet").metadata)
    del marks[b"ARROW:schema"]
    table = pq.read_table(tmp_path / "a.parquet").replace_schema_metadata(marks)
    for options in ({}, {"compression": "none"}, {"compression": "none", "use_dictionary": False}):
        pq.write_table(table, tmp_path / "a.parquet", **options)
        with pytest.raises(ShardError, match="rewritten"):
            read_index(place)
    pq.write_table(table.slice(2), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match="8 videos but 10 in its index"):
        read_index(place)


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "data": [b"1"]}), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match="not a shard"):
        read_index(Storage.from_uri(tmp_path / "a.parquet"))


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write a shard to .* or set TMPDIR"):
            write_shard(Storage.from_uri(tmp_path / "a.parquet"), make_rows(), MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a\.parquet"):
        read_index(Storage.from_uri(tmp_path / "a.parquet"))


def test_an_object_that_becomes_shorter_while_it_is_read(faulty_s3: Any) -> None:
    place = Storage.from_uri(f"{faulty_s3.bucket}/a.parquet")
    write_shard(place, make_rows())
    faulty_s3.fail({"kind": "shorter", "method": "GET"})
    with pytest.raises(StorageError, match="it became shorter while it was read"):
        read_index(place)


def test_a_video_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctp.data.shards.MAX_VIDEO_BYTES", 9)
    with pytest.raises(ValueError, match=r"'class/ä 1\.mp4' has 10 bytes"):
        write_shard(Storage.from_uri(tmp_path / "a.parquet"), make_rows((9, 10)))


def test_annotations_are_read_without_the_videos(place: Storage) -> None:
    rows = make_rows()
    write_shard(place, rows, MIB)
    table = read_annotations(place)
    assert table["offset"].to_pylist() == read_index(place)["offset"].to_pylist()
    for row, found in zip(rows, table.to_pylist(), strict=True):
        assert (found["num_frames"], found["width"], found["height"]) == (
            row.num_frames,
            row.width,
            row.height,
        )
        for name in ("boxes", "absence", "cover"):
            wanted = getattr(row, name)
            assert found[name] == (None if wanted is None else wanted.tolist())


def test_annotations_of_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"this is text")
    with pytest.raises(ShardError, match="has no footer"):
        read_annotations(Storage.from_uri(tmp_path / "a.parquet"))
    with pytest.raises(StorageError):
        read_annotations(Storage.from_uri(tmp_path / "b.parquet"))
