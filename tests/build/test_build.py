"""Building: the assignment is fixed, finished shards are kept, unusable videos are reported."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from ctp.build.build import (
    ShardTask,
    build_shard,
    create_or_resume,
    find_sources,
    finished_parts,
    plan_shards,
    splits_of,
    with_stored_defaults,
    write_manifest,
)
from ctp.build.config import BuildConfig, TranscodeConfig
from ctp.build.layouts import Contents, FrameFolder, FrameZip, Source
from ctp.data.catalog import VideoEntry
from ctp.data.sources import open_catalog
from ctp.storage import Storage, StorageError
from ctp.video.encoded import VideoError

VideoFolder = Callable[..., Path]
TRANSCODE = TranscodeConfig(short_side_px=32)


def make_contents(number: int = 20, splits: tuple[str, ...] = ("train", "test")) -> Contents:
    sources = [
        Source(f"{split}{i}", VideoEntry(f"{split}{i}", f"/v/{split}{i}.mp4"), split=split)
        for split in splits
        for i in range(number)
    ]
    return Contents.from_sources(sources)


def make_config(out: str | Path = "/out", **options: object) -> BuildConfig:
    values = {"source": "/v", "out": str(out), "transcode": TRANSCODE, "num_shards": 3}
    return BuildConfig.model_validate(values | options)


def build_all(config: BuildConfig) -> tuple[Contents, list[ShardTask]]:
    """Build in this process, without the manifest."""
    contents = find_sources(config)
    tasks = plan_shards(config, contents)
    create_or_resume(config, tasks)
    for task in tasks:
        for _ in build_shard(task, config.transcode):
            pass
    return contents, tasks


def whole(tasks: list[ShardTask]) -> list[str]:
    return sorted(finished_parts(tasks[0].folder, [task.name for task in tasks]))


def test_each_video_goes_to_one_shard_of_its_split() -> None:
    tasks = plan_shards(make_config(), make_contents())
    assert [(task.folder, task.name) for task in tasks] == [
        (f"/out/{split}", f"shard-0000{i}-of-00003")
        for split in ("test", "train")
        for i in range(3)
    ]
    for split in ("test", "train"):
        parts = [task.sources for task in tasks if task.folder == f"/out/{split}"]
        assert sorted(map(len, parts)) == [6, 7, 7]
        assert sorted(s.id for p in parts for s in p) == sorted(f"{split}{i}" for i in range(20))


def test_the_shards_are_a_pure_function_of_seed_and_ids() -> None:
    contents = make_contents()
    backwards = Contents.from_sources(reversed(contents.sources))
    plan = plan_shards(make_config(), contents)
    assert plan_shards(make_config(), backwards) == plan
    assert plan_shards(make_config(seed=1), contents) != plan


def test_videos_are_shuffled() -> None:
    first = plan_shards(make_config(), make_contents(100, ("",)))[0]
    assert Counter(int(source.id) < 50 for source in first.sources)[True] in range(8, 26)
    assert [s.id for s in first.sources] != sorted(s.id for s in first.sources)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"num_shards": None, "videos_per_shard": 8}, [6, 7, 7]),
        ({"num_shards": None, "videos_per_shard": 20}, [20]),
        ({"num_shards": 100}, [1] * 20),
        ({"num_shards": 2, "limit": 5}, [2, 3]),
    ],
)
def test_the_number_of_shards(options: dict[str, object], sizes: list[int]) -> None:
    tasks = plan_shards(make_config(**options), make_contents(splits=("",)))
    assert sorted(len(task.sources) for task in tasks) == sizes
    assert tasks[0].name == f"shard-00000-of-{len(sizes):05d}"
    assert tasks[0].folder == "/out"


@pytest.mark.parametrize("where", ["local", "s3"])
def test_built_shards_are_a_catalogue(
    where: str, video_folder: VideoFolder, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = f"{tmp_path}/out" if where == "local" else f"{request.getfixturevalue('s3_bucket')}/out"
    config = make_config(out, source=str(video_folder(good=5, bad=2)))
    contents, tasks = build_all(config)
    parts = finished_parts(out, [task.name for task in tasks])
    manifest = write_manifest(config, contents, "", list(parts.values()))
    catalog = open_catalog(out)
    assert [entry.id for entry in catalog] == [f"good{i}.mp4" for i in range(5)]
    for entry in catalog:
        assert entry.read().data[4:8] == b"ftyp"
    assert json.loads(Storage.from_uri(out).join("_manifest.json").read_bytes()) == manifest
    assert (manifest["videos"], manifest["frames"]) == (5, 60)
    assert [r["id"] for r in sorted(manifest["quarantined"], key=str)] == ["bad0.mp4", "bad1.mp4"]
    assert all("cannot be opened as a video" in r["reason"] for r in manifest["quarantined"])
    sizes = {info.path: info.size for info in Storage.from_uri(out).list_files()}
    assert {s["name"]: s["bytes"] for s in manifest["shards"]}.items() <= sizes.items()
    assert sum(shard["videos"] for shard in manifest["shards"]) == 5


@pytest.mark.parametrize("splits", [("",), ("train", "val")])
def test_pandas_reads_the_whole_folder(
    splits: Sequence[str], video_folder: VideoFolder, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "out", source=str(video_folder(good=3, bad=1)))
    contents = find_sources(config)
    contents = replace(
        contents,
        sources=tuple(replace(s, split=split) for split in splits for s in contents.sources),
    )
    tasks = plan_shards(config, contents)
    create_or_resume(config, tasks)
    for task in tasks:
        list(build_shard(task, config.transcode))
    for split in splits:
        write_manifest(config, contents, split, [])
    table = pd.read_parquet(tmp_path / "out", columns=["id", "num_frames"])
    assert sorted(table["id"]) == sorted(f"good{i}.mp4" for i in range(3) for _ in splits)


def test_a_build_of_an_earlier_version_is_resumed(
    video_folder: VideoFolder, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "out", source=str(video_folder(good=6)))
    _, tasks = build_all(config)
    for path in sorted((tmp_path / "out").glob("_*")):
        path.rename(path.with_name(path.name.removeprefix("_")))
    create_or_resume(config, tasks)
    assert whole(tasks) == sorted(task.name for task in tasks)
    with pytest.raises(ValueError, match="holds another build"):
        create_or_resume(config.replace(seed=1), tasks)


def test_labels_are_counted(video_folder: VideoFolder, tmp_path: Path) -> None:
    folder = video_folder(good=5)
    for label, names in {"run": (0, 1, 2), "walk": (3,)}.items():
        (folder / label).mkdir()
        for i in names:
            (folder / f"good{i}.mp4").rename(folder / label / f"good{i}.mp4")
    config = make_config(tmp_path / "out", source=str(folder))
    contents, tasks = build_all(config)
    parts = finished_parts(config.out, [task.name for task in tasks])
    manifest = write_manifest(config, contents, "", list(parts.values()))
    assert manifest["labels"] == {"run": 3, "walk": 1}


def test_complete_shards_are_not_built_again(video_folder: VideoFolder, tmp_path: Path) -> None:
    _, tasks = build_all(make_config(tmp_path / "out", source=str(video_folder(good=6))))
    names = [task.name for task in tasks]
    assert whole(tasks) == names
    shard = tmp_path / "out" / f"{names[0]}.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    (tmp_path / "out" / "_parts" / f"{names[1]}.json").write_text('{"videos": 2')
    assert whole(tasks) == [names[2]]
    (tmp_path / "out" / f"{names[2]}.parquet").unlink()
    assert whole(tasks) == []


def test_an_interrupted_shard_does_not_exist(video_folder: VideoFolder, tmp_path: Path) -> None:
    config = make_config(tmp_path / "out", source=str(video_folder(good=6)), num_shards=1)
    (task,) = plan_shards(config, find_sources(config))
    work = build_shard(task, config.transcode)
    for _ in range(3):
        next(work)
    work.close()
    assert whole([task]) == []
    assert Storage.from_uri(config.out).list_files() == []


def test_a_repeated_build_gives_the_same_bytes(video_folder: VideoFolder, tmp_path: Path) -> None:
    source = str(video_folder(good=6))
    files = []
    for name in ("one", "two"):
        build_all(make_config(tmp_path / name, source=source))
        paths = sorted((tmp_path / name).glob("*.parquet"))
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]


def test_a_folder_belongs_to_one_build(video_folder: VideoFolder, tmp_path: Path) -> None:
    config = make_config(tmp_path / "out", source=str(video_folder(good=2)))
    contents = find_sources(config)
    tasks = plan_shards(config, contents)
    create_or_resume(config, tasks)
    free = config.replace(num_tasks=7, video_seconds=1, allow_missing=True)
    create_or_resume(free, plan_shards(free, contents))
    other = config.replace(transcode=TRANSCODE.replace(quantizer=9), num_shards=2)
    with pytest.raises(ValueError, match="holds another build: num_shards was 3, now 2; transc"):
        create_or_resume(other, plan_shards(other, contents))
    video_folder(good=3)
    with pytest.raises(ValueError, match="holds another build: videos was 2, now 3; ids was"):
        create_or_resume(config, plan_shards(config, find_sources(config)))


def test_a_changed_default_does_not_block_the_same_command(
    video_folder: VideoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The build was started when quantizer had another default."""
    now = make_config(tmp_path / "out", source=str(video_folder(good=2)), recipe="training")
    before = now.replace(transcode=TRANSCODE.replace(quantizer=9))
    contents = find_sources(now)
    create_or_resume(before, plan_shards(before, contents))
    kept = with_stored_defaults(now, ["source", "out", "num_shards"])
    assert kept == before
    create_or_resume(kept, plan_shards(kept, contents))
    assert "transcode.quantizer stays 9" in capsys.readouterr().out
    given = with_stored_defaults(now, ["source", "out", "transcode.quantizer"])
    with pytest.raises(ValueError, match=r"transcode was .*written by ctp "):
        create_or_resume(given, plan_shards(given, contents))
    assert with_stored_defaults(now.replace(recipe="original"), []).transcode == TRANSCODE


