"""The job that lists and cleans up runs, on a disk and on an S3 server."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ctp.downstream.config import FinetuneConfig
from ctp.lease import hold
from ctp.pretext.config import PretrainConfig
from ctp.storage import Storage
from ctp.training.checkpoint import TrainState
from ctp.training.config import RunConfig
from ctp.training.run_folder import (
    CHECKPOINTS,
    LAST_FILE,
    METRICS,
    checkpoint_store,
    create_or_resume,
    folder_of,
    to_jsonl,
)

Run = Callable[..., str]


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "my runs")
    return f"{request.getfixturevalue('s3_bucket')}/runs"


@pytest.fixture
def run(load_job: Callable[[str], Any], storage: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("show", "a")`: what the job prints about the storage."""

    def call(*argv: str) -> str:
        capsys.readouterr()
        load_job("runs").main([*argv, "--storage", storage])
        return capsys.readouterr().out

    return call


@pytest.fixture
def write(small_run: PretrainConfig, storage: str) -> Callable[..., PretrainConfig]:
    """`write("a", steps=(2, 4), error=None)`: a run that ended after its last checkpoint."""

    def make(name: str, steps: tuple[int, ...] = (2, 4), error: Exception | None = None) -> Any:
        config = small_run.replace(name=name, storage=storage)
        with suppress(ValueError), hold(folder_of(config), config.KIND) as lease:
            create_or_resume(config)
            store = checkpoint_store(config, lease.attempt)
            for step in steps:
                store.save(state(step))
            store.close()
            rows = [{"step": n + 1, "clips": 4 * n + 4} for n in range(max(steps, default=0))]
            if rows:
                rows[-1] |= {"iou": 0.625, "still_iou": 0.5}  # type: ignore[dict-item]
            folder_of(config).join(METRICS).write_bytes(to_jsonl(rows))
            if error is not None:
                raise error
        return config

    return make


def state(step: int) -> TrainState:
    return TrainState(step, {"w": torch.ones(2)}, {"state": {}, "param_groups": []}, "{}", "abc")


def finish(config: RunConfig) -> None:
    folder_of(config).join(config.RESULT).write_bytes(b"all that work")
    folder_of(config).join(LAST_FILE).write_bytes(b"its curves")


def line_of(name: str, listed: str) -> list[str]:
    """Return the cells of a run's line."""
    line = next(line for line in listed.splitlines() if line.split()[0] == name)
    return re.split(r"\s{2,}", line)


def checkpoints(config: RunConfig) -> list[str]:
    return folder_of(config).join(CHECKPOINTS).list_folders()


def test_the_list_says_state_step_age_and_score(
    run: Run, write: Callable[..., PretrainConfig], finetuning: FinetuneConfig, storage: str
) -> None:
    finish(write("a-done"))
    write("a-stopped", steps=(2,))
    write("b-failed", steps=(), error=ValueError("the disk is full"))
    create_or_resume(finetuning.replace(storage=storage, name="c-new"))
    folder = Storage.from_uri(storage)
    folder.join("d-odd", "config.yaml").write_bytes(b"kind: bake\n")
    folder.join("no-run", "notes.txt").write_bytes(b"of something else")
    trial = write("trial").replace(storage=f"{storage}/sweep/runs")
    create_or_resume(trial)
    with hold(folder.join("trial"), "pretrain"):
        listed = run("list")
    done = line_of("a-done", listed)
    assert done[:4] == ["a-done", "pretrain ctp", "finished", "4"]
    assert re.fullmatch(r"\d+ (s|min) ago", done[4])
    assert "0.625" in done[5]
    assert line_of("a-stopped", listed)[1:4] == ["pretrain ctp", "stopped", "2"]
    failed = line_of("b-failed", listed)
    assert failed[2:5] == ["failed", "0", "–"]
    assert "the disk is full" in failed[5]
    assert line_of("c-new", listed)[1:] == ["finetune", "stopped", "0", "–", "–"]
    assert line_of("d-odd", listed)[2] == "unreadable"
    assert "a run of bake" in line_of("d-odd", listed)[5]
    assert line_of("trial", listed)[2] == "running"
    assert line_of("sweep/runs/trial", listed)[2] == "stopped"
    assert "no-run" not in listed


