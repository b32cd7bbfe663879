"""Guided Grad-CAM: where a classifier looks (§5.7, Fig. 5 and 8).

Grad-CAM weighs each channel of the encoder's last stage by its mean gradient of a class's logit,
sums them up, and keeps what is positive: a coarse map of the evidence. Guided backpropagation gives
the pixels that raise the logit: each ReLU passes on positive gradients only. Their product is
guided Grad-CAM (Selvaraju et al., ICCV 2017).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import GuidedGradCam, LayerAttribution
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.encoders.encoder import Encoder

Map = NDArray[np.float32]
FULL_QUANTILE = 0.999
"""A guided map is 1 above this quantile of its pixels; otherwise outliers would dim the rest."""


class Explanation(NamedTuple):
    """The answer of a classifier for a clip, and the evidence for a class.

    Attributes:
        target: the class whose evidence the maps show.
        probabilities: float32 [C], of this one clip.
        guided: float32 [T, H, W] in [0, 1], guided Grad-CAM: the greatest magnitude over colours,
            relative to the clip's own `FULL_QUANTILE`. All 0 where no evidence is positive.
        cam: float32 [T, H, W] in [0, 1], Grad-CAM relative to its greatest value.
    """

    target: int
    probabilities: NDArray[np.float32]
    guided: Map
    cam: Map

    @property
    def predicted(self) -> int:
        """Return the most probable class."""
        return int(self.probabilities.argmax())


def explain(model: nn.Module, clip: Tensor, target: int | None = None) -> Explanation:
    """Compute the maps of one clip.

    The model is used as in a test (no dropout, running statistics) and not changed, gradients
    included.

    Args:
        model: logits [1, C] of a clip. Its attribute `encoder` is an Encoder, and every ReLU is an
            nn.ReLU (a functional one is not guided).
        clip: float [1, 3, T, H, W], normalised, on the model's device.
        target: the class to explain; None: the predicted one.

    Raises:
        ValueError: the model does not return logits, the clip has another shape, or there is no
            such class.
    """
    if clip.ndim != 5 or clip.shape[:2] != (1, 3) or not clip.is_floating_point():
        raise ValueError(
            f"expected one clip, float [1, 3, T, H, W]; got {clip.dtype} {list(clip.shape)}"
        )
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    layer = encoder.get_submodule(encoder.stages[-1])
    with _in_test_mode(model), torch.enable_grad():
        probabilities = _probabilities(model, clip)
        if target is None:
            target = int(probabilities.argmax())
        if not 0 <= target < len(probabilities):
            raise ValueError(f"no class {target}: the model has {len(probabilities)}, from 0")
        guided, cam = _attribute(model, layer, clip, target)
    return Explanation(
        target,
        probabilities.cpu().numpy(),
        _normalize(guided.abs().amax(dim=1)[0], FULL_QUANTILE),
        _normalize(cam[0, 0], 1.0),
    )


@contextmanager
def _in_test_mode(model: nn.Module) -> Iterator[None]:
    """Use evaluation mode and no in-place ReLU, which captum may not support."""
    training = {module: module.training for module in model.modules()}
    in_place = [relu for relu in model.modules() if isinstance(relu, nn.ReLU) and relu.inplace]
    try:
        model.eval()
        for relu in in_place:
            relu.inplace = False
        yield
    finally:
        for relu in in_place:
            relu.inplace = True
        for module, was in training.items():
            module.training = was  # each its own: a frozen encoder stays in evaluation mode


@torch.no_grad()
def _probabilities(model: nn.Module, clip: Tensor) -> Tensor:
    """Return the probabilities of the classes, float32 [C]."""
    logits: Tensor = model(clip)
    if logits.ndim != 2 or len(logits) != 1:
        raise ValueError(
            f"expected a classifier that returns logits [1, C]; {type(model).__name__} returns "
            f"{list(logits.shape)}"
        )
    return logits[0].float().softmax(dim=0)


def _attribute(
    model: nn.Module, layer: nn.Module, clip: Tensor, target: int
) -> tuple[Tensor, Tensor]:
    """Return guided Grad-CAM, float [1, 3, T, H, W], and Grad-CAM, float [1, 1, T, H, W]."""
    # one explainer for both maps, of which it computes the coarse one anyway
    explainer = GuidedGradCam(model, layer)
    # a copy: the caller's clip gets no gradient
    pixels = clip.detach().clone().requires_grad_()
    cam = explainer.grad_cam.attribute(pixels, target, relu_attributions=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")  # as intended
        guided = explainer.attribute(pixels, target, interpolate_mode="trilinear")
    return guided.detach(), LayerAttribution.interpolate(cam, clip.shape[2:], "trilinear").detach()


def _normalize(values: Tensor, quantile: float) -> Map:
    """Divide values from 0 on by a quantile of them, and limit them to 1."""
    found: Map = values.float().cpu().numpy()
    full = np.quantile(found, quantile) or found.max()  # nearly all may be 0
    return np.clip(found / full, 0, 1) if full else found
