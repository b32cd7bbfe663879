"""Recipes have the paper's numbers, to the digit (§5.1, supplements A and G)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from ctp.config import options
from ctp.downstream import classification, tracking
from ctp.downstream.classification import DROPOUT
from ctp.encoders.config import R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.pretext.ctp.config import OFFICIAL, PAPER, CtpConfig
from ctp.pretext.ctp.head import ROI_SIZE
from ctp.recipes import FINETUNE, PRETRAIN, TRACK
from ctp.training.config import OptimizerConfig, RunConfig
from ctp.training.schedule import DECAY_FACTOR, learning_rate_factor, total_steps
from ctp.training.step import MAX_GRADIENT_NORM, MOMENTUM
from ctp.video.augment import PRETRAINING_COLORS, RECOGNITION_COLORS
from ctp.video.config import AugmentConfig, SamplingConfig

PAPER_RUNS = ["ucf101-r3d18", "ucf101-r2plus1d18", "kinetics400-r3d18", "kinetics400-r2plus1d18"]
UCF101_TRAIN_SPLIT_1 = 9_537
RECIPES = [recipe for recipes in (PRETRAIN, FINETUNE, TRACK) for recipe in recipes.values()]


def num_options(config: RunConfig) -> int:
    return len(list(options(type(config), config.model_dump())))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_a_recipe_has_a_docstring_and_survives_a_round_trip(
    recipe: Callable[[], RunConfig],
) -> None:
    config = recipe()
    assert recipe.__doc__
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_pretraining_has_at_most_sixty_options(name: str) -> None:
    assert num_options(PRETRAIN[name]()) <= 60


@pytest.mark.parametrize(
    "recipe", [*FINETUNE.values(), *TRACK.values()], ids=lambda recipe: recipe.__name__
)
def test_a_fine_tuning_has_at_most_forty_options(recipe: Callable[[], RunConfig]) -> None:
    assert num_options(recipe()) <= 40


@pytest.mark.parametrize(
    ("recipes", "exact"),
    [
        *((PRETRAIN, f"{name}-exact") for name in PAPER_RUNS),
        (FINETUNE, "ucf101-exact"),
        (TRACK, "got10k-exact"),
    ],
)
def test_recipes_for_gpus_compute_in_bfloat16_and_exact_ones_in_float32(
    recipes: Mapping[str, Callable[[], RunConfig]], exact: str
) -> None:
    ours, theirs = recipes[exact.removesuffix("-exact")](), recipes[exact]()
    assert (ours.compute.precision, theirs.compute.precision) == ("bf16", "fp32")
    assert [each.name for each in ours.differences(theirs)] == ["compute.precision"]


def test_constants_are_the_papers() -> None:
    assert MOMENTUM == 0.9
    assert MAX_GRADIENT_NORM == 40
    assert DECAY_FACTOR == 0.1
    assert ROI_SIZE == 5
    assert DROPOUT == 0.5


def test_colors_are_those_of_the_authors_implementation() -> None:
    pretraining = PRETRAINING_COLORS
    assert pretraining.hue_saturation_prob == 0.25
    assert pretraining.brightness_prob == pretraining.contrast_prob == 0.5
    assert (pretraining.max_brightness_shift, pretraining.max_log_contrast) == (30, 0.12)
    assert pretraining.varies_over_frames
    recognition = RECOGNITION_COLORS
    assert recognition.hue_saturation_prob == 0.2
    assert recognition.brightness_prob == recognition.contrast_prob == 0.2
    assert (recognition.max_brightness_shift, recognition.max_log_contrast) == (32, 0.2)
    assert not recognition.varies_over_frames
    for colors in (pretraining, recognition):
        # 12 of OpenCV's hues, which are two degrees each
        assert (colors.max_hue_shift_degrees, colors.max_log_saturation) == (24, 0.1)
    assert pretraining.hue_saturation_first
    assert not recognition.hue_saturation_first


# ---- pretraining --------------------------------------------------------------------------------


def r2plus1d_weights() -> int:
    """The weights of R(2+1)D-18 (Tran et al., 2018): each convolution is a spatial and a temporal
    one, with as many channels between them as make about the weights of the 3D convolution."""

    def convolution(inputs: int, outputs: int) -> int:
        middle = 27 * inputs * outputs // (9 * inputs + 3 * outputs)
        # each of the two has a norm of a factor and an offset for each channel
        return (9 * inputs + 2) * middle + (3 * middle + 2) * outputs

    total = (3 * 49 + 2) * 45 + (3 * 45 + 2) * 64  # the stem
    inputs = 64
    for outputs in (64, 128, 256, 512):
        total += convolution(inputs, outputs) + 3 * convolution(outputs, outputs)
        if outputs > inputs:
            total += (inputs + 2) * outputs  # the shortcut
        inputs = outputs
    return total


@pytest.mark.parametrize("name", PAPER_RUNS)
def test_the_papers_pretraining(name: str) -> None:
    config = PRETRAIN[name]()
    task = config.task
    assert isinstance(task, CtpConfig)
    assert task.game == PAPER
    assert task.curriculum is None
    assert config.data.heldout_share == 0  # the paper trains on all videos
    assert task.sampling.num_frames == 16
    assert task.sampling.interval_frames == (1, 5)
    assert task.augment.frame_size_px == 112
    assert task.augment.short_sides_px == (112, 128, 144)
    assert task.sigma == (0.8, 0.8, 0.04, 0.04)
    assert task.head.squeeze
    assert task.head.hidden_channels == 512
    assert config.optimizer.name == "sgd"
    assert config.optimizer.learning_rate == 0.01
    assert config.optimizer.weight_decay == 1e-4
    assert config.compute.total_batch == 32
    assert config.schedule.unit == "epochs"
    assert config.encoder.spatial_stride == 8
    # torchvision's R3D, without the classifier of 400 classes
    weights = sum(each.numel() for each in build_encoder(config.encoder).parameters())
    assert weights == (r2plus1d_weights() if "r2plus1d" in name else 33_371_472 - 400 * 513)
    expected = (300, (100, 200)) if "ucf101" in name else (90, (30, 60))
    assert (config.schedule.length, config.schedule.decay_at) == expected
    assert config.scaling.num_workers == 8
    assert config.scaling.use_gpu


def test_ucf101_has_the_papers_number_of_steps_and_learning_rates() -> None:
    schedule = PRETRAIN["ucf101-r3d18"]().schedule
    steps = total_steps(schedule, UCF101_TRAIN_SPLIT_1, 32)
    assert steps == 300 * UCF101_TRAIN_SPLIT_1 // 32

    def rate(epoch: float) -> float:
        step = int(epoch * UCF101_TRAIN_SPLIT_1 / 32)
        return 0.01 * learning_rate_factor(schedule, step, UCF101_TRAIN_SPLIT_1, 32)

    assert [rate(e) for e in (0, 99.9, 100.1, 199.9, 200.1, 299.9)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    )


def test_the_official_recipe_differs_in_the_rules_alone() -> None:
    paper, official = PRETRAIN["ucf101-r3d18"](), PRETRAIN["ucf101-r3d18-official"]()
    assert isinstance(official.task, CtpConfig)
    assert official.task.game == OFFICIAL
    assert official.replace(task=official.task.replace(rules="paper")) == paper


@pytest.mark.parametrize("data", ["ucf101", "kinetics400"])
@pytest.mark.parametrize(
    ("task", "learning_rate", "num_frames", "intervals", "augment"),
    [
        ("moco", 0.01, 16, (1, 4), {}),
        ("rotation", 0.01, 16, (1, 5), {}),
        ("speed", 0.01, 16, (1, 1), {"keeps_aspect_ratio": True}),
        ("vcop", 0.001, 16, (1, 1), {"short_sides_px": (128,), "flip_prob": 0}),
        ("memdpc", 0.01, 5, (3, 3), {}),
    ],
)
def test_the_pretraining_by_other_tasks(
    data: str,
    task: str,
    learning_rate: float,
    num_frames: int,
    intervals: tuple[int, int],
    augment: dict[str, object],
) -> None:
    """The settings of the authors' implementation for Table 4."""
    config = PRETRAIN[f"{data}-{task}"]()
    assert config.task.name == task
    assert config.task.sampling == SamplingConfig(num_frames=num_frames, interval_frames=intervals)
    expected_augment = {
        "frame_size_px": 112,
        "short_sides_px": (112, 128, 144),
        "flip_prob": 0.5,
        "keeps_aspect_ratio": False,
    }
    assert config.task.augment == AugmentConfig(**expected_augment | augment)
    assert config.encoder == R3dConfig(spatial_stride=16)
    assert config.optimizer == OptimizerConfig(
        name="sgd", learning_rate=learning_rate, weight_decay=1e-4
    )
    assert config.compute.total_batch == 32
    expected = (300, (100, 200)) if data == "ucf101" else (90, (30, 60))
    if task == "moco":
        expected = (expected[0], ())  # a half cosine
    assert (config.schedule.length, config.schedule.decay_at) == expected


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_recipes_for_a_small_machine_need_two_cores_and_no_download(name: str) -> None:
    config = PRETRAIN[name]()
    assert str(config.data.uri).startswith("corpus:")
    scaling = config.scaling
    assert not scaling.use_gpu
    assert scaling.num_workers * scaling.cpus_per_worker + scaling.num_actors <= 2
    assert isinstance(config.task, CtpConfig)
    assert config.task.patch_source == "trajectory"  # evaluated on the paper's own game
    assert config.task.curriculum is not None


