"""Every number of the two sets of rules, the task's options, and values that are invalid."""

import pytest
from pydantic import ValidationError

from ctp.pretext.ctp.config import RULES, CommonRules, CtpConfig, GameConfig
from ctp.recipes import PRETRAIN

PAPER = {
    "num_patches": 3,
    "box_sizes_px": (),
    "box_size_px": (16, 64),
    "aspect_ratios": (),
    "max_aspect_ratio": 2,
    "max_log_box_jitter": 0,
    "inner_key_frame_probs": (0, 1 / 3, 1 / 3, 1 / 3),  # 3 to 5 in all
    "key_frames_per": "patch",
    "half_open_key_frame_shift": False,
    "separate_size_key_frames": False,
    "max_speed_px_per_frame": 3,
    "max_log_scale_per_frame": 0.025,
    "independent_width_and_height": False,
    "easing_probs": (1, 0, 0),
    "whole_pixel_boxes": False,
    "patch_source": "trajectory",
    "shape_probs": (1, 0, 0),
    "soft_edge_prob": 0,
    "soft_edge_start": (0.30, 0.45),
    "min_opacity": 1,
    "blending": "exact",
    "large_first": False,
    "hidden_prob": 0.2,
    "never_hidden_in": (),
}
OFFICIAL = {
    "num_patches": 3,
    "box_sizes_px": (16, 24, 28, 32, 48, 64),
    "box_size_px": (16, 64),
    "aspect_ratios": (0.5, 0.67, 0.75, 1, 1.33, 1.5, 2),
    "max_aspect_ratio": 2,
    "max_log_box_jitter": 0.18,
    "inner_key_frame_probs": (0.5, 0.3, 0.2),  # 2 to 4 in all
    "key_frames_per": "clip",
    "half_open_key_frame_shift": True,
    "separate_size_key_frames": True,
    "max_speed_px_per_frame": 3,
    "max_log_scale_per_frame": 0.025,
    "independent_width_and_height": True,
    "easing_probs": (0.7, 0.15, 0.15),
    "whole_pixel_boxes": True,
    "patch_source": "trajectory",
    "shape_probs": (0.5, 0.35, 0.15),
    "soft_edge_prob": 0.5,
    "soft_edge_start": (0.30, 0.45),
    "min_opacity": 0.8,
    "blending": "official",
    "large_first": True,
    "hidden_prob": 0.2,
    "never_hidden_in": ("first_frame", "source_frame"),
}


@pytest.mark.parametrize(("rules", "expected"), [("paper", PAPER), ("official", OFFICIAL)])
def test_rules_have_exactly_these_numbers(rules, expected):
    assert RULES[rules].model_dump() == expected
    assert CtpConfig(rules=rules).game.model_dump() == expected


@pytest.mark.parametrize(
    "recipe", [each for each in PRETRAIN.values() if isinstance(each().task, CtpConfig)]
)
def test_the_rules_are_one_option_of_every_recipe(recipe):
    task = recipe().task.replace(rules="official", inner_key_frame_probs=None)
    scale = task.augment.frame_size_px / 112
    own = {name: getattr(task, name) for name in CommonRules.model_fields}
    sizes = pytest.approx([size * scale for size in OFFICIAL["box_sizes_px"]])
    assert task.game.model_dump() == OFFICIAL | own | {"box_sizes_px": sizes}


def test_the_paper_is_the_default():
    assert GameConfig() == CtpConfig().game == RULES["paper"]


def test_options_of_the_task_change_the_rules():
    game = CtpConfig(
        rules="official",
        num_patches=5,
        inner_key_frame_probs=(1.0,),
        max_speed_px_per_frame=1,
        hidden_prob=0,
        patch_source="other_clip",
    ).game
    changed = {
        "num_patches": 5,
        "inner_key_frame_probs": (1,),
        "max_speed_px_per_frame": 1,
        "hidden_prob": 0,
        "patch_source": "other_clip",
    }
    assert game.model_dump() == OFFICIAL | changed


@pytest.mark.parametrize(
    ("progress", "share"),
    [(0.0, 1.0), (0.349, 1.0), (0.35, 1.0), (0.5, 0.5), (0.575, 0.25), (0.65, 0.0), (1.0, 0.0)],
)
def test_the_curriculum_falls_linearly_between_its_two_points(progress, share):
    config = CtpConfig(curriculum=(0.35, 0.65))
    assert config.other_clip_share(progress) == pytest.approx(share)


def test_a_curriculum_may_end_abruptly():
    config = CtpConfig(curriculum=(0.5, 0.5))
    assert [config.other_clip_share(progress) for progress in (0.49, 0.5)] == [1, 0]


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_without_a_curriculum_no_patch_comes_from_another_clip(progress):
    assert CtpConfig().other_clip_share(progress) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"box_size_px": (16, 8)}, "box_size_px.*16.*8"),
        ({"box_size_px": (0, 8)}, "box_size_px"),
        ({"inner_key_frame_probs": (0.5, 0.4)}, "inner_key_frame_probs.*0.9"),
        ({"easing_probs": (1.0, 1.0, 0.0)}, "easing_probs.*2"),
        ({"shape_probs": (0.0, 0.0, 0.0)}, "shape_probs.*0"),
        ({"soft_edge_start": (0.3, 0.5)}, "soft_edge_start"),
        ({"soft_edge_start": (0.4, 0.3)}, "soft_edge_start"),
        ({"aspect_ratios": (1.0, 0.0)}, "aspect_ratios"),
        ({"hidden_prob": 1.5}, "hidden_prob"),
        ({"num_patches": 0}, "num_patches"),
        ({"min_opacity": 0.0}, "min_opacity"),
        ({"loc_velocity": 3}, "loc_velocity"),
        ({"patch_source": "elsewhere"}, "patch_source"),
    ],
)
def test_invalid_rules_are_refused_by_name(fields, message):
    with pytest.raises(ValidationError, match=message):
        GameConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"box_size_px": (16, 113)}, "113.*augment.frame_size_px.*112"),
        ({"box_size_px": (32, 16)}, "box_size_px"),
        ({"inner_key_frame_probs": (0.5, 0.4)}, "inner_key_frame_probs"),
        ({"curriculum": (0.9, 0.1)}, "curriculum.*0.9"),
        ({"curriculum": (0.5, 1.5)}, "curriculum"),
        ({"sigma": (0.8, 0.8, 0.0, 0.04)}, "sigma"),
        ({"rules": "house"}, "rules"),
        ({"gaem": {}}, "gaem"),
    ],
)
def test_invalid_options_are_refused_by_name(fields, message):
    with pytest.raises(ValidationError, match=message):
        CtpConfig(**fields)
