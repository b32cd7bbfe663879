"""Sweeps: how many trials fit, which are stopped early, and one that is killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctp.cluster.connect import Demand
from ctp.cluster.sweep import (
    TRIAL_MEMORY_BYTES,
    Asha,
    SweepCallback,
    describe_videos,
    trial_demands,
    trials_at_once,
)
from ctp.cluster.trial import TrialRunner, error_line
from ctp.pretext.pretraining import open_pretraining
from ctp.storage import StorageError
from ctp.sweeps.config import AshaConfig, SweepConfig
from ctp.sweeps.folder import read_sweep, state_of, write_config
from ctp.sweeps.plan import Plan, Trial
from ctp.sweeps.progress import SweepProgress, TrialProgress
from ctp.sweeps.scores import RetrievalConfig, retrieval_scores
from ctp.training.run_folder import folder_of, read_metrics
from ctp.training.trainer import RunStoppedError, TrainingSpec

JOB = "sweep.py"
TIMEOUT_SECONDS = 300
PLENTY = 100 * TRIAL_MEMORY_BYTES
GOOD, HOT = "learning_rate-0.003-seed0", "1e30"


def demand(number: int, cpus: float, gpus: float = 0) -> Demand:
    return Demand("worker", number, cpus, gpus, "")


@pytest.mark.parametrize(
    ("cpus", "gpus", "memory", "expected"),
    [
        (2, 0, PLENTY, 1),
        (7.9, 0, PLENTY, 3),
        (1.9, 0, PLENTY, 0),
        (100, 0, 2.5 * TRIAL_MEMORY_BYTES, 2),
    ],
)
def test_the_largest_phase_limits_the_trials_at_a_time(
    cpus: float, gpus: float, memory: float, expected: int
) -> None:
    phases = [[demand(1, 1), demand(2, 0.5)], [demand(1, 1.5)]]  # of 2 CPUs and of 1.5
    assert trials_at_once(phases, cpus, gpus, memory) == expected


def test_the_scarcest_decides() -> None:
    phases = [[demand(2, 1, 1), demand(4, 1)], [demand(1, 8)]]  # 6 CPUs and 2 GPUs, then 8 CPUs
    assert trials_at_once(phases, 64, 7, PLENTY) == 3
    assert trials_at_once(phases, 20, 8, PLENTY) == 2


def test_what_the_phases_of_a_trial_need(tmp_path: Path) -> None:
    config = SweepConfig(
        name="x",
        storage=str(tmp_path),
        grid=("task.num_patches=1",),
        set=("scaling.num_actors=3", "knn.uri=corpus:8", "linear.scaling.num_actors=2"),
    )
    phases = trial_demands(Plan.from_config(config))
    assert [sum(each.number * each.cpus for each in phase) for phase in phases] == [4.5, 1, 3]
    assert all(each.options.startswith("--set linear.scaling.") for each in phases[-1])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("ctp-smal", "(did you mean ctp-small?)"), ("/no/a.pth", "/no/a.pth")],
)
def test_initial_weights_that_do_not_exist_are_no_fault_of_the_videos(
    tmp_path: Path, weights: str, expected: str
) -> None:
    given = ("data.uri=corpus:8", f"initial_encoder={weights}")
    config = SweepConfig(storage=str(tmp_path), grid=("task.num_patches=1,2",), set=given)
    with pytest.raises((ValueError, StorageError)) as error:
        describe_videos(Plan.from_config(config))
    assert expected in str(error.value)
    assert "data.uri" not in str(error.value)


def test_trials_that_fall_behind_are_asked_to_stop_and_reported_scores_count() -> None:
    stopped: dict[str, str] = {}
    config = AshaConfig(time="step", grace=10, reduction=2)
    scheduler = Asha(config, "iou", stopped.__setitem__)
    trials = {}
    for name in ("good", "bad", "late"):
        trials[name] = SimpleNamespace(trial_id=name, config={"trial": name})
        scheduler.on_trial_add(None, trials[name])

    def report(name: str, step: int, iou: float) -> None:
        found = scheduler.on_trial_result(None, trials[name], {"step": step, "iou": iou})
        assert found == "CONTINUE"  # Tune must not kill it

    report("good", 10, 0.6)
    report("good", 40, 0.7)
    report("bad", 5, 0.1)  # before its grace is over
    assert not stopped
    report("bad", 10, 0.5)
    assert stopped == {"bad": "by ASHA at step 10, with iou 0.500"}
    report("bad", 20, 0.4)  # it is stopping already
    report("late", 12, 0.65)
    report("late", 13, 0.1)  # it was compared already
    assert list(stopped) == ["bad"]
    report("late", 40, 0.1)
    assert list(stopped) == ["bad", "late"]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Four trials, compared by ASHA, in a folder of their own."""
    config = SweepConfig(name="mine", storage=str(tmp_path), table="table9", asha=AshaConfig())
    made = Plan.from_config(config)
    write_config(made)
    return made


