"""The catalogue: every kind of source, and ids that do not depend on the order of a listing."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctp.data import corpus
from ctp.data.catalog import Catalog, VideoEntry, check_apart
from ctp.data.listing import expand_braces
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.shards import ShardRow, write_shard
from ctp.data.sources import open_catalog
from ctp.storage import Storage, StorageError
from ctp.video.decode import VideoReader
from ctp.video.encoded import VideoError

FILES = {
    "loose.mp4": b"1",
    "walk/a.avi": b"2",
    "walk/#20 (x)? 100%.MKV": b"3",
    "run/deep/b.webm": b"4",
}
OTHERS = {"README.txt": b"no video", "walk/notes.md": b"", "run/.DS_Store": b""}
LABELS = {
    "loose.mp4": None,
    "walk/a.avi": "walk",
    "walk/#20 (x)? 100%.MKV": "walk",
    "run/deep/b.webm": "deep",
}


def fill(place: Storage, files: dict[str, bytes]) -> Storage:
    for name, data in files.items():
        place.join(name).write_bytes(data)
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder of FILES and OTHERS."""
    local = request.param == "local"
    uri = tmp_path / "my videos" if local else f"{request.getfixturevalue('s3_bucket')}/my videos"
    return fill(Storage.from_uri(uri), FILES | OTHERS)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A local folder of FILES and OTHERS."""
    fill(Storage.from_uri(tmp_path / "data"), FILES | OTHERS)
    return tmp_path / "data"


def read_all(catalog: Catalog) -> dict[str, bytes]:
    return {entry.id: entry.read().data for entry in catalog}


def labels(catalog: Catalog) -> dict[str, str | None]:
    return {entry.id: entry.label for entry in catalog}


def write_tar(place: Storage, members: Mapping[str, bytes]) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    place.write_bytes(sink.getvalue())


def write_videos(place: Storage, videos: Mapping[str, bytes], label: str | None = None) -> None:
    rows = [ShardRow(name, data, 1, 25.0, 8, 8, label) for name, data in videos.items()]
    write_shard(place, rows)


def spoil(place: Storage, at: int) -> None:
    """Invert a byte of a file."""
    data = bytearray(place.read_bytes())
    data[at] ^= 0xFF
    place.write_bytes(bytes(data))


def quarantined(catalog: Catalog) -> dict[str, str]:
    return {each.video_id: each.reason for each in catalog.quarantined}


def make(ids: Sequence[str]) -> Catalog:
    return Catalog.from_entries(VideoEntry(each, f"/{each}") for each in ids)


# ---- sources ------------------------------------------------------------------------------------


def test_a_folder_at_any_depth(folder: Storage) -> None:
    catalog = open_catalog(folder.uri)
    assert read_all(catalog) == FILES
    assert labels(catalog) == LABELS
    assert [entry.id for entry in catalog] == sorted(FILES)
    video = catalog[0].read()
    assert (video.id, video.label) == ("loose.mp4", None)
    assert Storage.from_uri(video.uri).is_file()


def test_a_typed_uri_may_hold_spaces(s3_bucket: str) -> None:
    fill(Storage.from_uri(f"{s3_bucket}/my videos"), FILES)
    assert read_all(open_catalog(f"{s3_bucket}/my videos/")) == FILES


def test_entries_are_found_from_any_folder(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (local / "list.txt").write_text("loose.mp4\n")
    monkeypatch.chdir(local)
    catalogs = [open_catalog(uri) for uri in (".", "**/*.avi", "list.txt", "loose.mp4")]
    monkeypatch.chdir("/")
    assert [len(read_all(catalog)) for catalog in catalogs] == [4, 1, 1, 1]


def test_a_glob(local: Path) -> None:
    catalog = open_catalog(f"{local}/**/*.[am][vp]?")
    assert labels(catalog) == {"loose.mp4": None, "walk/a.avi": "walk"}
    assert read_all(catalog)["walk/a.avi"] == b"2"
    assert labels(open_catalog(f"{local}/w*/*.avi")) == {"walk/a.avi": "walk"}


@pytest.mark.parametrize("kind", ["local", "file", "s3"])
def test_brackets(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = f"{'file://' * (kind == 'file')}{tmp_path}"
    root = request.getfixturevalue("s3_bucket") if kind == "s3" else root
    fill(Storage.from_uri(root).join("[set 1]"), FILES)
    assert read_all(open_catalog(f"{root}/[set 1]")) == FILES
    by_pattern = open_catalog(f"{root}/[[]set*/w*/*.[am]vi")
    assert read_all(by_pattern) == {"[set 1]/walk/a.avi": b"2"}
    for name in ("a1.tar", "a22.tar", "ax.tar"):
        write_tar(Storage.from_uri(root).join(name), {"k.mp4": name.encode()})
    wanted = {f"{name}/k": name.encode() for name in ("a1.tar", "a22.tar")}
    assert read_all(open_catalog(f"{root}/a[0-9]*.tar")) == wanted
    assert read_all(open_catalog(f"{root}/a[!0-9].tar")) == {"ax.tar/k": b"ax.tar"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"root \xe9")
    place = fill(Storage.from_uri(root), {"a.mp4": b"1", os.fsdecode(b"c\xff/b%FF\xfe.mp4"): b"2"})
    write_tar(place.join(os.fsdecode(b"\xff.tar")), {"k.mp4": b"3"})
    write_videos(place.join(os.fsdecode(b"\xff.parquet")), {"s": b"4"})
    place.join(os.fsdecode(b"bad\xff.tar")).write_bytes(b"text")
    wanted = {"a.mp4": b"1", r"c\xff/b%FF\xfe.mp4": b"2", r"\xff.tar/k": b"3", "s": b"4"}
    catalog = open_catalog(str(root))
    assert read_all(pickle.loads(pickle.dumps(catalog))) == wanted
    assert labels(catalog)[r"c\xff/b%FF\xfe.mp4"] == r"c\xff"
    assert list(quarantined(catalog)) == [r"bad\xff.tar"]
    assert read_all(open_catalog(f"{root}/c*/*.mp4")) == {r"c\xff/b%FF\xfe.mp4": b"2"}
    assert read_all(open_catalog(place.join("a.mp4").uri)) == {"a.mp4": b"1"}
    joined = open_catalog([str(root), "corpus:1"])
    assert read_all(joined)[rf"{tmp_path}/root \xe9/a.mp4"] == b"1"


def test_a_list(folder: Storage, local: Path) -> None:
    lines = [
        "walk/a.avi\tstrolling ",
        "",
        f"{local}/loose.mp4",
        "   ",
        "walk/#20 (x)? 100%.MKV",
        "run/deep/b.webm\t",
    ]
    folder.join("list.txt").write_bytes("\r\n".join(lines).encode())
    catalog = open_catalog(folder.join("list.txt").uri)
    assert labels(catalog) == {
        "walk/a.avi": "strolling",
        f"{local}/loose.mp4": None,
        "walk/#20 (x)? 100%.MKV": None,
        "run/deep/b.webm": None,
    }
    assert sorted(read_all(catalog).values()) == [b"1", b"2", b"3", b"4"]


def test_a_local_list_of_remote_videos(s3_bucket: str, tmp_path: Path) -> None:
    fill(Storage.from_uri(s3_bucket), FILES)
    (tmp_path / "list.txt").write_text(f"{s3_bucket}/walk/a.avi\twalk\n{s3_bucket}/loose.mp4\n")
    catalog = open_catalog(str(tmp_path / "list.txt"))
    assert sorted(read_all(catalog).values()) == [b"1", b"2"]


def test_one_file(folder: Storage) -> None:
    catalog = open_catalog(folder.join("walk/a.avi").uri)
    assert read_all(catalog) == {"a.avi": b"2"}


def test_several_sources(folder: Storage, tmp_path: Path) -> None:
    more = fill(Storage.from_uri(tmp_path / "more"), {"loose.mp4": b"5"})
    catalog = open_catalog([folder.uri, f"{more.uri}/"])
    expected = {f"{folder.uri}/{name}": data for name, data in FILES.items()}
    assert read_all(catalog) == expected | {f"{more.uri}/loose.mp4": b"5"}


def test_the_corpus() -> None:
    catalog = open_catalog("corpus:12")
    assert {entry.id for entry in catalog} == set(corpus.video_names(12))
    assert all(entry.label == entry.id.split("/")[0] for entry in catalog)


def test_a_part_of_the_corpus() -> None:
    whole, part = open_catalog("corpus:14"), open_catalog("corpus:11-14")
    assert [entry.id for entry in part] == sorted(corpus.video_names(14)[11:])
    assert {entry.id for entry in part} < {entry.id for entry in whole}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{}/missing", r"there is no .*missing.*Expected a folder of videos, a glob"),
        ("{}/empty", r"no video in .*empty.*looked for files ending in \.3gp .*\.wmv"),
        ("{}/texts", r"no video in .*texts.*looked for files ending in"),
        ("{}/*.mp4", r"no file matches .*\*\.mp4"),
        ("{}/{{1}}.mp4", r"there is no .*\{1\}\.mp4"),
        ("{}/bytes.txt", r"list .*bytes\.txt.* is not UTF-8"),
        ("{}/blank.txt", r"list .*blank\.txt.* names no video"),
        ("{}/table.csv", r"list .*table\.csv.*none of .* is a file: .*a,b"),
        ("{}/table.json", r"no video in .*table\.json.*or a list of videos \(\.txt"),
        ("nonsense://bucket/videos", r"cannot open 'nonsense://bucket/videos'"),
        ("corpus:", r"expected corpus:NUMBER"),
        ("corpus:0", r"expected corpus:NUMBER"),
        ("corpus:ten", r"expected corpus:NUMBER"),
        ("corpus:5-5", r"or corpus:FIRST-END"),
        ("corpus:-5", r"or corpus:FIRST-END"),
        ("corpus:a-5", r"or corpus:FIRST-END"),
        ("corpus:99999999999", r"'corpus:99999999999': num_videos"),
    ],
)
def test_an_unusable_source_is_refused_with_the_reason(
    uri: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("text")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\x00\x80")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(ValueError, match=message) as error:
        open_catalog(uri.format(tmp_path))
    with pytest.raises(ValueError, match=r"^data\.test_uri: ") as named:
        open_catalog(uri.format(tmp_path), "data.test_uri")
    assert str(named.value) == f"data.test_uri: {error.value}"


def test_an_empty_prefix_of_a_bucket(s3_bucket: str) -> None:
    with pytest.raises(ValueError, match=r"there is no 's3://.*/nothing'"):
        open_catalog(f"{s3_bucket}/nothing")


# ---- shards, tars and patterns ------------------------------------------------------------------


@pytest.fixture
def packed(folder: Storage) -> Storage:
    """FILES and OTHERS, with two shards and two tars among them, like the output of a build."""
    write_videos(folder.join("train/shard-00000-of-00002.parquet"), {"s/0": b"s0", "s/1": b"s1"})
    write_videos(folder.join("train/shard-00001-of-00002.parquet"), {"s/2": b"s2"}, "class")
    folder.join("train/_parts/shard-00000-of-00002.json").write_bytes(b"{}")
    counts = [{"name": f"shard-0000{i}-of-00002.parquet", "videos": 2 - i} for i in range(2)]
    folder.join("train/_manifest.json").write_bytes(json.dumps({"shards": counts}).encode())
    write_tar(folder.join("tars/t-008.tar"), {"k/0.mp4": b"t0", "k/0.cls": b"7", "k/1.mp4": b"t1"})
    write_tar(folder.join("tars/t-009.tar"), {"k/0.mp4": b"t2"})
    return folder


SHARDS = {"s/0": b"s0", "s/1": b"s1", "s/2": b"s2"}
TARS = {"t-008.tar/k/0": b"t0", "t-008.tar/k/1": b"t1", "t-009.tar/k/0": b"t2"}
TARS_BELOW = {f"tars/{name}": data for name, data in TARS.items()}


def test_a_folder_of_everything(packed: Storage) -> None:
    catalog = open_catalog(packed.uri)
    assert read_all(catalog) == FILES | SHARDS | TARS_BELOW
    own: dict[str, str | None] = dict.fromkeys(SHARDS | TARS_BELOW)
    own |= {"s/2": "class", "tars/t-008.tar/k/0": "7"}
    assert labels(catalog) == LABELS | own
    assert catalog.quarantined == ()
    assert {Storage.from_uri(uri).is_file() for uri in catalog.files()} == {True}
    assert len(catalog.files()) == len(FILES) + 4


OWN = {"_own.mp4": b"5", "_mine/6.mp4": b"6"}


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("", {"a": b"1"} | OWN),
        ("/**", {"a": b"1"} | OWN),
        ("/{*.parquet,**/*.mp4}", {"a": b"1"} | OWN),
        ("/_dry_run", {"b": b"2"}),
        ("/_dry_run/*.parquet", {"b": b"2"}),
        ("/_dry_run/shard-0.parquet", {"b": b"2"}),
        ("/_d*/shard-*.parquet", {"b": b"2"}),
        ("/{_dry_run,_mine}/*", {"b": b"2", "_mine/6.mp4": b"6"}),
    ],
)
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_files_beside_the_shards_of_a_folder_hold_no_videos(
    pattern: str,
    wanted: dict[str, bytes],
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    root = tmp_path if kind == "local" else request.getfixturevalue("s3_bucket")
    place = fill(Storage.from_uri(root), OWN)
    fill(place, {"_segments.parquet": b"a table", "_measured/00000.parquet": b"a table"})
    write_videos(place.join("shard-0.parquet"), {"a": b"1"})
    write_videos(place.join("_dry_run/shard-0.parquet"), {"b": b"2"})
    catalog = open_catalog(place.uri + pattern)
    assert read_all(catalog) == wanted
    assert catalog.quarantined == ()


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("train/shard-00001-of-00002.parquet", {"s/2": b"s2"}),
        ("tars/t-009.tar", {"t-009.tar/k/0": b"t2"}),
        ("train", SHARDS),
        ("tars", TARS),
        ("train/*.parquet", SHARDS),
        ("t*/*-00001-of*", {"s/2": b"s2"}),
        ("**/*.tar", TARS_BELOW),
        ("tars/t-{008..009}.tar", TARS),
        ("tars/t-{009,008}.tar", TARS),
        ("{train,tars}/{t-0*,*01-of*}.{tar,parquet}", {"s/2": b"s2"} | TARS_BELOW),
        ("**", FILES | SHARDS | TARS_BELOW),
        ("*/*.avi", {"walk/a.avi": b"2"}),
        ("run/**/*.webm", {"deep/b.webm": b"4"}),
    ],
)
def test_files_and_patterns(pattern: str, wanted: dict[str, bytes], packed: Storage) -> None:
    catalog = open_catalog(f"{packed.uri}/{pattern}")
    assert read_all(catalog) == wanted
    assert catalog.quarantined == ()


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a", ["a"]),
        ("{8..10}", ["8", "9", "10"]),
        ("x{008..010}.tar", ["x008.tar", "x009.tar", "x010.tar"]),
        ("{2..0}", ["0", "1", "2"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{a,b{0..1}}", ["a", "b0", "b1"]),
        ("{a,}x", ["ax", "x"]),
        ("{}{a}{1..}", ["{}{a}{1..}"]),
    ],
)
def test_braces(pattern: str, wanted: list[str]) -> None:
    assert sorted(expand_braces(pattern)) == sorted(wanted)


def test_real_videos_are_read_unchanged(
    tmp_path: Path,
    encode_video: Callable[..., bytes],
    read_numbers: Callable[[NDArray[np.uint8]], list[int]],
) -> None:
    data = [encode_video(number) for number in (5, 6, 7)]
    (tmp_path / "a.mp4").write_bytes(data[0])
    write_tar(Storage.from_uri(tmp_path / "b.tar"), {"b.mp4": data[1]})
    write_videos(Storage.from_uri(tmp_path / "c.parquet"), {"c": data[2]})
    for entry, number in zip(open_catalog(str(tmp_path)), (5, 6, 7), strict=True):
        with VideoReader(entry.read()) as reader:
            assert reader.num_frames == number
            frames = reader.read(range(number), short_side_px=64)
        assert read_numbers(frames) == list(range(number))


# ---- damage -------------------------------------------------------------------------------------


def test_only_what_is_damaged_is_lost(packed: Storage) -> None:
    spoil(packed.join("train/shard-00000-of-00002.parquet"), -5)
    packed.join("train/shard-x.parquet").write_bytes(b"text")
    spoil(packed.join("tars/t-008.tar"), 0)
    catalog = open_catalog(packed.uri)
    kept = ["s/2", "tars/t-008.tar/k/1", "tars/t-009.tar/k/0"]
    assert [entry.id for entry in catalog] == sorted([*FILES, *kept])
    assert read_all(catalog)["s/2"] == b"s2"
    reasons = quarantined(catalog)
    assert sorted(reasons) == [
        "tars/t-008.tar", "train/shard-00000-of-00002.parquet", "train/shard-x.parquet"
    ]  # fmt: skip
    assert reasons["train/shard-00000-of-00002.parquet"].endswith("; its 2 videos are lost")
    assert (
        reasons["train/shard-x.parquet"] == "is truncated or not a Parquet file: it has no footer"
    )
    assert "are not a tar" in reasons["tars/t-008.tar"]
    assert all(Storage.from_uri(each.uri).is_file() for each in catalog.quarantined)


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        '{"shards": [1]}',
        '{"shards": [{"name": "x"}]}',
        pytest.param("[" * 60_000, id="deep"),
    ],
)
def test_a_malformed_manifest_is_ignored(manifest: str, packed: Storage) -> None:
    packed.join("train/_manifest.json").write_bytes(manifest.encode())
    packed.join("train/shard-00000-of-00002.parquet").write_bytes(b"")
    [reason] = quarantined(open_catalog(packed.uri)).values()
    assert reason.endswith("it has no footer")


def test_a_shard_of_a_range_that_is_missing_is_named(packed: Storage) -> None:
    catalog = open_catalog(f"{packed.uri}/tars/t-{{007..009}}.tar")
    assert read_all(catalog) == TARS
    [(name, reason)] = quarantined(catalog).items()
    assert name == "t-007.tar"
    assert reason.startswith("cannot be read: cannot read")


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey"])
def test_forbidden_or_deleted_files_are_quarantined_without_retries(
    code: str, method: str, faulty_s3: Any
) -> None:
    place = Storage.from_uri(f"{faulty_s3.bucket}/data")
    write_videos(place.join("a.parquet"), {"a": b"1"})
    write_tar(place.join("b.tar"), {"b.mp4": b"2"})
    place.join("c.mp4").write_bytes(b"3")
    paths = [r"/a\.parquet$", r"/b\.tar$"]
    fault = {"kind": "refused", "value": code, "method": method}
    faulty_s3.fail(*(fault | {"path": path} for path in paths))
    catalog = open_catalog(place.uri)
    assert [entry.id for entry in catalog] == ["c.mp4"]
    reasons = quarantined(catalog)
    assert list(reasons) == ["a.parquet", "b.tar"]
    assert all(reason.startswith("cannot be read: cannot ") for reason in reasons.values())
    refused = Counter(Path(each["path"]).name for each in faulty_s3.log() if each["fault"])
    assert set(refused) == set(reasons)
    assert max(refused.values()) <= 2  # a tar is looked up before it is opened


def test_a_storage_that_fails_is_an_error(faulty_s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    place = Storage.from_uri(f"{faulty_s3.bucket}/data")
    write_videos(place.join("a.parquet"), {"a": b"1"})
    faulty_s3.fail({"kind": "status", "value": 503, "path": r"/a\.parquet$", "times": 1})
    with pytest.raises(StorageError, match="or try later"):
        open_catalog(place.uri)
    assert len(open_catalog(place.uri)) == 1


def test_a_source_without_a_usable_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"text")
    (tmp_path / "b.tar").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"no video in .* can be used: a\.parquet is truncated"):
        open_catalog(str(tmp_path))
    with pytest.raises(ValueError, match=r"can be used: b\.tar is damaged: 4 bytes"):
        open_catalog(f"{tmp_path}/b.tar")


def test_quarantined_entries_are_kept(local: Path) -> None:
    (local / "bad.tar").write_bytes(b"text")
    catalog = open_catalog(str(local))
    [lost] = catalog.quarantined
    train, heldout = catalog.split(0.5, seed=0)
    assert (train.quarantined, heldout.quarantined) == ((lost,), ())
    assert catalog[1:].quarantined == (lost,)
    assert (
        Catalog.from_entries(catalog, catalog.quarantined)
        == catalog
        != Catalog.from_entries(catalog)
    )
    joined = open_catalog([str(local), "corpus:2"])
    assert joined.quarantined == (QuarantinedVideo(f"{local}/bad.tar", lost.uri, lost.reason),)


# ---- reading ------------------------------------------------------------------------------------


def test_a_video_that_cannot_be_read_is_named(folder: Storage) -> None:
    missing = folder.join("missing.mp4").uri
    with pytest.raises(VideoError, match=r"'the-id' .*cannot be read: cannot read") as caught:
        VideoEntry("the-id", missing).read()
    assert caught.value.uri == missing
    assert "\n" not in caught.value.reason


def test_an_empty_file_is_named(folder: Storage) -> None:
    folder.join("empty.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"'e' .*empty\.mp4\): is empty"):
        VideoEntry("e", folder.join("empty.mp4").uri).read()


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (b"grown", "has changed since it was catalogued: 5 bytes, 1 were listed"),
        (b"", "has changed since it was catalogued: 0 bytes, 1 were listed"),
    ],
)
def test_a_video_that_changed_is_named(now: bytes, message: str, folder: Storage) -> None:
    catalog = open_catalog(folder.uri)
    folder.join("loose.mp4").write_bytes(now)
    with pytest.raises(VideoError, match=message):
        catalog[0].read()


def test_a_video_that_was_deleted_is_named(local: Path) -> None:
    catalog = open_catalog(str(local))
    (local / "loose.mp4").unlink()
    with pytest.raises(VideoError, match=r"'loose\.mp4' .*cannot be read: cannot read"):
        catalog[0].read()


def test_a_tar_that_shrank_is_named(packed: Storage) -> None:
    first, *_, last = open_catalog(f"{packed.uri}/tars")
    place = packed.join("tars/t-009.tar")
    place.write_bytes(place.read_bytes()[:513])
    assert first.read().data == b"t0"
    with pytest.raises(VideoError, match=r"has changed .*: 1 bytes, 2 were listed"):
        last.read()
    place.write_bytes(b"")
    with pytest.raises(VideoError, match=r"has changed .*: 0 bytes, 2 were listed"):
        last.read()


def test_a_video_damaged_in_its_shard_is_named(packed: Storage) -> None:
    place = packed.join("train/shard-00000-of-00002.parquet")
    first, second = open_catalog(place.uri)
    spoil(place, first.offset)
    with pytest.raises(
        VideoError, match=r"'s/0' .*is damaged: its checksum is [0-9a-f]{8}, [0-9a-f]{8} was"
    ):
        first.read()
    assert second.read().data == b"s1"


# ---- the catalogue itself -----------------------------------------------------------------------


def test_the_order_of_a_listing_does_not_matter() -> None:
    ids = [f"{i:03d}" for i in range(50)]
    shuffled = random.Random(0).sample(ids, len(ids))
    assert make(shuffled) == make(ids)
    assert make(shuffled).fingerprint() == make(ids).fingerprint()


def test_different_catalogues_have_different_fingerprints() -> None:
    prints = {make(ids).fingerprint() for ids in (["a"], ["b"], ["a", "b"], ["ab"], [])}
    assert len(prints) == 5
    assert (
        make(["a", "b"]).fingerprint()
        == Catalog.from_entries(
            [VideoEntry("b", "elsewhere", "label"), VideoEntry("a", "moved")]
        ).fingerprint()
    )


def test_ids_are_sorted_as_python_sorts_them() -> None:
    ids = ["z", "é", "\U0001d11e", "\uffff", "a b", "a/b", "a", "A", "0", "日本", ""]
    assert [entry.id for entry in make(ids)] == sorted(ids)


def test_it_is_a_sequence(local: Path) -> None:
    catalog = open_catalog(str(local))
    entries = list(catalog)
    assert [catalog[i] for i in range(-4, 4)] == entries * 2
    assert catalog[np.int64(2)] == entries[2]
    assert list(catalog[1:3]) == entries[1:3]
    assert list(catalog[::-2]) == entries[::-2]
    assert entries[3] in catalog
    for index in (4, -5):
        with pytest.raises(IndexError):
            catalog[index]


def test_all_fields_of_an_entry_are_kept() -> None:
    entries = [
        VideoEntry("a", "/1", "x", offset=2**40, size=0, checksum=0, num_frames=12),
        VideoEntry("b", "/1", None, size=2**40, checksum=2**32 - 1),
        VideoEntry("c", "/2"),
        VideoEntry("d", "/1", "x", offset=7, size=5),
    ]
    assert list(Catalog.from_entries(reversed(entries))) == entries


def test_columns_are_pickled_without_a_copy() -> None:
    catalog = Catalog.from_entries(
        VideoEntry(f"{i:05d}", f"/{i % 7}", f"label {i % 3}", i, i, i) for i in range(5000)
    )
    catalog[0]
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(catalog, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 2000
    there = pickle.loads(data, buffers=buffers)
    assert there == catalog == pickle.loads(pickle.dumps(catalog))
    assert there[4321] == catalog[4321]


def test_a_part_holds_only_the_names_it_uses() -> None:
    catalog = Catalog.from_entries(
        VideoEntry(f"{i:05d}", f"/folder/{i}", f"label {i}") for i in range(5000)
    )
    few = catalog[7:9]
    assert few.files() == ["/folder/7", "/folder/8"]
    assert few == Catalog.from_entries(list(few))
    assert len(pickle.dumps(few)) < 3000


def test_the_fingerprint_is_pinned() -> None:
    ids = ["walk/é.mp4", "run/\U0001d11e.mp4", "zz", "run/\uffff.mp4"]
    assert make(ids).fingerprint() == "b4dc7c9eac656148"
    assert make([]).fingerprint() == "e4a6a0577479b2b4"


def test_the_split_is_pinned() -> None:
    heldout = make([f"{i:02d}" for i in range(40)]).split(0.2, seed=3)[1]
    assert [entry.id for entry in heldout] == ["02", "03", "06", "11", "13", "19", "32", "37"]


def test_the_same_id_twice_is_refused(local: Path) -> None:
    for again in (str(local), f"{local}/"):
        with pytest.raises(ValueError, match="Name each file once"):
            open_catalog([str(local), again])


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    num_videos=st.integers(0, 40),
    share=st.sampled_from([0, 1e-9, 0.01, 0.5, 0.99, 1]),
    seed=st.integers(0, 2**32),
)
def test_a_split_keeps_every_video_once_and_no_side_empty(
    num_videos: int, share: float, seed: int
) -> None:
    catalog = make([f"{i:04d}" for i in range(num_videos)])
    train, heldout = catalog.split(share, seed)
    assert Catalog.from_entries([*train, *heldout]) == catalog
    assert catalog.split(share, seed) == (train, heldout)
    assert len(train) > 0 or num_videos == 0
    assert (len(heldout) > 0) == (share > 0 and num_videos > 1)


def test_the_heldout_share() -> None:
    catalog = make([f"{i:04d}" for i in range(2000)])
    heldout = catalog.split(0.15, seed=3)[1]
    assert 240 < len(heldout) < 360
    assert catalog.split(0.15, seed=4)[1] != heldout


def test_a_videos_side_does_not_depend_on_the_others() -> None:
    small, large = make([f"{i:04d}" for i in range(500)]), make([f"{i:04d}" for i in range(2000)])
    few, many = (set(c.split(0.2, seed=0)[1]) for c in (small, large))
    assert few == {entry for entry in many if entry.id < "0500"}


@pytest.mark.slow
def test_a_video_is_known_by_its_file_and_offset_not_by_its_id(packed: Storage) -> None:
    """Two parts of the same shards and tars are apart; one video under two ids is not."""
    catalog = open_catalog(packed.uri)
    halves = [catalog.select(np.arange(len(catalog))[first::2]) for first in range(2)]
    assert set(halves[0].files()) & set(halves[1].files())
    check_apart(*halves, "a", "b")
    check_apart(make(["x", "y"]), Catalog.from_entries([VideoEntry("x", "/elsewhere")]), "a", "b")
    again = open_catalog([packed.uri, "corpus:1"])
    with pytest.raises(ValueError, match=rf"^{len(halves[1])} of {len(again)} test videos \(b\)"):
        check_apart(halves[1], again, "a", "b")


def test_thousands_of_objects(s3_bucket: str) -> None:
    names = [f"class {i % 7}/{i:05d}.mp4" for i in range(1500)]
    place = Storage.from_uri(f"{s3_bucket}/many")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: place.join(name).write_bytes(name.encode()), names))
    catalog = open_catalog(place.uri)
    assert [entry.id for entry in catalog] == sorted(names)
    assert all(entry.size == len(entry.id) for entry in catalog)
    assert catalog[1234].read().data == sorted(names)[1234].encode()
    assert labels(catalog[:1]) == {"class 0/00000.mp4": "class 0"}


@pytest.mark.skipif("CTP_REAL_VIDEOS" not in os.environ, reason="CTP_REAL_VIDEOS is not set")
def test_real_videos_from_a_tar_are_those_of_the_folder(tmp_path: Path) -> None:
    root = os.environ["CTP_REAL_VIDEOS"]
    with tarfile.open(tmp_path / "real.tar", "w") as tar:
        tar.add(root, arcname=".")
    catalog = open_catalog(str(tmp_path / "real.tar"))
    loose = {entry.id.partition(".")[0]: entry for entry in open_catalog(root)}
    assert len(catalog) == len(loose) > 0
    for entry in catalog:
        assert entry.read().data == loose[entry.id.removeprefix("real.tar/")].read().data


def test_a_share_of_the_videos_contains_every_smaller_one() -> None:
    catalog = make([f"{i:03d}" for i in range(200)])
    shares = [catalog.share(share, seed=0) for share in (0.001, 0.25, 0.5, 1.0)]
    assert [len(share) for share in shares] == [1, 50, 100, 200]
    ids = [{entry.id for entry in share} for share in shares]
    assert all(few < many for few, many in pairwise(ids))
    assert catalog.share(0.25, seed=0) == shares[1]
    assert catalog.share(0.25, seed=1) != shares[1]


def test_a_share_depends_on_the_ids_alone() -> None:
    names = [f"{i:03d}" for i in range(200)]
    few, rest = make(names[:100]).share(0.5, seed=0), make(names).share(0.5, seed=0)
    kept = {entry.id for entry in rest} & set(names[:100])
    assert len(kept ^ {entry.id for entry in few}) < 15  # those near the limit alone
