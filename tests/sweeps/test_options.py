"""Options as text."""

from __future__ import annotations

from typing import Any

import pytest

from ctp import recipes
from ctp.sweeps.options import parse_grid, parse_set, with_values


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


def test_a_single_value_and_a_list() -> None:
    assert parse_set("a=3") == ("a", 3)
    assert parse_set("a=32,40") == ("a", [32, 40])
    config = with_values(recipes.tiny(), {"task.augment.short_sides_px": 48}, "")
    assert config.task.augment.short_sides_px == (48,)


def test_another_encoder_keeps_the_options_that_both_have() -> None:
    small = recipes.tiny()
    config = with_values(small, {"encoder": "r2plus1d", "encoder.norm_eps": 1e-5}, "")
    expected = {**small.encoder.model_dump(), "name": "r2plus1d", "norm_eps": 1e-5}
    assert config.encoder.model_dump().items() >= expected.items()
    assert with_values(small, {"encoder.name": "r3d"}, "") == small


def test_errors_name_the_origin_and_the_option() -> None:
    with pytest.raises(ValueError, match=r"--set: .*seed: .*'many'"):
        with_values(recipes.tiny(), {"seed": "many"}, "--set")
    with pytest.raises(ValueError, match=r"--set: encoder: unknown name 'r2plus'.*r2plus1d"):
        with_values(recipes.tiny(), {"encoder": "r2plus"}, "--set")
