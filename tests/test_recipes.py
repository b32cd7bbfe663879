"""The recipes hold the paper's numbers, to the digit (§5.1, supplement G)."""

from __future__ import annotations

import pytest

from ctp.models.resnet3d import EncoderConfig
from ctp.pretext.config import PretrainConfig
from ctp.recipes import PRETRAIN
from ctp.synthesis.config import official, paper
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
