"""Where a classifier looks: guided Grad-CAM of a clip, for one model or several side by side (§5.7,
Fig. 5 and 8).

Grad-CAM weighs each channel of the encoder's last stage by its mean gradient of a class's logit,
sums, and keeps what is positive: a coarse map of where the evidence lies. Guided backpropagation
gives the pixels that raise the logit, by gradients of which every ReLU passes on only the positive
part. Their product is guided Grad-CAM (Selvaraju et al., ICCV 2017).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from captum.attr import GuidedGradCam, LayerAttribution
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ctp.encoders.resnet3d import ResNet3d
from ctp.report.html import (
    FAINT,
    GAP_PX,
    INK,
    MARGIN_PX,
    TEXT_LINE_PX,
    Color,
    Layout,
    Picture,
    color_key,
    enlarged,
    even_frames,
    looped_mp4,
    png_bytes,
    write,
)

Map = NDArray[np.float32]
MapName = Literal["guided", "cam"]

MAPS: dict[MapName, str] = {"guided": "guided Grad-CAM", "cam": "Grad-CAM"}
"""The maps that can be drawn, and what they are called."""
FULL_QUANTILE = 0.999
"""A guided map is 1 from this quantile of its pixels on: a few stray ones would dim all others."""
RIGHT_COLOR: Color = (21, 128, 61)
WRONG_COLOR: Color = (190, 18, 60)

_MAP_COLORS: dict[MapName, str] = {"guided": "inferno", "cam": "turbo"}
_MEANING: dict[MapName, str] = {
    "guided": "what speaks for the class, from 0 to the most in this clip",
    "cam": "where it lies, from 0 to the most in this clip",
}
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Brightness of red, green and blue (ITU-R BT.601)."""
_BACKDROP: dict[MapName, float] = {"guided": 0.4, "cam": 1.0}
"""Brightness of the frames behind a map; a guided one is drawn in light."""
_CAM_OPACITY = 0.5
_PANEL_LINES = 3


@dataclass(frozen=True)
class Explanation:
    """What a classifier says of a clip, and what for.

    Attributes:
        target: the class whose evidence the maps show.
        probabilities: float32 [C], of this one clip.
        guided: float32 [T, H, W] in [0, 1], guided Grad-CAM: the greatest magnitude over colours,
            in shares of the clip's own `FULL_QUANTILE`. All 0 where no evidence is positive.
        cam: float32 [T, H, W] in [0, 1], Grad-CAM in shares of its greatest value.
    """

    target: int
    probabilities: NDArray[np.float32]
    guided: Map
    cam: Map

    @property
    def predicted(self) -> int:
        """The likeliest class."""
        return int(self.probabilities.argmax())


@dataclass(frozen=True)
class Explained:
    """A clip, and what classifiers make of it.

    Attributes:
        frames: uint8 [T, H, W, 3], as they are shown.
        caption: said above the clip.
        label: its true class, or None if that is not known.
        explanations: by the classifier's name, in the order in which they are drawn.
    """

    frames: Picture
    caption: str
    label: int | None
    explanations: Mapping[str, Explanation]


def explain(model: nn.Module, clip: Tensor, target: int | None = None) -> Explanation:
    """Compute the maps of one clip.

    The model is used as for a test (no dropout, running statistics) and left as it was, gradients
    included.

    Args:
        model: logits [1, C] of a clip; one of its parts is a ResNet3d, and every ReLU is an
            nn.ReLU (a functional one is not guided).
        clip: float [1, 3, T, H, W], normalised, on the model's device.
        target: the class to explain; None: the one that is predicted.

    Raises:
        ValueError: the model has not exactly one ResNet3d or does not give logits, the clip is of
            another shape, or there is no such class.
    """
    if clip.ndim != 5 or clip.shape[:2] != (1, 3) or not clip.is_floating_point():
        raise ValueError(
            f"one clip is explained at a time: float [1, 3, T, H, W] is needed, got {clip.dtype} "
            f"{list(clip.shape)}"
        )
    last_stage = _encoder(model).layer4
    with _as_in_a_test(model), torch.enable_grad():
        probabilities = _probabilities(model, clip)
        target = _checked_target(target, probabilities)
        guided, cam = _attribute(model, last_stage, clip, target)
    return Explanation(
        target,
        probabilities.cpu().numpy(),
        _in_shares(guided.abs().amax(dim=1)[0], FULL_QUANTILE),
        _in_shares(cam[0, 0], 1.0),
    )


