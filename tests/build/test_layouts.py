"""Layouts: each is written to disk as it is published, and its contents are known."""

from __future__ import annotations

import os
import zipfile
from fractions import Fraction
from pathlib import Path

import pytest

from ctp.build.layouts import LAYOUTS, Contents, FrameFolder, FrameZip, Source
from ctp.data.catalog import VideoEntry
from ctp.storage import Storage


def lay_out(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def found(contents: Contents) -> list[tuple[str, str, str | None]]:
    return [(source.split, source.id, source.label) for source in contents.sources]


UCF101 = {
    "UCF-101/YoYo/v_YoYo_g01_c01.avi": "1",
    "UCF-101/YoYo/v_YoYo_g08_c01.avi": "22",
    "UCF-101/Archery/v_Archery_g08_c02.avi": "333",
    "UCF-101/Archery/v_Archery_g09_c02.avi": "no list names it",
    "ucfTrainTestlist/classInd.txt": "1 Archery\r\n2 YoYo\r\n",
    "ucfTrainTestlist/trainlist01.txt": (
        "Archery/v_Archery_g08_c02.avi 1\nYoYo/v_YoYo_g08_c01.avi 2\n"
    ),
    "ucfTrainTestlist/testlist01.txt": "YoYo/v_YoYo_g01_c01.avi\n",
    "ucfTrainTestlist/trainlist02.txt": "YoYo/v_YoYo_g01_c01.avi 2\n",
    "ucfTrainTestlist/testlist02.txt": "YoYo/v_YoYo_g08_c01.avi\nYoYo/v_YoYo_g25_c01.avi\n",
}


@pytest.mark.parametrize("nested", [True, False])
def test_ucf101(nested: bool, tmp_path: Path) -> None:
    files = UCF101 if nested else {k.removeprefix("UCF-101/"): v for k, v in UCF101.items()}
    contents = LAYOUTS["ucf101"](lay_out(tmp_path, files), 1)
    assert found(contents) == [
        ("test", "YoYo/v_YoYo_g01_c01.avi", "YoYo"),
        ("train", "Archery/v_Archery_g08_c02.avi", "Archery"),
        ("train", "YoYo/v_YoYo_g08_c01.avi", "YoYo"),
    ]
    assert contents.num_unused == 1
    assert not contents.missing
    content = contents.sources[1].content
    assert isinstance(content, VideoEntry)
    assert content.read().data == b"333"


def test_ucf101s_second_split(tmp_path: Path) -> None:
    contents = LAYOUTS["ucf101"](lay_out(tmp_path, UCF101), 2)
    assert [s.split for s in contents.sources] == ["test", "train"]
    assert contents.missing == {"test": ("YoYo/v_YoYo_g25_c01.avi",)}
    assert contents.num_unused == 2


def test_ucf101_in_an_object_store(s3_bucket: str) -> None:
    for name, text in UCF101.items():
        Storage.from_uri(f"{s3_bucket}/ucf").join(name).write_bytes(text.encode())
    contents = LAYOUTS["ucf101"](f"{s3_bucket}/ucf", 1)
    assert [source.content.read().data for source in contents.sources] == [b"1", b"333", b"22"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("classInd.txt", "1 Archery\n", "names YoYo/v_YoYo_g08_c01.avi, whose class is not in"),
        ("classInd.txt", "Archery\n", "expected two words per line, got 'Archery'"),
    ],
)
def test_ucf101s_lists_are_checked(name: str, text: str, said: str, tmp_path: Path) -> None:
    uri = lay_out(tmp_path, UCF101 | {f"ucfTrainTestlist/{name}": text})
    with pytest.raises(ValueError, match=said):
        LAYOUTS["ucf101"](uri, 1)


HMDB51 = {
    "hmdb51_org/wave/A #1 (x)_wave_1.avi": "1",
    "hmdb51_org/wave/b_wave_2.avi": "2",
    "hmdb51_org/brush_hair/b_wave_2.avi": "the same name in another class",
    "testTrainMulti_7030_splits/wave_test_split2.txt": (
        "A #1 (x)_wave_1.avi 1 \nb_wave_2.avi 2 \nc_wave_3.avi 0 \n"
    ),
    "testTrainMulti_7030_splits/brush_hair_test_split2.txt": "b_wave_2.avi 0\nlost.avi 1\n",
    "testTrainMulti_7030_splits/wave_test_split1.txt": "b_wave_2.avi 1\n",
}


def test_hmdb51(tmp_path: Path) -> None:
    contents = LAYOUTS["hmdb51"](lay_out(tmp_path, HMDB51), 2)
    assert found(contents) == [
        ("test", "wave/b_wave_2.avi", "wave"),
        ("train", "wave/A #1 (x)_wave_1.avi", "wave"),
    ]
    assert contents.missing == {"train": ("brush_hair/lost.avi",)}
    assert contents.num_unused == 1
    assert contents.sources[1].content.read().data == b"1"


