"""The notebook is stored clean; interrupted and run again, it resumes its sweep in S3."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from ctp.storage import Storage

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "jobs" / "ablations.ipynb"
TIMEOUT_SECONDS = 1200
SMALL = [
    "data.uri=corpus:24",
    "task.sampling.num_frames=4",
    "task.augment.frame_size_px=32",
    "task.augment.short_sides_px=32",
    "task.box_size_px=8,16",
    "encoder.width=4",
    "task.head.hidden_channels=8",
    "schedule.length=8",
    "compute.total_batch=4",
    "evaluation.num_clips=6",
    "evaluation.every_steps=8",
    "log_every_steps=1",
]


@pytest.fixture
def notebook() -> Any:
    """As it is stored."""
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_what_a_run_leaves(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert set(cell.metadata) <= {"tags"}


class Kernel:
    """The notebook in a kernel of its own, cell by cell.

    Attributes:
        messages: the kernel's messages while the last cell ran.
        interrupt_at: the kernel is interrupted when it shows this.
    """

    def __init__(self, notebook: Any, folder: Path):
        self.messages: list[Any] = []
        self.interrupt_at = ""
        self._cells = {cell.id: (cell, at) for at, cell in enumerate(notebook.cells)}
        self.client = _Client(
            self,
            notebook,
            kernel_name="python3",
            timeout=TIMEOUT_SECONDS,
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
        )

    def run(self, name: str) -> list[Any]:
        """The outputs of a cell; none is an error's or a warning's, but of an interrupted cell."""
        self.messages = []
        outputs: list[Any] = self.client.execute_cell(*self._cells[name]).outputs
        for each in outputs:
            assert each.output_type != "error" or self.interrupt_at, each
            assert each.get("name") != "stderr", each
        self.interrupt_at = ""
        return outputs

    def contents(self, kind: str) -> list[Any]:
        """Return the contents of the last cell's messages of a kind."""
        return [each["content"] for each in self.messages if each["msg_type"] == kind]


class _Client(NotebookClient):
    def __init__(self, kernel: Kernel, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._kernel = kernel

    def process_message(self, message: Any, *arguments: Any) -> Any:
        self._kernel.messages.append(message)
        at = self._kernel.interrupt_at
        if at and at in message["content"].get("data", {}).get("text/markdown", ""):
            self._interrupting = asyncio.ensure_future(self.km.interrupt_kernel())
        return super().process_message(message, *arguments)


@pytest.fixture
def kernel(
    notebook: Any, tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kernel]:
    """The notebook with two small trials, and its sweep in a bucket."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("MPLBACKEND", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    parameters.source += (
        f"\nrecipe, storage = 'table8', '{s3_bucket}/sweeps'"
        f"\nscores, settings = ['task'], {SMALL}"
        f"\nresults = '{s3_bucket}/sweeps/table8-tiny'"
    )
    made = Kernel(notebook, tmp_path)
    with made.client.setup_kernel():
        yield made


def rows_of(markdown: str) -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in cells}


@pytest.mark.ray
@pytest.mark.slow
def test_interrupted_and_run_again_it_resumes_and_shows_the_result(
    kernel: Kernel, s3_bucket: str
) -> None:
    kernel.run("imports")
    kernel.run("parameters")
    kernel.interrupt_at = "**1 finished of 2 trials"
    *_, stopped = kernel.run("here")
    assert stopped.traceback == ["stopped; run this cell again to resume"]
    runs = Storage.from_uri(f"{s3_bucket}/sweeps/table8-tiny/runs")
    first, second = (
        runs.join(f"{name}-seed0", "result.json") for name in ("no-squeeze", "squeeze")
    )
    before = first.version()
    assert not second.exists()

    kernel.run("here")
    assert first.version() == before  # it was not run again
    shown = [each["data"]["text/markdown"] for each in kernel.contents("update_display_data")]
    assert any(re.search(r"\| squeeze-seed0 \| pretrain \| ▰+▱* \d/8 \|", text) for text in shown)
    assert shown[-1].startswith("**2 trials: 2 finished**")
    assert sum("text/markdown" in each["data"] for each in kernel.contents("display_data")) == 1

    versions = [each.version() for each in (first, second)]
    outputs = kernel.run("here")
    assert [each.version() for each in (first, second)] == versions
    assert outputs[-1].data["text/markdown"] == shown[-1]
    assert not any("at the same time" in each.get("text", "") for each in outputs)

    assert kernel.run("cluster") == []  # no cluster is named
    text, plot = kernel.run("results")
    rows = rows_of(text.data["text/markdown"])
    for name in ("no squeeze", "squeeze"):
        runs_of_row, iou = rows[name][1:3]
        assert runs_of_row == "1"
        assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3} \(0\.\d{3}\)", iou)
    (own,) = kernel.run("own")
    assert "image/png" in plot.data
    assert "image/png" in own.data