def test_a_trial_that_failed_too_often_is_in_the_table_with_its_last_reason(
    plan: Plan, tmp_path: Path
) -> None:
    error_file, name = tmp_path / "error.txt", plan.trials[0].name
    error_file.write_text(
        "Failure # 1 (occurred at noon)\nfirst reason\n"
        "Failure # 2 (occurred at one)\nTraceback (most recent call last):\n"
        '  File "a"\nOSError: full\n'
    )
    progress = SweepProgress(4, {}, {name: TrialProgress("pretrain")})
    callback = SweepCallback(plan, progress, lambda progress: None)
    trial = SimpleNamespace(config={"trial": name}, error_file=str(error_file))
    callback.on_trial_error(0, [], trial)
    assert progress.ended == {name: "failed"}
    assert not progress.running
    assert (
        f"| {name} | failed | 0 | OSError: full |" in (tmp_path / "mine" / "table.md").read_text()
    )
    assert name in state_of(plan).left  # the same command tries it again


def test_an_error_that_a_restart_may_fix_is_raised(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "mine" / "runs").write_text("a file where a folder should be")
    with pytest.raises(StorageError):
        TrialRunner(plan, plan.trials[0], None).result()


@pytest.mark.parametrize(("reason", "status"), [(None, "failed"), ("by ASHA", "stopped")])
def test_another_error_is_the_trials_result(
    tmp_path: Path, reason: str | None, status: str
) -> None:
    config = SweepConfig(
        name="x", storage=str(tmp_path), grid=("task.num_patches=1",), set=("data.uri=/nowhere",)
    )
    plan = Plan.from_config(config)
    runner = TrialRunner(plan, plan.trials[0], None)
    runner.reason_to_stop = reason
    result = runner.result()
    assert result.status == status
    assert (reason or "there is no '/nowhere'") in result.reason


@pytest.mark.parametrize(
    ("is_final", "reason", "status"),
    [(False, None, ""), (True, None, "failed"), (False, "by ASHA", "stopped")],
)
def test_a_run_that_stops_is_restarted_unless_that_is_final_or_asked_for(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, is_final: bool, reason: str | None, status: str
) -> None:
    def stop(spec: TrainingSpec[Any], show: object) -> None:
        raise RunStoppedError("s3://bucket does not answer", is_final=is_final)

    monkeypatch.setattr("ctp.cluster.trial.train", stop)
    runner = TrialRunner(plan, plan.trials[0], None)
    runner.reason_to_stop = reason
    with nullcontext() if status else pytest.raises(RunStoppedError, match="does not answer"):
        assert runner.result().status == status


def test_reasons_are_one_line() -> None:
    assert error_line("one\n  two\n") == "one two"
    assert len(error_line("many words " * 100)) <= 300
    coloured = "\x1b[36mray::run()\x1b[39m (pid=1)\n    ^^^^\n"
    frames = '  File "a.py", line 1, in a\n    b()\n    ^^^\n  File "b.py", line 2, in b\n    c()\n'
    error = "OSError: full:\n  /data\n"
    assert error_line(coloured + frames + error) == "OSError: full: /data"
    assert (
        error_line(f"Traceback (most recent call last):\n{frames}{error}") == "OSError: full: /data"
    )
    assert error_line("\x1b[31mred\x1b[0m") == "red"


SMALL = {
    "data.uri": "corpus:24",
    "task.sampling.num_frames": 4,
    "task.augment.frame_size_px": 32,
    "task.augment.short_sides_px": 32,
    "task.box_size_px": "8,16",
    "encoder.width": 4,
    "task.head.hidden_channels": 8,
    "schedule.length": 16,
    "compute.total_batch": 4,
    "evaluation.num_clips": 6,
    "evaluation.every_steps": 16,
    "checkpoint.every_steps": 2,
    "log_every_steps": 1,
}
SCORED = SMALL | {
    "embed.data.uri": "corpus:24",
    "embed.views.num_clips": 1,
    "embed.views.num_frames": 4,
    "embed.views.frame_size_px": 32,
    "embed.views.short_side_px": 32,
}


def command(storage: Path, settings: Mapping[str, Any], *options: str) -> list[str]:
    return [
        *(f"--storage={storage}", "--name=mine"),
        *options,
        *(f"--set={name}={value}" for name, value in settings.items()),
    ]


