"""The folder of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctp.storage import Storage
from ctp.sweeps.folder import (
    TrialResult,
    check_sweep,
    read_sweep,
    with_stored_base,
    write_config,
    write_result,
)
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


def test_trials_that_lack_a_new_score_are_left(plan_of: MakePlan, finished: Finished) -> None:
    plan = plan_of(table="table9")
    write_config(plan)
    first, second, third, fourth = (trial.name for trial in plan.trials)
    write_result(plan, first, finished(finetune10__top1=0.5))
    write_result(plan, second, finished())
    write_result(plan, third, TrialResult(status="stopped", reason="by ASHA"))
    more = plan_of(table="table9", scores=("task", "retrieval", "linear", "finetune10"))
    check_sweep(more)
    write_config(more)
    sweep = read_sweep(more.folder.uri)
    assert sweep.left == [second, fourth]
    assert list(sweep.values(more.settings[0], "finetune10.top1")) == [0.5]


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


def change_base(plan: Plan, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the stored base run, as if another version of ctp had written it."""
    place = plan.folder.join("sweep.yaml")
    values = yaml.safe_load(place.read_bytes())
    change(values["base"])
    place.write_bytes(yaml.safe_dump(values).encode())


def test_a_changed_default_does_not_block_the_same_command(
    plan_of: MakePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(table="table9", set=("optimizer.learning_rate=0.5",))
    write_config(plan)
    change_base(plan, lambda base: base["optimizer"].update(weight_decay=0.25))
    resumed = with_stored_base(plan)
    check_sweep(resumed)
    assert {trial.config.optimizer.weight_decay for trial in resumed.trials} == {0.25}
    assert "optimizer.weight_decay stays 0.25" in capsys.readouterr().out
    given = plan_of(table="table9", set=("optimizer.weight_decay=0.1",))
    with pytest.raises(ValueError, match=r"weight_decay was 0\.25, is 0\.1"):
        check_sweep(with_stored_base(given))


def test_a_base_run_of_another_version_names_its_fields(plan_of: MakePlan) -> None:
    plan = plan_of(table="table9")
    write_config(plan)
    writer = {"ctp": "0.9.1", "commit": "abc"}
    change_base(plan, lambda base: base.update(speed=2, written_by=writer))
    with pytest.raises(ValueError, match=r"sweep\.yaml: .*no option speed.*ctp 0\.9\.1"):
        with_stored_base(plan)


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
