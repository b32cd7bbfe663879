"""What the sweep job refuses before a cluster starts, in one line each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctp.sweeps.config import SweepConfig
from ctp.sweeps.folder import write_config
from ctp.sweeps.plan import Plan
from ctp.sweeps.recipes import SWEEP

Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def job(load_job: Callable[[str], Any]) -> Any:
    return load_job("sweep")


@pytest.fixture
def refusal(
    job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refusal:
    """`refusal(*argv)`: what the job says when it refuses to start."""
    # what this machine is must not matter
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def refused(*argv: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            job.main([f"--storage={tmp_path}", *argv])
        assert exit_.value.code not in (0, None)
        return f"{exit_.value.code}\n{capsys.readouterr().err}"

    return refused


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing is varied"),
        (["--recipe=tabel2a"], "no recipe 'tabel2a' (did you mean table2a?)"),
        (["--grid", "task.num_patchs=1,2"], "did you mean task.num_patches?"),
        (["--grid=task.num_patches=1,.5"], "task.num_patches"),
        (["--grid", "task.num_patches=1,2", "--seeds=40"], "more than --max_trials 64"),
        (["--recipe=table2a", "--max-trials=9"], "write --max_trials 9"),
        (["--recipe=table2a", "--set", "scaling.num_workers=2"], "needs 3 CPUs"),
        (["--recipe=table2a", "--set", "scaling.num_actors=auto"], "not to auto"),
        (["--recipe=table2a", "--set=linear.scaling.num_actors=4"], "linear.scaling.num_actors"),
        (["--recipe=table2a", "--scale=paper"], "by --set data.uri=URI"),
        (["--recipe=table2a", "--set=linear.data.uri=/nowhere"], "--set linear.data.uri=URI"),
        (["--recipe=table2a", "--storage=/proc"], "cannot write"),
    ],
)
def test_refusals(refusal: Refusal, argv: list[str], message: str) -> None:
    printed = refusal(*argv)
    assert message in printed
    assert "Traceback" not in printed


def test_a_folder_of_another_sweep(refusal: Refusal, tmp_path: Path) -> None:
    write_config(Plan.from_config(SweepConfig(table="table9", name="mine", storage=str(tmp_path))))
    assert "table was table9, is table8" in refusal("--recipe=table8", "--name=mine")


@pytest.mark.parametrize(
    ("recipe", "grid", "name"),
    [
        ("table9", (), "table9-tiny"),
        ("grid", ("task.num_patches=1,2", " task.sigma =[1,1,1,1]"), "num_patches-sigma-tiny"),
        ("table9", ("task.head.squeeze=true,false",), "table9-squeeze-tiny"),
    ],
)
def test_a_sweep_is_named_by_what_it_varies(recipe: str, grid: tuple[str, ...], name: str) -> None:
    config = SWEEP[recipe]().replace(grid=grid)
    assert Plan.from_config(config).config.name == name


def test_values_survive_the_command_line(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    values = "task.sigma=[.8,.8,.04,1e-3],[1,1,.05,.05]"
    with pytest.raises(SystemExit):
        job.main(["--grid", values, f"--set={'task.sampling.num_frames=4'}", "--print-config"])
    printed = capsys.readouterr().out
    assert f"- {values}" in printed
    assert "- task.sampling.num_frames=4" in printed


def test_help_is_complete(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        job.main(["--help"])
    printed = capsys.readouterr().out
    for expected in (
        "Table 10: the greatest speed of patches", "--grid", "--asha.grace", "resumes an",
        "ctp sweep --recipe table2a --scale small --seeds 3", "--trials_at_once",
    ):  # fmt: skip
        assert expected in printed
    assert "--max_failures" not in printed
