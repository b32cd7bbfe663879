"""How encoders are scored, and with which options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ctp import recipes
from ctp.data.catalog import check_apart
from ctp.data.sources import open_catalog
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.labels import open_labeled
from ctp.encoders.config import R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.encoders.weights import encoder_bytes
from ctp.sweeps.config import Scale
from ctp.sweeps.plan import Plan
from ctp.sweeps.scores import RetrievalConfig, choose_scores, retrieval_scores, retrieval_videos
from ctp.video.config import ClipFormat


def test_the_papers_finetuning_on_both_data_sets() -> None:
    first, second = choose_scores("paper", ("finetune",), {"finetune.data.uri": "s3://b/any"})
    paper = recipes.finetune_ucf101()
    assert first.config.replace(data=paper.data, storage=paper.storage) == paper
    assert first.config.data.uri == second.config.data.uri == "s3://b/any"


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_runs_train_the_encoder_of_the_trial(scale: Scale) -> None:
    for score in choose_scores(scale, ("finetune", "linear", "attentive", "tracking"), {}):
        assert score.config.encoder is None


def test_an_option_of_one_data_set_overrides_that_of_both() -> None:
    options = {"finetune.hmdb51.data.uri": "s3://b/hmdb", "finetune.data.uri": "s3://b/any"}
    scores = choose_scores("paper", ("finetune",), options)
    assert [score.config.data.uri for score in scores] == ["s3://b/any", "s3://b/hmdb"]


def test_a_kind_means_all_its_data_sets_and_a_name_one() -> None:
    names = [score.name for score in choose_scores("paper", ("retrieval", "linear-hmdb51"), {})]
    assert names == ["retrieval-ucf101", "retrieval-hmdb51", "linear-hmdb51"]


def test_linear_trains_the_linear_layer_alone() -> None:
    linear, finetune = choose_scores("small", ("linear", "finetune"), {})
    assert linear.config.protocol == "linear"
    assert linear.config.replace(protocol="finetune") == finetune.config


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_attentive_trains_a_probe_by_another_optimiser_on_the_same_clips(scale: Scale) -> None:
    attentive, *_, finetune = choose_scores(scale, ("attentive", "finetune"), {})
    assert attentive.config.protocol == "attentive"
    optimizer, schedule = attentive.config.optimizer, attentive.config.schedule
    assert (optimizer.name, optimizer.learning_rate, schedule.decay_at) == ("adamw", 0.001, ())
    assert schedule.length == finetune.config.schedule.length
    for section in ("sampling", "augment", "views"):
        assert getattr(attentive.config, section) == getattr(finetune.config, section)


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_an_encoder_is_not_scored_on_videos_it_was_pretrained_on(scale: Scale) -> None:
    pretraining = open_catalog(recipes.PRETRAIN[scale]().data.uri)
    configs = [each.config for each in choose_scores(scale, ("retrieval", "finetune"), {})]
    for config in (*configs, recipes.finetune_small()):
        test = open_labeled(config.data, config.seed).test
        check_apart(pretraining, test, "pretraining", "score")
        assert len(test) >= 60


def test_numbers_are_named_by_their_score() -> None:
    (retrieval,) = choose_scores("paper", ("retrieval-hmdb51",), {})
    first, second = retrieval.measures
    assert (first.key, second.key) == ("retrieval-hmdb51.top1", "retrieval-hmdb51.top5")
    assert first.baseline_key == "retrieval-hmdb51.chance1"
    assert first.label == "retrieval top-1, HMDB-51"


@pytest.mark.slow
def test_retrieval_has_all_numbers_and_the_same_each_time() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    views: dict[str, Any] = {
        "num_clips": 1,
        "num_frames": 4,
        "frame_size_px": 32,
        "short_side_px": 36,
    }
    data = {"uri": "corpus:24", "test_share": 0.5}
    config = RetrievalConfig.from_values({"encoder": "fresh", "data": data, "views": views})
    found = retrieval_scores(encoder_bytes(encoder, {}), config)
    assert found.keys() == {"top1", "top5", "chance1", "chance5", "tested", "quarantined"}
    assert found["tested"] == len(retrieval_videos(config).test)
    assert found["quarantined"] == 0
    assert 0 <= found["top1"] <= found["top5"] <= 1
    assert found == retrieval_scores(encoder_bytes(encoder, {}), config)


def test_scores_are_on_the_clips_that_set_chose_unless_they_have_their_own(
    plan_of: Callable[..., Plan],
) -> None:
    chosen = (
        "task.sampling.num_frames=4",
        "task.augment.frame_size_px=64",
        "task.augment.short_sides_px=[64]",
        "linear.sampling.num_frames=6",
    )
    scores = ("retrieval", "linear", "attentive")
    found = {
        each.name: each.config
        for each in plan_of(table="table2a", scores=scores, set=chosen).scores
    }
    clips = {name: (c.num_frames, c.frame_size_px) for name, c in _clips(found).items()}
    assert clips == {"retrieval": (4, 64), "linear": (6, 64), "attentive": (4, 64)}
    # without a choice, those of the scale
    usual = {each.name: each.config for each in plan_of(table="table2a", scores=scores).scores}
    assert {(c.num_frames, c.frame_size_px) for c in _clips(usual).values()} == {(8, 48)}


def _clips(configs: dict[str, Any]) -> dict[str, ClipFormat]:
    return {
        name: ClipFormat.from_views(config.views)
        if isinstance(config, EmbedConfig)
        else config.clip_format
        for name, config in configs.items()
    }
