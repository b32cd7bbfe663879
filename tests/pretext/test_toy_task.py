"""A pretext task and an encoder that this file alone defines, through the whole service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.data.stream import Batch, SampleStream, VideoSource, array_field
from ctp.encoders.config import EncoderConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.registry import ENCODERS
from ctp.encoders.weights import load_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.pretext.registry import TASKS
from ctp.pretext.task import Mean, PretextTask, SamplePicture
from ctp.pretext.task_config import TaskConfig
from ctp.score import Score
from ctp.training.run_folder import create_or_resume, folder_of, read_metrics
from ctp.training.step import LossTerms
from ctp.video.augment import sample_crop, to_input
from ctp.video.planes import planes_size, to_rgb
from ctp.video.sampling import MIN_VIDEO_FRAMES, sample_frames


class ReverseConfig(TaskConfig):
    """Predict whether a clip is played backwards."""

    name: Literal["reverse"] = "reverse"
    reverse_prob: float = 0.5
    """Probability of a reversed clip."""


class ReverseSample(NamedTuple):
    planes: Any
    is_reversed: Any


class Reverse(PretextTask[ReverseSample, ReverseConfig]):
    Config = ReverseConfig
    score = Score("direction", "direction", "majority", "majority", is_percent=True)

    def fields(self) -> ReverseSample:
        size = planes_size(self.config.augment.frame_size_px)
        planes = array_field(np.uint8, self.config.sampling.num_frames, size)
        return ReverseSample(planes, array_field(np.float32))

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> ReverseSample:
        config = self.config
        with videos.open(MIN_VIDEO_FRAMES) as reader:
            frames = sample_frames(config.sampling, reader.num_frames, rng).tolist()
            crop = sample_crop(config.augment, rng)
            planes = reader.read_square(frames, crop, config.augment.frame_size_px)
        is_reversed = rng.random() < config.reverse_prob
        return ReverseSample(planes[::-1] if is_reversed else planes, np.float32(is_reversed))

    def build(self, encoder: Encoder) -> nn.Module:
        return Classifier(encoder)

    def loss(self, model: nn.Module, samples: ReverseSample) -> LossTerms:
        logits = model(self.clips(samples))
        return LossTerms(F.binary_cross_entropy_with_logits(logits, samples.is_reversed), {})

    def evaluate(self, model: nn.Module, batches: Iterable[ReverseSample]) -> Mapping[str, Mean]:
        correct = number = reversed_ones = 0.0
        for samples in batches:
            answers = model(self.clips(samples)) > 0
            correct += float((answers == samples.is_reversed).sum())
            reversed_ones += float(samples.is_reversed.sum())
            number += len(answers)
        majority = max(reversed_ones, number - reversed_ones)
        return {"direction": Mean(correct, number), "majority": Mean(majority, number)}

    def pictures(
        self, samples: ReverseSample, model: nn.Module | None, *, min_side_px: int
    ) -> Sequence[SamplePicture]:
        frames = to_rgb(samples.planes, self.config.augment.frame_size_px).numpy()
        return [SamplePicture(clip, f"reversed: {bool(is_reversed)}")
                for clip, is_reversed in zip(frames, samples.is_reversed, strict=True)]  # fmt: skip

    def clips(self, samples: ReverseSample) -> Tensor:
        return to_input(to_rgb(samples.planes, self.config.augment.frame_size_px))


class Classifier(nn.Module):
    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder, self.fc = encoder, nn.Linear(encoder.out_channels, 1)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.encoder(clips).mean(dim=(2, 3, 4)))[:, 0]
        return logits


class FlatConfig(EncoderConfig):
    """Two convolutions."""

    name: Literal["flat"] = "flat"
    channels: int = 6
    """Channels of the features."""


class Flat(Encoder):
    Config = FlatConfig
    stages = ("first", "second")

    def __init__(self, config: FlatConfig):
        super().__init__(config)
        self.out_channels, self.stride = config.channels, (2, 8, 8)
        self.first = nn.Conv3d(3, 4, (3, 4, 4), stride=(1, 4, 4), padding=(1, 0, 0))
        self.second = nn.Conv3d(4, config.channels, 2, stride=2)

    def forward(self, clips: Tensor) -> Tensor:
        features: Tensor = self.second(F.relu(self.first(clips)))
        return features


def register() -> None:
    TASKS["reverse"], ENCODERS["flat"] = Reverse, Flat


if __name__ == "test_toy_task":  # imported by a process of the run on Ray, not by pytest
    register()


def pretrain_on_ray(config: str) -> None:
    """Pretrain as jobs/pretrain.py does."""
    from ctp.cluster.launch import pretrain

    pretrain(PretrainConfig.model_validate_json(config))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "reverse", Reverse)
    monkeypatch.setitem(ENCODERS, "flat", Flat)


@pytest.fixture
def config(small_run: PretrainConfig) -> PretrainConfig:
    clip = {name: getattr(small_run.task, name) for name in ("sampling", "augment")}
    values = {"task": {"name": "reverse", **clip}, "encoder": "flat", "log_every_steps": 1}
    return small_run.replace(**values)


def interrupted(stream: SampleStream[Any], first: int) -> Iterator[Batch[Any]]:
    """Yield three batches, then fail."""
    yield from list(stream.batches(first, 0, 1))[:3]
    raise InterruptedError


def losses(config: PretrainConfig) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(folder_of(config))]


def test_it_resumes_exactly(
    config: PretrainConfig, tmp_path: Path, train_alone: Callable[..., None]
) -> None:
    whole = config.replace(storage=str(tmp_path / "whole"))
    train_alone(open_pretraining(whole))
    with pytest.raises(InterruptedError):
        train_alone(open_pretraining(config), interrupted)
    train_alone(open_pretraining(config))
    assert losses(config) == losses(whole)
    rows = read_metrics(folder_of(config))
    assert {"direction", "majority", "heldout_clips"} <= rows[-1].keys()


def test_its_encoder_is_loaded_and_its_report_written(
    config: PretrainConfig,
    train_alone: Callable[..., None],
    load_job: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    create_or_resume(config)
    train_alone(open_pretraining(config))
    folder = folder_of(config)
    encoder = load_encoder(folder.uri)
    assert isinstance(encoder, Flat)
    assert encoder(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 6, 2, 4, 4)
    out = tmp_path / "report"
    load_job("report").main(["--runs", folder.uri, "--out", str(out)])
    page = (out / "report.html").read_text()
    assert config.score.format(read_metrics(folder)[-1]["direction"]) in page
    assert "reverse" in page


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_was_interrupted_is_resumed_on_ray(
    config: PretrainConfig, tmp_path: Path, train_alone: Callable[..., None]
) -> None:
    whole = config.replace(storage=str(tmp_path / "whole"))
    train_alone(open_pretraining(whole))
    create_or_resume(config)
    with pytest.raises(InterruptedError):
        train_alone(open_pretraining(config), interrupted)
    assert not folder_of(config).join("encoder.safetensors").exists()
    out = pretrain_in_a_process(config)
    assert "resuming after step" in out
    assert losses(config) == losses(whole)
    assert folder_of(config).join("curves.png").exists()


def pretrain_in_a_process(config: PretrainConfig) -> str:
    folders = [str(Path(__file__).parent), *sys.path]
    script = "import sys, test_toy_task; test_toy_task.pretrain_on_ray(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", script, config.model_dump_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
