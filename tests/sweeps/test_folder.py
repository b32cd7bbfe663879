"""What the folder of a sweep remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctp.storage import Storage
from ctp.sweeps.folder import TrialResult, check_sweep, claim_sweep, read_sweep, write_result
from ctp.sweeps.plan import Plan

MakePlan = Callable[..., Plan]
Finished = Callable[..., TrialResult]


def test_how_far_a_sweep_is(plan_of: MakePlan, finished: Finished, tmp_path: Path) -> None:
    plan = plan_of(table="table9")
    claim_sweep(plan)
    first, second, third, _ = (trial.name for trial in plan.trials)
    write_result(plan, first, finished(iou=0.5))
    write_result(plan, second, TrialResult(status="failed", reason="too hot"))
    (tmp_path / "mine" / "runs" / third).mkdir()
    (tmp_path / "mine" / "runs" / third / "metrics.jsonl").write_text('{"step": 7}\n{"st')
    sweep = read_sweep(str(tmp_path / "mine"))
    told = [sweep.status(trial) for trial in plan.trials]
    assert told == ["finished", "failed", "unfinished", "to come"]
    assert sweep.left == [trial.name for trial in plan.trials[1:]]
    assert sweep.steps[third] == 7
    assert sweep.values(plan.cells[0], "iou") == [0.5]
    assert sweep.results[second].reason == "too hot"


def test_a_folder_that_was_moved(plan_of: MakePlan, finished: Finished, tmp_path: Path) -> None:
    plan = plan_of(table="table9")
    claim_sweep(plan)
    write_result(plan, plan.trials[0].name, finished(iou=0.5))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").rename(tmp_path / "elsewhere" / "yours")
    sweep = read_sweep(str(tmp_path / "elsewhere" / "yours"))
    assert sweep.ended("finished") == [plan.trials[0].name]
    assert sweep.plan.folder.path == str(tmp_path / "elsewhere" / "yours")


def test_the_folder_of_another_sweep_is_refused(plan_of: MakePlan, tmp_path: Path) -> None:
    claim_sweep(plan_of(table="table9"))
    before = (tmp_path / "mine" / "sweep.yaml").read_bytes()
    with pytest.raises(ValueError, match="another sweep:\n  table was table9, is table8"):
        check_sweep(plan_of(table="table8"))
    assert (tmp_path / "mine" / "sweep.yaml").read_bytes() == before
    check_sweep(plan_of(table="table9", seeds=3))
    claim_sweep(plan_of(table="table9", seeds=3))
    assert len(read_sweep(str(tmp_path / "mine")).plan.trials) == 12


def test_no_folder_of_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder of a sweep"):
        read_sweep(str(tmp_path))


def test_a_sweep_on_s3(plan_of: MakePlan, finished: Finished, s3_bucket: str) -> None:
    plan = plan_of(table="table9", storage=f"{s3_bucket}/sweeps")
    claim_sweep(plan)
    write_result(plan, plan.trials[1].name, finished(iou=0.5))
    sweep = read_sweep(f"{s3_bucket}/sweeps/mine")
    assert sweep.ended("finished") == [plan.trials[1].name]
    assert Storage.of(f"{s3_bucket}/sweeps/mine/sweep.yaml").exists()
