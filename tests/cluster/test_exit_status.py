"""The exit status says whether a scheduler may start the same command again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ray.train import TrainingFailedError

from ctp.cli import FINAL_STATUS, CommandLine
from ctp.cluster.errors import StoppedError
from ctp.cluster.launch import run_command
from ctp.pretext.config import PretrainConfig
from ctp.recipes import PRETRAIN
from ctp.storage import StorageError
from ctp.training.trainer import RunStoppedError


@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("pretrain", ["--from", "lost", "--name", "new"]),
        ("finetune", ["--initial", "lost"]),
        ("track", ["--initial", "lost"]),
        ("embed", ["--encoder", "lost", "--out", "out", "--data.uri", "corpus:2"]),
        ("preview", ["--run", "lost"]),
        ("gradcam", ["--runs", "lost"]),
        ("export", ["--run", "lost"]),
        ("report", ["--runs", "lost"]),
        ("runs", ["show", "lost"]),
        ("runs", ["delete", "lost"]),
    ],
)
def test_an_unknown_run_has_one_status(
    job: str,
    options: list[str],
    load_job: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: (.|\n)*no run .*lost") as ended:
        load_job(job).main(options)
    assert ended.value.code == FINAL_STATUS


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("data.uri is missing"), FINAL_STATUS),
        (RunStoppedError("the loss is not finite", is_final=True), FINAL_STATUS),
        (RunStoppedError("cannot write s3://b/a"), 1),
        (StorageError("cannot read s3://b/a"), 1),
        (ConnectionError("the cluster does not answer"), 1),
        (TrainingFailedError("workers failed"), 1),
        (StoppedError("the storage fails"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_status_and_message(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: PretrainConfig) -> NoReturn:
        raise error

    command = CommandLine(PRETRAIN, "tiny", "")
    parsed = command.parse(["--name", "run"])
    with pytest.raises(SystemExit) as ended:
        run_command(command, parsed, fail)
    code = ended.value.code
    if isinstance(code, str):  # Python prints it and exits with 1
        assert status == 1
        message = code
    else:
        assert code == status
        message = capsys.readouterr().err
    assert str(error) in message
