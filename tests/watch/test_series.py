"""Curves are thinned without losing what they show."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ctp.watch.series import MAX_POINTS, moving_mean, points


def test_few_values_are_drawn_as_they_are() -> None:
    steps, values = np.array([3, 6, 9]), np.array([0.5, 0.25, 1.0])
    assert points(steps, values) == [
        (3, 0.5, None, None),
        (6, 0.25, None, None),
        (9, 1.0, None, None),
    ]
    assert points(steps[:0], values[:0]) == []


def test_many_values_keep_their_mean_their_range_and_their_end() -> None:
    steps = np.arange(1, 100_001)
    values = np.full(len(steps), 2.0)
    values[54_321] = 9.0
    values[77_777] = -1.0
    found = points(steps, values, smooth=True)
    assert len(found) == MAX_POINTS
    assert found[-1][0] == 100_000
    assert max(high for *_, high in found) == 9.0
    assert min(low for _, _, low, _ in found) == -1.0
    assert np.mean([mean for _, mean, _, _ in found]) == pytest.approx(values.mean(), rel=1e-4)


def test_values_that_are_not_finite_are_left_out() -> None:
    values = np.array([1.0, math.nan, math.inf, 3.0])
    assert [point[:2] for point in points(np.arange(4), values)] == [(0, 1.0), (3, 3.0)]


def test_numbers_are_rounded_to_five_digits() -> None:
    (found,) = points(np.array([1]), np.array([0.000123456789]))
    assert found[1] == 0.00012346
    (found,) = points(np.array([1]), np.array([-123456.7]))
    assert found[1] == -123460


def test_the_moving_mean_is_centred_and_cut_off_at_the_ends() -> None:
    values = np.zeros(75)
    values[[0, 40]] = 3.0
    mean = moving_mean(values)  # over 3 values, 1/25 of them
    assert mean[[39, 40, 41]].tolist() == [1.0, 1.0, 1.0]
    assert mean[[0, 1, 2]].tolist() == [1.5, 1.0, 0.0]
    assert mean[[38, 42]].tolist() == [0.0, 0.0]
