"""A training step, checked by hand."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ctp.training.config import ComputeConfig, OptimizerConfig
from ctp.training.step import (
    MAX_GRADIENT_NORM,
    LossTerms,
    build_optimizer,
    load_optimizer_state,
    precision_fault,
    train_step,
)


def take_step(config: OptimizerConfig, gradient: float) -> tuple[nn.Parameter, Tensor]:
    weight = nn.Parameter(torch.tensor([1.0]))
    module = nn.Module()
    module.weight = weight
    optimizer = build_optimizer(config, module)

    def loss() -> LossTerms:
        total = gradient * weight.sum()
        return LossTerms(total, {"half": total / 2})

    logged = train_step(loss, [weight], optimizer, 0.1)
    assert list(logged) == ["loss", "half", "gradient_norm"]
    assert logged["half"].item() == gradient / 2
    assert logged["gradient_norm"].item() == pytest.approx(gradient)
    return weight, logged["loss"]


def test_sgd_by_hand() -> None:
    config = OptimizerConfig(weight_decay=0.5)
    weight, loss = take_step(config, gradient=2.0)
    assert weight.item() == pytest.approx(1 - 0.1 * (2 + 0.5 * 1))
    assert loss.item() == 2
    assert not loss.requires_grad


def test_a_module_may_have_a_share_of_the_learning_rate() -> None:
    """Plain SGD moves each weight by its learning rate times the gradient, here 1."""
    model = nn.ModuleDict({"encoder": nn.Linear(2, 1), "head": nn.Linear(1, 1)})
    model["head"].learning_rate_share = 0.2
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0), model)
    parameters = list(model.parameters())

    def loss() -> LossTerms:
        return LossTerms(torch.stack([each.sum() for each in parameters]).sum(), {})

    train_step(loss, parameters, optimizer, 0.1)
    for name, value in model.named_parameters():
        step = 0.02 if name.startswith("head.") else 0.1
        torch.testing.assert_close(before[name] - value, torch.full_like(value, step))


def test_frozen_parameters_are_not_optimised() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    (group,) = build_optimizer(OptimizerConfig(), module).param_groups
    assert [id(each) for each in group["params"]] == [id(module.weight)]


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_saved_state_continues_alike_in_another_memory_layout(
    name: Literal["sgd", "adamw"], is_fused: bool
) -> None:
    """On a GPU, weights are channels last and the optimiser is fused; on a CPU they are not."""
    config, factors = OptimizerConfig(name=name), torch.randn(4, 4, 3, 3, 3)
    saved, resumed = nn.Conv3d(4, 4, 3).to(memory_format=torch.channels_last_3d), nn.Conv3d(4, 4, 3)
    first, second = (build_optimizer(config, conv) for conv in (saved, resumed))
    first.param_groups[0]["fused"], second.param_groups[0]["fused"] = True, is_fused

    def step(conv: nn.Conv3d, optimizer: torch.optim.Optimizer) -> None:
        parameters = list(conv.parameters())
        train_step(lambda: LossTerms((conv.weight * factors).sum(), {}), parameters, optimizer, 0.1)

    step(saved, first)
    resumed.load_state_dict(saved.state_dict())
    load_optimizer_state(second, copy.deepcopy(first.state_dict()))
    assert second.param_groups[0]["fused"] is is_fused
    step(saved, first)
    step(resumed, second)
    torch.testing.assert_close(resumed.weight, saved.weight)


def test_the_gradient_is_clipped() -> None:
    config = OptimizerConfig(weight_decay=0)
    weight, _ = take_step(config, gradient=1000.0)
    assert weight.item() == pytest.approx(1 - 0.1 * MAX_GRADIENT_NORM, rel=1e-5)


@pytest.mark.parametrize("cudnn", [9_08_00, 9_10_02, 9_14_00])
def test_bfloat16_is_refused_where_cudnn_is_faulty(cudnn: int) -> None:
    gpu, bf16 = torch.device("cuda"), ComputeConfig(precision="bf16")
    fault = precision_fault(bf16, gpu, cudnn)
    assert fault is not None
    assert f"cuDNN {cudnn // 10_000}.{cudnn // 100 % 100}" in fault
    assert "compute.precision fp32" in fault
    assert precision_fault(ComputeConfig(precision="tf32"), gpu, cudnn) is None


@pytest.mark.parametrize("cudnn", [9_07_01, 9_15_00, 9_26_00])
def test_bfloat16_is_accepted_elsewhere(cudnn: int) -> None:
    assert precision_fault(ComputeConfig(precision="bf16"), torch.device("cuda"), cudnn) is None


def test_bfloat16_is_refused_on_a_cpu_with_wrong_gradients() -> None:
    """The gradient of a kernel over ones is the number of places where it meets the clip."""
    conv, clips = nn.Conv3d(16, 16, 3, padding=1, bias=False), torch.ones(1, 16, 2, 8, 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = conv(clips).float().sum()
    loss.backward()
    torch.set_num_threads(threads)
    in_time, in_space = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([7.0, 8.0, 7.0])
    places = in_time[:, None, None] * in_space[:, None] * in_space
    assert conv.weight.grad is not None
    is_right = torch.equal(conv.weight.grad, places.expand_as(conv.weight))
    fault = precision_fault(ComputeConfig(precision="bf16"), torch.device("cpu"))
    assert is_right == (fault is None)
    assert precision_fault(ComputeConfig(precision="tf32"), torch.device("cpu")) is None
    assert torch.get_num_threads() == threads
