"""Cases take turns, and figures are in their unit."""

import io
import re

import pytest
import torch
from rich.console import Console

from ctp.bench.tables import Meaning, figure_table
from ctp.bench.timing import Case, Timing, machine, measure, one_thread


def test_cases_take_turns_after_a_warm_up_of_each():
    calls = []
    cases = [Case(name, lambda repeat, name=name: calls.append((name, repeat)), 1) for name in "ab"]
    timings = measure(cases, repeats=2)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [timing.name for timing in timings] == ["a", "b"]
    assert all(len(timing.repeats) == 2 for timing in timings)


@pytest.mark.parametrize(("unit", "expected"), [("ms", (100.0, 50.0)), ("µs", (1e5, 5e4))])
def test_a_figure_is_of_one_piece_of_work_in_its_unit(monkeypatch, unit, expected):
    clock = iter([10.0, 10.5, 20.0, 20.25])
    monkeypatch.setattr("ctp.bench.timing.time.perf_counter", lambda: next(clock))
    (timing,) = measure([Case("a", lambda repeat: None, count=5, unit=unit)], repeats=2)
    assert timing.repeats == pytest.approx(expected)


def test_figures_have_the_median_and_both_ends():
    figures = Timing("a", "ms", (3.0, 1.0, 8.0)).figures()
    assert (figures["median"], figures["min"], figures["max"]) == (3.0, 1.0, 8.0)
    assert figures["repeats"] == (3.0, 1.0, 8.0)


def test_the_machine_is_described():
    about = machine()
    assert about.cores >= 1
    assert all((about.cpu, about.torch, about.python, about.system))
    assert bool(about.gpu) == (about.num_gpus > 0) == torch.cuda.is_available()


def test_the_number_of_threads_is_restored():
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_table_shows_and_explains_each_figure_that_was_measured():
    columns = [
        {"name": "a", "speed": Timing("a", "ms", (1.0, 2.0, 9.0)), "series": [1, 2], "gpu": None},
        {"name": "b", "speed": None, "series": [], "gpu": None},
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(figure_table(columns, {"speed": Meaning("ms a clip", "half are faster")}))
    lines = [re.sub(r"\W+", " ", line).split() for line in console.export_text().splitlines()]
    shown = [line for line in lines if line]
    assert shown == [
        ["name", "a", "b"],
        ["ms", "a", "clip", "2"],
        ["ms", "a", "clip", "half", "are", "faster"],
    ]
