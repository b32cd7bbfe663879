"""What holds for every pretext task: exact resume, and the same run for 1, 2 and 4 workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctp.data.stream import Batch, SampleStream, stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import build_model, open_pretraining
from ctp.pretext.registry import TASKS, build_task
from ctp.training.checkpoint import TrainState
from ctp.training.run_folder import checkpoint_store, folder_of, read_metrics
from ctp.video.config import SamplingConfig

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("training_worker.py")
CASES: dict[str, Mapping[str, Any]] = {
    "ctp": {},
    "memdpc": {"sampling": SamplingConfig(num_frames=2, interval_frames=(1, 1))},
    "moco": {"queue_size": 12},
    "rotation": {},
    "speed": {},
    "speed-original": {"classes": "original"},
    "vcop": {},
}
"""Task, or task and variant -> options that differ from those of `small_run`."""
PHASES = ((4, 2), (2, 4))
"""Numbers of workers, and the step until which they train."""
OF_THE_MACHINE = {
    "clips_per_second", "wait_share", "step_skew_seconds", "checkpoint_seconds",
    "worker_memory_gib", "workers", "start_seconds", "evaluation_seconds",
}  # fmt: skip
"""Entries of the log that say how it was computed."""


@pytest.fixture(scope="module")
def make_config(
    make_small_run: Callable[[Path], PretrainConfig],
) -> Callable[[str, Path], PretrainConfig]:
    """`make_config(case, folder)`: a run that logs and evaluates often."""

    def make(case: str, folder: Path) -> PretrainConfig:
        run = make_small_run(folder)
        task = run.task
        if case != "ctp":
            clip = {"sampling": task.sampling, "augment": task.augment}
            task = {"name": case.partition("-")[0], **clip, **CASES[case]}
        return run.replace(
            name=case, task=task, log_every_steps=1, evaluation={"num_clips": 6, "every_steps": 2}
        )

    return make


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(
    case: str,
    make_config: Callable[[str, Path], PretrainConfig],
    train_alone: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> PretrainConfig:
    """A run that one worker has trained without a stop."""
    config = make_config(case, tmp_path_factory.mktemp("whole"))
    train_alone(open_pretraining(config))
    return config


@pytest.fixture(scope="module")
def shared_folder(
    make_config: Callable[[str, Path], PretrainConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Where four workers began each run and two of them continued it, without finishing it."""
    folder = tmp_path_factory.mktemp("shared")
    configs = json.dumps([make_config(each, folder).model_dump(mode="json") for each in CASES])
    phases = ",".join(f"{number}:{step}" for number, step in PHASES)
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), folder / "store", phases, folder / f"{rank}.pt"],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for rank in range(PHASES[0][0])
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(configs)
        codes = [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * len(processes)
    return folder


def newest(config: PretrainConfig) -> TrainState:
    store = checkpoint_store(config, None)
    name = store.newest()
    assert name is not None
    return store.load(name)


def rows(config: PretrainConfig) -> list[dict[str, Any]]:
    """Return what a run has logged, besides how it was computed."""
    return [
        {name: value for name, value in row.items() if name not in OF_THE_MACHINE}
        for row in read_metrics(folder_of(config))
    ]


def test_every_task_is_tested() -> None:
    assert {case.partition("-")[0] for case in CASES} == set(TASKS)


def test_it_resumes_exactly(
    case: str,
    whole: PretrainConfig,
    make_config: Callable[[str, Path], PretrainConfig],
    train_alone: Callable[..., None],
    tmp_path: Path,
) -> None:
    def interrupted(stream: SampleStream[Any], first: int) -> Iterator[Batch[Any]]:
        yield from list(stream.batches(first, 0, 1))[:3]
        raise InterruptedError

    config = make_config(case, tmp_path)
    with pytest.raises(InterruptedError):
        train_alone(open_pretraining(config), interrupted)
    assert newest(config).step == 2
    train_alone(open_pretraining(config))
    assert rows(config) == rows(whole)  # bit for bit
    score = whole.score
    assert {score.key, score.baseline_key} <= rows(config)[-1].keys()
    expected = newest(whole).model
    for key, value in newest(config).model.items():
        assert torch.equal(value, expected[key]), key


@torch.no_grad()
def test_pictures_show_every_frame_with_and_without_answers(whole: PretrainConfig) -> None:
    samples = stack([open_pretraining(whole).stream.draw(position).sample for position in range(3)])
    tensors = type(samples)(*map(torch.from_numpy, samples))
    task, model = build_task(whole.task), build_model(whole).eval()
    asked, answered = (task.pictures(tensors, each, min_side_px=64) for each in (None, model))
    assert len(asked) == len(answered) == 3
    for before, after in zip(asked, answered, strict=True):
        assert before.frames.shape == after.frames.shape
        assert before.frames.dtype == after.frames.dtype == np.uint8
        assert min(before.frames.shape[1:3]) == 64
        assert before.frames.std() > 1
        assert before.caption != after.caption


def test_four_two_and_one_workers_continue_each_others_run(
    case: str,
    whole: PretrainConfig,
    shared_folder: Path,
    make_config: Callable[[str, Path], PretrainConfig],
    train_alone: Callable[..., None],
) -> None:
    config = make_config(case, shared_folder)
    assert newest(config).step == 4
    train_alone(open_pretraining(config))
    for ours, theirs in zip(rows(config), rows(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3), theirs["step"]
    expected, found = newest(whole).model, newest(config).model
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_a_gathered_row_has_the_gradient_of_all_workers(shared_folder: Path) -> None:
    """Of Σ w_ij x_i·x_j, of which each worker adds up the terms of its own i: (w + wᵀ) x."""
    spec = spec_from_file_location("training_worker", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    found = [torch.load(shared_folder / f"{rank}.pt") for rank in range(PHASES[0][0])]
    values, weights = script.example(2 * len(found))
    torch.testing.assert_close(torch.cat(found), (weights + weights.T) @ values)
