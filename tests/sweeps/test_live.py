"""A sweep in a notebook is shown in place."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import CapturedIO, capture_output
from traitlets.config import Config

from ctp.sweeps.folder import Sweep, TrialResult, state_of, write_config, write_result
from ctp.sweeps.live import StoppedError, bar, follow, live_progress, progress_markdown
from ctp.sweeps.plan import Plan
from ctp.sweeps.progress import SweepProgress, TrialProgress
from ctp.sweeps.table import result_markdown, rows_markdown

MakePlan = Callable[..., Plan]
Finished = Callable[..., TrialResult]


@pytest.fixture
def plan(plan_of: MakePlan) -> Plan:
    """Two trials, in a folder of their own."""
    plan = plan_of(table="table8", scores=("task",))
    write_config(plan)
    return plan


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CapturedIO]:
    """What IPython is given to be shown: `shown.outputs`."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        with capture_output() as captured:
            yield captured
    finally:
        InteractiveShell.clear_instance()


def texts_of(shown: CapturedIO) -> list[str]:
    return [e.data["text/markdown"] for e in shown.outputs if "text/markdown" in e.data]


def kinds(shown: CapturedIO) -> list[tuple[str, bool]]:
    """What was shown, and whether in the place of what was there before."""
    return [(kind, each.update) for each in shown.outputs for kind in each.data]


def test_progress_of_trials() -> None:
    progress = SweepProgress(4, {"a": "finished"}, started=0.0)
    progress.ended["b"] = "finished"
    progress.running["c"] = TrialProgress("pretrain", 150, 300, "IoU 0.500")
    progress.running["d"] = TrialProgress("retrieval")
    assert progress_markdown(progress, now=60.0).splitlines() == [
        "**2 finished of 4 trials · 2 min left**",
        "",
        "| trial | phase | steps | score |",
        "| --- | --- | --- | --- |",
        "| c | pretrain | ▰▰▰▰▰▰▱▱▱▱▱▱ 150/300 | IoU 0.500 |",
        "| d | retrieval |  |  |",
    ]


@pytest.mark.parametrize(("step", "full"), [(0, 0), (1, 0), (13, 1), (299, 12), (300, 12)])
def test_bars(step: int, full: int) -> None:
    assert bar(TrialProgress("pretrain", step, 300)) == "▰" * full + "▱" * (12 - full)


def test_the_table_alone_and_without_its_picture(plan: Plan, finished: Finished) -> None:
    write_result(plan, "squeeze-seed0", finished(iou=0.5))
    sweep = state_of(plan)
    rows = rows_markdown(sweep).splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["", "---", "no squeeze", "squeeze"]
    assert rows[-1].startswith("| squeeze | 1 | 0.500 |")
    text = result_markdown(sweep)
    assert rows_markdown(sweep) in text
    assert "| no-squeeze-seed0 | to come | 0 |" in text
    assert "plot.png" not in text
    assert "Differences from the paper" not in text


def test_a_sweep_that_runs_here_is_shown_in_one_place(
    plan: Plan, finished: Finished, shown: CapturedIO
) -> None:
    progress = SweepProgress(2, {})
    with live_progress(plan, every_seconds=1e9) as show:
        for step in (1, 2, 3):  # the later ones come too soon
            progress.running["no-squeeze-seed0"] = TrialProgress("pretrain", step, 300)
            show(progress)
        write_result(plan, "no-squeeze-seed0", finished(iou=0.5))
        progress.ended["no-squeeze-seed0"] = "finished"
        show(progress)
    texts = texts_of(shown)
    assert [text.partition("\n")[0] for text in texts] == [
        "**0 finished of 2 trials**",
        "**1 finished of 2 trials · 0 s left**",
        "**2 trials: 1 finished, 1 to come**",
    ]
    assert " 1/300 " in texts[0]
    assert all("| no squeeze | 1 | 0.500 |" in text for text in texts[1:])
    assert [each.update for each in shown.outputs] == [False, True, True]
    assert len({each.transient["display_id"] for each in shown.outputs}) == 1


def test_storage_that_fails_for_a_moment_does_not_end_the_sweep(
    plan: Plan, shown: CapturedIO
) -> None:
    result = Path(plan.folder.path, "runs", "squeeze-seed0", "result.json")
    result.mkdir(parents=True)  # cannot be read
    with live_progress(plan, every_seconds=0) as show:
        show(SweepProgress(2, {}))
        result.rmdir()
        show(SweepProgress(2, {}))
    texts = texts_of(shown)
    assert ["| squeeze | 0 |" in text for text in texts] == [False, True, True]


def test_an_interrupt_is_one_line(plan: Plan, shown: CapturedIO) -> None:
    with pytest.raises(StoppedError) as stopped, live_progress(plan):
        raise KeyboardInterrupt
    assert stopped.value._render_traceback_() == ["stopped; run this cell again to resume"]
    assert not shown.outputs


def test_a_sweep_that_has_ended_is_followed_no_further(
    plan: Plan, finished: Finished, shown: CapturedIO
) -> None:
    for trial in plan.trials:
        write_result(plan, trial.name, finished(iou=0.5))
    sweep = follow(plan.folder.uri)
    assert sweep.left == []
    assert kinds(shown) == [("text/markdown", False), ("image/png", False)]


def test_a_submitted_sweep_is_followed_from_before_it_begins_until_its_job_ends(
    plan_of: MakePlan, finished: Finished, shown: CapturedIO
) -> None:
    plan = plan_of(table="table8", scores=("task",))

    def job() -> Iterator[bool]:
        yield False
        write_config(plan)
        yield False
        yield False
        write_result(plan, "squeeze-seed0", TrialResult(status="failed"))
        write_result(plan, "no-squeeze-seed0", finished(iou=0.25))
        yield False  # the failed one is tried again
        write_result(plan, "squeeze-seed0", finished(iou=0.75))
        yield True

    states = job()
    sweep: Sweep = follow(plan.folder.uri, lambda: next(states), every_seconds=0)
    assert sweep.with_status("finished") == ["no-squeeze-seed0", "squeeze-seed0"]
    texts = texts_of(shown)
    assert "does not exist yet" in texts[0]
    assert [text.partition("**")[2].partition("**")[0] for text in texts[1:]] == [
        "2 trials: 2 to come",
        "2 trials: 1 finished, 1 failed",
        "2 trials: 2 finished",
    ]
    assert "| squeeze | 1 | 0.750 |" in texts[-1]
    pictures = [update for kind, update in kinds(shown) if kind == "image/png"]
    assert pictures == [False, True]  # one in place of the other


def test_following_a_folder_without_a_sweep(tmp_path: Path, shown: CapturedIO) -> None:
    with pytest.raises(ValueError, match="contains no sweep"):
        follow(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="contains no sweep"):
        follow(str(tmp_path / "nothing"), lambda: True)  # the job failed before it began


def test_where_ipython_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ctp.sweeps.live")
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[notebook\]'"):
        importlib.import_module("ctp.sweeps.live")
