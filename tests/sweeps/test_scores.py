"""What encoders are scored by, and with which options."""

from __future__ import annotations

import pytest
import torch

from ctp import recipes
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes
from ctp.sweeps.config import Scale
from ctp.sweeps.scores import (
    RetrievalConfig,
    RetrievalDataConfig,
    retrieval_scores,
    scores_of,
    videos_of,
)


def test_the_papers_finetuning_on_both_data_sets() -> None:
    first, second = scores_of("paper", (), {"finetune.data.uri": "s3://b/any"})
    assert isinstance(first.config, FinetuneConfig)
    assert isinstance(second.config, FinetuneConfig)
    paper = recipes.finetune_ucf101()
    assert first.config.replace(data=paper.data, storage=paper.storage) == paper
    assert first.config.data.uri == second.config.data.uri == "s3://b/any"


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_scores_are_of_whatever_encoder_a_trial_has(scale: Scale) -> None:
    for score in scores_of(scale, ("finetune", "linear", "tracking"), {}):
        assert isinstance(score.config, FinetuneConfig | TrackConfig)
        assert score.config.encoder is None


def test_an_option_of_one_data_set_goes_before_that_of_both() -> None:
    options = {"finetune.hmdb51.data.uri": "s3://b/hmdb", "finetune.data.uri": "s3://b/any"}
    uris = [score.config.data.uri for score in scores_of("paper", (), options)]  # type: ignore[union-attr]
    assert uris == ["s3://b/any", "s3://b/hmdb"]


def test_a_kind_stands_for_all_its_data_sets_and_a_name_for_one() -> None:
    names = [score.name for score in scores_of("paper", ("retrieval", "linear-hmdb51"), {})]
    assert names == ["retrieval-ucf101", "retrieval-hmdb51", "linear-hmdb51"]


def test_linear_is_finetuning_of_the_linear_layer_alone() -> None:
    linear, finetune = scores_of("small", ("linear", "finetune"), {})
    assert isinstance(linear.config, FinetuneConfig)
    assert isinstance(finetune.config, FinetuneConfig)
    assert linear.config.head.frozen_encoder
    assert linear.config.replace(head=finetune.config.head) == finetune.config


@pytest.mark.slow
def test_retrieval_of_made_videos() -> None:
    """Colours and backgrounds tell something of a class even to fresh weights; what is tested is
    that all numbers are there, and the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ResNet3d(EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    config = RetrievalConfig(
        encoder="fresh",
        data=RetrievalDataConfig(uri="corpus:24", test_share=0.5),
        views={"num_clips": 1, "num_frames": 4, "frame_size_px": 32, "short_side_px": 36},
    )
    found = retrieval_scores(encoder_bytes(encoder, {}), config)
    assert found.keys() == {"top1", "top5", "chance1", "chance5", "tested", "quarantined"}
    assert found["tested"] == len(videos_of(config, config.seed).test)
    assert found["quarantined"] == 0
    assert 0 <= found["top1"] <= found["top5"] <= 1
    assert found == retrieval_scores(encoder_bytes(encoder, {}), config)