# ---- downstream ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ucf101", "hmdb51", "ssv1", "ssv1-official", "kinetics400", "linear"]
)
def test_the_papers_fine_tuning(name: str) -> None:
    """Supplement A; the flip, and all of ssv1-official, are of the authors' implementation."""
    config, is_official = FINETUNE[name](), name == "ssv1-official"
    assert config.optimizer.name == "sgd"
    assert config.optimizer.learning_rate == 0.01
    assert config.optimizer.weight_decay == 5e-4
    assert config.compute.total_batch == 32
    assert config.protocol == ("linear" if name == "linear" else "finetune")
    augment = config.augment
    assert augment.frame_size_px == 112
    assert augment.short_sides_px == (112, 128, 144)
    assert augment.keeps_aspect_ratio == config.views.keeps_aspect_ratio == is_official
    assert augment.flip_prob == (0 if is_official else 0.35)
    assert (config.views.short_side_px, config.views.frame_size_px) == (128, 112)
    frames = 32 if "ssv1" in name else 16
    interval = 32 // frames  # both cover 32 frames
    assert (config.sampling.num_frames, config.views.num_frames) == (frames, frames)
    assert config.sampling.interval_frames == (interval, interval)
    assert config.views.interval_frames == interval
    assert config.views.num_clips == (1 if is_official else 10)
    assert config.views.placement == "middles"
    schedule = config.schedule
    assert schedule.unit == "epochs"
    expected = (90, (40, 60, 80), 1000) if is_official else (150, (60, 120), 0)
    assert (schedule.length, schedule.decay_at, schedule.warmup_steps) == expected
    assert config.test_every_epochs == 10  # Fig. 6
    encoder = classification.resolve(config).encoder
    assert encoder is not None
    assert encoder.spatial_stride == 16  # supplement D
    assert config.scaling.num_workers == (1 if name == "linear" else 8)


def test_the_papers_tracking() -> None:
    """§4 has the clips and the frozen stages; the rest is as in pretraining."""
    config = TRACK["got10k"]()
    assert config.sampling.num_frames == 16
    assert config.frozen_stages == 0
    pretraining = PRETRAIN["ucf101-r3d18"]()
    for section in ("sampling", "augment", "head", "sigma"):
        assert getattr(config, section) == getattr(pretraining.task, section), section
    for section in ("optimizer", "compute"):
        assert getattr(config, section) == getattr(pretraining, section), section
    assert tracking.resolve(config).encoder == pretraining.encoder
    assert config.scaling.num_workers == 8
