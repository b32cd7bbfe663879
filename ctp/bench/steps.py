"""Time a training step, and compute the share of the device's peak that it reaches."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessRaisedException, spawn
from torch.utils.flop_counter import FlopCounterMode

from ctp.bench.config import BenchConfig
from ctp.bench.noise import NoiseOpener
from ctp.bench.timing import (
    Case,
    Figures,
    Timing,
    default_device,
    measure,
    one_thread,
    wait_for,
)
from ctp.constant import constant
from ctp.data.reading import VideoOpener
from ctp.data.stream import Batch, load_here
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.config import CtpConfig
from ctp.pretext.ctp.loss import tracking_loss
from ctp.pretext.ctp.task import CtpTask
from ctp.pretext.pretraining import TaskLearner, open_pretraining
from ctp.training.config import ComputeConfig
from ctp.training.distributed import CPU, Worker
from ctp.training.step import LossTerms, build_optimizer, train_step
from ctp.training.sync_norm import synchronise_norms
from ctp.training.trainer import average_gradients, loss_function
from ctp.training.transfer import Sender, to_device
from ctp.video.augment import to_input

Way = tuple[Callable[[PretrainConfig, int], Figures], PretrainConfig]
"""A function that times a step, and the run whose step it is."""
CPU_STEP_CLIPS, GPU_STEP_CLIPS = 1, 32
GPU_STEPS_PER_REPEAT = 10
LEARNING_RATE = 1e-6
"""Almost 0, so that the weights do not change while the same batch is repeated."""
AUTHORS: dict[str, Any] = {"precision": "fp32", "compile": False}
AUTHORS_TASK = "ctp, the authors' way"
PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "H100 PCIe": {"fp32": 51.2, "tf32": 378, "bf16": 756},
    "H100 NVL": {"fp32": 60, "tf32": 417.5, "bf16": 835},
    "H100": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4},
    "H200": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4},
    "A100": {"fp32": 19.5, "tf32": 156, "bf16": 312},
    "L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362},
    "L4": {"fp32": 30.3, "tf32": 60, "bf16": 121},
    "V100": {"fp32": 15.7},
    "T4": {"fp32": 8.1},
}
"""Dense TFLOP/s of NVIDIA's data sheets, of the SXM form where none is named. A longer name comes
before a shorter one that it contains."""


def peak_tflops(device_name: str, precision: str) -> float | None:
    """Return a GPU's peak TFLOP/s, or None if it is unknown.

    Args:
        device_name: see `torch.cuda.get_device_name`.
        precision: "fp32", "tf32" or "bf16".
    """
    for name, peaks in PEAK_TFLOPS.items():
        # as a word: L4 is not L40S
        if re.search(rf"\b{name}\b", device_name):
            return peaks.get(precision)
    return None


def count_flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of the convolutions and matrix products in `work`, which
    must not be compiled. A multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def step_figures(
    run: PretrainConfig, timing: Timing, flops: int, peak_tflops: float | None
) -> Figures:
    """Return what a training step costs.

    Args:
        run: what was trained, and how.
        timing: milliseconds of a step.
        flops: floating-point operations of a step.
        peak_tflops: peak TFLOP/s of the device in the run's precision, or None.

    Returns:
        the figures; those that follow from the time are by the median of the repeats. "mfu", the
        model FLOPs utilisation, is the share of the peak, or None.
    """
    compute, tflops = run.compute, flops / timing.median / 1e9
    return {
        "task": run.task.name,
        "encoder": run.encoder.describe(),
        "precision": compute.precision,
        "compiled": compute.compile,
        "workers": run.scaling.num_workers,
        "clips": compute.batch,
        "ms": timing,
        "gflops": flops / 1e9,
        "clips_per_second": 1e3 * compute.batch / timing.median,
        "tflops": tflops,
        "mfu": None if peak_tflops is None else tflops / peak_tflops,
    }


def measure_steps(config: BenchConfig) -> list[Figures]:
    """Time a training step in every combination of `config.step`, on a GPU if there is one; with
    Catch-the-Patch, the authors' way comes first.

    One combination after the other: together they would not fit into a GPU's memory.

    Returns:
        the figures of `step_figures`; "speed-up" over the authors' way, or None; and "GiB", the
        peak of the GPU's memory, or None.

    Raises:
        ValueError: there are no videos.
        QuarantineLimitError: none can be used.
    """
    step, on_gpu = config.step, torch.cuda.is_available()
    workers = step.workers or sorted({1, torch.cuda.device_count() or 1})
    precisions = step.precisions or (("fp32", "tf32", "bf16") if on_gpu else ("fp32",))
    compiled = step.compile or ((False, True) if on_gpu else (False,))
    until = math.inf if step.max_seconds is None else time.monotonic() + step.max_seconds
    timed: list[Figures] = []
    for clips in step.clips or ((GPU_STEP_CLIPS if on_gpu else CPU_STEP_CLIPS),):
        runs = [
            step_run(config, clips, number, precision=precision, compile=is_compiled)
            for number, precision, is_compiled in product(workers, precisions, compiled)
        ]
        ways: list[Way] = [(time_step, run) for run in runs]
        if isinstance(config.task, CtpConfig):
            ways.insert(0, (time_authors_step, step_run(config, clips, **AUTHORS)))
        timed += _measure_ways(ways, config.repeats, until)
    return timed


def _measure_ways(ways: Sequence[Way], repeats: int, until: float) -> list[Figures]:
    """Time ways to take a step, of which none begins after a moment of the monotonic clock."""
    on_gpu = torch.cuda.is_available()
    timed: list[dict[str, Any]] = []
    for time_way, run in ways:
        if time.monotonic() > until:
            print(f"skipped: {run.compute}: --step.max_seconds have passed", file=sys.stderr)
            continue
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            # as in training, where a worker on a CPU has one core
            with nullcontext() if on_gpu else one_thread():
                figures = time_way(run, repeats)
            timed.append({**figures, "GiB": figures.get("GiB", _peak_gib())})
        except torch.OutOfMemoryError:
            print(f"skipped: {run.compute} does not fit; lower --step.clips", file=sys.stderr)
        # torch silently stops compiling when it has kept the code of many models
        torch.compiler.reset()
        if on_gpu:
            torch.cuda.empty_cache()
    rates = (each["clips_per_second"] for each in timed if each["task"] == AUTHORS_TASK)
    authors = next(rates, None)
    return [
        {**each, "speed-up": None if authors is None else each["clips_per_second"] / authors}
        for each in timed
    ]


def step_run(config: BenchConfig, clips: int, number: int = 1, **how: Any) -> PretrainConfig:
    """Return a run of some workers with `clips` each; `how` are options of `ComputeConfig`."""
    run = config.pretraining(config.data.uri, ComputeConfig(total_batch=number * clips, **how))
    return run.replace(scaling=run.scaling.replace(num_workers=number))


def _peak_gib() -> float | None:
    """Return the peak of the GPU's memory in this process, or None without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def fastest_rate(steps: Sequence[Figures]) -> float | None:
    """Return the clips/s of the fastest step, or None if none was measured."""
    return max((step["clips_per_second"] for step in steps), default=None)


