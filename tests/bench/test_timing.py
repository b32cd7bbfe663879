"""Timing: what is called when, what a row says, and how figures grow."""

import json

import pytest
import torch

from ctp.bench.timing import Case, Timing, machine, measure, one_thread, slope


def test_cases_take_turns_after_a_warm_up_of_each():
    calls = []
    cases = [Case(name, lambda repeat, name=name: calls.append((name, repeat)), 1) for name in "ab"]
    timings = measure(cases, repeats=2)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [timing.name for timing in timings] == ["a", "b"]
    assert all(len(timing.repeats) == 2 for timing in timings)


def test_a_figure_is_of_one_piece_of_work_in_its_unit(monkeypatch):
    clock = iter([10.0, 10.5, 20.0, 20.25])
    monkeypatch.setattr("ctp.bench.timing.time.perf_counter", lambda: next(clock))
    (timing,) = measure([Case("a", lambda repeat: None, count=5, unit="ms")], repeats=2)
    assert timing.repeats == pytest.approx((100.0, 50.0))


def test_a_row_has_the_median_and_both_ends():
    row = Timing("a", "ms", (3.0, 1.0, 8.0), "of so many").as_row()
    assert (row["median"], row["least"], row["most"]) == (3.0, 1.0, 8.0)
    assert row["repeats"] == [3.0, 1.0, 8.0]
    assert json.loads(json.dumps(row)) == row


def test_the_machine_is_described():
    about = machine()
    assert about["cores"] >= 1
    assert about["cpu"]
    assert about["torch"]
    assert about["device"]


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_slope_is_that_of_the_least_squares_line():
    assert slope([0, 1, 2, 3], [5, 7, 9, 11]) == pytest.approx(2)
    # y = (0, 0, 3) over x = (0, 1, 2): Σ(x − 1)(y − 1) / Σ(x − 1)² = 3 / 2
    assert slope([0, 1, 2], [0, 0, 3]) == pytest.approx(1.5)
    assert slope([4, 8], [1, 1]) == 0


def test_a_slope_needs_two_places():
    with pytest.raises(ValueError, match="two different x"):
        slope([3, 3], [1, 2])