def test_a_source_is_recognised_by_any_path_to_it(
    video_folder: VideoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = video_folder(good=2)
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "below").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "good0.mp4").write_bytes((source / "good0.mp4").read_bytes())
    monkeypatch.chdir(tmp_path / "below")
    config = make_config("../out", source="../videos", num_shards=1)
    contents = find_sources(config)
    create_or_resume(config, plan_shards(config, contents))
    for same in (source, f"{source}/", f"file://{source}", "../link", "../below/../videos"):
        again = make_config(tmp_path / "out", source=str(same), num_shards=1)
        create_or_resume(again, plan_shards(again, contents))
    other = config.replace(source="../more")
    with pytest.raises(ValueError, match=f"source was {source}, now {tmp_path}/more"):
        create_or_resume(other, plan_shards(other, contents))
    with pytest.raises(ValueError, match="is inside --source"):
        find_sources(config.replace(out=str(source / "shards")))


def test_the_corpus_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path / "out", source="corpus:4")
    contents = find_sources(config)
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        create_or_resume(config, plan_shards(config, contents))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    config = make_config(tmp_path)
    with pytest.raises(ValueError, match="holds files that are not a build"):
        create_or_resume(config, plan_shards(config, make_contents()))


@pytest.fixture
def incomplete(tmp_path: Path) -> str:
    """GOT-10k with one sequence of twelve."""
    (tmp_path / "train" / "seq00").mkdir(parents=True)
    names = "".join(f"seq{i:02d}\n" for i in range(12))
    (tmp_path / "train" / "list.txt").write_text(names)
    return str(tmp_path)


