"""Fields by dotted names."""

from __future__ import annotations

from typing import Any

import pytest

from ctp import recipes
from ctp.sweeps.values import parse_grid, parse_set, value_of, with_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=1,2.5,.5", [1, 2.5, 0.5]),
        ("a=[1,2],[3,4]", [[1, 2], [3, 4]]),
        ("a=s3://bucket/x?endpoint_override=h:1, true, none", [
            "s3://bucket/x?endpoint_override=h:1", True, None,
        ]),
    ],
)  # fmt: skip
def test_values_of_a_grid(text: str, values: list[Any]) -> None:
    assert parse_grid(text)[1] == values


def test_a_single_value_and_a_value_of_several() -> None:
    assert parse_set("a=3") == ("a", 3)
    assert parse_set("a=32,40") == ("a", [32, 40])
    config = with_values(recipes.tiny(), {"augment.short_sides_px": 48}, "")
    assert config.augment.short_sides_px == (48,)


def test_values_are_set_and_read_at_any_depth() -> None:
    config = with_values(recipes.kinetics400_r3d18(), {"curriculum.own_source_from": 0.9}, "")
    assert value_of(config, "curriculum.own_source_from") == 0.9
    assert config.curriculum is not None
    assert config.curriculum.other_clip_until == 0.35  # the default
    without = with_values(config, {"curriculum": None}, "")
    assert without.curriculum is None
    assert value_of(without, "curriculum.own_source_from") is None
