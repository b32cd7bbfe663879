"""What tasks share whose answer is a class: accuracy and pictures."""

from __future__ import annotations

import pytest
import torch

from ctp.data.stream import stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import build_model, open_pretraining
from ctp.pretext.registry import build_task

TASKS = ["rotation", "speed-seven", "speed-original", "vcop"]


@pytest.fixture(params=TASKS)
def config(small_run: PretrainConfig, request: pytest.FixtureRequest) -> PretrainConfig:
    task, _, classes = request.param.partition("-")
    clip = {name: getattr(small_run.task, name) for name in ("sampling", "augment")}
    option = {"classes": classes} if classes else {}
    return small_run.replace(task={"name": task, **clip, **option})


@torch.no_grad()
def test_accuracy_is_the_share_of_right_answers(config: PretrainConfig) -> None:
    stream = open_pretraining(config).stream
    batches = [stack([stream.draw(4 * i + j).sample for j in range(4)]) for i in range(3)]
    batches = [type(each)(*map(torch.from_numpy, each)) for each in batches]
    task, model = build_task(config.task), build_model(config).eval()
    labels = torch.cat([each.label.flatten() for each in batches])
    for answer in range(len(task.class_names)):
        model.fc.bias.copy_(100 * torch.eye(len(model.fc.bias))[answer])
        accuracy = task.evaluate(model, batches)["accuracy"]
        assert accuracy.number == len(labels)
        assert accuracy.total == (labels == answer).sum()


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
