"""The log of a run: JSON lines and TensorBoard."""

from __future__ import annotations

from pathlib import Path

from ctp.storage import Storage
from ctp.training.metrics_log import MetricsLog
from ctp.training.run_folder import read_metrics


def test_rows_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    folder = Storage.from_uri(tmp_path)
    first = MetricsLog(folder, 0)
    first.write([{"step": step, "loss": float(step)} for step in (1, 2, 3)])
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while it wrote
    second = MetricsLog(folder, 2)
    second.write([{"step": 3, "loss": 30.0}])
    second.close()
    assert [row["loss"] for row in read_metrics(folder)] == [1, 2, 30]


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(Storage.from_uri(tmp_path), 0)
    log.write([{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}])
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 2.5), (2, 1.5)]
