from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp.sweeps.config import SweepConfig
from ctp.sweeps.folder import TrialResult
from ctp.sweeps.plan import Plan


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    """`plan_of(table="table2a", seeds=2)`: the plan of a sweep in a folder of the test's own."""

    def make(**fields: Any) -> Plan:
        values = {"name": "mine", "storage": str(tmp_path)} | fields
        return Plan.from_config(SweepConfig.model_validate(values))

    return make


@pytest.fixture
def finished() -> Callable[..., TrialResult]:
    """`finished(iou=0.5)`: the result of a trial with scores, besides those of all sweeps."""

    def make(**scores: float) -> TrialResult:
        named = {name.replace("__", "."): value for name, value in scores.items()}
        every = {"retrieval.quarantined": 0.0, "linear.quarantined": 0.0}
        return TrialResult(status="finished", scores=every | named, steps=300, seconds=1.0)

    return make
