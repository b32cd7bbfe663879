"""From videos to a folder of features, in one process: complete, resumable, and never silent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctp.data.quarantine import QuarantineLedger
from ctp.data.sources import open_catalog
from ctp.data.stream import load_here
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import (
    embed_part,
    embed_videos,
    open_extraction,
    part_range,
    read_part,
    with_stored_defaults,
)
from ctp.downstream.feature_folder import finish, read_features, write_part
from ctp.downstream.features import open_embedder, read_encoder_file
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes
from ctp.lease import hold
from ctp.storage import Storage
from ctp.video.decode import VideoReader
from ctp.video.views import read_view_planes

GOOD = ["a/0.mp4", "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4"]
BAD = "a/bad.mp4"


def extract(config: EmbedConfig) -> Iterator[int]:
    """Make the parts that are left, one at a time, and complete the folder; yield the number of
    videos of each part."""
    extraction = open_extraction(config)
    embedder = open_embedder(extraction.config, extraction.encoder)
    for number in extraction.left:
        rows = read_part(extraction.config, extraction.catalog, number)
        write_part(extraction.folder, number, embed_part(embedder, rows))
        yield len(part_range(extraction.config, extraction.catalog, number))
    finish(extraction.folder, extraction.manifest, extraction.catalog.quarantined)


def parts(config: EmbedConfig) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(config.out).glob("part-*.parquet")}


def part_times(config: EmbedConfig) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path(config.out).glob("part-*")}


def test_features_are_those_of_the_encoder(small_embedding: EmbedConfig) -> None:
    assert list(extract(small_embedding)) == [2, 2, 2]
    _, videos = read_features(small_embedding.out)
    assert videos.ids == GOOD
    assert videos.labels == ["a", "a", "a", "b", "b"]
    encoder, _ = read_encoder_file(small_embedding)
    embedder = open_embedder(small_embedding, encoder)
    catalog = {entry.id: entry for entry in open_catalog(small_embedding.data.uri)}
    for name, feature in zip(videos.ids, videos.features, strict=True):
        with VideoReader(catalog[name].read()) as reader:
            planes = read_view_planes(small_embedding.views, reader)
        expected = embedder.embed(planes[None])[0].mean(axis=0)
        np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-5)


def test_a_video_that_cannot_be_read_is_reported_and_has_no_feature(
    small_embedding: EmbedConfig,
) -> None:
    list(extract(small_embedding))
    quarantine = Path(small_embedding.out, "_quarantine.jsonl").read_bytes()
    assert [entry.video_id for entry in QuarantineLedger.from_jsonl(quarantine)] == [BAD]
    ids = pq.read_table(Path(small_embedding.out, "part-00001.parquet"))["id"].to_pylist()
    assert set(ids) == {"a/2.mp4"}


def test_only_missing_parts_are_made(small_embedding: EmbedConfig) -> None:
    list(extract(small_embedding))
    whole, times = parts(small_embedding), part_times(small_embedding)
    Path(small_embedding.out, "part-00001.parquet").unlink()
    assert list(extract(small_embedding)) == [2]
    assert parts(small_embedding) == whole
    remade = part_times(small_embedding)
    assert {name for name in times if remade[name] != times[name]} == {"part-00001.parquet"}
    assert list(extract(small_embedding)) == []


def test_interrupted_work_is_resumed(small_embedding: EmbedConfig, tmp_path: Path) -> None:
    next(extract(small_embedding))
    with pytest.raises(ValueError, match="2 of 3 parts"):
        read_features(small_embedding.out)
    assert list(extract(small_embedding)) == [2, 2]
    in_one_go = small_embedding.replace(out=str(tmp_path / "other"))
    list(extract(in_one_go))
    assert parts(in_one_go) == parts(small_embedding)


def test_another_encoder_is_refused(small_embedding: EmbedConfig) -> None:
    open_extraction(small_embedding)
    with pytest.raises(ValueError, match="encoder_sha256"):
        open_extraction(small_embedding.replace(seed=1))
    with pytest.raises(ValueError, match=r"features\.pooling.*'max'.*'average'"):
        open_extraction(small_embedding.replace(features={"pooling": "average"}))


def test_a_changed_default_does_not_block_the_same_command(
    small_embedding: EmbedConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """The features were started when pooling had another default."""
    now = small_embedding.replace(recipe="retrieval")
    before = now.replace(features={"pooling": "average"}, videos_per_part=3)
    open_extraction(before)
    kept = with_stored_defaults(now, ["data.uri", "out"])
    assert kept == before
    open_extraction(kept)
    said = capsys.readouterr().out
    assert "features.pooling stays 'average'" in said
    assert "videos_per_part stays 3" in said
    with pytest.raises(ValueError, match=r"features\.pooling.*'average'.*'max'"):
        open_extraction(with_stored_defaults(now, ["features.pooling"]))


def test_a_folder_that_another_process_created_meanwhile_is_refused(
    small_embedding: EmbedConfig,
) -> None:
    extraction = open_extraction(small_embedding)
    extraction.folder.join("_manifest.json").delete_file()
    open_extraction(small_embedding.replace(seed=1))
    with (
        hold(extraction.folder, "embed") as lease,
        pytest.raises(ValueError, match="encoder_sha256"),
    ):
        extraction.held(lease.attempt)


def test_a_manifest_of_another_version_names_its_fields(small_embedding: EmbedConfig) -> None:
    folder = open_extraction(small_embedding).folder
    place = folder.join("_manifest.json")
    values = json.loads(place.read_bytes()) | {"speed": 2, "written_by": {"ctp": "0.9.1"}}
    place.write_bytes(json.dumps(values).encode())
    with pytest.raises(ValueError, match=r"no option speed.*ctp 0\.9\.1"):
        open_extraction(small_embedding)


def test_another_catalogue_is_refused(
    small_embedding: EmbedConfig, encode_video: Callable[..., bytes]
) -> None:
    open_extraction(small_embedding)
    Path(str(small_embedding.data.uri), "b", "5.mp4").write_bytes(encode_video(4))
    with pytest.raises(ValueError, match=r"num_listed.*6.*7"):
        open_extraction(small_embedding)


def test_the_manifest_has_the_sha256_of_the_encoder_file(
    small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(encoder_bytes(R3d(small_embedding.architecture), {"run": "one"}))
    manifest = open_extraction(small_embedding.replace(encoder=str(file))).manifest
    assert manifest.encoder_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest.encoder == str(file)


def test_relative_paths_are_made_absolute(
    small_embedding: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = small_embedding.replace(data={"uri": "videos"}, out="features")
    extraction = open_extraction(relative)
    assert extraction.manifest.data_uri == str(tmp_path / "videos")
    assert extraction.folder.path == str(tmp_path / "features")
    open_extraction(small_embedding)  # the same


def test_videos_and_features_may_be_in_an_object_store(
    small_embedding: EmbedConfig, s3_bucket: str
) -> None:
    for name in (*GOOD, BAD):
        data = Path(str(small_embedding.data.uri), name).read_bytes()
        Storage.from_uri(f"{s3_bucket}/videos/{name}").write_bytes(data)
    remote = small_embedding.replace(
        data={"uri": f"{s3_bucket}/videos"}, out=f"{s3_bucket}/features"
    )
    list(extract(remote))
    list(extract(small_embedding))
    (_, there), (_, here) = read_features(remote.out), read_features(small_embedding.out)
    assert there.ids == here.ids
    np.testing.assert_array_equal(there.features, here.features)


def test_features_in_memory_equal_those_of_the_folder(small_embedding: EmbedConfig) -> None:
    list(extract(small_embedding))
    _, written = read_features(small_embedding.out)
    encoder, _ = read_encoder_file(small_embedding)
    catalog = open_catalog(small_embedding.data.uri)
    embedder = open_embedder(small_embedding, encoder)
    made, quarantined = embed_videos(embedder, small_embedding, catalog, load_here)
    assert (made.ids, made.labels) == (written.ids, written.labels)
    np.testing.assert_array_equal(made.features, written.features)
    assert [entry.video_id for entry in quarantined] == [BAD]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {}}, r"--data\.uri"),
        ({"out": ""}, "--out"),
        ({"out": "{videos}/features"}, "--out .*/features"),
    ],
)
def test_missing_options_and_a_folder_among_the_videos_are_refused(
    small_embedding: EmbedConfig, changes: dict[str, object], message: str
) -> None:
    uri = str(small_embedding.data.uri)
    named = {k: v.format(videos=uri) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=message):
        open_extraction(small_embedding.replace(**named))