def test_missing_videos_stop_the_build_unless_allowed(incomplete: str) -> None:
    config = make_config(source=incomplete, layout="got10k")
    with pytest.raises(ValueError, match=r"^11 video\(s\) of the splits are missing:") as caught:
        find_sources(config)
    said = str(caught.value)
    assert "train/seq01\n" in said
    assert "train/seq10\n" in said
    assert "seq11" not in said
    assert "and 1 more" in said
    contents = find_sources(config.replace(allow_missing=True))
    assert [source.id for source in contents.sources] == ["seq00"]
    assert len(contents.missing["train"]) == 11


def test_frames_need_transcoding(incomplete: str) -> None:
    options = {"source": incomplete, "layout": "got10k", "allow_missing": True}
    with pytest.raises(ValueError, match="layout got10k has frames"):
        find_sources(make_config(**options, transcode=None))


def test_source_and_out_are_required(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--source is missing"):
        find_sources(make_config(source=""))
    with pytest.raises(ValueError, match="--out is missing"):
        find_sources(make_config(out="", source=str(tmp_path)))


@pytest.mark.parametrize("name", ["", "/shards"])
def test_shards_do_not_become_sources(name: str, video_folder: VideoFolder) -> None:
    source = str(video_folder(good=1))
    with pytest.raises(ValueError, match="is inside --source"):
        find_sources(make_config(source + name, source=source))
    assert find_sources(make_config(f"{source}-of-mine", source=source)).sources


def test_an_unknown_layout_is_refused_with_a_near_miss() -> None:
    with pytest.raises(
        ValidationError, match=r"unknown layout .ucf-101. \(did you mean ucf101\?\)"
    ):
        make_config(layout="ucf-101")


def test_splits_are_distinct() -> None:
    assert splits_of(make_contents()) == ["test", "train"]


@pytest.mark.slow
def test_a_video_that_hangs_is_quarantined(
    video_folder: VideoFolder, losses_address: str, tmp_path: Path
) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(picture, "PNG")
    with zipfile.ZipFile(tmp_path / "endless.zip", "w") as file:
        for number in range(300):  # half a minute
            file.writestr(f"{number}.png", picture.getvalue())
    good = str(video_folder(good=1) / "good0.mp4")
    sources = (
        Source("endless", FrameZip(str(tmp_path / "endless.zip"), Fraction(25))),
        Source("good", VideoEntry("good", good)),
    )
    task = ShardTask(str(tmp_path / "out"), "shard", sources)
    script = (
        "import pickle, sys; from ctp.build.build import build_shard; "
        "from ctp.data.journal import Journal; from served_record import ServedRecord; "
        "task, config, address, actor = pickle.load(sys.stdin.buffer); "
        "journal = Journal(ServedRecord(address, actor), actor, 1.0)\n"
        "with journal.task(): list(build_shard(task, config, journal))"
    )
    arguments = pickle.dumps((task, TRANSCODE, losses_address, uuid.uuid4().hex))
    command = [sys.executable, "-c", script]
    helpers = str(Path(__file__).parents[1] / "data")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([helpers, *sys.path])}
    statuses = [
        subprocess.run(command, input=arguments, env=environment, check=False).returncode
        for _ in range(3)
    ]
    assert [status < 0 for status in statuses] == [True, True, False]
    part = finished_parts(task.folder, ["shard"])["shard"]
    assert part.videos == 1
    [quarantined] = part.quarantined
    assert quarantined.video_id == "endless"
    assert "longer than 1 s" in quarantined.reason


def fail_to_convert(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ctp.build.build.convert", fail)


def test_a_failing_storage_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_convert(monkeypatch, StorageError("the network is down"))
    task = ShardTask(str(tmp_path), "shard", (Source("a", FrameFolder("/v", Fraction(12))),))
    with pytest.raises(StorageError, match="the network is down"):
        list(build_shard(task, TRANSCODE))
    assert list(tmp_path.iterdir()) == []


def test_all_videos_may_be_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_convert(monkeypatch, VideoError("a", "/v", "is bad"))
    task = ShardTask(str(tmp_path), "shard", (Source("a", FrameFolder("/v", Fraction(12))),))
    list(build_shard(task, TRANSCODE))
    assert pq.read_table(tmp_path / "shard.parquet").num_rows == 0
    assert len(finished_parts(task.folder, ["shard"])["shard"].quarantined) == 1
