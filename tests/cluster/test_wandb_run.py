"""A run is one run in Weights & Biases, however often it is started, and W&B's troubles do not stop
it. W&B writes real files in its mode offline, and they are read back here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp.cluster.service_log import WANDB_PROJECT, service_log
from ctp.pretext.config import PretrainConfig
from ctp.training.run_folder import Row, folder_of

BLOCK, HEADER = 32768, 7
"""Bytes of a block and of a record's header, in the format of LevelDB's logs."""


def needs_wandb() -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")


@pytest.fixture
def config(
    small_run: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PretrainConfig]:
    monkeypatch.setenv(WANDB_PROJECT, "videos")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # which has no key
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield small_run
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # it reads the variables once


def row(step: int, loss: float) -> Row:
    return {"step": step, "clips": 4 * step, "loss": loss, "total_steps": 6, "note": "text"}


def run_once(config: PretrainConfig, *rows: Row, ending: BaseException | None = None) -> None:
    with service_log(config) as log:
        for each in rows:
            log(each)
        if ending is not None:
            raise ending


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a file of W&B: of LevelDB's log after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block that is too short for a header
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def sent(tmp_path: Path) -> list[list[Any]]:
    """Return the records of each start, in order."""
    return [list(records(file)) for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]


def history(start: list[Any]) -> list[tuple[int, dict[str, Any]]]:
    rows = (each.history for each in start if each.HasField("history"))
    found = []
    for each in rows:
        items = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in each.item}
        values = {name: value for name, value in items.items() if not name.startswith("_")}
        found.append((each.step.num, values))
    return found


def test_a_run_has_its_numbers_its_options_and_where_things_lie(
    config: PretrainConfig, tmp_path: Path
) -> None:
    needs_wandb()
    again = row(3, 0.8)  # workers were started again, from a checkpoint before
    run_once(config, row(2, 0.9), row(4, 0.7), again)
    (start,) = sent(tmp_path)
    assert history(start) == [
        (2, {"clips": 8, "loss": 0.9}),
        (4, {"clips": 16, "loss": 0.7}),
    ]
    (run,) = (each.run for each in start if each.HasField("run"))
    assert (run.project, run.display_name, run.run_group) == ("videos", "run", "ctp-pretrain")
    options = {each.key: json.loads(each.value_json) for each in run.config.update}
    assert options["optimizer.learning_rate"] == 0.01
    assert options["data.uri"] == "corpus:20"
    folder = folder_of(config)
    assert options["ctp.folder"] == folder.uri
    assert options["ctp.result"] == folder.join("encoder.safetensors").uri
    assert [each.exit.exit_code for each in start if each.HasField("exit")] == [0]


def test_a_resumed_run_continues_its_run(config: PretrainConfig, tmp_path: Path) -> None:
    needs_wandb()
    with pytest.raises(KeyboardInterrupt):
        run_once(config, row(2, 0.9), ending=KeyboardInterrupt())
    run_once(config.replace(scaling={"num_workers": 2}), row(4, 0.7))
    starts = sent(tmp_path)
    ids = {each.run.run_id for start in starts for each in start if each.HasField("run")}
    assert len(starts) == 2
    assert ids == {json.loads((folder_of(config).join("wandb.json")).read_bytes())["run_id"]}
    codes = [each.exit.exit_code for start in starts for each in start if each.HasField("exit")]
    assert codes == [130, 0]
    assert [step for start in starts for step, _ in history(start)] == [2, 4]


@pytest.mark.parametrize(("key", "reason"), [("", "No API key"), ("a" * 40, "connection refused")])
def test_a_server_that_cannot_be_used_does_not_stop_the_run(
    config: PretrainConfig,
    free_port: int,
    key: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs_wandb()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    run_once(config, row(2, 0.9), row(4, 0.7))
    said = capsys.readouterr().err
    assert "Weights & Biases failed, the run continues without it" in said
    assert reason in said


def test_without_wandb_one_line_says_what_to_install(
    config: PretrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delitem(sys.modules, "ctp.cluster.wandb_run", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    run_once(config, row(2, 0.9))
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install -e '.[wandb]'" in line
    monkeypatch.delenv(WANDB_PROJECT)
    run_once(config, row(2, 0.9))
    assert capsys.readouterr().err == ""  # what is not asked for is not missed