def time_step(run: PretrainConfig, repeats: int) -> Figures:
    """Time the steps of a run on its first batch, as in training: arrays to the device, pixels and
    targets there, forward, loss, backward and update; by `run.scaling.num_workers` processes.

    Raises:
        ValueError: there are no videos.
        QuarantineLimitError: none can be used.
    """
    number = run.scaling.num_workers
    if number == 1:
        return _time_worker(run, repeats, Worker(device=default_device()))
    results: Any = get_context("spawn").SimpleQueue()
    with TemporaryDirectory() as folder:
        try:
            spawn(_time_in_group, (number, run, repeats, f"file://{folder}/store", results), number)  # type: ignore[no-untyped-call]
        except ProcessRaisedException as error:
            if torch.OutOfMemoryError.__name__ in str(error):
                raise torch.OutOfMemoryError(str(error)) from error
            raise
    figures: Figures = results.get()
    return figures


def _time_in_group(
    rank: int, number: int, run: PretrainConfig, repeats: int, place: str, results: Any
) -> None:
    """Time a step as one of several workers; the first passes on the figures."""
    device = torch.device("cuda", rank) if torch.cuda.is_available() else CPU
    backend = "gloo" if device.type == "cpu" else "nccl"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=place, rank=rank, world_size=number)
    try:
        with one_thread() if device.type == "cpu" else nullcontext():
            figures = _time_worker(run, repeats, Worker(rank, number, device))
    finally:
        dist.destroy_process_group()
    if rank == 0:
        results.put({**figures, "GiB": _peak_gib()})


