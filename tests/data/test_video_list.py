"""Lists of videos: paths and labels as training codes write them, in any text file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from ctp.data.sources import open_catalog
from ctp.storage import Storage

NAMES = ["a.mp4", "my videos/b, 2.AVI", "walk/c.webm", "clip without ending"]

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(text, name="list.txt")`: the path of a list beside the videos NAMES."""
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"%d" % number)

    def write_list(text: str | bytes, name: str = "list.txt") -> str:
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write_list


def labels(uri: str) -> dict[str, str | None]:
    return {entry.id: entry.label for entry in open_catalog(uri) if entry.read().data}


@pytest.mark.parametrize("separator", ["\t", " ", ",", ", ", ";", "  ", " , "])
@pytest.mark.parametrize("name", ["list.txt", "train.CSV", "train.tsv"])
def test_labels_after_any_separator(separator: str, name: str, write: Write) -> None:
    lines = [f"a.mp4{separator}3", f"my videos/b, 2.AVI{separator}playing guitar", "walk/c.webm"]
    wanted = {"a.mp4": "3", "my videos/b, 2.AVI": "playing guitar", "walk/c.webm": None}
    assert labels(write("\n".join(lines), name)) == wanted


def test_labels_as_python_writes_csv(write: Write, tmp_path: Path) -> None:
    rows = [["video_path", "label"], ["a.mp4", 'say "hi"'], ["my videos/b, 2.AVI", "run, fast"]]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = labels(str(tmp_path / "t.csv"))
    assert list(found) == ["a.mp4", "my videos/b, 2.AVI"]
    assert found["my videos/b, 2.AVI"] == "run, fast"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_line_ends_and_comments(encoding: str, end: str, write: Write) -> None:
    lines = ["a.mp4 1", "", "# a comment", "#", "   ", "walk/c.webm\t2 "]
    found = labels(write(end.join(lines).encode(encoding)))
    assert found == {"a.mp4": "1", "walk/c.webm": "2"}


def test_a_path_without_an_ending(write: Write, tmp_path: Path) -> None:
    (tmp_path / "b17").write_bytes(b"x")
    found = labels(write("clip without ending\nb17 walking\n"))
    assert found == {"clip without ending": None, "b17": "walking"}


def test_paths_may_start_with_a_number_sign(write: Write, tmp_path: Path) -> None:
    (tmp_path / "#1.mp4").write_bytes(b"x")
    assert labels(write("#1.mp4 hit\n#2 no video\n")) == {"#1.mp4": "hit"}


def test_files_of_macos_are_skipped_and_other_hidden_names_are_not(
    write: Write, tmp_path: Path
) -> None:
    (tmp_path / ".b.mp4").write_bytes(b"x")
    lines = ["a.mp4", "./._a.mp4", "__MACOSX/a.mp4", ".b.mp4"]
    assert list(labels(write("\n".join(lines)))) == [".b.mp4", "a.mp4"]


def test_a_repeated_line_is_one_video_and_two_labels_are_refused(write: Write) -> None:
    assert labels(write("a.mp4 1\nwalk/c.webm 2\n./a.mp4 1\na.mp4,1")) == {
        "a.mp4": "1",
        "walk/c.webm": "2",
    }
    with pytest.raises(ValueError, match=r"a\.mp4.*'1' and '2'"):
        open_catalog(write("a.mp4 1\na.mp4 2\n"))


def test_a_remote_list(s3_bucket: str) -> None:
    root = Storage.from_uri(f"{s3_bucket}/set")
    root.join("my a.mp4").write_bytes(b"1")
    root.join("train.csv").write_bytes(f"my a.mp4 3\n{s3_bucket}/set/b.mp4 4".encode())
    catalog = open_catalog(root.join("train.csv").uri)
    assert {entry.id: entry.label for entry in catalog} == {
        "my a.mp4": "3",
        f"{s3_bucket}/set/b.mp4": "4",
    }
    assert catalog[0].read().data == b"1"


@pytest.mark.parametrize(
    "line",
    [
        "walking,a.mp4",  # the label first
        "frames/v1 30 5",  # a folder of frames, as VideoMAE lists them
        "elsewhere/a.mp4 3",  # relative to another folder
        "http://host/a.mp4",
    ],
)
def test_a_list_of_no_files_is_refused_before_a_run(line: str, write: Write) -> None:
    with pytest.raises(ValueError, match=r"list\.txt.*none of .* is a file"):
        open_catalog(write(f"{line}\n" * 3 + "b.mp4 4\n"))


def test_a_few_missing_videos_are_left_to_the_run(write: Write) -> None:
    assert len(open_catalog(write("gone.mp4 1\na.mp4 2\n"))) == 2