def test_a_run_without_its_last_file_is_not_finished(
    run: Run, write: Callable[..., PretrainConfig]
) -> None:
    config = write("a")
    finish(config)
    folder_of(config).join(LAST_FILE).delete_file()
    assert line_of("a", run())[2] == "stopped"


def test_the_score_of_a_long_log_is_found(run: Run, write: Callable[..., PretrainConfig]) -> None:
    config = write("long")
    rows = [{"step": step, "clips": 4 * step, "loss": 0.123456789} for step in range(1, 9000)]
    rows[0] |= {"iou": 0.25}
    folder_of(config).join(METRICS).write_bytes(to_jsonl(rows))
    line = line_of("long", run("list"))
    assert line[3] == "8999"
    assert "0.250" in line[5]


def test_a_run_is_shown_with_its_checkpoints_and_attempts(
    run: Run, write: Callable[..., PretrainConfig]
) -> None:
    write("a")
    write("a", steps=(6,))
    shown = run("show", "a")
    for expected in ("step-000000006", "by attempt 2", "attempt 1 (pretrain", "torch", "0.625"):
        assert expected in shown
    with pytest.raises(SystemExit, match=r"'aa'.*did you mean a\?.*runs there: a"):
        run("show", "aa")


def test_the_newest_checkpoints_are_kept(run: Run, write: Callable[..., PretrainConfig]) -> None:
    config = write("a", steps=(2, 4, 6))
    folder_of(config).join(CHECKPOINTS, "step-000000003", "state-1.pt").write_bytes(b"half of it")
    said = run("prune", "a", "--keep", "2")
    assert checkpoints(config) == ["step-000000004", "step-000000006"]
    assert "step-000000002, step-000000003 deleted" in said
    run("prune", "a")
    assert checkpoints(config) == ["step-000000006"]
    assert "nothing deleted" in run("prune", "a")
    assert checkpoint_store(config).load("step-000000006").step == 6


@pytest.mark.parametrize("verb", ["prune", "delete"])
def test_a_run_that_a_process_holds_is_not_deleted(
    run: Run, write: Callable[..., PretrainConfig], verb: str
) -> None:
    config = write("a")
    with hold(folder_of(config), "pretrain"):
        before = folder_of(config).list_files()
        with pytest.raises(SystemExit, match=r"error: .*in use by attempt 2"):
            run(verb, "a", *(["--yes"] if verb == "delete" else []))
    names = {info.path for info in before}
    assert names <= {info.path for info in folder_of(config).list_files()}


@pytest.mark.parametrize(("answer", "is_deleted"), [("y\n", True), ("n\n", False), ("", False)])
def test_a_run_is_deleted_after_a_question(
    run: Run,
    write: Callable[..., PretrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    is_deleted: bool,
) -> None:
    config, other = write("a"), write("b")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    if is_deleted:
        assert "(pretrain ctp, stopped, step 4)? [y/N]" in run("delete", "a")
    else:
        with pytest.raises(SystemExit, match="nothing is deleted"):
            run("delete", "a")
    assert folder_of(config).list_files() == [] if is_deleted else checkpoints(config)
    assert checkpoints(other)


def test_yes_asks_no_question(run: Run, write: Callable[..., PretrainConfig]) -> None:
    config = write("a")
    assert "is deleted" in run("delete", "a", "--yes")
    assert folder_of(config).list_files() == []
    write("a", steps=(2,))  # the name is free again
    assert line_of("a", run("list"))[3] == "2"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lst"], "'lst'; expected one of list, show, prune, delete"),
        (["show"], "no run ''"),
        (["list"], "no run in "),
    ],
)
def test_an_invalid_command_is_an_error(run: Run, argv: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run(*argv)


def test_each_command_has_help(
    load_job: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    load_job("runs").main(["--help"])
    assert "ctp runs prune NAME" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        load_job("runs").main(["prune", "--help"])
    assert exit_.value.code == 0
    assert "--keep" in capsys.readouterr().out
