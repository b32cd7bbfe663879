"""Time a training step, and compute the share of the device's peak that it reaches."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ctp.bench.config import BenchConfig
from ctp.bench.timing import Case, Figures, Timing, default_device, measure, wait_for
from ctp.data.stream import load_here
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import TaskLearner, open_pretraining
from ctp.training.config import ComputeConfig
from ctp.training.distributed import Worker
from ctp.training.step import LossTerms, autocast, build_optimizer, train_step
from ctp.training.transfer import to_device

CPU_STEP_CLIPS, GPU_STEP_CLIPS = 1, 32
GPU_STEPS_PER_REPEAT = 10
LEARNING_RATE = 1e-6
"""Almost 0, so that the weights do not change while the same batch is repeated."""
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
        "encoder": run.encoder.describe(),
        "task": run.task.name,
        "precision": compute.precision,
        "compiled": compute.compile,
        "clips": compute.total_batch,
        "ms": timing,
        "gflops": flops / 1e9,
        "clips_per_second": 1e3 * compute.total_batch / timing.median,
        "tflops": tflops,
        "mfu": None if peak_tflops is None else tflops / peak_tflops,
    }


def measure_steps(config: BenchConfig) -> list[Figures]:
    """Time a training step in every combination of `config.step`, on a GPU if there is one.

    One combination after the other: together they would not fit into a GPU's memory.

    Raises:
        ValueError: there are no videos, or none that can be used.
    """
    step, on_gpu = config.step, torch.cuda.is_available()
    precisions = step.precisions or (("fp32", "tf32", "bf16") if on_gpu else ("fp32",))
    clips = step.clips or (GPU_STEP_CLIPS if on_gpu else CPU_STEP_CLIPS)
    timings = []
    for precision, compiled in product(
        precisions, step.compile or ((False, True) if on_gpu else (False,))
    ):
        compute = ComputeConfig(total_batch=clips, precision=precision, compile=compiled)
        try:
            timings.append(time_step(config.pretraining(config.data.uri, compute), config.repeats))
        except torch.OutOfMemoryError:
            print(f"skipped: {compute} does not fit; lower --step.clips", file=sys.stderr)
        # torch silently stops compiling when it has kept the code of many models
        torch.compiler.reset()
        if on_gpu:
            torch.cuda.empty_cache()
    return timings


def fastest_gpu_rate(steps: Sequence[Figures]) -> float | None:
    """Return the clips/s of the fastest step, or None if none was measured on a GPU."""
    if not torch.cuda.is_available():
        return None
    return max((step["clips_per_second"] for step in steps), default=None)


def time_step(run: PretrainConfig, repeats: int) -> Figures:
    """Time the steps of a run on its first batch: pixels and targets on the device, forward, loss,
    backward and update.

    Raises:
        ValueError: there are no videos, or none that can be used.
    """
    device, compute = default_device(), run.compute
    spec = open_pretraining(run)
    learner = TaskLearner(spec, Worker(device=device), load_here)
    batch = next(spec.stream.batches(0, 0, 1))
    # a placeholder clip would be as fast, but nobody would notice that the videos are broken
    if batch.errors:
        raise ValueError(batch.errors[0])
    batch = batch._replace(samples=to_device(batch.samples, device))

    def loss(model: nn.Module) -> LossTerms:
        with autocast(compute, device):
            return learner.loss(model, batch)

    parameters = [each for each in learner.model.parameters() if each.requires_grad]
    optimizer = build_optimizer(run.optimizer, learner.model)
    model: nn.Module = torch.compile(learner.model) if compute.compile else learner.model  # type: ignore[assignment]
    # a GPU is given several steps before it is waited for, as in training, where it never idles
    steps = GPU_STEPS_PER_REPEAT if device.type == "cuda" else 1

    def work(repeat: int) -> None:
        for step in range(1, steps + 1):
            train_step(lambda: loss(model), parameters, optimizer, LEARNING_RATE)
            learner.after_step(step)
        wait_for(device)

    (timing,) = measure([Case("step", work, steps)], repeats)
    # of the model that is not compiled: the counter does not see into compiled code
    flops = count_flops(lambda: loss(learner.model).total.backward())  # type: ignore[no-untyped-call]
    peak = None
    if device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(), compute.precision)
    return step_figures(run, timing, flops, peak)