def strip_png(
    clips: Sequence[Explained],
    class_names: Sequence[str],
    *,
    maps: Sequence[MapName] = tuple(MAPS),
    num_columns: int = 8,
    size_px: int = 160,
    num_colors: int | None = None,
) -> bytes:
    """A PNG: for each clip a row of its frames, and below them a row for each classifier and map.

    Args:
        clips: at least one, all with frames of the same size.
        class_names: of the classes that the classifiers tell apart.
        maps: which to draw.
        num_columns: frames of each clip, evenly chosen, or all it has if they are fewer.
        size_px: the shorter side of a frame in the picture, if its own is less.
        num_colors: up to 256 makes a palette of so many, and a file of half the size; None: all.

    Raises:
        ValueError: a classifier tells another number of classes apart than are named.
    """
    rows = [row for clip in clips for row in _panels(clip, class_names, maps)]
    chosen = even_frames(len(clips[0].frames), num_columns)
    cell = enlarged(rows[0].frames[0], size_px)
    layout = Layout(len(rows), len(chosen), cell.shape[1], cell.shape[0], head_px=TEXT_LINE_PX)
    page = layout.page(_legend(layout.legend_width_px, maps))
    draw = ImageDraw.Draw(page)
    for column, frame in enumerate(chosen):
        x, _ = layout.corner(0, column)
        write(draw, (x, MARGIN_PX), f"frame {frame}", FAINT, layout.width_px)
    for row, panel in enumerate(rows):
        x, y = layout.corner(row, 0)
        text = "   ".join(line for line in panel.lines if line)
        write(draw, (x, y - TEXT_LINE_PX), text, panel.color, layout.legend_width_px)
        for column, frame in enumerate(chosen):
            picture = enlarged(panel.frames[frame], size_px)
            page.paste(Image.fromarray(picture), layout.corner(row, column))
    return png_bytes(page, num_colors)


def side_by_side_mp4(
    clips: Sequence[Explained],
    class_names: Sequence[str],
    *,
    maps: Sequence[MapName] = tuple(MAPS),
    size_px: int = 224,
    frames_per_second: int = 8,
) -> bytes:
    """An H.264 video with a row a clip: its frames, and beside them each classifier's maps; over
    and over for at least `LOOP_SECONDS`.

    Args:
        clips: at least one, all with as many frames, of the same size, and of the same classifiers.
        class_names: of the classes that the classifiers tell apart.
        maps: which to draw.
        size_px: the shorter side of a clip in the picture, if its own is less.
        frames_per_second: frames of the clips a second.

    Raises:
        ValueError: as `strip_png`.
    """
    rows = [_panels(clip, class_names, maps) for clip in clips]
    cell = enlarged(rows[0][0].frames[0], size_px)
    layout = Layout(len(rows), len(rows[0]), cell.shape[1], cell.shape[0], text_lines=_PANEL_LINES)
    page = layout.page(_legend(layout.legend_width_px, maps))
    places = [
        (panel, layout.corner(row, column))
        for row, panels in enumerate(rows)
        for column, panel in enumerate(panels)
    ]
    draw = ImageDraw.Draw(page)
    for panel, (x, y) in places:
        for number, line in enumerate(panel.lines):
            top = y + (number - _PANEL_LINES) * TEXT_LINE_PX
            write(draw, (x, top), line, panel.color, layout.width_px - 2 * GAP_PX)
    pages = []
    for frame in range(len(clips[0].frames)):
        for panel, corner in places:
            page.paste(Image.fromarray(enlarged(panel.frames[frame], size_px)), corner)
        pages.append(np.asarray(page).copy())
    return looped_mp4(pages, frames_per_second)


def overlay(frames: Picture, values: Map, name: MapName) -> Picture:
    """Lay a map over frames: guided Grad-CAM glows on a dim grey picture, Grad-CAM tints one from
    blue to red.

    Args:
        frames: uint8 [T, H, W, 3].
        values: float32 [T, H, W] in [0, 1].
        name: which map it is.

    Returns:
        uint8 [T, H, W, 3].
    """
    opacity = _opacity(values, name)[..., None]
    backdrop = _BACKDROP[name] * (frames @ _GREY)[..., None]
    mixed = (1 - opacity) * backdrop + opacity * _colors(values, name)
    painted: Picture = mixed.round().astype(np.uint8)
    return painted


@dataclass(frozen=True)
class _Panel:
    """Frames, uint8 [T, H, W, 3], under `_PANEL_LINES` lines of text."""

    frames: Picture
    lines: tuple[str, str, str]
    color: Color


