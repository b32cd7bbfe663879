"""MemDPC: the loss against a plain loop, exact resume, and the same run for two workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ctp.data.stream import Batch, SampleStream
from ctp.encoders.config import R2plus1dConfig, R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.memdpc import Memdpc, contrastive_loss
from ctp.pretext.pretraining import open_pretraining
from ctp.training.checkpoint import TrainState
from ctp.training.run_folder import checkpoint_store, folder_of, read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(small_run: PretrainConfig) -> PretrainConfig:
    sampling = {"num_frames": 2, "interval_frames": (1, 1)}
    task = {"name": "memdpc", "sampling": sampling, "augment": small_run.task.augment}
    return small_run.replace(task=task, log_every_steps=1)


def newest(config: PretrainConfig) -> TrainState:
    store = checkpoint_store(config, None)
    name = store.newest()
    assert name is not None
    return store.load(name)


def test_the_loss_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    true, predicted = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)  # clips, ways, places
    expected = 0.0
    for way in range(2):
        for clip in range(2):
            for place in range(3):
                query = predicted[clip, way, place]
                dots = torch.stack([each @ query for each in true[:, way].reshape(6, 4)])
                expected -= float(dots[3 * clip + place] - dots.logsumexp(0)) / 6
    assert float(contrastive_loss(true, predicted)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [R3dConfig, R2plus1dConfig])
def test_a_block_of_five_frames_has_two_steps_of_features(kind: Any) -> None:
    config = kind(width=4, blocks_per_stage=(1, 1, 1, 1), spatial_stride=16)
    encoder = build_encoder(config)
    before = {key: value.shape for key, value in encoder.state_dict().items()}
    model = Memdpc(encoder)
    assert encoder(torch.zeros(1, 3, 5, 32, 32)).shape == (1, 32, 2, 2, 2)
    assert {key: value.shape for key, value in encoder.state_dict().items()} == before
    true, predicted = model(torch.randn(8, 3, 5, 32, 32), None)
    assert true.shape == predicted.shape == (1, 2, 12, 256)


def test_it_resumes_exactly(
    config: PretrainConfig, tmp_path: Path, train_alone: Callable[..., None]
) -> None:
    def interrupted(stream: SampleStream[Any], first: int) -> Iterator[Batch[Any]]:
        yield from list(stream.batches(first, 0, 1))[:3]
        raise InterruptedError

    whole = config.replace(storage=str(tmp_path / "whole"))
    train_alone(open_pretraining(whole))
    with pytest.raises(InterruptedError):
        train_alone(open_pretraining(config), interrupted)
    train_alone(open_pretraining(config))
    expected = newest(whole).model
    for key, value in newest(config).model.items():
        assert torch.equal(value, expected[key]), key
    assert {"accuracy", "chance"} <= read_metrics(folder_of(config))[-1].keys()


def test_two_workers_make_the_same_run_and_one_continues_it(
    config: PretrainConfig, tmp_path: Path, train_alone: Callable[..., None]
) -> None:
    whole = config.replace(storage=str(tmp_path / "whole"))
    train_alone(open_pretraining(whole))
    together(config, 2, 4, tmp_path / "store")
    assert newest(config).step == 4
    train_alone(open_pretraining(config))
    expected, got = newest(whole), newest(config)
    for key in expected.model:
        torch.testing.assert_close(
            got.model[key], expected.model[key], rtol=1e-3, atol=1e-4, msg=key
        )


def together(config: PretrainConfig, world_size: int, steps: int, store: Path) -> None:
    """Train in several processes, which are interrupted after some steps."""
    script = Path(__file__).with_name("training_worker.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world_size), store, str(steps),
             config.model_dump_json()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for rank in range(world_size)
    ]  # fmt: skip
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * world_size
