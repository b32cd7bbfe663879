"""One training step, and how it computes: precision, memory format, compilation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ctp.training.config import ComputeConfig, OptimizerConfig

M = TypeVar("M", bound=nn.Module)

MOMENTUM = 0.9
"""Momentum of SGD (§5.1)."""
SHARE = "learning_rate_share"
MAX_GRADIENT_NORM = 40.0
"""L2 norm to which a larger gradient is scaled down (the authors' implementation)."""


CUDNN_WITH_FAULTY_BF16 = range(9_08_00, 9_15_00)
"""Versions of cuDNN whose 3D convolutions in bfloat16 are wrong (to 9.10), or 4 times slower and
need 17 times the memory (PyTorch's issues 163539, 166122 and 166643)."""


CPU_FAULT = (
    "torch computes the gradients of 3D convolutions in bfloat16 wrongly on this CPU. Set "
    "compute.precision fp32"
)


class LossTerms(NamedTuple):
    """A loss and further values that a step logs.

    Attributes:
        total: a scalar, to be minimised.
        metrics: name in the log -> scalar.
    """

    total: Tensor
    metrics: Mapping[str, Tensor]


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of all parameters of `model` that are not frozen.

    The parameters of a module with the attribute `learning_rate_share` have this share of the
    learning rate.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    groups = _groups(model, parameters)
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if all(each.is_cuda for each in parameters):
        options["fused"] = True  # one launch for many parameters
    if config.name == "adamw":
        return torch.optim.AdamW(groups, **options)
    return torch.optim.SGD(groups, momentum=MOMENTUM, **options)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what an optimiser has accumulated, as its `state_dict`, but not its options."""
    # options come from the config and the device, and both may differ from the checkpoint's
    own = optimizer.state_dict()["param_groups"]
    groups = [
        {**options, "params": saved["params"]}
        for options, saved in zip(own, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # fused kernels ignore strides: the layout must be that of the parameter
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def _groups(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Return the parameters, grouped by their share of the learning rate."""
    shares = {
        parameter: share
        for module in model.modules()
        if (share := getattr(module, SHARE, None)) is not None
        for parameter in module.parameters()
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(shares.get(parameter, 1.0), []).append(parameter)
    return [{"params": group, SHARE: share} for share, group in groups.items()]


def precision_fault(
    config: ComputeConfig, device: torch.device, cudnn: int | None = None
) -> str | None:
    """Return why a device must not compute in the precision of `config`, or None.

    Args:
        config: has the precision.
        device: of the run.
        cudnn: version, as in 91501 for 9.15.1; None: the one that torch has loaded.
    """
    if config.precision != "bf16":
        return None
    if device.type != "cuda":
        return None if _is_bf16_right_on_cpu() else CPU_FAULT
    version = torch.backends.cudnn.version() if cudnn is None else cudnn  # type: ignore[no-untyped-call]
    if version not in CUDNN_WITH_FAULTY_BF16:
        return None
    name = f"{version // 10_000}.{version // 100 % 100}.{version % 100}"
    return (
        f"cuDNN {name} computes 3D convolutions in bfloat16 wrongly or very slowly. Install torch "
        "2.10 or later with its own cuDNN (9.15 or later), or set compute.precision fp32"
    )


def _is_bf16_right_on_cpu() -> bool:
    """Return whether the gradient of a small 3D convolution in bfloat16 is right on this CPU.

    oneDNN's is wrong with 2 frames, as in the last stage of R3D, 16 channels and one thread (torch
    2.15, on a CPU with AVX-512 and bfloat16).
    """
    clips, threads = torch.ones(1, 16, 2, 8, 8), torch.get_num_threads()
    gradients: list[Tensor] = []
    torch.set_num_threads(1)
    for enabled in (False, True):
        weight = torch.zeros(16, 16, 3, 3, 3, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            features = nn.functional.conv3d(clips, weight, padding=1)
        gradients += torch.autograd.grad(features.float().sum(), weight)
    torch.set_num_threads(threads)
    return torch.equal(*gradients)  # whole numbers below 256, which bfloat16 represents


def autocast(config: ComputeConfig, device: torch.device) -> AbstractContextManager[object]:
    """Return the precision to run the model in, as a context."""
    # bfloat16 has the range of float32, so the loss needs no scaling as for float16
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def prepare(model: M, config: ComputeConfig, device: torch.device) -> M:
    """Move a model to its device, in the memory layout and precision it runs in."""
    # set for both, since convolutions use TF32 by default
    torch.set_float32_matmul_precision("highest" if config.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
    model = model.to(device)
    if device.type == "cuda":
        # every step has the same shapes, for which cuDNN then chooses the fastest kernels
        torch.backends.cudnn.benchmark = True
        for module in model.modules():
            # the layout that cuDNN's fast kernels take; the activations follow that of the weights
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
    return model


def train_step(
    compute_loss: Callable[[], LossTerms],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
) -> dict[str, Tensor]:
    """Compute the loss and its gradient, clip the gradient and update the parameters.

    Returns:
        "loss" before the step, its metrics, and "gradient_norm" before clipping; detached and
        still on their device.
    """
    for group in optimizer.param_groups:
        # computed from the step instead of by a torch scheduler, which would be more state to save
        group["lr"] = learning_rate * group[SHARE]
    optimizer.zero_grad()
    loss = compute_loss()
    loss.total.backward()  # type: ignore[no-untyped-call]
    # DDP has averaged the gradients by now, so every worker clips alike
    gradient_norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
    optimizer.step()
    logged = {"loss": loss.total, **loss.metrics, "gradient_norm": gradient_norm}
    # without their graph, which would stay in memory until the next log line
    return {name: value.detach() for name, value in logged.items()}
