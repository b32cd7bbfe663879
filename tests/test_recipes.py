"""The recipes hold the paper's numbers, to the digit (§5.1, supplement G)."""

from __future__ import annotations

import pytest

from ctp.downstream.config import FinetuneConfig
from ctp.downstream.initial import settled_encoder
from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import settled
from ctp.encoders.config import EncoderConfig
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.config import official, paper
from ctp.recipes import FINETUNE, PRETRAIN, TRACK
from ctp.training.schedule import learning_rate_factor, total_steps

PAPER = ["ucf101-r3d18", "ucf101-r2plus1d18", "kinetics400-r3d18", "kinetics400-r2plus1d18"]
UCF101_TRAIN_SPLIT_1 = 9_537


@pytest.mark.parametrize("name", PRETRAIN)
def test_every_recipe_says_what_it_is_and_survives_a_round_trip(name: str) -> None:
    config = PRETRAIN[name]()
    assert PRETRAIN[name].__doc__
    assert PretrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs(name: str) -> None:
    config = PRETRAIN[name]()
    assert config.game == paper()
    assert config.curriculum is None
    assert config.data.heldout_share == 0  # the paper trains on all videos
    assert config.sampling.num_frames == 16
    assert config.sampling.min_interval_frames == 1
    assert config.sampling.max_interval_frames == 5
    assert config.augment.frame_size_px == 112
    assert config.augment.short_sides_px == (112, 128, 144)
    assert config.sigma == (0.8, 0.8, 0.04, 0.04)
    assert config.head.squeeze
    assert config.head.hidden_channels == 512
    assert config.head.roi_size == 5
    assert config.optimizer.name == "sgd"
    assert config.optimizer.learning_rate == 0.01
    assert config.optimizer.momentum == 0.9
    assert config.optimizer.weight_decay == 1e-4
    assert config.optimizer.max_gradient_norm == 40
    assert config.compute.total_batch == 32
    assert config.schedule.unit == "epochs"
    assert config.schedule.decay_factor == 0.1
    arch = "r2plus1d" if "r2plus1d" in name else "r3d"
    assert config.encoder == EncoderConfig(
        arch=arch, width=64, blocks_per_stage=(2, 2, 2, 2), last_stage_spatial_stride=1
    )
    expected = (300, (100, 200)) if "ucf101" in name else (90, (30, 60))
    assert (config.schedule.length, config.schedule.decay_at) == expected
    assert config.scaling.num_workers == 8
    assert config.scaling.use_gpu


def test_ucf101_takes_the_papers_number_of_steps_and_rates() -> None:
    schedule = PRETRAIN["ucf101-r3d18"]().schedule
    steps = total_steps(schedule, UCF101_TRAIN_SPLIT_1, 32)
    assert steps == 300 * UCF101_TRAIN_SPLIT_1 // 32

    def rate(epoch: float) -> float:
        step = int(epoch * UCF101_TRAIN_SPLIT_1 / 32)
        return 0.01 * learning_rate_factor(schedule, step, UCF101_TRAIN_SPLIT_1, 32)

    assert [rate(e) for e in (0, 99.9, 100.1, 199.9, 200.1, 299.9)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    )


def test_the_official_recipe_differs_in_the_game_and_the_jitter_alone() -> None:
    ours, theirs = PRETRAIN["ucf101-r3d18"](), PRETRAIN["ucf101-r3d18-official"]()
    assert theirs.game == official()
    assert theirs.sampling.temporal_jitter
    back = theirs.replace(game=ours.game, sampling=ours.sampling)
    assert back == ours


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_recipes_for_a_small_machine_need_two_cores_and_no_download(name: str) -> None:
    config = PRETRAIN[name]()
    assert str(config.data.uri).startswith("corpus:")
    assert not config.scaling.use_gpu
    needed = config.scaling.num_workers * config.scaling.cpus_per_worker
    needed += config.scaling.num_actors * config.scaling.cpus_per_actor
    assert needed <= 2
    assert config.game.patch_source == "trajectory"  # scored on the paper's own game
    assert config.curriculum is not None


@pytest.mark.parametrize("name", FINETUNE)
def test_every_finetuning_recipe_says_what_it_is_and_survives_a_round_trip(name: str) -> None:
    config = FINETUNE[name]()
    assert FINETUNE[name].__doc__
    assert FinetuneConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "ssv1", "kinetics400", "linear"])
def test_the_papers_finetuning(name: str) -> None:
    """Supplement A; colours and flip as in the authors' implementation."""
    config = FINETUNE[name]()
    assert config.optimizer.name == "sgd"
    assert config.optimizer.learning_rate == 0.01
    assert config.optimizer.momentum == 0.9
    assert config.optimizer.weight_decay == 5e-4
    assert config.compute.total_batch == 32
    assert config.head.dropout == 0.5
    assert config.head.frozen_encoder == (name == "linear")
    augment = config.augment
    assert augment.frame_size_px == 112
    assert augment.short_sides_px == (112, 128, 144)  # 149x112, 171x128, 192x144
    assert augment.flip_prob == (0 if name == "ssv1" else 0.35)
    assert augment.hue_saturation_prob == augment.brightness_prob == augment.contrast_prob == 0.2
    assert (augment.max_brightness_shift, augment.max_log_contrast) == (32, 0.2)
    assert (augment.max_hue_shift_degrees, augment.max_log_saturation) == (12, 0.1)
    assert not augment.colors_drift
    assert (config.views.short_side_px, config.views.frame_size_px) == (128, 112)
    frames = 32 if name == "ssv1" else 16
    interval = 32 // frames  # both cover 32 frames
    assert (config.sampling.num_frames, config.views.num_frames) == (frames, frames)
    assert config.sampling.min_interval_frames == config.sampling.max_interval_frames == interval
    assert config.views.interval_frames == interval
    assert config.views.num_clips == (1 if name == "ssv1" else 10)
    schedule = config.schedule
    assert (schedule.unit, schedule.decay, schedule.decay_factor) == ("epochs", "steps", 0.1)
    expected = (90, (40, 60, 80), 1000) if name == "ssv1" else (150, (60, 120), 0)
    assert (schedule.length, schedule.decay_at, schedule.warmup_steps) == expected
    assert config.test_every_epochs == 10  # Fig. 6
    assert settled_encoder(config.encoder, "random").last_stage_spatial_stride == 2  # supplement D
    assert config.scaling.num_workers == 8


@pytest.mark.parametrize("name", TRACK)
def test_every_tracking_recipe_says_what_it_is_and_survives_a_round_trip(name: str) -> None:
    config = TRACK[name]()
    assert TRACK[name].__doc__
    assert TrackConfig.model_validate_json(config.model_dump_json()) == config


def test_the_papers_tracking() -> None:
    """§4 tells of the clips and of what is frozen; the rest is as in pretraining."""
    config = TRACK["got10k"]()
    assert config.sampling.num_frames == 16
    assert config.test.interval_frames == 1
    assert config.frozen_stages == 0
    pretraining = PRETRAIN["ucf101-r3d18"]()
    for section in ("sampling", "augment", "head", "sigma", "optimizer", "compute"):
        assert getattr(config, section) == getattr(pretraining, section), section
    assert settled(config).encoder == pretraining.encoder
    assert config.scaling.num_workers == 8
