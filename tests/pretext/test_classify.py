"""What tasks share whose answer is a class: exact resume, equal workers, accuracy, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ctp.data.stream import Batch, SampleStream, stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import build_model, open_pretraining
from ctp.pretext.registry import build_task
from ctp.training.run_folder import folder_of, read_metrics

TASKS = ["rotation", "speed-seven", "speed-original", "vcop"]


@pytest.fixture(params=TASKS)
def config(small_run: PretrainConfig, request: pytest.FixtureRequest) -> PretrainConfig:
    task, _, classes = request.param.partition("-")
    clip = {name: getattr(small_run.task, name) for name in ("sampling", "augment")}
    option = {"classes": classes} if classes else {}
    return small_run.replace(task={"name": task, **clip, **option}, log_every_steps=1)


def losses(config: PretrainConfig) -> list[float]:
    return [row["loss"] for row in read_metrics(folder_of(config))]


def encoder(config: PretrainConfig) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(folder_of(config).join("encoder.safetensors").read_bytes())


def test_it_resumes_exactly_and_two_workers_equal_one(
    config: PretrainConfig,
    tmp_path: Path,
    train_alone: Callable[..., None],
    train_as_two: Callable[..., None],
) -> None:
    def interrupted(samples: SampleStream[Any], first: int) -> Iterator[Batch[Any]]:
        yield from list(samples.batches(first, 0, 1))[:3]
        raise InterruptedError

    whole, two = (config.replace(storage=str(tmp_path / name)) for name in ("whole", "two"))
    train_alone(open_pretraining(whole))
    with pytest.raises(InterruptedError):
        train_alone(open_pretraining(config), interrupted)
    train_alone(open_pretraining(config))
    assert losses(config) == losses(whole)  # bit for bit
    first, second = encoder(config), encoder(whole)
    assert all(torch.equal(first[name], second[name]) for name in second)

    two = two.replace(scaling={"num_workers": 2})
    train_as_two(open_pretraining, two)
    assert losses(two) == pytest.approx(losses(whole), rel=1e-4)
    rows = [read_metrics(folder_of(each))[-1] for each in (two, whole)]
    chance = 1 / len(build_task(config.task).class_names)
    assert rows[0]["chance"] == rows[1]["chance"] == pytest.approx(chance)
    assert rows[0]["accuracy"] == pytest.approx(rows[1]["accuracy"])
    for name, ours in encoder(two).items():
        torch.testing.assert_close(ours, second[name], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_accuracy_is_the_share_of_right_answers(config: PretrainConfig) -> None:
    stream = open_pretraining(config).stream
    batches = [stack([stream.draw(4 * i + j).sample for j in range(4)]) for i in range(3)]
    batches = [type(each)(*map(torch.from_numpy, each)) for each in batches]
    task, model = build_task(config.task), build_model(config).eval()
    labels = torch.cat([each.label.flatten() for each in batches])
    for answer in range(len(task.class_names)):
        model.fc.bias.copy_(100 * torch.eye(len(model.fc.bias))[answer])
        total, number = task.evaluate(model, batches)["accuracy"]
        assert number == len(labels)
        assert total == (labels == answer).sum()


@torch.no_grad()
def test_a_picture_names_the_class_and_the_answer(config: PretrainConfig) -> None:
    samples = stack([open_pretraining(config).stream.draw(i).sample for i in range(3)])
    samples = type(samples)(*map(torch.from_numpy, samples))
    task, model = build_task(config.task), build_model(config).eval()
    model.fc.bias.copy_(100 * torch.eye(len(model.fc.bias))[1])
    rows = samples.label.reshape(3, -1)
    names = [" | ".join(task.class_names[label] for label in row) for row in rows]
    answered = " | ".join([task.class_names[1]] * rows.shape[1])
    for answers in (None, model):
        pictures = task.pictures(samples, answers, min_side_px=64)
        assert len(pictures) == len(names)
        for picture, name in zip(pictures, names, strict=True):
            assert picture.frames.shape[1:] == (64, 64, 3)
            answer = "" if answers is None else f", answer {answered} (100%)"
            assert picture.caption.endswith(f" {name}{answer}")