def wait_for(process: subprocess.Popen[str], is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the sweep does not get on"
        time.sleep(0.1)


class RunnerAlone:
    """Scores encoders without a cluster."""

    def __init__(self, train_alone: Callable[[TrainingSpec[Any]], None]):
        self._train_alone = train_alone

    def train(self, phase: str, spec: TrainingSpec[Any]) -> None:
        self._train_alone(spec)

    def retrieve(self, phase: str, encoder: bytes, config: RetrievalConfig) -> dict[str, float]:
        return retrieval_scores(encoder, config)


def scores_alone(
    train_alone: Callable[[TrainingSpec[Any]], None], plan: Plan, trial: Trial
) -> dict[str, float]:
    """Return the scores that a trial must have."""
    train_alone(open_pretraining(trial.config))
    folder = folder_of(trial.config)
    found = dict(read_metrics(folder)[-1])
    for score in plan.scores:
        numbers = score.compute(trial.encoder, RunnerAlone(train_alone))
        found |= {f"{score.name}.{name}": value for name, value in numbers.items()}
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_and_resumed_sweep_equals_an_uninterrupted_one(
    tmp_path: Path,
    own_processes: Callable[[str], list[int]],
    kill_session: Callable[[int], None],
    train_alone: Callable[[TrainingSpec[Any]], None],
    start_job: Callable[..., AbstractContextManager[subprocess.Popen[str]]],
) -> None:
    """First the whole sweep is killed, then the process of the trial that continues."""
    grid = f"--grid=optimizer.learning_rate=0.003,{HOT}"
    argv = command(tmp_path, SCORED, grid, "--scores=retrieval")
    run = tmp_path / "mine" / "runs" / GOOD
    checkpoint = run / "checkpoints" / "step-000000004" / "manifest.json"
    with start_job(JOB, argv) as process:
        wait_for(process, checkpoint.exists)
        kill_session(process.pid)
    assert not (run / "result.json").exists()
    half_way = read_sweep(str(tmp_path / "mine"))
    assert half_way.status(half_way.plan.trials[0]) == "unfinished"

    with start_job(JOB, argv) as process:
        # its run's workers are lost with it, and what they held must not stay taken
        wait_for(process, lambda: bool(own_processes("ray::RayTrainWorker")))
        os.kill(own_processes("ray::ImplicitFunc")[0], signal.SIGKILL)
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 1, out
    assert "1 trial(s) at the same time" in out
    assert "1 of 2 trials failed" in out.splitlines()[-1]
    sweep = read_sweep(str(tmp_path / "mine"))
    assert [sweep.status(trial) for trial in sweep.plan.trials] == ["finished", "failed"]
    table = (tmp_path / "mine" / "table.md").read_text()
    failed = next(line for line in table.splitlines() if line.startswith("| learning_rate-1e"))
    assert "the loss is nan" in failed

    steps = [row["step"] for row in read_metrics(folder_of(sweep.plan.trial(GOOD).config))]
    assert steps == list(range(1, 17))
    elsewhere = Plan.from_config(sweep.plan.config.replace(storage=str(tmp_path / "alone")))
    expected = scores_alone(train_alone, elsewhere, elsewhere.trial(GOOD))
    found = sweep.results[GOOD].scores
    names = ("loss", "iou", "still_iou", "retrieval.top1", "retrieval.tested")
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_falls_behind_is_stopped_early_and_the_other_has_a_knn_score(
    tmp_path: Path, finish_job: Callable[..., str]
) -> None:
    """Faster patches are much harder to track, even for a box that never moves."""
    argv = command(
        tmp_path,
        SMALL
        | {"schedule.length": 60, "evaluation.every_steps": 12, "task.sampling.num_frames": 8}
        # a score at the end, of a task that fits beside the worker and the actor
        | {"knn.uri": "corpus:20", "knn.every_epochs": 100, "scaling.cpus_per_worker": 0.5},
        "--grid=task.max_speed_px_per_frame=0.5,15",
        *("--scores=task", "--asha.time=step", "--asha.grace=12", "--asha.reduction=2"),
    )
    finish_job(JOB, argv)
    sweep = read_sweep(str(tmp_path / "mine"))
    slow, fast = (sweep.results[trial.name] for trial in sweep.plan.trials)
    assert (slow.status, slow.steps) == ("finished", 60)
    assert 0 <= slow.scores["knn_top1"] <= 1
    assert fast.status == "stopped"
    assert fast.reason.startswith("by ASHA at step ")
    assert 12 <= fast.steps < 60
    assert fast.scores["iou"] < slow.scores["iou"]
