"""The config of a pretraining run: invalid values, and what may change when a run is resumed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctp.pretext.config import PretrainConfig, PretrainVideosConfig


def test_a_list_with_one_element_becomes_the_element() -> None:
    expected = PretrainVideosConfig(uri="videos")
    assert PretrainVideosConfig(uri=["videos"]) == PretrainVideosConfig(uri=("videos",)) == expected
    assert PretrainVideosConfig(uri=["a", "b"]).uri == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": {"num_workers": 3}}, "total_batch 32 .*num_workers 3"),
        ({"task": {"name": "ctp", "box_size_px": (16, 200)}}, "box_size_px.*200"),
        ({"task": "cpt"}, "cpt.*ctp"),
        ({"name": "a/b"}, "'a/b'.*folder name"),
        ({"gaem": {}}, "gaem"),
    ],
)
def test_an_invalid_value_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainConfig(**changes)


def test_a_copy_with_changes_is_validated() -> None:
    with pytest.raises(ValidationError, match=r"total_batch 3 .*num_workers 2"):
        PretrainConfig().replace(compute={"total_batch": 3}, scaling={"num_workers": 2})


def test_differences_are_the_options_that_shape_the_result_and_no_others() -> None:
    first = PretrainConfig(name="a", seed=1, scaling={"num_workers": 2})
    second = PretrainConfig(
        name="a",
        seed=2,
        encoder={"name": "r3d", "width": 8},
        task={"name": "ctp", "num_patches": 2},
        storage="elsewhere",
        evaluation={"num_clips": 8},
    )
    assert sorted(first.differences(second)) == [
        ("encoder.width", 64, 8),
        ("seed", 1, 2),
        ("task.num_patches", 3, 2),
    ]
    assert first.differences(first) == []


def test_departures_are_the_options_unlike_the_published_task() -> None:
    assert PretrainConfig().task.departures == []
    assert PretrainConfig(task="memdpc").task.departures == []
    task = PretrainConfig(task={"name": "ctp", "num_patches": 2, "curriculum": (0.2, 0.5)}).task
    assert task.departures == ["num_patches", "curriculum"]