KINETICS = {
    "annotations/train.csv": (
        "label,youtube_id,time_start,time_end,split\n"
        '"eating, fast",--3ouPhoy2A,20,30,train\nabseiling,bbb,1,11,train\n'
        "abseiling,ccc,2,12,train\n"
    ),
    "annotations/all.csv": (
        "label,youtube_id,time_start,time_end,split,is_cc\nabseiling,bbb,1,11,train,0\n"
        "abseiling,ddd,0,10,validate,0\n,eee,120,130,test,1\n"
    ),
    "notes.csv": "this,is,none\n1,2,3\n",
    "train/eating fast/--3ouPhoy2A_000020_000030.mp4": "1",
    "train/bbb.mp4": "2",
    "val/ddd_000000_000010.mkv": "4",
    "test/eee_000120_000130.mp4": "5",
    "test/fff_000120_000130.mp4": "unlisted",
}


def test_kinetics400(tmp_path: Path) -> None:
    contents = LAYOUTS["kinetics400"](lay_out(tmp_path, KINETICS), 1)
    assert found(contents) == [
        ("test", "eee_000120_000130", None),
        ("train", "--3ouPhoy2A_000020_000030", "eating, fast"),
        ("train", "bbb_000001_000011", "abseiling"),
        ("val", "ddd_000000_000010", "abseiling"),
    ]
    assert contents.missing == {"train": ("ccc_000002_000012",)}
    assert contents.num_unused == 1
    assert [s.content.read().data for s in contents.sources] == [b"5", b"1", b"2", b"4"]


def test_a_malformed_line_of_kinetics_is_shown(tmp_path: Path) -> None:
    files = KINETICS | {
        "a.csv": "label,youtube_id,time_start,time_end,split\nrun,xyz,now,11,train\n"
    }
    with pytest.raises(ValueError, match=r"a\.csv: not a line of Kinetics: .*'now'"):
        LAYOUTS["kinetics400"](lay_out(tmp_path, files), 1)


SSV1 = {
    "20bn-something-something-v1/1/00001.jpg": "",
    "20bn-something-something-v1/20/00001.jpg": "",
    "20bn-something-something-v1/3/00001.jpg": "",
    "20bn-something-something-v1/4/00001.jpg": "",
    "something-something-v1-train.csv": (
        "20;Holding something\n1;Folding something; twice\n9;Lost\n"
    ),
    "something-something-v1-validation.csv": "3;Holding something\n",
    "something-something-v1-test.csv": "4\n",
}


def test_something_something(tmp_path: Path) -> None:
    contents = LAYOUTS["ssv1"](lay_out(tmp_path, SSV1), 1)
    assert found(contents) == [
        ("test", "4", None),
        ("train", "1", "Folding something; twice"),
        ("train", "20", "Holding something"),
        ("val", "3", "Holding something"),
    ]
    assert contents.missing == {"train": ("9",)}
    wanted = FrameFolder(f"{tmp_path}/20bn-something-something-v1/20", Fraction(12))
    assert contents.sources[2].content == wanted


GOT10K = {
    "train/list.txt": "GOT-10k_Train_000002\nGOT-10k_Train_000001\nGOT-10k_Train_000007\n",
    "train/GOT-10k_Train_000001/00000001.jpg": "",
    "train/GOT-10k_Train_000002/00000001.jpg": "",
    "train/GOT-10k_Train_000003/00000001.jpg": "",
    "val/list.txt": "GOT-10k_Val_000001\n",
    "val/GOT-10k_Val_000001/00000001.jpg": "",
}


def test_got10k(tmp_path: Path) -> None:
    contents = LAYOUTS["got10k"](lay_out(tmp_path, GOT10K), 1)
    assert found(contents) == [
        ("train", "GOT-10k_Train_000001", None),
        ("train", "GOT-10k_Train_000002", None),
        ("val", "GOT-10k_Val_000001", None),
    ]
    assert contents.missing == {"train": ("GOT-10k_Train_000007",)}
    assert contents.num_unused == 1
    assert contents.sources[2].content == FrameFolder(
        f"{tmp_path}/val/GOT-10k_Val_000001", Fraction(10), has_boxes=True
    )


def make_zips(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / name, "w") as file:
            file.writestr("1.jpg", "")


def test_zips_below_a_folder(tmp_path: Path) -> None:
    make_zips(tmp_path, "run/a b.zip", "walk/c.zip", "d.zip")
    contents = LAYOUTS["frames-zip"](str(tmp_path), 1)
    assert found(contents) == [
        ("", "d.zip", None),
        ("", "run/a b.zip", "run"),
        ("", "walk/c.zip", "walk"),
    ]
    assert contents.sources[1].content == FrameZip(f"{tmp_path}/run/a b.zip", Fraction(25))


