"""Pictures of guided Grad-CAM: a clip, and the maps of one or several classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray

from ctp.downstream.gradcam import Explanation, Map
from ctp.pretext.pictures import enlarge
from ctp.pretext.task import SamplePicture
from ctp.report.preview import Pixels

MapName = Literal["guided", "cam"]
MAPS: dict[MapName, str] = {"guided": "guided Grad-CAM", "cam": "Grad-CAM"}
"""The maps that can be drawn, and their names."""
MEANING: dict[MapName, str] = {
    "guided": "pixels that are evidence for the class, from none to the most of this clip",
    "cam": "regions that are evidence for the class, from none to the most of this clip",
}
COLORS: dict[MapName, str] = {"guided": "inferno", "cam": "turbo"}
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Brightness of red, green and blue (ITU-R BT.601)."""
_GUIDED_BACKGROUND = 0.4
"""Brightness of the frames behind a guided map, which is drawn in light."""
_CAM_OPACITY = 0.5


class Explained(NamedTuple):
    """A clip and the answers of classifiers.

    Attributes:
        frames: uint8 [T, H, W, 3].
        caption: text above the clip.
        label: its true class, or None if unknown.
        explanations: by the classifier's name, in the order in which they are drawn.
    """

    frames: Pixels
    caption: str
    label: int | None
    explanations: Mapping[str, Explanation]


def overlay(frames: Pixels, values: Map, name: MapName) -> Pixels:
    """Draw a map over frames: guided Grad-CAM bright on a dim grey picture, Grad-CAM as colours
    from blue to red on a grey picture.

    Args:
        frames: uint8 [T, H, W, 3].
        values: float32 [T, H, W] in [0, 1].
        name: which map it is.

    Returns:
        uint8 [T, H, W, 3].
    """
    # by the square root, since gradients fall off fast
    opacity = np.sqrt(values) if name == "guided" else np.full_like(values, _CAM_OPACITY)
    background = (frames @ _GREY)[..., None]
    if name == "guided":
        background *= _GUIDED_BACKGROUND
    # plain alpha blending
    mixed = (1 - opacity[..., None]) * background + opacity[..., None] * _colors(values, name)
    painted: Pixels = mixed.round().astype(np.uint8)
    return painted


def draw_explained(
    clip: Explained, class_names: Sequence[str], maps: Sequence[MapName], min_side_px: int
) -> list[SamplePicture]:
    """Draw a clip, then the maps of each classifier.

    Args:
        clip: the clip.
        class_names: the classes of the classifiers.
        maps: which to draw.
        min_side_px: smaller frames are enlarged to this shorter side.

    Raises:
        ValueError: a classifier has another number of classes than there are names.
    """
    truth = "" if clip.label is None else f"   true class: {class_names[clip.label]}"
    pictures = [SamplePicture(clip.frames, f"{clip.caption}{truth}")]
    for model, found in clip.explanations.items():
        if len(found.probabilities) != len(class_names):
            raise ValueError(
                f"{model} has {len(found.probabilities)} classes, expected {len(class_names)}; "
                "compare classifiers of the same classes"
            )
        answer = f"{model}: {_describe(found, clip.label, class_names)}"
        for name in maps:
            drawn = overlay(clip.frames, found.guided if name == "guided" else found.cam, name)
            pictures.append(SamplePicture(drawn, f"{answer}   {MAPS[name]}"))
    large = [enlarge(torch.from_numpy(frames), min_side_px) for frames, _ in pictures]
    return [
        SamplePicture(np.ascontiguousarray(frames), caption)
        for frames, (_, caption) in zip(large, pictures, strict=True)
    ]


def _describe(found: Explanation, label: int | None, class_names: Sequence[str]) -> str:
    """Return the answer of a classifier, whether it is right, and which class is explained."""
    answer = f"{class_names[found.predicted]} {found.probabilities.max():.0%}"
    if label is not None:
        answer += ", right" if found.predicted == label else ", wrong"
    if found.target != found.predicted:
        share = found.probabilities[found.target]
        answer += f"; explained: {class_names[found.target]} {share:.0%}"
    return answer


def _colors(values: Map, name: MapName) -> NDArray[np.float64]:
    """Return the colours of values in [0, 1], float64 [..., 3] up to 255."""
    shown = np.sqrt(values) if name == "guided" else values
    colors: NDArray[np.float64] = 255 * colormaps[COLORS[name]](shown)[..., :3]
    return colors


def color_key(maps: Sequence[MapName]) -> dict[str, Pixels]:
    """Return what the colours of maps mean, for `preview.clips_png`."""
    values = np.linspace(0, 1, 120, dtype=np.float32)
    return {
        f"{MAPS[name]}: {MEANING[name]}": _colors(values, name).round().astype(np.uint8)
        for name in maps
    }
