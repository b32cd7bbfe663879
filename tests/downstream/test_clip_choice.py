"""Which clips an encoder is used on: those of its training, unless the user chose others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ctp import recipes
from ctp.cli import CommandLine
from ctp.downstream.clip_choice import with_clips_of_encoder
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes
from ctp.training.run_folder import ENCODER
from ctp.video.config import AugmentConfig, ClipFormat, SamplingConfig

TRAINED = ClipFormat.from_training(
    SamplingConfig(num_frames=8, interval_frames=(1, 3)),
    AugmentConfig(frame_size_px=48, short_sides_px=(48, 56, 64)),
)


@pytest.fixture
def run(tmp_path: Path) -> str:
    """The folder of a run with an encoder that was trained on small clips."""
    encoder = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    encoder.clip_format = TRAINED
    (tmp_path / ENCODER).write_bytes(encoder_bytes(encoder, {}))
    return str(tmp_path)


def finetune(argv: Sequence[str]) -> FinetuneConfig:
    command = CommandLine(recipes.FINETUNE, "ucf101", "")
    _, config = command.parse(argv)
    return with_clips_of_encoder(config, command.given)


def embed(argv: Sequence[str]) -> EmbedConfig:
    command = CommandLine(recipes.EMBED, "retrieval", "")
    _, config = command.parse(argv)
    return with_clips_of_encoder(config, command.given)


def track(argv: Sequence[str]) -> TrackConfig:
    command = CommandLine(recipes.TRACK, "got10k", "")
    _, config = command.parse(argv)
    return with_clips_of_encoder(config, command.given)


@pytest.mark.parametrize("read", [finetune, track])
def test_without_a_choice_clips_are_as_in_the_training(
    read, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read(["--initial", run])
    assert config.clip_format == TRAINED
    assert f"clips as {run} was trained on: 8 frames of 48×48" in capsys.readouterr().out


def test_views_have_the_middle_interval_and_size_of_the_training(run: str) -> None:
    views = embed(["--encoder", run]).views
    assert (views.num_frames, views.interval_frames) == (8, 2)
    assert (views.frame_size_px, views.short_side_px, views.keeps_aspect_ratio) == (48, 56, True)
    # how many clips there are, and where, is the protocol's
    own = recipes.retrieval_features().views
    assert (views.num_clips, views.placement) == (own.num_clips, own.placement)


def test_a_pooling_that_does_not_fit_is_left_out_unless_it_was_chosen(run: str) -> None:
    assert embed(["--encoder", run]).features.pooling == "max"
    chosen = embed(["--encoder", run, "--features.pooling", "both"])
    assert chosen.features.pooling == "both"


def test_a_named_recipe_keeps_its_clips_and_the_difference_is_reported(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finetune(["--recipe", "ucf101", "--initial", run])
    assert config.clip_format == recipes.finetune_ucf101().clip_format
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "16 frames instead of 8, 112×112 pixels instead of 48×48, pictures str" in printed


def test_a_given_option_is_kept_and_the_rest_is_as_in_the_training(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finetune(["--initial", run, "--sampling.num_frames", "16"])
    assert config.clip_format == TRAINED.replace(num_frames=16)
    assert "16 frames instead of 8\n" in capsys.readouterr().out


def test_a_given_size_keeps_the_crop_that_fits_it(run: str) -> None:
    views = embed(["--encoder", run, "--views.frame_size_px", "112"]).views
    assert (views.frame_size_px, views.short_side_px, views.num_frames) == (112, 128, 8)


def test_an_encoder_without_a_record_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    (tmp_path / ENCODER).write_bytes(encoder_bytes(old, {}))
    for initial in (str(tmp_path), "random", "kinetics400", "theirs.pth"):
        config = finetune(["--initial", initial])
        assert config == recipes.finetune_ucf101().replace(initial=initial)
    assert not capsys.readouterr().out
