"""Listing of files: hidden names, links, patterns, and sources that a command line names."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from ctp.data.listing import fixed_part, is_hidden, list_below, split_sources
from ctp.data.sources import open_catalog
from ctp.storage import Storage

HIDDEN = {
    "Run/._v0.mp4": b"x",
    "Run/.v1.mp4": b"x",
    "__MACOSX/Run/v0.mp4": b"x",
    "__MACOSX/Run/._v0.mp4": b"x",
    ".Trash-1000/files/v3.mp4": b"x",
    "Run/.git/objects/v4.mp4": b"x",
    "._shard.parquet": b"x",
    "Run/._a.tar": b"x",
}
SHOWN = {"Run/v0.mp4": b"0", "Run/v 1.MP4": b"1", "a.b/c.mp4": b"2"}


def fill(root: str | Path, files: Mapping[str, bytes]) -> Storage:
    place = Storage.from_uri(root)
    for name, data in files.items():
        place.join(name).write_bytes(data)
    return place


def ids(uri: str | Path) -> list[str]:
    return [entry.id for entry in open_catalog(str(uri))]


def dead(uri: str | Path) -> dict[str, str]:
    return {each.video_id: each.reason for each in open_catalog(str(uri)).quarantined}


# ---- hidden names -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", "s3"])
@pytest.mark.parametrize("pattern", ["", "/**", "/**/*", "/{**/*.mp4,**/*.MP4,*.parquet}"])
def test_hidden_names_are_skipped(
    kind: str, pattern: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if kind == "local" else request.getfixturevalue("s3_bucket")
    fill(root, HIDDEN | SHOWN)
    catalog = open_catalog(f"{root}{pattern}")
    assert {entry.id: entry.read().data for entry in catalog} == SHOWN
    assert catalog.quarantined == ()


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_hidden_names_are_listed_if_they_are_written(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if kind == "local" else request.getfixturevalue("s3_bucket")
    fill(root, {".cache/set/a.mp4": b"1", ".cache/set/.b.mp4": b"2"})
    assert ids(f"{root}/.cache") == ["set/a.mp4"]
    assert ids(f"{root}/.c*/**/*.mp4") == [".cache/set/a.mp4"]
    assert ids(f"{root}/.cache/*/.*.mp4") == ["set/.b.mp4"]
    assert ids(f"{root}/.cache/set/.b.mp4") == [".b.mp4"]


def test_what_is_hidden() -> None:
    assert all(map(is_hidden, (".a", "a/.b/c", "__MACOSX/a", "a/._b.mp4")))
    assert not any(map(is_hidden, ("a.b", "../a/./b", "a/_b", "MACOSX", "a..b/c.")))


def test_the_folder_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[set 1]").mkdir()
    assert fixed_part(f"{tmp_path}/[set 1]") == f"{tmp_path}/[set 1]"
    assert fixed_part(f"{tmp_path}/a/*/b.mp4") == f"{tmp_path}/a"
    assert fixed_part(f"{tmp_path}/{{a,b}}/*.mp4") == str(tmp_path)
    assert fixed_part(f"{tmp_path}/missing.mp4") == f"{tmp_path}/missing.mp4"


# ---- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["", "**", "**/*.mp4", "*/*.mp4", "{A,latest,current}/*.mp4"])
def test_loops_of_links_end_and_each_file_is_listed_once(pattern: str, tmp_path: Path) -> None:
    fill(tmp_path, {"A/x.mp4": b"1", "A/y.mp4": b"2"})
    for name in ("latest", "current", "A/up", "A/self"):
        (tmp_path / name).symlink_to("." if "/" not in name else "..")
    (tmp_path / "0").symlink_to("A")  # sorts before A, but A is the name without a link
    assert ids(tmp_path / pattern) == ["A/x.mp4", "A/y.mp4"]


def test_folders_and_files_behind_links_are_found(tmp_path: Path) -> None:
    fill(tmp_path, {"all/a.mp4": b"1", "all/deep/b.mp4": b"2", "one/.store/c.mp4": b"3"})
    root = tmp_path / "set"
    root.mkdir()
    (root / "Run").symlink_to(tmp_path / "all")
    (root / "c.mp4").symlink_to(tmp_path / "one/.store/c.mp4")
    (root / "again").symlink_to(tmp_path / "all" / "deep")
    wanted = ["Run/a.mp4", "Run/deep/b.mp4", "c.mp4"]
    assert ids(root) == wanted
    assert ids(root / "**/*.mp4") == wanted
    (tmp_path / "link").symlink_to(root)
    assert ids(tmp_path / "link") == wanted


def test_links_and_hard_links_to_a_listed_file_are_no_further_videos(tmp_path: Path) -> None:
    fill(tmp_path, {"b/x.mp4": b"1", "b/y.mp4": b"2"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.mp4").symlink_to(tmp_path / "b/x.mp4")
    os.link(tmp_path / "b/y.mp4", tmp_path / "a/y.mp4")
    assert ids(tmp_path) == ["a/y.mp4", "b/x.mp4"]
    assert ids(tmp_path / "*/*.mp4") == ["a/y.mp4", "b/x.mp4"]
    names = [info.path for info in list_below(Storage.from_uri(tmp_path), each_once=False).files]
    assert names == ["a/x.mp4", "a/y.mp4", "b/x.mp4", "b/y.mp4"]


def test_two_files_with_the_same_bytes_are_two_videos(tmp_path: Path) -> None:
    fill(tmp_path, {"a.mp4": b"1", "b.mp4": b"1"})
    assert ids(tmp_path) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("pattern", ["", "**/*.mp4", "A/*.mp4"])
def test_links_that_lead_nowhere_are_named(pattern: str, tmp_path: Path) -> None:
    fill(tmp_path, {"A/x.mp4": b"1"})
    (tmp_path / "A/y.mp4").symlink_to("/gone/y.mp4")
    (tmp_path / "A/z.mp4").symlink_to("z.mp4")  # leads to itself
    (tmp_path / "A/._w.mp4").symlink_to("/gone/w.mp4")
    catalog = open_catalog(str(tmp_path / pattern))
    name = "" if pattern == "A/*.mp4" else "A/"
    assert [entry.id for entry in catalog] == [f"{name}x.mp4"]
    reasons = dead(tmp_path / pattern)
    assert list(reasons) == [f"{name}y.mp4", f"{name}z.mp4"]
    assert "/gone/y.mp4" in reasons[f"{name}y.mp4"]


@pytest.mark.parametrize("pattern", ["", "**/*.mp4"])
def test_a_file_that_cannot_be_looked_up_is_named(pattern: str, tmp_path: Path) -> None:
    """Its path is too long, which no user may read; without permission it is the same."""
    folder = tmp_path
    while len(str(folder)) < 3_860:
        folder /= "d" * 200
    folder.mkdir(parents=True)
    name = "v" * 250 + ".mp4"
    parent = os.open(folder, os.O_RDONLY)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=parent))
    os.close(parent)
    fill(tmp_path, {"a.mp4": b"1"})
    assert ids(tmp_path / pattern) == ["a.mp4"]
    path = str(folder.relative_to(tmp_path) / name)
    assert dead(tmp_path / pattern) == {path: "cannot be looked up: File name too long"}


def test_a_folder_of_dead_links_alone_is_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "y.mp4").symlink_to("/gone/y.mp4")
    with pytest.raises(ValueError, match=r"no video in .* can be used: y\.mp4 .*/gone/y\.mp4"):
        open_catalog(str(tmp_path))


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    fill(tmp_path, {"a.mp4": b"1", "b.mp4/c.mp4": b"2"})
    os.mkfifo(tmp_path / "pipe.mp4")
    assert ids(tmp_path) == ids(tmp_path / "**") == ["a.mp4", "b.mp4/c.mp4"]


# ---- commas -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("v/{A,B}/*.mp4", ["v/{A,B}/*.mp4"]),
        ("x{a,{b,c}}y,s3://b/{0..9}", ["x{a,{b,c}}y", "s3://b/{0..9}"]),
        (r"a\,b,c", ["a,b", "c"]),
        ("a{b,c", ["a{b", "c"]),
        ("a}b,c", ["a}b", "c"]),
        ("a,,b,", ["a", "b"]),
        (r"C:\videos,b", [r"C:\videos", "b"]),
    ],
)
def test_commas_separate_sources(text: str, wanted: list[str]) -> None:
    assert split_sources(text) == wanted


def test_a_folder_that_exists_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    fill(tmp_path, {"red, blue/a.mp4": b"1"})
    assert split_sources(f"{tmp_path}/red, blue") == [f"{tmp_path}/red, blue"]
    assert ids(split_sources(rf"{tmp_path}/red\, blue")[0]) == ["a.mp4"]
    assert len(split_sources(f"{tmp_path}/red, blue,{tmp_path}")) == 3


# ---- the inputs of public reports ---------------------------------------------------------------


def test_an_archive_of_macos_holds_its_files_twice(tmp_path: Path) -> None:
    fill(tmp_path, SHOWN)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in SHOWN:
            file.write(tmp_path / name, f"out/{name}")
            folder, _, base = name.rpartition("/")
            file.writestr(f"out/__MACOSX/{folder}/._{base}", b"Mac OS X")
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        file.extractall(tmp_path)
    assert ids(tmp_path / "out") == sorted(SHOWN)