def test_zips_with_hidden_names_and_links(tmp_path: Path) -> None:
    make_zips(tmp_path, "run/a.ZIP", "run/._a.ZIP", "__MACOSX/run/a.zip", ".trash/b.zip")
    (tmp_path / "latest").symlink_to("run")
    (tmp_path / "c.zip").symlink_to("/gone/c.zip")
    contents = LAYOUTS["frames-zip"](str(tmp_path), 1)
    assert found(contents) == [("", "run/a.ZIP", "run")]
    [dead] = contents.quarantined
    assert dead.video_id == "c.zip"
    assert "/gone/c.zip" in dead.reason


@pytest.mark.parametrize("layout", ["ucf101", "hmdb51", "kinetics400", "ssv1", "got10k"])
def test_files_of_macos_links_and_byte_order_marks_change_nothing(
    layout: str, tmp_path: Path
) -> None:
    files = {"ucf101": UCF101, "hmdb51": HMDB51, "kinetics400": KINETICS, "ssv1": SSV1,
             "got10k": GOT10K}[layout]  # fmt: skip
    plain = LAYOUTS[layout](lay_out(tmp_path / "plain", files), 1)
    noisy = tmp_path / "noisy"
    for name, text in files.items():
        is_text = name.endswith((".txt", ".csv"))
        lay_out(noisy, {name: "\ufeff" + text if is_text else text})
        folder, _, base = name.rpartition("/")
        lay_out(noisy, {f"{folder or '.'}/._{base}": "Mac OS X", f"__MACOSX/{name}": "Mac OS X"})
        for link in ("latest", "current"):
            if not (noisy / folder / link).is_symlink():
                (noisy / folder / link).symlink_to(".")
    contents = LAYOUTS[layout](str(noisy), 1)
    assert found(contents) == found(plain)
    assert contents.missing == plain.missing


def test_videos_that_lists_name_may_be_links(tmp_path: Path) -> None:
    files = {name: text for name, text in UCF101.items() if not name.endswith(".avi")}
    lay_out(tmp_path, files)
    for number, name in enumerate(name for name in UCF101 if name.endswith(".avi")):
        lay_out(tmp_path / "all", {f"{number}.avi": UCF101[name]})
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / f"all/{number}.avi")
    contents = LAYOUTS["ucf101"](str(tmp_path), 1)
    assert len(contents.sources) == 3
    assert not contents.missing


def test_zips_of_a_list(tmp_path: Path) -> None:
    make_zips(tmp_path, "run/a b.zip", "walk/c.zip", "d.zip", "e.zip")
    (tmp_path / "list.txt").write_text("run/a b\tfast run\nwalk/c.zip 7\nd\nlost/f 3\n")
    contents = LAYOUTS["frames-zip"](str(tmp_path / "list.txt"), 1)
    assert found(contents) == [
        ("", "d.zip", None), ("", "run/a b.zip", "fast run"), ("", "walk/c.zip", "7"),
    ]  # fmt: skip
    assert contents.missing == {"": ("lost/f.zip",)}
    assert contents.num_unused == 1


def test_zips_whose_names_are_not_utf8(tmp_path: Path) -> None:
    make_zips(tmp_path, os.fsdecode(b"\xe9/\xff.zip"))
    contents = LAYOUTS["frames-zip"](str(tmp_path), 1)
    assert found(contents) == [("", r"\xe9/\xff.zip", r"\xe9")]
    assert Storage.from_uri(contents.sources[0].uri).is_file()


def test_a_folder_of_videos(tmp_path: Path) -> None:
    contents = LAYOUTS["folder"](lay_out(tmp_path, {"run/b.mp4": "2", "a.avi": "1"}), 1)
    assert found(contents) == [("", "a.avi", None), ("", "run/b.mp4", "run")]
    assert [source.content.read().data for source in contents.sources] == [b"1", b"2"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_source_is_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source: there is no '.*lost'"):
        LAYOUTS[layout](str(tmp_path / "lost"), 1)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("folder", "source: no video in"),
        ("ucf101", r"no classInd\.txt below .*unpack the official splits"),
        ("hmdb51", r"no file \*_test_split1\.txt below"),
        ("kinetics400", "no CSV below .* has the columns split, time_end, time_start, youtube_id"),
        ("ssv1", "no frame folders in .*20bn-something-something-v1"),
        ("got10k", "none of the folders train, val and test"),
        ("frames-zip", r"no \.zip below"),
    ],
)
def test_a_folder_of_another_layout_is_refused(layout: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        LAYOUTS[layout](lay_out(tmp_path, {"notes.md": ""}), 1)


def test_a_repeated_id_is_refused() -> None:
    sources = [Source("a", VideoEntry("a", uri), split="train") for uri in ("one", "two")]
    with pytest.raises(ValueError, match="share the id 'a': one and two"):
        Contents.from_sources(sources)
