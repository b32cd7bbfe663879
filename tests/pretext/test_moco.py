"""MoCo: queue, momentum and loss against hand-worked values, and the same run for any workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.data.stream import Batch, SampleStream
from ctp.encoders.config import R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.moco import Moco, MocoConfig, similarities
from ctp.pretext.pretraining import open_pretraining
from ctp.training.checkpoint import TrainState
from ctp.training.config import OptimizerConfig
from ctp.training.run_folder import checkpoint_store, folder_of, read_metrics
from ctp.training.step import build_optimizer

ROOT = Path(__file__).parents[2]
TINY = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))


@pytest.fixture
def config(small_run: PretrainConfig) -> PretrainConfig:
    clip = {name: getattr(small_run.task, name) for name in ("sampling", "augment")}
    return small_run.replace(task={"name": "moco", "queue_size": 12, **clip}, log_every_steps=1)


@pytest.fixture
def model() -> Moco:
    torch.manual_seed(0)
    return Moco(build_encoder(TINY), queue_size=6, key_momentum=0.9)


def clips(number: int) -> Tensor:
    return torch.randn(number, 3, 4, 16, 16)


def newest(config: PretrainConfig) -> TrainState:
    store = checkpoint_store(config, None)
    name = store.newest()
    assert name is not None
    return store.load(name)


def test_the_newest_keys_replace_the_oldest(model: Moco) -> None:
    start, steps = model.queue.clone(), []
    for _ in range(4):
        steps.append(model(clips(2), clips(2))[1])
        model.enqueue()
    assert torch.equal(model.queue, torch.cat([steps[3], steps[1], steps[2]]))
    assert int(model.queue_start) == 2
    assert not torch.equal(start[:2], steps[0])
    torch.testing.assert_close(model.queue.norm(dim=1), torch.ones(6))


def test_key_weights_follow_by_the_momentum(model: Moco) -> None:
    first = [each.clone() for each in model.key_head.parameters()]
    with torch.no_grad():
        for each in model.head.parameters():
            each.add_(1)
    for _ in range(3):
        model.follow()
    for before, after in zip(first, model.key_head.parameters(), strict=True):
        torch.testing.assert_close(after, before + (1 - 0.9**3))


def test_the_loss_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    query, key, queue = (F.normalize(torch.randn(n, 8), dim=1) for n in (3, 3, 5))
    losses = []
    for q, k in zip(query, key, strict=True):
        others = sum(torch.exp(q @ each / 0.2) for each in queue)
        right = torch.exp(q @ k / 0.2)
        losses.append(-torch.log(right / (right + others)))
    logits = similarities(query, key, queue)
    loss = F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_only_the_query_encoder_learns(model: Moco) -> None:
    optimizer = build_optimizer(OptimizerConfig(), model)
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    learning: list[nn.Module] = [model.encoder, model.head]
    assert held == {id(each) for part in learning for each in part.parameters()}
    similar = model(clips(2), clips(2))[2]
    similar.sum().backward()
    assert all(each.grad is None for each in model.key_encoder.parameters())


def test_initial_weights_reach_the_key_encoder(model: Moco) -> None:
    other = build_encoder(TINY)
    model.encoder.load_state_dict(other.state_dict())
    for key, value in model.key_encoder.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_a_checkpoint_keeps_its_own_key_encoder(model: Moco) -> None:
    with torch.no_grad():
        next(model.key_encoder.parameters()).add_(1)
    loaded = Moco(build_encoder(TINY), queue_size=6, key_momentum=0.9)
    loaded.load_state_dict(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_queue_that_is_no_multiple_of_the_batch_is_refused(config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=r"queue_size 10 is not a multiple .* 4.* set it to 8"):
        config.replace(task=MocoConfig(queue_size=10))


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
    row = read_metrics(folder_of(config))[-1]
    assert 0 <= row["retrieved"] <= 1
    assert row["chance"] >= 1 / 6


def test_two_workers_make_the_same_run_and_one_continues_it(
    config: PretrainConfig, tmp_path: Path, train_alone: Callable[..., None]
) -> None:
    whole = config.replace(storage=str(tmp_path / "whole"))
    train_alone(open_pretraining(whole))
    together(config, 2, 4, tmp_path / "store")
    assert newest(config).step == 4
    train_alone(open_pretraining(config))  # by another number of workers
    expected, got = newest(whole), newest(config)
    assert got.step == expected.step == 6
    assert set(got.model) == set(expected.model)
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
