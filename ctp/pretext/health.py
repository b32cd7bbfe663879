"""Signs of a run that does not learn: dead units, features of low rank, small gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.encoders.encoder import Encoder
from ctp.training.distributed import gather

ENTROPY_EPS = 1e-7
"""ε of RankMe (Garrido et al., ICML 2023, eq. 1)."""


def effective_rank(features: Tensor) -> float:
    """Return RankMe: the exponential of the entropy of the normalised singular values.

    It is between 1, all features on a line through 0, and min(N, C), as in "RankMe: Assessing the
    Downstream Performance of Pretrained Self-Supervised Representations by Their Rank" (ICML 2023).

    Args:
        features: float [N, C], a vector for each clip.

    Raises:
        FloatingPointError: a feature is not finite.
    """
    if not features.isfinite().all():
        raise FloatingPointError(
            "the encoder's features of held-out clips are not finite. Lower "
            "optimizer.learning_rate, or add schedule.warmup_steps"
        )
    values = torch.linalg.svdvals(features.double())
    # ε below, too: features that are all 0 have no direction
    shares = values / (values.sum() + ENTROPY_EPS) + ENTROPY_EPS
    return float(torch.exp(-(shares * shares.log()).sum()))


def dead_unit_share(fired: Iterable[NDArray[np.bool_]]) -> float:
    """Return the share of units that never fired, of the layer with the most of them.

    It is not the mean over layers, since one dead layer is enough to stop the gradient.

    Args:
        fired: bool [C] for each layer: whether a unit was above 0 for any sample.
    """
    return max(1 - float(layer.mean()) for layer in fired)


def gradient_norm(module: nn.Module) -> float:
    """Return the L2 norm of the gradient of a module's parameters; 0 if there is none."""
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


class HealthMonitor:
    """Watches a model while it is evaluated: the features of its encoder and the ReLUs of its
    head, which are all other `nn.ReLU` modules except those of parts without gradient."""

    def __init__(self) -> None:
        self._features: list[Tensor] = []
        self._fired: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch a model with an attribute `encoder`; for use in a `with` statement."""
        encoder = model.encoder
        assert isinstance(encoder, Encoder)
        ignored = set(encoder.modules())
        for part in model.modules():
            weights = list(part.parameters())
            # such as a momentum encoder's head
            if weights and not any(each.requires_grad for each in weights):
                ignored |= set(part.modules())
        hooks = [encoder.register_forward_hook(self._add_features)]
        hooks += [
            module.register_forward_hook(self._layer(name))
            for name, module in model.named_modules()
            if isinstance(module, nn.ReLU) and module not in ignored
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def metrics(self) -> dict[str, float]:
        """Return "effective_rank" and "dead_unit_share" over the clips of all workers, each if
        there was anything to watch; all workers must call it together."""
        features = torch.cat(self._features).cpu().numpy() if self._features else None
        layers = {name: fired.cpu().numpy() for name, fired in self._fired.items()}
        reports = gather((features, layers))
        found = {}
        if rows := [torch.from_numpy(each) for each, _ in reports if each is not None]:
            found["effective_rank"] = effective_rank(torch.cat(rows))
        if fired := _any([layers for _, layers in reports]):
            found["dead_unit_share"] = dead_unit_share(fired.values())
        return found

    def _add_features(self, module: nn.Module, inputs: object, features: Tensor) -> None:
        self._features.append(features.mean(dim=(2, 3, 4)).float())

    def _layer(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def add(module: nn.Module, inputs: object, output: Tensor) -> None:
            others = [dim for dim in range(output.ndim) if dim != 1]  # 1: the units
            fired = (output > 0).amax(dim=others)
            self._fired[name] = fired | self._fired.get(name, fired)

        return add


def _any(of_workers: list[Mapping[str, NDArray[np.bool_]]]) -> dict[str, NDArray[np.bool_]]:
    """Return for each layer whether a unit fired on any worker."""
    found: dict[str, NDArray[np.bool_]] = {}
    for layers in of_workers:
        for name, fired in layers.items():
            found[name] = found.get(name, fired) | fired
    return found
