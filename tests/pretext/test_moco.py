"""MoCo: queue, momentum and loss against hand-worked values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.encoders.config import R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.moco.config import MocoConfig
from ctp.pretext.moco.task import Moco, similarities
from ctp.training.config import OptimizerConfig
from ctp.training.step import build_optimizer

TINY = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))


@pytest.fixture
def model() -> Moco:
    torch.manual_seed(0)
    return Moco(build_encoder(TINY), queue_size=6, key_momentum=0.9)


def clips(number: int) -> Tensor:
    return torch.randn(number, 3, 4, 16, 16)


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


def test_a_queue_that_is_no_multiple_of_the_batch_is_refused(
    small_run: PretrainConfig,
) -> None:
    with pytest.raises(ValueError, match=r"queue_size 10 is not a multiple .* 4.* set it to 8"):
        small_run.replace(task=MocoConfig(queue_size=10))
