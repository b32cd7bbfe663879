"""The catalogue: every kind of source, the same ids wherever and in whatever order it is listed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from ctp.clip import VideoError
from ctp.storage import Storage
from ctp.video import corpus
from ctp.video.catalog import Catalog, VideoEntry, open_catalog

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


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder of FILES and OTHERS."""
    local = request.param == "local"
    uri = tmp_path / "my videos" if local else f"{request.getfixturevalue('s3_bucket')}/my videos"
    return fill(Storage.of(uri), FILES | OTHERS)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A local folder of FILES and OTHERS."""
    fill(Storage.of(tmp_path / "data"), FILES | OTHERS)
    return tmp_path / "data"


def read_all(catalog: Catalog) -> dict[str, bytes]:
    return {entry.id: entry.read().data for entry in catalog.entries}


def labels(catalog: Catalog) -> dict[str, str | None]:
    return {entry.id: entry.label for entry in catalog.entries}


def make(ids: Sequence[str]) -> Catalog:
    return Catalog.of(VideoEntry(each, f"/{each}") for each in ids)


# ---- sources ------------------------------------------------------------------------------------


def test_a_folder_at_any_depth(folder: Storage) -> None:
    catalog = open_catalog(folder.uri)
    assert read_all(catalog) == FILES
    assert labels(catalog) == LABELS
    assert [entry.id for entry in catalog.entries] == sorted(FILES)
    video = catalog.entries[0].read()
    assert (video.id, video.label) == ("loose.mp4", None)
    assert Storage.of(video.uri).is_file()


def test_a_typed_uri_may_hold_spaces(s3_bucket: str) -> None:
    fill(Storage.of(f"{s3_bucket}/my videos"), FILES)
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


def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    fill(Storage.of(tmp_path / "[set 1]"), FILES)
    assert read_all(open_catalog(str(tmp_path / "[set 1]"))) == FILES


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


def test_a_list_of_what_is_elsewhere(s3_bucket: str, tmp_path: Path) -> None:
    fill(Storage.of(s3_bucket), FILES)
    (tmp_path / "list.txt").write_text(f"{s3_bucket}/walk/a.avi\twalk\n{s3_bucket}/loose.mp4\n")
    catalog = open_catalog(str(tmp_path / "list.txt"))
    assert sorted(read_all(catalog).values()) == [b"1", b"2"]


def test_one_file(folder: Storage) -> None:
    catalog = open_catalog(folder.join("walk/a.avi").uri)
    assert read_all(catalog) == {"a.avi": b"2"}


def test_several_sources(folder: Storage, tmp_path: Path) -> None:
    more = fill(Storage.of(tmp_path / "more"), {"loose.mp4": b"5"})
    catalog = open_catalog([folder.uri, f"{more.uri}/"])
    expected = {f"{folder.uri}/{name}": data for name, data in FILES.items()}
    assert read_all(catalog) == expected | {f"{more.uri}/loose.mp4": b"5"}


def test_the_corpus() -> None:
    catalog = open_catalog("corpus:12")
    assert {entry.id for entry in catalog.entries} == set(corpus.video_names(12))
    assert all(entry.label == entry.id.split("/")[0] for entry in catalog.entries)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("{}/missing", r"there is no .*missing.*Wanted: a folder of videos, a glob"),
        ("{}/empty", r"no video below .*empty.*looked for files ending in \.3gp .*\.wmv"),
        ("{}/texts", r"no video below .*texts.*looked for files ending in"),
        ("{}/*.mp4", r"no file matches .*\*\.mp4"),
        ("{}/bytes.txt", r"list .*bytes\.txt.* is not UTF-8"),
        ("{}/blank.txt", r"list .*blank\.txt.* names no video"),
        ("{}/table.csv", r"neither a folder, nor a video, nor a \.txt list"),
        ("nonsense://bucket/videos", r"cannot open 'nonsense://bucket/videos'"),
        ("corpus:", r"wanted corpus:NUMBER"),
        ("corpus:0", r"wanted corpus:NUMBER"),
        ("corpus:ten", r"wanted corpus:NUMBER"),
        ("corpus:99999999999", r"data\.uri: 'corpus:99999999999': num_videos"),
    ],
)
def test_what_holds_no_video_says_what_was_wanted(uri: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("text")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(ValueError, match=said):
        open_catalog(uri.format(tmp_path))


def test_an_empty_prefix_of_a_bucket(s3_bucket: str) -> None:
    with pytest.raises(ValueError, match=r"there is no 's3://.*/nothing'"):
        open_catalog(f"{s3_bucket}/nothing")


# ---- reading ------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_named(folder: Storage) -> None:
    missing = folder.join("missing.mp4").uri
    with pytest.raises(VideoError, match=r"'the-id' .*cannot be read: cannot read") as caught:
        VideoEntry("the-id", missing).read()
    assert caught.value.uri == missing
    assert "\n" not in caught.value.reason


def test_an_empty_file_is_named(folder: Storage) -> None:
    folder.join("empty.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"'e' .*empty\.mp4\): is empty"):
        VideoEntry("e", folder.join("empty.mp4").uri).read()


# ---- the catalogue itself -----------------------------------------------------------------------


def test_the_order_of_a_listing_does_not_matter() -> None:
    ids = [f"{i:03d}" for i in range(50)]
    shuffled = random.Random(0).sample(ids, len(ids))
    assert make(shuffled) == make(ids)
    assert make(shuffled).fingerprint() == make(ids).fingerprint()


def test_the_fingerprint_tells_catalogues_apart() -> None:
    prints = {make(ids).fingerprint() for ids in (["a"], ["b"], ["a", "b"], ["ab"], [])}
    assert len(prints) == 5
    assert (
        make(["a", "b"]).fingerprint()
        == Catalog.of(
            [VideoEntry("b", "elsewhere", "label"), VideoEntry("a", "moved")]
        ).fingerprint()
    )


def test_the_same_id_twice_is_refused(local: Path) -> None:
    (local / "list.txt").write_text("loose.mp4\nwalk/a.avi\nloose.mp4\n")
    with pytest.raises(ValueError, match=r"share the id 'loose\.mp4'.*Name each file once"):
        open_catalog(str(local / "list.txt"))
    with pytest.raises(ValueError, match="Name each file once"):
        open_catalog([str(local), f"{local}/"])


def test_split_parts_and_keeps_all() -> None:
    catalog = make([f"{i:04d}" for i in range(2000)])
    train, heldout = catalog.split(0.15, seed=3)
    assert Catalog.of([*train.entries, *heldout.entries]) == catalog
    assert 240 < len(heldout) < 360
    assert catalog.split(0.15, seed=3) == (train, heldout)
    assert catalog.split(0.15, seed=4)[1] != heldout
    assert len(catalog.split(0, seed=3)[1]) == 0


def test_a_videos_side_is_its_own() -> None:
    small, large = make([f"{i:04d}" for i in range(500)]), make([f"{i:04d}" for i in range(2000)])
    few, many = (set(c.split(0.2, seed=0)[1].entries) for c in (small, large))
    assert few == {entry for entry in many if entry.id < "0500"}


@pytest.mark.parametrize("share", [1e-9, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("num_videos", [2, 3, 10])
def test_no_side_is_empty_with_two_videos(num_videos: int, share: float) -> None:
    for seed in range(20):
        train, heldout = make([str(i) for i in range(num_videos)]).split(share, seed)
        assert len(train) > 0
        assert len(heldout) > 0
        assert len(train) + len(heldout) == num_videos


def test_one_video_is_trained_on_unless_held_out_by_share() -> None:
    train, heldout = make(["only"]).split(1e-9, seed=0)
    assert (len(train), len(heldout)) == (1, 0)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_video_that_is_alone_is_trained_on(share):
    alone = open_catalog("corpus:1")
    for seed in range(20):
        train, heldout = alone.split(share, seed)
        assert (len(train), len(heldout)) == (1, 0)
