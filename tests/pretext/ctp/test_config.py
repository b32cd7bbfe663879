"""Every number of the two presets, and what a config refuses."""

import pytest
from pydantic import ValidationError

from ctp.pretext.ctp.config import PRESETS, GameConfig, official, paper

PAPER = {
    "num_patches": 3,
    "box_sizes_px": (),
    "min_box_size_px": 16,
    "max_box_size_px": 64,
    "aspect_ratios": (),
    "max_aspect_ratio": 2,
    "max_log_box_jitter": 0,
    "inner_key_frame_probs": (0, 1 / 3, 1 / 3, 1 / 3),  # 3 to 5 in all
    "key_frames_per": "patch",
    "separate_size_key_frames": False,
    "max_speed_px_per_frame": 3,
    "max_log_scale_per_frame": 0.025,
    "scale_width_and_height_apart": False,
    "easing_probs": (1, 0, 0),
    "whole_pixel_boxes": False,
    "patch_source": "trajectory",
    "shape_probs": (1, 0, 0),
    "soft_edge_prob": 0,
    "soft_edge_start": (0.30, 0.45),
    "min_opacity": 1,
    "large_first": False,
    "hidden_prob": 0.2,
    "never_hidden_in": (),
}
OFFICIAL = {
    "num_patches": 3,
    "box_sizes_px": (16, 24, 28, 32, 48, 64),
    "min_box_size_px": 16,
    "max_box_size_px": 64,
    "aspect_ratios": (0.5, 0.67, 0.75, 1, 1.33, 1.5, 2),
    "max_aspect_ratio": 2,
    "max_log_box_jitter": 0.18,
    "inner_key_frame_probs": (0.5, 0.3, 0.2),  # 2 to 4 in all
    "key_frames_per": "clip",
    "separate_size_key_frames": True,
    "max_speed_px_per_frame": 3,
    "max_log_scale_per_frame": 0.025,
    "scale_width_and_height_apart": True,
    "easing_probs": (0.7, 0.15, 0.15),
    "whole_pixel_boxes": True,
    "patch_source": "trajectory",
    "shape_probs": (0.5, 0.35, 0.15),
    "soft_edge_prob": 0.5,
    "soft_edge_start": (0.30, 0.45),
    "min_opacity": 0.8,
    "large_first": True,
    "hidden_prob": 0.2,
    "never_hidden_in": ("first_frame", "source_frame"),
}


@pytest.mark.parametrize(("preset", "expected"), [(paper, PAPER), (official, OFFICIAL)])
def test_a_preset_holds_exactly_these_numbers(preset, expected):
    assert preset().model_dump() == expected


def test_presets_by_name():
    assert list(PRESETS.items()) == [("paper", paper), ("official", official)]
    assert GameConfig() == paper()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_box_size_px": 8.0}, "min_box_size_px 16.0 exceeds max_box_size_px 8.0"),
        ({"inner_key_frame_probs": (0.5, 0.4)}, "inner_key_frame_probs must sum to 1, got 0.9"),
        ({"easing_probs": (1.0, 1.0, 0.0)}, "easing_probs must sum to 1, got 2"),
        ({"shape_probs": (0.0, 0.0, 0.0)}, "shape_probs must sum to 1, got 0"),
        ({"soft_edge_start": (0.3, 0.5)}, "soft_edge_start must be"),
        ({"soft_edge_start": (0.4, 0.3)}, "soft_edge_start must be"),
        ({"aspect_ratios": (1.0, 0.0)}, "must be positive"),
        ({"hidden_prob": 1.5}, "hidden_prob"),
        ({"num_patches": 0}, "num_patches"),
        ({"min_opacity": 0.0}, "min_opacity"),
        ({"loc_velocity": 3}, "loc_velocity"),
        ({"patch_source": "elsewhere"}, "patch_source"),
    ],
)
def test_wrong_values_are_refused_by_name(fields, message):
    with pytest.raises(ValidationError, match=message):
        GameConfig(**fields)
