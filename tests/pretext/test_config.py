"""What a run's config refuses, and what may change when a run is continued."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctp.pretext.config import CurriculumConfig, DataConfig, PretrainConfig


def test_a_list_of_one_is_that_one() -> None:
    assert DataConfig(uri=["videos"]) == DataConfig(uri=("videos",)) == DataConfig(uri="videos")
    assert DataConfig(uri=["a", "b"]).uri == ("a", "b")


@pytest.mark.parametrize(
    ("progress", "share"),
    [(0.0, 1.0), (0.349, 1.0), (0.35, 1.0), (0.5, 0.5), (0.575, 0.25), (0.65, 0.0), (1.0, 0.0)],
)
def test_the_curriculum_by_hand(progress: float, share: float) -> None:
    assert CurriculumConfig().other_clip_share(progress) == pytest.approx(share)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scaling": {"num_workers": 3}}, "total_batch 32 cannot be shared equally"),
        ({"game": {"max_box_size_px": 200}}, "max_box_size_px 200 exceeds augment.frame_size_px"),
        ({"sigma": (0.8, 0.8, 0.0, 0.04)}, "sigma must be positive"),
        ({"name": "a/b"}, "must be a folder name"),
        ({"curriculum": {"other_clip_until": 0.9}}, "must not exceed own_source_from"),
        ({"gaem": {}}, "Extra inputs are not permitted"),
    ],
)
def test_what_makes_no_run_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PretrainConfig(**changes)


def test_replace_validates() -> None:
    with pytest.raises(ValidationError, match="cannot be shared equally"):
        PretrainConfig().replace(compute={"total_batch": 3}, scaling={"num_workers": 2})


def test_mismatch_names_what_shapes_the_result_and_nothing_else() -> None:
    first = PretrainConfig(name="a", seed=1, scaling={"num_workers": 2})
    second = PretrainConfig(name="a", seed=2, encoder={"width": 8}, storage="elsewhere")
    assert first.mismatch(second) == ["seed was 2, is 1", "encoder.width was 8, is 64"]
    assert first.mismatch(first) == []
