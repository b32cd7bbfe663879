"""When a number of the paper may be beside one of ours."""

from __future__ import annotations

from typing import Any

import pytest

from ctp import recipes
from ctp.downstream.config import FinetuneConfig
from ctp.encoders.config import R2plus1dConfig
from ctp.report.papers import (
    PUBLISHED,
    dataset_of,
    differences,
    encoder_method,
    published,
    same_as,
)

AS_PUBLISHED = R2plus1dConfig(middle_channels="convolution", spatial_stride=16)
RESOLVED = {
    "encoder": {"name": "r3d", "spatial_stride": 16},
    "data": {"uri": "s3://b/ucf101/train", "test_uri": "s3://b/t"},
}


def finetuning(**changes: Any) -> FinetuneConfig:
    return recipes.finetune_ucf101().override(RESOLVED).override(changes)


@pytest.mark.parametrize(
    ("changes", "method", "percent"),
    [
        ({}, "none", 65.0),
        ({}, "CtP, Kinetics-400", 86.2),
        ({}, "CtP, UCF-101", 83.9),
        ({"encoder": AS_PUBLISHED.model_dump()}, "CtP, UCF-101", 86.2),
        ({"encoder": {"name": "r2plus1d", "spatial_stride": 16}}, "CtP, UCF-101", None),
        ({"data": {"uri": "/data/HMDB51/train"}}, "ImageNet, supervised", 40.0),
        ({"compute": {"precision": "bf16"}, "seed": 3}, "none", 65.0),
        ({"encoder": {"norm_eps": 1e-5}}, "Kinetics-400, supervised", 91.6),
        ({"schedule": {"length": 100, "decay_at": (60,)}}, "none", None),
        ({"encoder": {"width": 8}}, "none", None),
        ({"protocol": "linear"}, "none", None),
        ({"protocol": "attentive"}, "none", None),
        ({"data": {"label_fraction": 0.5}}, "none", None),
        ({"data": {"uri": "/data/mine"}}, "none", None),
        ({}, "", None),
    ],
)
def test_only_of_the_same_data_protocol_and_weights(
    changes: dict[str, Any], method: str, percent: float | None
) -> None:
    found = same_as(finetuning(**changes), method, "top1")
    assert (None if found is None else found.percent) == percent


@pytest.mark.parametrize(
    ("recipe", "changes", "name"),
    [
        ("ucf101-r3d18", {}, "CtP, UCF-101"),
        ("kinetics400-r2plus1d18", {"seed": 1}, "CtP, Kinetics-400"),
        ("ucf101-r3d18", {"task": {"num_patches": 1}}, ""),
        ("ucf101-r3d18", {"initial_encoder": "s3://b/e.safetensors"}, ""),
        ("ucf101-r3d18", {"data": {"uri": "s3://b/mine"}}, ""),
        ("small", {}, ""),
    ],
)
def test_encoders_that_the_paper_has(recipe: str, changes: dict[str, Any], name: str) -> None:
    assert encoder_method(recipes.PRETRAIN[recipe]().override(changes)) == name


def test_differences_name_both_values() -> None:
    assert differences(finetuning(initial="imagenet")) == []
    assert differences(finetuning(data={"label_fraction": 0.1, "uri": "s3://b/ucf101"})) == [
        "data, label fraction: 0.1 here, 1 in the paper"
    ]
    assert differences(recipes.track_got10k()) is None
    torchvisions = AS_PUBLISHED.replace(middle_channels="block")
    named = "encoder, middle channels: block here, convolution in the paper"
    assert differences(finetuning(encoder=torchvisions.model_dump())) == [named]
    pretraining = recipes.ucf101_r2plus1d18()
    assert differences(pretraining) == []
    assert differences(pretraining.replace(encoder=torchvisions.replace(spatial_stride=8))) == [
        named
    ]
    assert "31.3 M weights" in torchvisions.describe()
    assert "31.3 M weights" not in AS_PUBLISHED.describe()


@pytest.mark.parametrize(
    ("uri", "dataset"),
    [
        ("s3://b/UCF101/train", "ucf101"),
        (("/a/kinetics400", "/b/kinetics400"), "kinetics400"),
        ("s3://ucf101/hmdb51", None),
        ("corpus:24", None),
    ],
)
def test_the_data_set_that_a_place_is_named_after(uri: object, dataset: str | None) -> None:
    assert dataset_of(uri) == dataset


def numbers(dataset: str, measure: str, encoder: str, source: str) -> dict[str, float]:
    return {each.method: each.percent for each in published(dataset, measure, encoder, source)}


def test_the_papers_tables() -> None:
    assert numbers("ucf101", "top1", "r3d", "Table 1")["pre-set ×3, GOT-10k"] == 85.9
    assert numbers("hmdb51", "top1", "r3d", "Table 2a") == {
        "K = 1": 49.1, "K = 2": 51.9, "K = 3": 53.2, "K = 4": 54.1,
    }  # fmt: skip
    assert numbers("ssv1", "top1", "r2plus1d", "Table 3")["CtP, Kinetics-400"] == 48.3
    assert numbers("ucf101", "top1", "r3d", "Table 4, †")["SpeedNet, Kinetics-400"] == 83.5
    assert numbers("hmdb51", "top1", "r2plus1d", "Table 4") == {
        "CtP, UCF-101": 57.1, "CtP, Kinetics-400": 61.7,
    }  # fmt: skip
    assert numbers("hmdb51", "retrieval_top5", "r3d", "Table 5") == {
        "CtP, UCF-101": 30.2, "CtP, Kinetics-400": 30.1,
    }  # fmt: skip
    assert numbers("kinetics400", "top5", "r3d", "Table 6") == {
        "none": 85.3, "CtP, Kinetics-400": 85.7,
    }  # fmt: skip
    assert {each.source.partition(",")[0] for each in PUBLISHED} == {
        "Table 1", "Table 2a", "Table 2b", "Table 3", "Table 4", "Table 5", "Table 6", "Table 7",
        "Table 8", "Table 9", "Table 10",
    }  # fmt: skip
    assert len(set(PUBLISHED)) == len(PUBLISHED)
