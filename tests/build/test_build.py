"""Building: what goes where is fixed beforehand, what is whole stays, what is bad is named."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from ctp.build.build import (
    ShardTask,
    build_shard,
    claim,
    find_sources,
    guarded_converter,
    plan_shards,
    splits_of,
    whole_parts,
    write_manifest,
)
from ctp.build.config import BuildConfig, TranscodeConfig
from ctp.build.convert import convert
from ctp.build.layouts import Contents, FrameFolder, FrameZip, Source
from ctp.data.catalog import VideoEntry, open_catalog
from ctp.data.shards import ShardRow
from ctp.storage import Storage
from ctp.video.encoded import VideoError

VideoFolder = Callable[..., Path]
TRANSCODE = TranscodeConfig(short_side_px=32)


def make_contents(number: int = 20, splits: tuple[str, ...] = ("train", "test")) -> Contents:
    sources = [
        Source(f"{split}{i}", VideoEntry(f"{split}{i}", f"/v/{split}{i}.mp4"), split=split)
        for split in splits
        for i in range(number)
    ]
    return Contents.of(sources)


def make_config(out: str | Path = "/out", **options: object) -> BuildConfig:
    values = {"source": "/v", "out": str(out), "transcode": TRANSCODE, "num_shards": 3}
    return BuildConfig.model_validate(values | options)


def build_all(config: BuildConfig) -> tuple[Contents, list[ShardTask]]:
    """Build in this process, as the job does by tasks, and leave out the manifest."""
    contents = find_sources(config)
    tasks = plan_shards(config, contents)
    claim(config, tasks)
    for task in tasks:
        for _ in build_shard(task, partial(convert, config=config.transcode)):
            pass
    return contents, tasks


def whole(tasks: list[ShardTask]) -> list[str]:
    return sorted(whole_parts(tasks[0].folder, [task.name for task in tasks]))


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


def test_the_deal_is_a_function_of_seed_and_ids() -> None:
    contents = make_contents()
    backwards = Contents.of(reversed(contents.sources))
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
def test_how_many_shards(options: dict[str, object], sizes: list[int]) -> None:
    tasks = plan_shards(make_config(**options), make_contents(splits=("",)))
    assert sorted(len(task.sources) for task in tasks) == sizes
    assert tasks[0].name == f"shard-00000-of-{len(sizes):05d}"
    assert tasks[0].folder == "/out"


@pytest.mark.parametrize("where", ["local", "s3"])
def test_what_is_built_is_a_catalogue(
    where: str, video_folder: VideoFolder, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = f"{tmp_path}/out" if where == "local" else f"{request.getfixturevalue('s3_bucket')}/out"
    config = make_config(out, source=str(video_folder(good=5, bad=2)))
    contents, tasks = build_all(config)
    parts = whole_parts(out, [task.name for task in tasks])
    manifest = write_manifest(config, contents, "", list(parts.values()))
    catalog = open_catalog(out)
    assert [entry.id for entry in catalog] == [f"good{i}.mp4" for i in range(5)]
    for entry in catalog:
        assert entry.read().data[4:8] == b"ftyp"
    assert json.loads(Storage.of(out).join("manifest.json").read_bytes()) == manifest
    assert (manifest["videos"], manifest["frames"]) == (5, 60)
    assert [r["id"] for r in sorted(manifest["quarantined"], key=str)] == ["bad0.mp4", "bad1.mp4"]
    assert all("cannot be opened as a video" in r["reason"] for r in manifest["quarantined"])
    sizes = {info.path: info.size for info in Storage.of(out).list_files()}
    assert {s["name"]: s["bytes"] for s in manifest["shards"]}.items() <= sizes.items()
    assert sum(shard["videos"] for shard in manifest["shards"]) == 5


def test_labels_are_counted(video_folder: VideoFolder, tmp_path: Path) -> None:
    folder = video_folder(good=5)
    for label, names in {"run": (0, 1, 2), "walk": (3,)}.items():
        (folder / label).mkdir()
        for i in names:
            (folder / f"good{i}.mp4").rename(folder / label / f"good{i}.mp4")
    config = make_config(tmp_path / "out", source=str(folder))
    contents, tasks = build_all(config)
    parts = whole_parts(config.out, [task.name for task in tasks])
    manifest = write_manifest(config, contents, "", list(parts.values()))
    assert manifest["labels"] == {"run": 3, "walk": 1}


def test_what_is_whole_stays(video_folder: VideoFolder, tmp_path: Path) -> None:
    _, tasks = build_all(make_config(tmp_path / "out", source=str(video_folder(good=6))))
    names = [task.name for task in tasks]
    assert whole(tasks) == names
    shard = tmp_path / "out" / f"{names[0]}.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    (tmp_path / "out" / "parts" / f"{names[1]}.json").write_text('{"videos": 2')
    assert whole(tasks) == [names[2]]
    (tmp_path / "out" / f"{names[2]}.parquet").unlink()
    assert whole(tasks) == []


def test_a_shard_that_is_broken_off_is_not_there(video_folder: VideoFolder, tmp_path: Path) -> None:
    config = make_config(tmp_path / "out", source=str(video_folder(good=6)), num_shards=1)
    (task,) = plan_shards(config, find_sources(config))
    work = build_shard(task, partial(convert, config=config.transcode))
    for _ in range(3):
        next(work)
    work.close()
    assert whole([task]) == []
    assert Storage.of(config.out).list_files() == []


def test_a_build_that_is_done_again_is_the_same(video_folder: VideoFolder, tmp_path: Path) -> None:
    source = str(video_folder(good=6))
    files = []
    for name in ("one", "two"):
        build_all(make_config(tmp_path / name, source=source))
        paths = sorted((tmp_path / name).glob("*.parquet"))
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]


def test_a_folder_is_one_builds(video_folder: VideoFolder, tmp_path: Path) -> None:
    config = make_config(tmp_path / "out", source=str(video_folder(good=2)))
    contents = find_sources(config)
    tasks = plan_shards(config, contents)
    claim(config, tasks)
    free = config.replace(num_tasks=7, video_seconds=1, allow_missing=True)
    claim(free, plan_shards(free, contents))
    other = config.replace(transcode=TRANSCODE.replace(crf=30), num_shards=2)
    with pytest.raises(ValueError, match="holds another build: num_shards was 3, now 2; transc"):
        claim(other, plan_shards(other, contents))
    video_folder(good=3)
    with pytest.raises(ValueError, match="holds another build: videos was 2, now 3; ids was"):
        claim(config, plan_shards(config, find_sources(config)))


def test_a_source_is_the_same_however_it_is_written(
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
    claim(config, plan_shards(config, contents))
    for same in (source, f"{source}/", f"file://{source}", "../link", "../below/../videos"):
        again = make_config(tmp_path / "out", source=str(same), num_shards=1)
        claim(again, plan_shards(again, contents))
    other = config.replace(source="../more")
    with pytest.raises(ValueError, match=f"source was {source}, now {tmp_path}/more"):
        claim(other, plan_shards(other, contents))
    with pytest.raises(ValueError, match="lies in --source"):
        find_sources(config.replace(out=str(source / "shards")))


def test_the_corpus_lies_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path / "out", source="corpus:4")
    contents = find_sources(config)
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        claim(config, plan_shards(config, contents))


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    config = make_config(tmp_path)
    with pytest.raises(ValueError, match="holds files that are no build"):
        claim(config, plan_shards(config, make_contents()))


@pytest.fixture
def incomplete(tmp_path: Path) -> str:
    """GOT-10k with one sequence of twelve."""
    (tmp_path / "train" / "seq00").mkdir(parents=True)
    names = "".join(f"seq{i:02d}\n" for i in range(12))
    (tmp_path / "train" / "list.txt").write_text(names)
    return str(tmp_path)


def test_missing_videos_stop_the_build_unless_allowed(incomplete: str) -> None:
    config = make_config(source=incomplete, layout="got10k")
    with pytest.raises(ValueError, match=r"^11 video\(s\) are named and not there:") as caught:
        find_sources(config)
    said = str(caught.value)
    assert "train/seq01\n" in said
    assert "train/seq10\n" in said
    assert "seq11" not in said
    assert "and 1 more" in said
    contents = find_sources(config.replace(allow_missing=True))
    assert [source.id for source in contents.sources] == ["seq00"]
    assert len(contents.missing["train"]) == 11


def test_frames_are_always_coded(incomplete: str) -> None:
    options = {"source": incomplete, "layout": "got10k", "allow_missing": True}
    with pytest.raises(ValueError, match="layout got10k has frames"):
        find_sources(make_config(**options, transcode=None))


def test_where_from_and_where_to_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--source is missing"):
        find_sources(make_config(source=""))
    with pytest.raises(ValueError, match="--out is missing"):
        find_sources(make_config(out="", source=str(tmp_path)))


@pytest.mark.parametrize("name", ["", "/shards"])
def test_shards_do_not_become_sources(name: str, video_folder: VideoFolder) -> None:
    source = str(video_folder(good=1))
    with pytest.raises(ValueError, match="lies in --source"):
        find_sources(make_config(source + name, source=source))
    assert find_sources(make_config(f"{source}-of-mine", source=source)).sources


def test_an_unknown_layout_is_told_with_its_near_miss() -> None:
    with pytest.raises(ValidationError, match=r"no such layout \(did you mean ucf101\?\); there"):
        make_config(layout="ucf-101")


def test_splits_are_named_once() -> None:
    assert splits_of(make_contents()) == ["test", "train"]


@pytest.mark.slow
def test_a_video_that_takes_for_ever_costs_itself(
    video_folder: VideoFolder, tmp_path: Path
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
    converter = guarded_converter(make_config(video_seconds=3))
    assert [source.id for source in build_shard(task, converter)] == ["endless", "good"]
    converter.close()
    part = whole_parts(task.folder, ["shard"])["shard"]
    assert part.videos == 1
    assert [(each.video_id, each.reason) for each in part.quarantined] == [
        ("endless", "the decoder took longer than 3 s")
    ]


def test_the_storages_fault_is_no_videos(tmp_path: Path) -> None:
    def fail(source: Source) -> ShardRow:
        raise OSError("the network is down")

    task = ShardTask(str(tmp_path), "shard", (Source("a", FrameFolder("/v", Fraction(12))),))
    with pytest.raises(OSError, match="the network is down"):
        list(build_shard(task, fail))
    assert list(tmp_path.iterdir()) == []


def test_all_may_be_bad(tmp_path: Path) -> None:
    def fail(source: Source) -> ShardRow:
        raise VideoError(source.id, source.uri, "is bad")

    task = ShardTask(str(tmp_path), "shard", (Source("a", FrameFolder("/v", Fraction(12))),))
    list(build_shard(task, fail))
    assert pq.read_table(tmp_path / "shard.parquet").num_rows == 0
    assert len(whole_parts(task.folder, ["shard"])["shard"].quarantined) == 1
