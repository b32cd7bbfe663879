"""Run folders as runs write them, with the numbers that a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes
from ctp.pretext.config import PretrainConfig
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.config import RunConfig
from ctp.training.run_folder import ENCODER

SMALL: Mapping[str, Any] = {"name": "r3d", "width": 4, "blocks_per_stage": (1, 1, 1, 1)}
WriteRun = Callable[..., Storage]


def _write(
    config: RunConfig,
    scores: Mapping[str, Any] | None,
    rows: Sequence[Mapping[str, float]],
) -> Storage:
    run_folder.create_or_resume(config)
    folder = run_folder.folder_of(config)
    folder.join(run_folder.METRICS).write_bytes(run_folder.to_jsonl(rows))
    if scores is not None:
        folder.join(config.RESULT).write_bytes(json.dumps(scores).encode())
    return folder


@pytest.fixture
def pretrained(tmp_path: Path) -> WriteRun:
    """`pretrained(name, seed=, task=…)`: the folder of a finished pretraining run."""

    def write(name: str, **changes: Any) -> Storage:
        own = {"name": name, "storage": str(tmp_path / "runs"), "encoder": SMALL}
        config = PretrainConfig().override(own).override(changes)
        folder = _write(config, None, [{"step": 5, "iou": 0.6, "still_iou": 0.5}])
        folder.join(ENCODER).write_bytes(encoder_bytes(R3d(config.encoder), {"run": name}))
        return folder

    return write


@pytest.fixture
def encoder(pretrained: WriteRun) -> Callable[..., str]:
    """`encoder(name, seed=, …)`: the URI of what `pretrained` pretrained, as a job settles it."""

    def write(name: str, **changes: Any) -> str:
        return pretrained(name, **changes).join(ENCODER).uri

    return write


@pytest.fixture
def finetuned(tmp_path: Path) -> WriteRun:
    """`finetuned(name, top1=0.5, seed=, initial=, data=…)`: the folder of a run of action
    recognition, that is not finished if `top1` is None. Its encoder is that of `pretrained`."""

    def write(name: str, top1: float | None, **changes: Any) -> Storage:
        own = {
            "name": name,
            "storage": str(tmp_path / "runs"),
            "encoder": SMALL,
            "data": {"test_uri": "corpus:8"},
        }
        config = FinetuneConfig().override(own).override(changes)
        scores = {"top1": top1, "top5": 0.9, "tested": 8, "quarantined": [], "trained_on": 100}
        reached = 0.1 if top1 is None else top1
        rows = [
            {"step": 1, "loss": 2.0, "train_top1": 0.1},
            {"step": 2, "loss": 1.0 - reached, "train_top1": 0.9, "top1": reached},
        ]
        return _write(config, None if top1 is None else scores, rows)

    return write


@pytest.fixture
def tracked(tmp_path: Path) -> WriteRun:
    """`tracked(name, iou=0.5, frozen_stages=…)`: the folder of a run of tracking."""

    def write(name: str, iou: float | None, **changes: Any) -> Storage:
        own = {"name": name, "storage": str(tmp_path / "runs"), "encoder": SMALL}
        config = TrackConfig().override(own).override(changes)
        scores = {"tested": 3, "quarantined": []} | {
            f"{still}{name}": value
            for still, value in (("", iou), ("still_", 0.4))
            for name in ("iou", "ao", "sr50", "sr75")
        }
        rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
        return _write(config, None if iou is None else scores, rows)

    return write
