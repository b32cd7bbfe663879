"""The job that builds shards, from its command line to the contents of OUT."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctp import recipes
from ctp.build.build import build_shard, create_or_resume, find_sources, plan_shards
from ctp.build.config import BuildConfig
from ctp.data.sources import open_catalog
from ctp.storage import Storage

VideoFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def job(load_job: Callable[[str], Any]) -> Any:
    return load_job("build_shards")


def build_here(config: BuildConfig) -> None:
    """Build all shards, so that the job has nothing left to do and starts no cluster."""
    tasks = plan_shards(config, find_sources(config))
    create_or_resume(config, tasks)
    for task in tasks:
        list(build_shard(task, config.transcode))


def test_a_finished_build_is_not_repeated(
    job: Any, video_folder: VideoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    config = recipes.original_shards().replace(
        source=str(video_folder(good=3, bad=12)), out=out, num_shards=2
    )
    build_here(config)
    options = ["--source", config.source, "--out", out, "--num_shards", "2"]
    job.main(["--recipe", "original", *options])
    printed = capsys.readouterr().out
    assert "15 videos of layout folder, 2 shards, 2 of them are done" in printed
    assert "3 videos, 36 frames," in printed
    assert "12 quarantined" in printed
    assert "2 more" in printed
    assert "_manifest.json" in printed
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_bytes())
    assert manifest["config"]["transcode"] is None
    with pytest.raises(SystemExit, match=r"^error: .*transcode was None"):
        job.main(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--source"),
        (["--source", "{source}"], "--out"),
        (["--source", "{source}/lost", "--out", "{out}"], "/lost"),
        (["--source", "{source}", "--out", "{out}", "--layout", "got10k"], "train, val and test"),
        (["--source", "{source}", "--out", "{file}/out"], "file/out"),
    ],
)
def test_an_invalid_option_is_an_error_of_one_line(
    job: Any, options: list[str], message: str, video_folder: VideoFolder, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    source = str(video_folder(good=1))
    named = {"source": source, "out": str(tmp_path / "out"), "file": str(tmp_path / "file")}
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
        job.main([option.format(**named) for option in options])
    assert "\n" not in str(caught.value)


def test_an_unknown_layout_has_a_near_miss(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        job.main(["--layout", "hmdb"])
    assert "did you mean hmdb51?" in capsys.readouterr().err


def test_help_names_recipes_and_options(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        job.main(["--help"])
    printed = capsys.readouterr().out
    for name in ("training", "original", "--transcode.short_side_px", "--allow_missing", "got10k"):
        assert name in printed


def test_a_data_set_with_splits_into_an_object_store(
    job: Any, s3_bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, lost in (("train", "seq1\n"), ("val", "")):
        folder = tmp_path / split / "seq0"
        folder.mkdir(parents=True)
        (tmp_path / split / "list.txt").write_text(f"seq0\n{lost}")
        for number in range(1, 6):
            picture = io.BytesIO()
            Image.new("RGB", (64, 48), (40 * number, 0, 0)).save(picture, "JPEG")
            (folder / f"{number:08d}.jpg").write_bytes(picture.getvalue())
        (folder / "groundtruth.txt").write_text("1,2,3,4\n" * 5)
    out = f"{s3_bucket}/got10k"
    options = ["--source", str(tmp_path), "--layout", "got10k", "--out", out]
    with pytest.raises(SystemExit, match=r"^error: 1 video.*missing"):
        job.main(options)
    build_here(
        recipes.training_shards().replace(
            source=str(tmp_path), layout="got10k", out=out, allow_missing=True
        )
    )
    job.main([*options, "--allow_missing", "true"])
    described = "2 videos of layout got10k, 2 shards, 2 of them are done, 1 videos are missing"
    assert described in capsys.readouterr().out
    for split in ("train", "val"):
        place = Storage.from_uri(out).join(split)
        manifest = json.loads(place.join("_manifest.json").read_bytes())
        assert (manifest["videos"], manifest["frames"], manifest["split"]) == (1, 5, split)
        assert manifest["missing"] == (["seq1"] if split == "train" else [])
        assert [entry.id for entry in open_catalog(f"{out}/{split}")] == ["seq0"]
