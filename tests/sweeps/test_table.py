"""The table, the rows and the plot of a sweep."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from ctp.sweeps.folder import Sweep, TrialResult, state_of, write_config, write_result
from ctp.sweeps.plan import Plan
from ctp.sweeps.plot import draw_sweep, plot_png
from ctp.sweeps.recipes import TABLES
from ctp.sweeps.table import result_markdown, table_markdown, write_tables

MakePlan = Callable[..., Plan]
Finished = Callable[..., TrialResult]


@pytest.fixture
def sweep(plan_of: MakePlan, finished: Finished) -> Sweep:
    """K = 1 with three seeds, K = 2 with two and a failure, K = 3 stopped early, K = 4 to come."""
    plan = plan_of(table="table2a", seeds=3, scores=("task", "retrieval"))
    results = {
        "k1-seed0": finished(iou=0.5, still_iou=0.4, retrieval__top1=0.20, retrieval__chance1=0.1),
        "k1-seed1": finished(iou=0.6, still_iou=0.4, retrieval__top1=0.25, retrieval__chance1=0.1),
        "k1-seed2": finished(iou=0.7, still_iou=0.4, retrieval__top1=0.30, retrieval__chance1=0.1),
        "k2-seed0": finished(iou=0.5, retrieval__top1=0.1),
        "k2-seed1": finished(iou=0.6, retrieval__top1=0.1),
        "k2-seed2": TrialResult(status="failed", reason="the loss is | not finite", steps=12),
        "k3-seed0": TrialResult(status="stopped", reason="by ASHA", scores={"iou": 0.9}),
    }
    steps = {trial.name: 0 for trial in plan.trials if trial.name not in results}
    return Sweep(plan, results, steps)


def rows_of(markdown: str) -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in cells}


def test_means_and_spreads_beside_the_papers_numbers(sweep: Sweep) -> None:
    """The sample standard deviation of .5, .6, .7 is .1, that of .5 and .6 is .071."""
    rows = rows_of(table_markdown(sweep))
    assert rows["K = 1"] == [
        "K = 1", "3", "0.600 ± 0.100 (0.400)", "25.0% ± 5.0% (10.0%)", "81.7%", "49.1%", "Table 2a",
    ]  # fmt: skip
    assert rows["K = 2"][1:4] == ["2, 1 failed", "0.550 ± 0.071", "10.0% ± 0.0%"]
    assert rows["K = 3"][1:3] == ["0, 1 stopped", ""]
    assert rows["K = 4"][1:3] == ["0", ""]  # not missing


def test_unfinished_trials_are_listed_with_their_reason(sweep: Sweep) -> None:
    text = table_markdown(sweep)
    rows = rows_of(text)
    assert rows["k2-seed2"] == ["k2-seed2", "failed", "12", "the loss is / not finite"]
    assert rows["k3-seed0"][:2] == ["k3-seed0", "stopped"]
    assert rows["k3-seed1"][:2] == ["k3-seed1", "to come"]
    assert "12 trials: 5 finished, 1 stopped, 5 to come, 1 failed" in text


def test_trials_that_learned_nothing_are_named(sweep: Sweep) -> None:
    result = sweep.results["k2-seed1"].replace(warning="Warning: the run is on a plateau.")
    marked = replace(sweep, results={**sweep.results, "k2-seed1": result})
    line = "k2-seed1: Warning: the run is on a plateau."
    assert line in table_markdown(marked)
    assert line in result_markdown(marked)
    assert "Warning" not in table_markdown(sweep)


def test_the_scale_and_the_differences_from_the_paper(sweep: Sweep) -> None:
    text = table_markdown(sweep)
    for expected in (
        "(scale tiny)",
        "- videos: corpus:240",
        "- clip: 8 frames of 48×48",
        "- pretraining: augment, frame size in px: 48 here, 112 in the paper",
        "pretrained on a quarter of Kinetics-400",
        "compare rows with each other, not with the paper's",
    ):
        assert expected in text
    assert "task.hidden_prob" not in text.partition("### Differences")[2]  # as in this table


def test_a_row_for_each_trial(sweep: Sweep) -> None:
    rows = list(csv.DictReader(io.StringIO(sweep.trials.to_csv(index=False))))
    assert [row["trial"] for row in rows] == [trial.name for trial in sweep.plan.trials]
    first = rows[0]
    assert first["task.num_patches"] == "1"
    assert float(first["retrieval.top1"]) == 0.2
    assert first["folder"].endswith("/mine/runs/k1-seed0")
    failed = next(row for row in rows if row["trial"] == "k2-seed2")
    assert (failed["status"], failed["iou"]) == ("failed", "")


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_the_papers_row_beside_each_of_its_own(
    plan_of: MakePlan, name: str
) -> None:
    plan = plan_of(table=name)
    rows = rows_of(table_markdown(Sweep(plan, {}, {t.name: 0 for t in plan.trials})))
    for setting in plan.settings:
        assert (rows[setting.name][-1] == setting.source) == bool(setting.source), setting.name


def test_plots_of_a_full_an_empty_and_a_grid_sweep(sweep: Sweep, plan_of: MakePlan) -> None:
    grid = plan_of(grid=("task.num_patches=1,2", "task.head.squeeze=true,false"))
    empty = Sweep(grid, {}, {trial.name: 0 for trial in grid.trials})
    for each in (sweep, empty):
        with Image.open(io.BytesIO(plot_png(each))) as picture:
            assert picture.width > 300


@pytest.fixture
def single(plan_of: MakePlan, finished: Finished) -> Sweep:
    """Two rows of one trial each, on 100 videos, and two rows to come."""
    plan = plan_of(table="table2a", scores=("linear",))
    results = {
        f"k{k}-seed0": finished(linear__top1=top1, linear__chance1=0.1, linear__tested=100)
        for k, top1 in ((1, 0.5), (2, 0.52))
    }
    return Sweep(plan, results, {t.name: 0 for t in plan.trials if t.name not in results})


def test_a_single_trial_has_the_error_of_its_videos(single: Sweep) -> None:
    """√(.5 · .5 / 100) is 5 %."""
    text = table_markdown(single)
    assert rows_of(text)["K = 1"][1:3] == ["1", "50.0% ± 5.0% (10.0%)"]
    assert "linear top-1 of 100 videos" in text


def test_a_plot_names_number_and_chance_and_starts_at_zero(single: Sweep) -> None:
    panel = draw_sweep(single).axes[0]
    title = panel.get_title(loc="left")
    assert title == "linear top-1\nof 100 videos, chance 10.0%"
    low, high = panel.get_xlim()
    assert low == 0
    assert high > 52 + 5, "the error bars are seen"


def test_the_files_of_a_sweep(plan_of: MakePlan, finished: Finished) -> None:
    plan = plan_of(table="table8", scores=("task",))
    write_config(plan)
    write_result(plan, "squeeze-seed0", finished(iou=0.5))
    write_tables(state_of(plan))
    there = {info.path for info in plan.folder.list_files()}
    assert there >= {"table.md", "table.csv", "plot.png", "sweep.yaml"}
    assert "| squeeze | 1 | 0.500 |" in plan.folder.join("table.md").read_bytes().decode()
