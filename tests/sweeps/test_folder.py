"""The folder of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctp.storage import Storage
from ctp.sweeps.folder import TrialResult, check_sweep, read_sweep, write_config, write_result
from ctp.sweeps.plan import Plan

MakePlan = Callable[..., Plan]
Finished = Callable[..., TrialResult]


def test_status_of_each_trial(plan_of: MakePlan, finished: Finished, tmp_path: Path) -> None:
    plan = plan_of(table="table9")
    write_config(plan)
    first, second, third, _ = (trial.name for trial in plan.trials)
    write_result(plan, first, finished(iou=0.5))
    write_result(plan, second, TrialResult(status="failed", reason="too hot"))
    (tmp_path / "mine" / "runs" / third).mkdir()
    (tmp_path / "mine" / "runs" / third / "metrics.jsonl").write_text('{"step": 7}\n{"st')
    sweep = read_sweep(str(tmp_path / "mine"))
    statuses = [sweep.status(trial) for trial in plan.trials]
    assert statuses == ["finished", "failed", "unfinished", "to come"]
    assert sweep.left == [trial.name for trial in plan.trials[1:]]
    assert sweep.steps[third] == 7
    assert list(sweep.values(plan.settings[0], "iou")) == [0.5]
    assert sweep.results[second].reason == "too hot"


def test_a_folder_may_be_moved(plan_of: MakePlan, finished: Finished, tmp_path: Path) -> None:
    plan = plan_of(table="table9")
    write_config(plan)
    write_result(plan, plan.trials[0].name, finished(iou=0.5))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").rename(tmp_path / "elsewhere" / "yours")
    sweep = read_sweep(str(tmp_path / "elsewhere" / "yours"))
    assert sweep.with_status("finished") == [plan.trials[0].name]
    assert sweep.plan.folder.path == str(tmp_path / "elsewhere" / "yours")


def test_another_sweeps_folder_is_refused(plan_of: MakePlan, tmp_path: Path) -> None:
    write_config(plan_of(table="table9"))
    before = (tmp_path / "mine" / "sweep.yaml").read_bytes()
    with pytest.raises(ValueError, match="another sweep:\n  table was table9, is table8"):
        check_sweep(plan_of(table="table8"))
    assert (tmp_path / "mine" / "sweep.yaml").read_bytes() == before
    check_sweep(plan_of(table="table9", seeds=3))
    write_config(plan_of(table="table9", seeds=3))
    assert len(read_sweep(str(tmp_path / "mine")).plan.trials) == 12


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no sweep"):
        read_sweep(str(tmp_path))


def test_a_sweep_on_s3(plan_of: MakePlan, finished: Finished, s3_bucket: str) -> None:
    plan = plan_of(table="table9", storage=f"{s3_bucket}/sweeps")
    write_config(plan)
    write_result(plan, plan.trials[1].name, finished(iou=0.5))
    sweep = read_sweep(f"{s3_bucket}/sweeps/mine")
    assert sweep.with_status("finished") == [plan.trials[1].name]
    assert Storage.from_uri(f"{s3_bucket}/sweeps/mine/sweep.yaml").exists()
