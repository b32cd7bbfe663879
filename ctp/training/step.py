"""One training step, and how it computes: precision, memory format, compilation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ctp.training.config import ComputeConfig, OptimizerConfig

M = TypeVar("M", bound=nn.Module)


class Loss(NamedTuple):
    """A loss, and what else the log tells of it.

    Attributes:
        total: a scalar, what is made small.
        parts: name in the log -> scalar.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters of `model` that are not frozen."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def autocast(config: ComputeConfig, device: torch.device) -> AbstractContextManager[object]:
    """The precision to run the model in, as a context."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def arrange(clips: Tensor, config: ComputeConfig) -> Tensor:
    """The input in a memory layout that the model can be trained on.

    It comes as `channels_last_3d`, the fastest on GPUs and CPUs alike. But on CPUs the gradient of
    bfloat16 convolutions is then infinite now and then (torch 2.15), whatever the input.
    """
    is_faulty = clips.device.type == "cpu" and config.precision == "bf16"
    return clips.contiguous() if is_faulty else clips


def prepare(model: M, config: ComputeConfig, device: torch.device) -> M:
    """Move a model to its device in the layout and precision asked for."""
    # said for both, since convolutions would take TF32 by default
    torch.set_float32_matmul_precision("highest" if config.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
    model = model.to(device)
    if config.channels_last:
        for module in model.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
    return model


def train_step(
    compute_loss: Callable[[], Loss],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    max_gradient_norm: float,
    learning_rate: float,
) -> dict[str, Tensor]:
    """Compute the loss, its gradient, clip it, and move the parameters.

    Returns:
        "loss" before the step, its parts, and "gradient_norm" before it was clipped; detached and
        still on their device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    loss = compute_loss()
    loss.total.backward()  # type: ignore[no-untyped-call]
    gradient_norm = nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
    optimizer.step()
    told = {"loss": loss.total, **loss.parts, "gradient_norm": gradient_norm}
    return {name: value.detach() for name, value in told.items()}
