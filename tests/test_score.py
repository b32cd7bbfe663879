"""What is written beside a score: known intervals and standard errors."""

from __future__ import annotations

import statistics

import pytest

from ctp.score import Score, format_share, mean_error, share_error


@pytest.mark.parametrize(
    ("right", "number", "low", "high"),
    [
        (10, 10, 1 / 1.1, 1.0),
        (0, 10, 0.0, 0.1 / 1.1),
        (1, 4, 0.1, 0.5),
        (33, 40, 0.7572052, 0.8769411),
    ],
)
def test_the_error_of_a_share_is_half_of_wilsons_interval(
    right: int, number: int, low: float, high: float
) -> None:
    share = right / number
    for end in (low, high):  # Wilson's condition: the share is one standard deviation away
        assert (share - end) ** 2 == pytest.approx(end * (1 - end) / number, abs=1e-6)
    assert share_error(share, number) == pytest.approx((high - low) / 2, abs=1e-6)


def test_the_error_of_a_share_of_many_is_its_standard_error() -> None:
    assert share_error(0.3, 10_000) == pytest.approx((0.3 * 0.7 / 10_000) ** 0.5, rel=1e-3)


def test_all_right_is_not_certain() -> None:
    assert format_share(1.0, 10) == "100.0% ± 4.5%"
    assert format_share(1.0, None) == "100.0%"


def test_the_error_of_a_mean() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    assert mean_error([[v] for v in values]) == pytest.approx(statistics.stdev(values) / 2)
    # equal clips of a video tell as much as one of them
    assert mean_error([[v] * 3 for v in values]) == pytest.approx(statistics.stdev(values) / 2)
    # by hand: mean 2, sums of deviations -1 - 1 + 0 and 2; sqrt(2 (4 + 4)) / 4
    assert mean_error([[1, 1, 2], [4]]) == pytest.approx(1.0)
    assert mean_error([[0.2, 0.5]]) is None


def test_a_score_is_written_with_its_error() -> None:
    score = Score("iou", "mIoU", "still_iou", "still box")
    row = {"iou": 0.5, "still_iou": 0.4, "error_iou": 0.0123, "heldout_clips": 64}
    assert score.describe(row) == "mIoU 0.500 ± 0.012 of 64 clips (still box 0.400)"
    inside = Score("tracking.iou", "mIoU")
    assert inside.describe({"tracking.iou": 0.5, "tracking.error_iou": 0.1}) == "mIoU 0.500 ± 0.100"
