"""Run folders as a run writes them, line by line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctp.pretext.config import PretrainConfig
from ctp.training.run_folder import config_values, folder_of


@pytest.fixture
def add_lines(small_run: PretrainConfig) -> Callable[..., Path]:
    """`add_lines([{"step": 1, …}], name="run", **changes)`: append lines to the log of a run, whose
    folder is made if there is none; returns the folder."""

    def add(rows: list[dict[str, Any]], name: str = "run", **changes: Any) -> Path:
        config = small_run.replace(name=name, **changes)
        folder = Path(folder_of(config).path)
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(yaml.safe_dump(config_values(config)))
        with (folder / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return folder

    return add


@pytest.fixture
def line() -> Callable[..., dict[str, Any]]:
    """`line(step, loss, **entries)`: a line of a log, with the speed."""

    def make(step: int, loss: float, **entries: Any) -> dict[str, Any]:
        speed = {"clips_per_second": 8.0, "wait_share": 0.25, "quarantined": 0}
        return {"step": step, "clips": 4 * step, "loss": loss, **speed, **entries}

    return make
