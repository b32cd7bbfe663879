"""Length of a run and decay of its learning rate."""

from __future__ import annotations

import math

import pytest

from ctp.training.schedule import ScheduleConfig, learning_rate_factor, total_steps


def test_epochs_become_a_fixed_number_of_steps() -> None:
    schedule = ScheduleConfig(unit="epochs", length=3, decay_at=(1, 2))
    assert total_steps(schedule, epoch_clips=10, total_batch=4) == 7  # 30 clips, 2 left over


def test_the_rate_falls_when_an_epoch_begins() -> None:
    schedule = ScheduleConfig(unit="epochs", length=3, decay_at=(1, 2))
    factors = [learning_rate_factor(schedule, step, 8, 4) for step in range(6)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_steps_and_warm_up() -> None:
    schedule = ScheduleConfig(unit="steps", length=6, decay_at=(5,), warmup_steps=4)
    factors = [learning_rate_factor(schedule, step, 8, 4) for step in range(6)]
    assert factors == pytest.approx([0.1, 0.325, 0.55, 0.775, 1, 0.1])


def test_cosine() -> None:
    schedule = ScheduleConfig(unit="steps", length=4, decay_at=())
    factors = [learning_rate_factor(schedule, step, 8, 4) for step in range(5)]
    assert factors == pytest.approx([(1 + math.cos(math.pi * s / 4)) / 2 for s in range(5)])


def test_a_decay_after_the_end_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"decay_at 300 must lie before .* 300 epochs"):
        ScheduleConfig(length=300, decay_at=(300,))