def _time_worker(run: PretrainConfig, repeats: int, worker: Worker) -> Figures:
    device, compute = worker.device, run.compute
    learner, inputs = first_batch(run, worker)
    timing = _time(make_step(run, worker, learner, inputs), device, repeats)
    # of the model that is not compiled: the counter does not see into compiled code
    eager = loss_function(learner, learner.model, compute.replace(compile=False), device)
    on_device = to_device(inputs, device)
    flops = count_flops(lambda: eager(on_device).total.backward())  # type: ignore[no-untyped-call]
    peak = _peak_tflops(device, compute.precision)
    all_peak = None if peak is None else peak * worker.world_size
    return step_figures(run, timing, flops * worker.world_size, all_peak)


def make_step(
    run: PretrainConfig, worker: Worker, learner: TaskLearner[Any], inputs: Any
) -> Callable[[int], None]:
    """Return what takes a step with a given number, as in training, always on the same inputs."""
    synchronise_norms(learner.model)
    sender = Sender(worker.device)
    model = average_gradients(learner.model, worker)
    loss = loss_function(learner, model, run.compute, worker.device)
    train = _Training(run, learner.model)

    def step(number: int) -> None:
        train(partial(loss, sender.send(inputs)))
        learner.after_step(number)

    return step


def time_authors_step(run: PretrainConfig, repeats: int) -> Figures:
    """Time the steps of Catch-the-Patch in the way of the authors' code, as the baseline.

    The host has the clips with patches and colours, as their loader makes them: float32, sent from
    memory that is not pinned. Weights and clips are contiguous float32, and nothing is compiled.

    Raises:
        ValueError: there are no videos.
        QuarantineLimitError: none can be used.
    """
    device, run = default_device(), run.replace(compute=run.compute.replace(**AUTHORS))
    learner, inputs = first_batch(run, Worker(device=device))
    model, task = learner.model.to(memory_format=torch.contiguous_format), learner.task
    assert isinstance(task, CtpTask)
    samples, sigma = to_device(inputs, CPU), constant(task.config.sigma, device)
    clips = to_input(task.paste(samples), samples.color).contiguous()

    def loss() -> LossTerms:
        boxes = samples.boxes.to(device)
        return tracking_loss(model(clips.to(device), boxes[:, :, 0]), boxes, sigma)

    train = _Training(run, model)
    timing = _time(lambda _: train(loss), device, repeats)
    flops = count_flops(lambda: loss().total.backward())  # type: ignore[no-untyped-call]
    figures = step_figures(run, timing, flops, _peak_tflops(device, run.compute.precision))
    return {**figures, "task": AUTHORS_TASK}


class _Training:
    """Updates a model by the gradient of a loss, with a learning rate of almost 0."""

    def __init__(self, run: PretrainConfig, model: nn.Module):
        self._parameters = [each for each in model.parameters() if each.requires_grad]
        self._optimizer = build_optimizer(run.optimizer, model)

    def __call__(self, loss: Callable[[], LossTerms]) -> None:
        train_step(loss, self._parameters, self._optimizer, LEARNING_RATE)


def first_batch(run: PretrainConfig, worker: Worker) -> tuple[TaskLearner[Any], Any]:
    """Return what trains a run, and the inputs of its first step. Without PyAV, as on some GPU
    machines, these are noise in place of videos.

    Raises:
        ValueError: there are no videos.
        QuarantineLimitError: none can be used.
    """
    spec = open_pretraining(run)
    learner: TaskLearner[Any] = TaskLearner(spec, worker, load_here)
    share = spec.stream.total_batch // worker.world_size
    positions = range(worker.rank * share, (worker.rank + 1) * share)
    opener = VideoOpener() if is_installed("av") else NoiseOpener()
    batch = Batch.from_drawn([spec.stream.draw(position, opener) for position in positions])
    return learner, learner.inputs(batch)


def is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        import_module(module)
    except ModuleNotFoundError:
        return False
    return True


def _time(step: Callable[[int], object], device: torch.device, repeats: int) -> Timing:
    # a GPU is given several steps before it is waited for, as in training, where it never idles
    steps = GPU_STEPS_PER_REPEAT if device.type == "cuda" else 1

    def work(_: int) -> None:
        for number in range(1, steps + 1):
            step(number)
        wait_for(device)

    return measure([Case("step", work, steps)], repeats)[0]


def _peak_tflops(device: torch.device, precision: str) -> float | None:
    return peak_tflops(torch.cuda.get_device_name(), precision) if device.type == "cuda" else None