def _panels(clip: Explained, class_names: Sequence[str], maps: Sequence[MapName]) -> list[_Panel]:
    """The clip, then each classifier's maps."""
    truth = "" if clip.label is None else f"true class: {class_names[clip.label]}"
    panels = [_Panel(clip.frames, (clip.caption, truth, ""), INK)]
    for model, found in clip.explanations.items():
        if len(found.probabilities) != len(class_names):
            raise ValueError(
                f"{model} tells {len(found.probabilities)} classes apart, and {len(class_names)} "
                "are named; compare classifiers of the same classes"
            )
        answer, color = _answer(found, clip.label, class_names)
        for name in maps:
            values = found.guided if name == "guided" else found.cam
            lines = (model, answer, _what_for(found, name, class_names))
            panels.append(_Panel(overlay(clip.frames, values, name), lines, color))
    return panels


def _answer(found: Explanation, label: int | None, class_names: Sequence[str]) -> tuple[str, Color]:
    """What a classifier says, and the colour to write it in."""
    answer = f"{class_names[found.predicted]} {found.probabilities.max():.0%}"
    if label is None:
        return answer, INK
    if found.predicted == label:
        return f"{answer}, right", RIGHT_COLOR
    return f"{answer}, wrong", WRONG_COLOR


def _what_for(found: Explanation, name: MapName, class_names: Sequence[str]) -> str:
    """The map's name, and the class it is for if that is another than the predicted one."""
    if found.target == found.predicted:
        return MAPS[name]
    share = found.probabilities[found.target]
    return f"{MAPS[name]} for {class_names[found.target]} {share:.0%}"


def _opacity(values: Map, name: MapName) -> Map:
    # by the root, for gradients fall off fast
    return np.sqrt(values) if name == "guided" else np.full_like(values, _CAM_OPACITY)


def _colors(values: Map, name: MapName) -> NDArray[np.float64]:
    """float64 [..., 3] up to 255 for values in [0, 1]."""
    shown = np.sqrt(values) if name == "guided" else values
    colors: NDArray[np.float64] = 255 * colormaps[_MAP_COLORS[name]](shown)[..., :3]
    return colors


def _legend(width_px: int, maps: Sequence[MapName]) -> Image.Image:
    values = np.linspace(0, 1, 120, dtype=np.float32)
    bars = {
        f"{MAPS[name]}: {_MEANING[name]}": _colors(values, name).round().astype(np.uint8)
        for name in maps
    }
    return color_key(bars, width_px)


def _encoder(model: nn.Module) -> ResNet3d:
    found = [module for module in model.modules() if isinstance(module, ResNet3d)]
    if len(found) != 1:
        raise ValueError(
            f"the last stage of one ResNet3d is explained; {type(model).__name__} has {len(found)}"
        )
    return found[0]


@contextmanager
def _as_in_a_test(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no in-place ReLU, which captum does not promise to see through."""
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
    """float32 [C]."""
    logits: Tensor = model(clip)
    if logits.ndim != 2 or len(logits) != 1:
        raise ValueError(
            f"{type(model).__name__} is no classifier of clips: logits [1, C] are needed, it gives "
            f"{list(logits.shape)}"
        )
    return logits[0].float().softmax(dim=0)


def _checked_target(target: int | None, probabilities: Tensor) -> int:
    if target is None:
        return int(probabilities.argmax())
    if not 0 <= target < len(probabilities):
        raise ValueError(
            f"there is no class {target} to explain: the model tells {len(probabilities)} apart, "
            "numbered from 0"
        )
    return target


def _attribute(
    model: nn.Module, layer: nn.Module, clip: Tensor, target: int
) -> tuple[Tensor, Tensor]:
    """Guided Grad-CAM, float [1, 3, T, H, W], and Grad-CAM, float [1, 1, T, H, W]."""
    explainer = GuidedGradCam(model, layer)
    pixels = clip.detach().clone().requires_grad_()
    cam = explainer.grad_cam.attribute(pixels, target, relu_attributions=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")  # what it is for
        guided = explainer.attribute(pixels, target, interpolate_mode="trilinear")
    return guided.detach(), LayerAttribution.interpolate(cam, clip.shape[2:], "trilinear").detach()


def _in_shares(values: Tensor, quantile: float) -> Map:
    """Values from 0 on in shares of a quantile of them, at most 1."""
    found: Map = values.float().cpu().numpy()
    full = np.quantile(found, quantile) or found.max()  # nearly all may be 0
    return np.clip(found / full, 0, 1) if full else found
