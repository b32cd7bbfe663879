"""WebDataset tars: the index gives the position of each video, and only damaged ones are lost."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import webdataset

from ctp.data.tars import TarIndex, read_index
from ctp.rng import generator
from ctp.storage import Storage, StorageError

BLOCK = tarfile.BLOCKSIZE
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
SIZES = [700, 512, 1, 0, 5000, 1024, 90]
VIDEOS = {f"walk/{i}.mp4": generator(0, i).bytes(size) for i, size in enumerate(SIZES)}
FAR = 3 * 2**32
"""Bytes; too many to read in a test."""

IndexOf = Callable[[bytes], TarIndex]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index_of(tmp_path: Path) -> IndexOf:
    """`index_of(data)`: the index of a tar of these bytes."""

    def index(data: bytes) -> TarIndex:
        place = Storage.from_uri(tmp_path / f"{hashlib.blake2b(data).hexdigest()}.tar")
        place.write_bytes(data)
        return read_index(place)

    return index


def make_tar(members: Mapping[str, bytes], kind: str = "ustar") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=FORMATS[kind]) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def contents(index: TarIndex, whole: bytes) -> dict[str, bytes]:
    """Key -> the bytes that the index points to."""
    rows = index.videos.to_pylist()
    return {row["key"]: whole[row["offset"] :][: row["size"]] for row in rows}


def labels(index: TarIndex) -> dict[str, str | None]:
    return {row["key"]: row["label"] for row in index.videos.to_pylist()}


def reasons(index: TarIndex) -> list[tuple[str, str]]:
    return [(each.name, each.reason) for each in index.damage]


def by_key(videos: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name.removesuffix(".mp4"): data for name, data in videos.items()}


# ---- what a tar holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_tar_as_webdataset_writes_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if kind == "local" else request.getfixturevalue("s3_bucket")
    sink = io.BytesIO()
    with webdataset.TarWriter(sink) as writer:
        writer.write({"__key__": "walk/000", "mp4": b"first", "cls": 7})
        writer.write({"__key__": "walk/001", "json": {"label": "run"}, "left.MKV": b"second"})
        writer.write({"__key__": "002", "webm": b"x" * 3000, "txt": "a caption"})
        writer.write({"__key__": "003", "txt": "no video"})
    place = Storage.from_uri(root).join("my tars", "a.tar")
    place.write_bytes(sink.getvalue())
    index = read_index(place)
    assert contents(index, sink.getvalue()) == {
        "walk/000": b"first",
        "walk/001": b"second",
        "002": b"x" * 3000,
    }
    assert labels(index) == {"walk/000": "7", "walk/001": "run", "002": None}
    assert reasons(index) == []
    assert read_index(place) == index


@pytest.mark.parametrize("kind", FORMATS)
def test_names_of_every_length(kind: str, index_of: IndexOf) -> None:
    names = [f"{'f' * 90}/{'n' * length}.mp4" for length in (1, 5, 6, 90)]
    if kind != "ustar":
        names += [f"{'g' * 300}/{'n' * 200}.mp4", "Straße/überall 日本.mp4", "d.1/x.mp4"]
    videos = {name: name.encode() for name in names}
    whole = make_tar(videos, kind)
    assert contents(index_of(whole), whole) == by_key(videos)


def test_the_rules_of_keys_and_labels(index_of: IndexOf) -> None:
    members = {
        "./a.mp4": b"a",
        "a.json": b'{"label": "from json"}',
        "a.cls": b" from cls\n",
        "b.json": b'["no", "label"]',
        "b.mp4": b"b",
        "c.json": b"{broken",
        "c.mp4": b"c",
        "d.json": b'{"label": 3}',
        "d.v2.mp4": b"d",
        "e.cls": b"x" * 70_000,
        "e.mp4": b"e",
        "f.meta.json": b'{"label": "of something else"}',
        "f.mp4": b"f",
        "._g.mp4": b"a file of macOS",
        "h.cls": b"",
        "h.mp4": b"h",
        "i.json": rb'{"label": "\ud83d"}',
        "i.mp4": b"i",
        "j.json": b"[" * 60_000,
        "j.mp4": b"j",
    }
    found = index_of(make_tar(members))
    assert labels(found) == {
        **dict.fromkeys("bcefhij"), "a": "from cls", "d": "3"
    }  # fmt: skip
    assert reasons(found) == []


def test_hidden_members_are_skipped_and_labels_may_have_a_byte_order_mark(
    index_of: IndexOf,
) -> None:
    members = {
        "a.mp4": b"a",
        "a.cls": b"\xef\xbb\xbfwalk\r\n",
        "b.mp4": b"b",
        "b.json": b'\xef\xbb\xbf{"label": "run"}',
        "__MACOSX/._a.mp4": b"x",
        "__MACOSX/c.mp4": b"x",
        ".hidden/d.mp4": b"x",
    }
    found = index_of(make_tar(members))
    assert labels(found) == {"a": "walk", "b": "run"}
    assert reasons(found) == []


def test_names_that_lead_out_of_a_folder_are_names_only(index_of: IndexOf, tmp_path: Path) -> None:
    whole = make_tar({"../../up.mp4": b"up", "/etc/root.mp4": b"root"})
    before = sorted(tmp_path.rglob("*"))
    assert contents(index_of(whole), whole) == {"../../up": b"up", "/etc/root": b"root"}
    assert {path.suffix for path in set(tmp_path.rglob("*")) - set(before)} <= {
        ".tar", ".parquet", ""
    }  # fmt: skip


def test_a_file_with_holes_is_named(index_of: IndexOf) -> None:
    info = tarfile.TarInfo("holes.mp4")
    info.size = BLOCK
    info.pax_headers = {
        "GNU.sparse.size": str(2**62), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,512"
    }  # fmt: skip
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(bytes(BLOCK)))
        plain = tarfile.TarInfo("plain.mp4")
        plain.size = 3
        tar.addfile(plain, io.BytesIO(b"abc"))
    found = index_of(sink.getvalue())
    assert contents(found, sink.getvalue()) == {"plain": b"abc"}
    [(name, reason)] = reasons(found)
    assert name == "holes.mp4"
    assert "holes" in reason


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [2**21, 2**40, 2**62, -512, -(2**40)])
def test_a_header_that_claims_a_huge_size_is_damage(
    kind: bytes, size: int, index_of: IndexOf
) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, size
    block = info.tobuf(tarfile.GNU_FORMAT)
    whole = block + bytes(2**21) + make_tar(VIDEOS)
    found = index_of(whole)
    assert contents(found, whole) == by_key(VIDEOS)
    assert [name for name, _ in reasons(found)] == [""]


def test_a_sparse_header_that_points_back_ends(index_of: IndexOf) -> None:
    info = tarfile.TarInfo("back.mp4")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, -(10**6)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"00000000100\0"  # the size without holes
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    whole = bytes(block) + make_tar(VIDEOS)
    assert contents(index_of(whole), whole) == by_key(VIDEOS)


def test_hundreds_of_extended_headers_in_a_row_are_damage(index_of: IndexOf) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 0
    whole = info.tobuf(tarfile.GNU_FORMAT) * 600 + make_tar(VIDEOS)
    found = index_of(whole)
    assert set(contents(found, whole)) <= set(by_key(VIDEOS))
    assert len(contents(found, whole)) >= len(VIDEOS) - 1


def test_members_that_are_not_files_are_skipped(index_of: IndexOf) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.mp4")
            info.type, info.linkname = kind, "a.mp4"
            tar.addfile(info)
        info = tarfile.TarInfo("a.mp4")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"video"))
    assert contents(index_of(sink.getvalue()), sink.getvalue()) == {"a": b"video"}


def test_of_repeated_members_the_last_is_valid(index_of: IndexOf) -> None:
    first = make_tar({"a.mp4": b"old", "a.webm": b"other", "b.mp4": b"b"}).rstrip(b"\0")
    first += b"\0" * (-len(first) % BLOCK)
    whole = first + make_tar({"a.mp4": b"new"})
    index = index_of(whole)
    assert contents(index, whole) == {"a": b"new", "b": b"b"}
    assert reasons(index) == [("a.webm", "is a second video under the key 'a' of its tar")]


def test_concatenated_tars(index_of: IndexOf) -> None:
    whole = make_tar({"a.mp4": b"a"}) + make_tar({"b.mp4": b"b"}, "pax")
    index = index_of(whole)
    assert contents(index, whole) == {"a": b"a", "b": b"b"}
    assert reasons(index) == []


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_large_videos_are_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        for name in ("a.mp4", "b.mp4"):
            info = tarfile.TarInfo(name)
            info.size = FAR + 1
            file.write(info.tobuf(FORMATS[kind]))
            file.seek(FAR + BLOCK, os.SEEK_CUR)  # leaves a hole
        file.write(b"\0" * 2 * BLOCK)
    [a, b] = read_index(Storage.from_uri(path)).videos.to_pylist()
    assert (a["size"], b["size"]) == (FAR + 1, FAR + 1)
    assert b["offset"] - a["offset"] >= FAR + 2 * BLOCK


def test_small_members_are_read_a_block_at_a_time(faulty_s3: Any) -> None:
    place = Storage.from_uri(f"{faulty_s3.bucket}/a.tar")
    place.write_bytes(make_tar({f"{i}.mp4": bytes(20_000) for i in range(200)}))
    faulty_s3.fail()  # empties the log
    assert len(read_index(place).videos) == 200
    assert len(faulty_s3.log()) <= 10  # of 4 MiB


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_the_complete_videos_of_a_truncated_tar_are_used(kind: str, index_of: IndexOf) -> None:
    long = {f"{'l' * 120}/{name}": data for name, data in VIDEOS.items()}
    videos = VIDEOS if kind == "ustar" else long
    whole = make_tar(videos, kind)
    rows = index_of(whole).videos.to_pylist()
    end = len(whole.rstrip(b"\0"))
    for length in [*range(0, end, 131), *range(0, end, BLOCK), end]:
        index = index_of(whole[:length])
        there = {row["key"] for row in rows if row["offset"] + row["size"] <= length}
        assert set(contents(index, whole)) == there
        assert len(index.damage) == 1, length


def test_the_reason_of_a_tar_that_is_cut_short(index_of: IndexOf) -> None:
    whole = make_tar({"a.mp4": b"a" * BLOCK, "b.mp4": b"b" * BLOCK})
    said = {
        length: reasons(index_of(whole[:length]))
        for length in (0, 3 * BLOCK + 100, 2 * BLOCK, 2 * BLOCK + 10)
    }
    assert said == {
        0: [("", "is empty")],
        3 * BLOCK + 100: [("", "is cut short: 100 of the 512 bytes of b.mp4 are there")],
        2 * BLOCK: [("", "has no end mark: it may have been cut short")],
        2 * BLOCK + 10: [("", "is damaged: 10 bytes from byte 1024 on are not a tar")],
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_header_loses_only_its_member(kind: str, index_of: IndexOf) -> None:
    whole = make_tar(VIDEOS, kind)
    for row in index_of(whole).videos.to_pylist():
        broken = bytearray(whole)
        broken[row["offset"] - BLOCK + 130] ^= 0x55
        index = index_of(bytes(broken))
        assert contents(index, whole) == {
            key: data for key, data in by_key(VIDEOS).items() if key != row["key"]
        }
        [(name, reason)] = reasons(index)
        assert name == ""
        assert f" bytes from byte {row['offset'] - BLOCK} on are not a tar" in reason


def test_many_problems_are_summarised(index_of: IndexOf) -> None:
    whole = bytearray(make_tar(VIDEOS))
    for row in index_of(bytes(whole)).videos.to_pylist()[::2]:
        whole[row["offset"] - BLOCK] ^= 0xFF
    [(name, reason)] = reasons(index_of(bytes(whole)))
    assert name == ""
    assert reason.count("are not a tar") == 3
    assert reason.endswith("; and 1 more")


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_affects_only_the_damaged_videos(kind: str, index_of: IndexOf) -> None:
    rng = generator(0, "damage")
    whole = make_tar(VIDEOS, kind)
    videos, rows = by_key(VIDEOS), index_of(whole).videos.to_pylist()
    for _ in range(100):
        broken = bytearray(whole)
        start, size = int(rng.integers(len(whole))), int(rng.integers(1, 1000))
        broken[start : start + size] = rng.bytes(len(broken[start : start + size]))
        found = contents(index_of(bytes(broken)), whole)
        for row in rows:
            key, headers = row["key"], row["offset"] - 3 * BLOCK
            if row["offset"] + row["size"] <= start or start + size <= headers:
                assert found[key] == videos[key]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"this is text", "is damaged: 12 bytes from byte 0 on are not a tar"),
        (generator(0).bytes(5000), "is damaged: 5000 bytes from byte 0 on are not a tar"),
        (make_tar({"a.jpg": b"picture"}), "holds no video"),
        (b"\0" * 10240, "holds no video"),
    ],
)
def test_a_tar_without_a_video(data: bytes, said: str, index_of: IndexOf) -> None:
    index = index_of(data)
    assert len(index.videos) == 0
    assert reasons(index) == [("", said)]


def test_a_missing_tar_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"cannot read .*missing\.tar.*Check that it exists"
    ) as e:
        read_index(Storage.from_uri(tmp_path / "missing.tar"))
    assert e.value.is_permanent


def test_an_object_that_becomes_shorter_while_it_is_read(faulty_s3: Any) -> None:
    place = Storage.from_uri(f"{faulty_s3.bucket}/a.tar")
    place.write_bytes(make_tar(VIDEOS))
    faulty_s3.fail({"kind": "shorter", "method": "GET"})
    with pytest.raises(StorageError, match="it became shorter while it was read"):
        read_index(place)


# ---- the cache ----------------------------------------------------------------------------------


def test_a_tar_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = make_tar(VIDEOS | {"walk/0.cls": b"label"})[:-15_000]
    path.write_bytes(whole)
    os.utime(path, ns=(0, 1_000))
    index = read_index(Storage.from_uri(path))
    assert index.damage
    path.write_bytes(b"x" * len(whole))
    os.utime(path, ns=(0, 1_000))
    assert read_index(Storage.from_uri(path)) == index
    os.utime(path, ns=(0, 2_000))
    assert len(read_index(Storage.from_uri(path)).videos) == 0


@pytest.mark.parametrize("junk", [b"", b"junk", make_tar(VIDEOS)])
def test_a_damaged_cache_is_replaced(junk: bytes, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar(VIDEOS))
    index = read_index(Storage.from_uri(tmp_path / "a.tar"))
    [kept] = [path for path in cache.rglob("*") if path.is_file()]
    whole = kept.read_bytes()
    for data in (junk, whole[:-20], whole[: len(whole) // 2]):
        kept.write_bytes(data)
        assert read_index(Storage.from_uri(tmp_path / "a.tar")) == index
        assert kept.read_bytes() == whole


@pytest.mark.parametrize("folder", ["/proc/nowhere", "{file}"])
def test_a_cache_that_cannot_be_written_stops_nothing(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", folder.format(file=tmp_path / "file"))
    (tmp_path / "a.tar").write_bytes(make_tar(VIDEOS))
    assert len(read_index(Storage.from_uri(tmp_path / "a.tar")).videos) == len(VIDEOS)
