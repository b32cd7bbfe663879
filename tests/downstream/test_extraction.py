"""From videos to a folder of features, in this process: all of it, gone on with, never silent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctp.data.catalog import open_catalog
from ctp.data.quarantine import QuarantineLedger
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_videos, extract, open_extraction
from ctp.downstream.feature_folder import finish, read_features
from ctp.downstream.features import open_embedder, read_encoder_file
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes
from ctp.storage import Storage
from ctp.video.views import read_view_planes

GOOD = ["a/0.mp4", "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4"]
BAD = "a/bad.mp4"


def embed(config: EmbedConfig) -> list[int]:
    """Do all that is left; returns what was shown."""
    extraction, shown = open_extraction(config), list[int]()
    extract(extraction, shown.append)
    finish(extraction.folder, extraction.manifest, extraction.catalog.quarantined)
    return shown


def parts(config: EmbedConfig) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(config.out).glob("part-*.parquet")}


def test_each_videos_features_are_the_encoders(small_embedding: EmbedConfig) -> None:
    assert embed(small_embedding) == [2, 2, 2]
    _, videos = read_features(small_embedding.out)
    assert videos.ids == GOOD
    assert videos.labels == ["a", "a", "a", "b", "b"]
    encoder, _ = read_encoder_file(small_embedding)
    make = open_embedder(small_embedding, encoder)
    catalog = {entry.id: entry for entry in open_catalog(small_embedding.data.uri)}
    for name, feature in zip(videos.ids, videos.features, strict=True):
        planes = read_view_planes(small_embedding.views, catalog[name].read())
        expected = make(planes).mean(axis=0)
        np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read_is_told_and_not_made_up(small_embedding: EmbedConfig) -> None:
    embed(small_embedding)
    quarantine = Path(small_embedding.out, "quarantine.jsonl").read_bytes()
    assert [entry.video_id for entry in QuarantineLedger.from_jsonl(quarantine)] == [BAD]
    assert (
        BAD not in pq.read_table(Path(small_embedding.out, "part-00001.parquet"))["id"].to_pylist()
    )


def test_only_what_is_missing_is_made(small_embedding: EmbedConfig) -> None:
    embed(small_embedding)
    whole, times = parts(small_embedding), times_of(small_embedding)
    Path(small_embedding.out, "part-00001.parquet").unlink()
    assert embed(small_embedding) == [2]
    assert parts(small_embedding) == whole
    assert {n: t for n, t in times_of(small_embedding).items() if n != "part-00001.parquet"} == {
        n: t for n, t in times.items() if n != "part-00001.parquet"
    }
    assert embed(small_embedding) == []


def times_of(config: EmbedConfig) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path(config.out).glob("part-*")}


def test_work_that_is_broken_off_goes_on(small_embedding: EmbedConfig, tmp_path: Path) -> None:
    def stop(number: int) -> None:
        raise KeyboardInterrupt

    extraction = open_extraction(small_embedding)
    with pytest.raises(KeyboardInterrupt):
        extract(extraction, stop)
    with pytest.raises(ValueError, match="2 of 3 parts are missing"):
        read_features(small_embedding.out)
    assert embed(small_embedding) == [2, 2]
    in_one_go = small_embedding.replace(out=str(tmp_path / "other"))
    embed(in_one_go)
    assert parts(in_one_go) == parts(small_embedding)


def test_another_encoder_does_not_come_in(small_embedding: EmbedConfig) -> None:
    open_extraction(small_embedding)
    with pytest.raises(ValueError, match="encoder_sha256 is"):
        open_extraction(small_embedding.replace(seed=1))
    with pytest.raises(ValueError, match=r"features\.pooling is 'max' there, and 'average' here"):
        open_extraction(small_embedding.replace(features={"pooling": "average"}))


def test_another_catalogue_does_not_come_in(
    small_embedding: EmbedConfig, encode_video: Callable[..., bytes]
) -> None:
    open_extraction(small_embedding)
    Path(str(small_embedding.data.uri), "b", "5.mp4").write_bytes(encode_video(4))
    with pytest.raises(ValueError, match="num_listed is 6 there, and 7 here"):
        open_extraction(small_embedding)


def test_the_manifest_tells_the_files_own_sha256(
    small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(encoder_bytes(ResNet3d(small_embedding.architecture), {"run": "one"}))
    manifest = open_extraction(small_embedding.replace(encoder=str(file))).manifest
    assert manifest.encoder_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest.encoder == str(file)


def test_relative_paths_are_told_whole(
    small_embedding: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = small_embedding.replace(data={"uri": "videos"}, out="features")
    extraction = open_extraction(relative)
    assert extraction.manifest.data_uri == str(tmp_path / "videos")
    assert extraction.folder.path == str(tmp_path / "features")
    open_extraction(small_embedding)  # the same


def test_videos_and_features_in_an_object_store(
    small_embedding: EmbedConfig, s3_bucket: str
) -> None:
    for name in (*GOOD, BAD):
        data = Path(str(small_embedding.data.uri), name).read_bytes()
        Storage.of(f"{s3_bucket}/videos/{name}").write_bytes(data)
    away = small_embedding.replace(data={"uri": f"{s3_bucket}/videos"}, out=f"{s3_bucket}/features")
    embed(away)
    embed(small_embedding)
    (_, there), (_, here) = read_features(away.out), read_features(small_embedding.out)
    assert there.ids == here.ids
    np.testing.assert_array_equal(there.features, here.features)


def test_features_in_memory_are_those_of_the_folder(small_embedding: EmbedConfig) -> None:
    embed(small_embedding)
    _, written = read_features(small_embedding.out)
    encoder, _ = read_encoder_file(small_embedding)
    catalog = open_catalog(small_embedding.data.uri)
    made, quarantined = embed_videos(
        open_embedder(small_embedding, encoder), small_embedding, catalog
    )
    assert (made.ids, made.labels) == (written.ids, written.labels)
    np.testing.assert_array_equal(made.features, written.features)
    assert [entry.video_id for entry in quarantined] == [BAD]


def test_what_is_missing_or_in_the_way_is_said(small_embedding: EmbedConfig) -> None:
    with pytest.raises(ValueError, match=r"--data\.uri is missing"):
        open_extraction(small_embedding.replace(data={}))
    with pytest.raises(ValueError, match="--out is missing"):
        open_extraction(small_embedding.replace(out=""))
    inside = f"{small_embedding.data.uri}/features"
    with pytest.raises(ValueError, match=r"lies in .*; it would count as videos"):
        open_extraction(small_embedding.replace(out=inside))
