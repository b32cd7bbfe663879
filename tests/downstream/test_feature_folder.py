"""A folder of features: it returns what was written, and refuses features of something else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctp.data.quarantine import QuarantinedVideo, QuarantineLedger
from ctp.downstream.embed_config import FeatureConfig
from ctp.downstream.feature_folder import (
    Manifest,
    check_comparable,
    create_or_resume,
    finish,
    missing_parts,
    read_features,
    read_manifest,
    write_part,
)
from ctp.encoders.config import R3dConfig
from ctp.storage import Storage
from ctp.video.config import ViewsConfig
from ctp.video.encoded import VideoError

NUM_CLIPS, SIZE = 3, 5
BAD = QuarantinedVideo.from_error(VideoError("a/bad", "/v/a/bad.mp4", "is bad"))


def manifest(**changes: Any) -> Manifest:
    """Return the manifest of five videos, two in a part."""
    values: dict[str, Any] = {
        "encoder": "/runs/one/encoder.safetensors",
        "encoder_sha256": "00ff",
        "encoder_config": R3dConfig(),
        "views": ViewsConfig(num_clips=NUM_CLIPS),
        "features": FeatureConfig(),
        "data_uri": "/v",
        "catalog": "abcd",
        "num_listed": 5,
        "videos_per_part": 2,
    }
    return Manifest(**values | changes)


def rows(names: list[str], features: np.ndarray, bad: str = "") -> dict[str, np.ndarray]:
    quarantined = [
        json.dumps({"video_id": n, "uri": f"/v/{n}.mp4", "reason": "is bad"}) if n == bad else ""
        for n in names
    ]
    return {
        "id": np.array(names),
        "label": np.array([name.rpartition("/")[0] for name in names]),
        "quarantined": np.array(quarantined),
        "feature": features,
    }


def fill(folder: Storage, dtype: str = "float32") -> np.ndarray:
    """Write all parts and return the features of the good videos, [4, NUM_CLIPS, SIZE]."""
    features = np.random.default_rng(0).random((5, NUM_CLIPS, SIZE)).astype(dtype)
    names = ["a/0", "a/bad", "b/0", "b/1", "bare"]
    for number in range(3):
        part = slice(2 * number, 2 * number + 2)
        write_part(folder, number, rows(names[part], features[part], "a/bad"))
    return features[[0, 2, 3, 4]]


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    place = Storage.from_uri(tmp_path / "features")
    create_or_resume(place, manifest())
    return place


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_part_is_a_parquet_file_with_a_row_for_each_clip(folder: Storage, dtype: str) -> None:
    features = fill(folder, dtype)
    table = pq.read_table(f"{folder.path}/part-00001.parquet")
    number = pa.float32() if dtype == "float32" else pa.float16()
    assert table.schema.field("feature").type == pa.list_(number, SIZE)
    assert table.schema.field("clip").type == pa.int32()
    assert table["id"].to_pylist() == ["b/0"] * 3 + ["b/1"] * 3
    assert table["clip"].to_pylist() == [0, 1, 2, 0, 1, 2]
    assert table["label"].to_pylist() == ["b"] * 6
    np.testing.assert_array_equal(np.array(table["feature"].to_pylist()).reshape(2, 3, 5),
                                  features[1:3])  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_feature_of_a_video_is_the_mean_of_its_clips(folder: Storage, dtype: str) -> None:
    features = fill(folder, dtype)
    complete = finish(folder, manifest(), ())
    assert complete.counts is not None
    assert complete.counts.model_dump() == {"videos": 4, "clips": 12, "quarantined": 1}
    about, videos = read_features(folder.uri)
    assert about == complete
    assert videos.ids == ["a/0", "b/0", "b/1", "bare"]
    assert videos.labels == ["a", "b", "b", None]
    assert videos.features.dtype == np.float32
    np.testing.assert_allclose(videos.features, features.mean(axis=1, dtype=np.float64), rtol=1e-6)


def test_all_quarantined_videos_are_counted_and_listed(folder: Storage) -> None:
    fill(folder)
    damaged = QuarantinedVideo("x.tar", "/v/x.tar", "is damaged")
    complete = finish(folder, manifest(), [damaged])
    assert complete.counts is not None
    assert complete.counts.quarantined == 2
    ledger = QuarantineLedger.from_jsonl(folder.join("_quarantine.jsonl").read_bytes())
    assert list(ledger) == [damaged, BAD]


def test_pandas_reads_the_whole_folder(folder: Storage) -> None:
    features = fill(folder)
    finish(folder, manifest(), ())
    table = pd.read_parquet(folder.path)
    assert list(table.columns) == ["id", "clip", "feature", "label"]
    assert table["id"].tolist() == np.repeat(["a/0", "b/0", "b/1", "bare"], NUM_CLIPS).tolist()
    np.testing.assert_array_equal(np.stack(table["feature"]), features.reshape(-1, SIZE))


def test_folders_of_earlier_versions_are_read_and_resumed(folder: Storage) -> None:
    fill(folder)
    complete = finish(folder, manifest(), ())
    for file in Path(folder.path).glob("_*"):
        file.rename(file.with_name(file.name.removeprefix("_")))
    assert read_manifest(folder) == complete
    create_or_resume(folder, manifest())
    assert finish(folder, manifest(), ()) == complete
    assert sorted(each.name for each in Path(folder.path).glob("*.json*")) == [
        "manifest.json", "quarantine.jsonl"
    ]  # fmt: skip


def test_a_part_may_have_no_usable_video(folder: Storage) -> None:
    nothing = np.zeros((1, NUM_CLIPS, SIZE), np.float32)
    summary = write_part(folder, 0, rows(["a/bad"], nothing, "a/bad"))
    assert (summary.videos, summary.clips, summary.quarantined) == (0, 0, (BAD,))
    alone = manifest(num_listed=1)
    finish(folder, alone, ())
    with pytest.raises(ValueError, match="no features"):
        read_features(folder.uri)


def test_missing_parts_are_found(folder: Storage) -> None:
    assert missing_parts(folder, manifest()) == [0, 1, 2]
    fill(folder)
    Path(folder.path, "part-00001.parquet").unlink()
    assert missing_parts(folder, manifest()) == [1]


def test_the_same_features_may_be_resumed_from_an_encoder_at_another_place(folder: Storage) -> None:
    create_or_resume(folder, manifest(encoder="/moved/encoder.safetensors"))
    fill(folder)
    finish(folder, manifest(), ())
    create_or_resume(folder, manifest())  # finished or not


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_sha256": "0000"}, r"encoder_sha256.*'00ff'.*'0000'"),
        ({"encoder_config": R3dConfig(width=8)}, r"encoder_config\.width.*64.*8"),
        ({"views": ViewsConfig(num_clips=2)}, r"views\.num_clips.*3.*2"),
        ({"features": FeatureConfig(pooling="global")}, r"features\.pooling.*'max'.*'global'"),
        ({"catalog": "ffff", "num_listed": 6}, "num_listed.*5.*6"),
        ({"data_uri": "/w"}, "data_uri.*'/v'.*'/w'"),
        ({"videos_per_part": 3}, "videos_per_part.*2.*3"),
    ],
)
def test_features_of_something_else_are_refused(
    folder: Storage, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        create_or_resume(folder, manifest(**changes))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        create_or_resume(Storage.from_uri(tmp_path), manifest())


def test_an_unfinished_folder_is_not_read(folder: Storage) -> None:
    fill(folder)
    Path(folder.path, "part-00001.parquet").unlink()
    with pytest.raises(ValueError, match="1 of 3 parts"):
        read_features(folder.uri)


def test_a_folder_of_something_else_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json"):
        read_features(str(tmp_path))
    (tmp_path / "_manifest.json").write_text('{"format": 1, "shards": []}')
    with pytest.raises(ValueError, match=r"manifest\.json"):
        read_manifest(Storage.from_uri(tmp_path))


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not Parquet at all"])
def test_a_damaged_part_is_named(folder: Storage, damage: bytes) -> None:
    fill(folder)
    finish(folder, manifest(), ())
    Path(folder.path, "part-00001.parquet").write_bytes(damage)
    with pytest.raises(ValueError, match=r"part-00001\.parquet"):
        finish(folder, manifest(), ())
    with pytest.raises(ValueError, match=r"part-00001\.parquet"):
        read_features(folder.uri)


def test_only_features_of_the_same_kind_are_comparable() -> None:
    check_comparable(manifest(), manifest(data_uri="/w", catalog="ffff", num_listed=9))
    check_comparable(manifest(), manifest(features=FeatureConfig(dtype="float16")))
    other = manifest(encoder_sha256="0000", views=ViewsConfig(num_clips=2))
    with pytest.raises(ValueError, match=r"encoder_sha256.*'00ff'.*'0000'") as caught:
        check_comparable(manifest(), other)
    assert "views.num_clips" in str(caught.value)


def test_a_folder_may_be_in_an_object_store(s3_bucket: str) -> None:
    folder = Storage.from_uri(f"{s3_bucket}/features")
    create_or_resume(folder, manifest())
    features = fill(folder)
    assert missing_parts(folder, manifest()) == []
    finish(folder, manifest(), ())
    _, videos = read_features(folder.uri)
    np.testing.assert_allclose(videos.features, features.mean(axis=1), rtol=1e-6)
