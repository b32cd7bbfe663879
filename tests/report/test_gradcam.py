"""Pictures of where classifiers look: each clip above the maps of each classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctp.downstream.gradcam import Explanation
from ctp.report.gradcam import MAPS, Explained, color_key, draw_explained, overlay

NAMES = ("Jump", "Run", "Sit")
SIDE = 40
BRIGHTEST = (252, 255, 164)


def explained(
    label: int | None = 0,
    *,
    target: int = 0,
    probabilities: tuple[float, ...] = (0.7, 0.2, 0.1),
    names: tuple[str, ...] = ("CtP", "random"),
) -> Explained:
    """Guided Grad-CAM in the left half alone, Grad-CAM in the upper half."""
    guided, cam = np.zeros((2, 6, SIDE, SIDE), np.float32)
    guided[:, :, : SIDE // 2] = 1
    cam[:, : SIDE // 2] = 1
    found = Explanation(target, np.array(probabilities, np.float32), guided, cam)
    frames = np.full((6, SIDE, SIDE, 3), 200, np.uint8)
    return Explained(frames, "a clip", label, dict.fromkeys(names, found))


def captions(clip: Explained, *maps: Any) -> list[str]:
    drawn = draw_explained(clip, NAMES, maps or tuple(MAPS), SIDE)
    return [picture.caption for picture in drawn]


def test_overlays_show_the_map_and_leave_the_frames() -> None:
    frames = np.full((1, 4, 4, 3), 200, np.uint8)
    values = np.zeros((1, 4, 4), np.float32)
    values[:, :, :2] = 1
    guided, cam = (overlay(frames, values, name) for name in MAPS)
    np.testing.assert_array_equal(guided[0, 0, 3], [80, 80, 80])  # a dim grey without evidence
    np.testing.assert_array_equal(guided[0, 0, 0], BRIGHTEST)
    red, _, blue = cam[0, 0, 0].astype(int) - cam[0, 0, 3]
    assert red > 0 > blue
    assert (frames == 200).all()


def test_a_guided_map_is_brighter_where_it_is_stronger() -> None:
    frames = np.full((1, 1, 9, 3), 100, np.uint8)
    values = np.linspace(0.1, 1, 9, dtype=np.float32)[None, None]
    brightness = overlay(frames, values, "guided").astype(int).sum(axis=-1)[0, 0]
    assert (np.diff(brightness) > 0).all()


def test_frames_are_above_the_maps_of_each_classifier() -> None:
    pictures = draw_explained(explained(), NAMES, tuple(MAPS), SIDE)
    clip, guided, cam, *others = (picture.frames[0] for picture in pictures)
    assert (clip == 200).all()
    assert (guided[:, : SIDE // 2] == BRIGHTEST).all()
    assert (guided[:, SIDE // 2 :] == 80).all()
    assert cam[0, 0, 0] > cam[-1, 0, 0]
    np.testing.assert_array_equal(others, [guided, cam])


def test_captions_name_the_answer_and_the_class_that_is_explained() -> None:
    assert captions(explained(label=2, names=("CtP",))) == [
        "a clip   true class: Sit",
        "CtP: Jump 70%, wrong   guided Grad-CAM",
        "CtP: Jump 70%, wrong   Grad-CAM",
    ]
    assert captions(explained(label=None, target=1, names=("CtP",)), "cam") == [
        "a clip",
        "CtP: Jump 70%; explained: Run 20%   Grad-CAM",
    ]
    assert "Jump 70%, right" in captions(explained(label=0))[1]


def test_classifiers_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="CtP has 3 classes, expected 2"):
        draw_explained(explained(), NAMES[:2], ("cam",), SIDE)


def test_the_key_has_the_colours_of_the_overlays() -> None:
    guided, cam = color_key(tuple(MAPS)).values()
    np.testing.assert_array_equal(guided[-1], BRIGHTEST)
    assert cam[0].argmax() == 2, "little is blue"
    assert cam[-1].argmax() == 0, "most is red"
