"""The retrieval job from its command line to its files."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_part, open_extraction, read_part
from ctp.downstream.feature_folder import finish, write_part
from ctp.downstream.features import open_embedder
from ctp.video.config import ViewsConfig


@pytest.fixture(scope="module")
def job(load_job: Callable[[str], Any]) -> Any:
    return load_job("retrieve")


def embed(config: EmbedConfig) -> str:
    work = open_extraction(config)
    embedder = open_embedder(work.config, work.encoder)
    for number in work.left:
        rows = embed_part(embedder, read_part(work.config, work.catalog, number))
        write_part(work.folder, number, rows)
    finish(work.folder, work.manifest, work.catalog.quarantined)
    return config.out


@pytest.fixture
def folders(small_embedding: EmbedConfig, tmp_path: Path) -> list[str]:
    """The options that name two folders of features: the queries are copies of two videos."""
    gallery = embed(small_embedding)
    for name in ("a/1.mp4", "b/3.mp4"):
        copy = tmp_path / "others" / name
        copy.parent.mkdir(parents=True)
        shutil.copy(Path(str(small_embedding.data.uri), name), copy)
    others = small_embedding.replace(
        data={"uri": str(tmp_path / "others")}, out=str(tmp_path / "other-features")
    )
    return ["--gallery", gallery, "--queries", embed(others)]


def test_scores_and_picture(
    job: Any, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "retrieval"
    job.main([*folders, "--ks", "1,5", "--knn", "3", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "gallery: 5 videos; 1 more could not be read\nqueries: 2 videos\n" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["k", "max", "chance"] in lines
    assert ["1", "100.0%", "±", "16.7%", "50.0%"] in lines
    assert ["5", "100.0%", "±", "16.7%", "100.0%"] in lines
    assert "right at k of 2 queries" in printed
    assert re.search(r"kNN of 3: .* of 2 queries \(chance 50.0%\)", printed)
    scores = json.loads((out / "retrieval.json").read_bytes())
    assert scores["accuracy"] == {"1": 1.0, "5": 1.0}  # each finds its copy
    assert scores["chance"] == {"1": 0.5, "5": 1.0}  # 3 of 5, and 2 of 5
    assert scores["gallery"]["quarantined"] == 1
    assert scores["encoder"] == "random weights"
    assert len(scores["encoder_sha256"]) == 64
    picture = Image.open(io.BytesIO((out / "neighbours.png").read_bytes()))
    assert picture.width > 6 * 128  # the query and five neighbours


def test_each_pooling_has_its_accuracy(
    job: Any, small_embedding: EmbedConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ViewsConfig(num_clips=1, interval_frames=1, keeps_aspect_ratio=False)
    accuracy = {}
    for pooling in ("both", "max", "vcop"):
        config = small_embedding.replace(views=views, features={"pooling": pooling})
        gallery = embed(config.replace(out=str(tmp_path / f"gallery-{pooling}")))
        (tmp_path / "others" / "b").mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "videos" / "b" / "3.mp4", tmp_path / "others" / "b")
        asked = config.replace(
            data={"uri": str(tmp_path / "others")}, out=str(tmp_path / f"queries-{pooling}")
        )
        options = ["--gallery", gallery, "--queries", embed(asked), "--ks", "1,2"]
        job.main([*options, "--num_pictured", "0", "--out", str(tmp_path / pooling)])
        scores = json.loads((tmp_path / pooling / "retrieval.json").read_bytes())
        accuracy[pooling] = scores["accuracy_by_pooling"]
        assert "encoder random weights: r3d, width 4" in capsys.readouterr().out
    assert accuracy["both"] == accuracy["max"] | accuracy["vcop"]


def test_a_k_larger_than_the_gallery(job: Any, folders: list[str], tmp_path: Path) -> None:
    for option in ("ks", "knn"):
        with pytest.raises(SystemExit, match=f"error: --{option} has 6; expected at most 5, the n"):
            job.main([*folders, f"--{option}", "6", "--out", str(tmp_path / "out")])


def test_by_default_all_ks_that_the_gallery_has(
    job: Any, folders: list[str], tmp_path: Path
) -> None:
    job.main([*folders, "--num_pictured", "0", "--out", str(tmp_path)])
    scores = json.loads((tmp_path / "retrieval.json").read_bytes())
    assert list(scores["accuracy"]) == ["1", "5"]


def test_a_query_in_the_gallery_is_refused(
    job: Any,
    folders: list[str],
    small_embedding: EmbedConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(gallery: str, message: str) -> None:
        with pytest.raises(SystemExit, match=message):
            job.main(["--gallery", gallery, *folders[2:], "--out", str(tmp_path / "out")])

    # the ids differ, the files are the same
    parts = {"uri": (str(tmp_path / "videos"), str(tmp_path / "others/*/1.mp4"))}
    more = embed(small_embedding.replace(data=parts, out=str(tmp_path / "more")))
    fail(more, r"error: 1 of 2 test videos \(--queries\) .* \(--gallery\), such as 'a/1.mp4'")
    fail(folders[3], "error: 2 of 2 queries are in the gallery.*: each would find itself")
    shutil.rmtree(tmp_path / "others")
    job.main(["--gallery", more, *folders[2:], "--num_pictured", "0", "--out", str(tmp_path)])
    note = "not known whether a query is in the gallery: no file matches "
    assert note in capsys.readouterr().out


def test_features_of_other_kinds(
    job: Any, folders: list[str], small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    other = embed(small_embedding.replace(seed=1, out=str(tmp_path / "third")))
    options = ["--gallery", other, "--queries", folders[3], "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="cannot be compared"):
        job.main(options)


def test_without_the_videos_only_the_picture_is_missing(
    job: Any, folders: list[str], small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    (Path(str(small_embedding.data.uri)) / "a" / "1.mp4").unlink()
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=r"error: video 'a/1.mp4' .*does not exist any more"):
        job.main([*folders, "--ks", "1,5", "--out", str(out)])
    assert [file.name for file in out.iterdir()] == ["retrieval.json"]


def test_what_is_missing_is_reported(job: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: --gallery is missing"):
        job.main(["--out", str(tmp_path / "out")])
    options = ["--gallery", str(tmp_path), "--queries", str(tmp_path), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit, match="not a folder of features"):
        job.main(options)
