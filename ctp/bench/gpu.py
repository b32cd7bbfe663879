"""Check a training step on a GPU against the CPU, and find what takes its time."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ctp.bench.config import BenchConfig
from ctp.bench.steps import first_batch, make_step, step_run
from ctp.bench.timing import Figures, wait_for
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.task import CtpTask
from ctp.training.distributed import CPU, Worker
from ctp.training.trainer import loss_function
from ctp.training.transfer import to_device
from ctp.video.augment import to_input

COMPARED_CLIPS, PROFILED_CLIPS, TIMED_CLIPS = 4, 32, (4, 32, 256)
LONGEST_KERNELS = 10
WARM_UP_STEPS = 3
TOLERANCES = {"fp32": 1e-3, "tf32": 0.05, "bf16": 0.2}
"""Largest relative distance of gradients that rounding explains, by precision."""
MAX_PIXEL_DISTANCE = 1e-4
"""Of colours of about 2 at most; the pixels before are equal."""
SYNC = "called a synchronizing CUDA operation"
"""The warning of torch when the host waits for the GPU."""
PACKAGE = Path(__file__).parents[1]


def gpu_config(config: BenchConfig) -> BenchConfig:
    """Return a config whose steps are those of GPU recipes, with few to many clips, where
    `config.step` does not choose others."""
    step = config.step
    return config.replace(
        step=step.replace(
            clips=step.clips or TIMED_CLIPS,
            precisions=step.precisions or ("bf16",),
            compile=step.compile or (False, True),
            workers=step.workers or (1,),
        )
    )


def compare_with_cpu(config: BenchConfig, device: torch.device) -> list[Figures]:
    """Compare the gradient of a step on a device, in each precision, with that on the CPU in fp32.

    Returns:
        for each precision the relative distance of the loss and of the gradient, by the L2 norm;
        with Catch-the-Patch, the largest distance of pixels, normalised, from those of the CPU;
        and "equal", whether rounding explains all of them.
    """
    rows: list[Figures] = []
    exact_loss, exact = _loss_and_gradient(step_run(config, COMPARED_CLIPS, precision="fp32"), CPU)
    for precision in TOLERANCES:
        run = step_run(config, COMPARED_CLIPS, precision=precision)
        loss, gradient = _loss_and_gradient(run, device)
        distances = {
            "loss": abs(loss - exact_loss) / abs(exact_loss),
            "gradient": float((gradient - exact).norm() / exact.norm()),
        }
        pixels = _pixel_distance(run, device)
        is_equal = max(distances.values()) <= TOLERANCES[precision] and (
            pixels is None or pixels <= MAX_PIXEL_DISTANCE
        )
        rows.append({"precision": precision, **distances, "pixels": pixels, "equal": is_equal})
    return rows


def _loss_and_gradient(run: PretrainConfig, device: torch.device) -> tuple[float, Tensor]:
    """Return the loss of a run's first step, and its gradient: float32 [P], on the CPU."""
    learner, inputs = first_batch(run, Worker(device=device))
    loss = loss_function(learner, learner.model, run.compute, device)(to_device(inputs, device))
    loss.total.backward()  # type: ignore[no-untyped-call]
    gradients = [each.grad for each in learner.model.parameters() if each.grad is not None]
    return loss.total.item(), torch.cat([each.float().flatten() for each in gradients]).cpu()


def _pixel_distance(run: PretrainConfig, device: torch.device) -> float | None:
    """Return the largest distance of the pixels that the model sees, or None for another task than
    Catch-the-Patch."""
    learner, inputs = first_batch(run, Worker(device=CPU))
    task = learner.task
    if not isinstance(task, CtpTask):
        return None
    here, there = (
        to_input(task.paste(samples), samples.color).cpu()
        for samples in (to_device(inputs, CPU), to_device(inputs, device))
    )
    return float((here - there).abs().max())


def profile_steps(config: BenchConfig, device: torch.device) -> tuple[list[Figures], list[Figures]]:
    """Profile a step, compiled or not.

    Returns:
        for each, the number and lines of the host's synchronisations, the number of kernels, and
        their milliseconds; and the figures of `longest_kernels`.
    """
    steps, kernels = list[Figures](), list[Figures]()
    clips = PROFILED_CLIPS if device.type == "cuda" else 1
    for compiled, precision in product(config.step.compile, config.step.precisions):
        run = step_run(config, clips, precision=precision, compile=compiled)
        worker = Worker(device=device)
        step = partial(make_step(run, worker, *first_batch(run, worker)), 1)
        for _ in range(WARM_UP_STEPS):
            step()
        lines = synchronising_lines(step, device)
        found = longest_kernels(step, device)
        way = {"precision": precision, "compiled": compiled, "clips": clips}
        steps.append(
            {
                **way,
                "syncs": lines.total(),
                "lines": ", ".join(f"{line} × {number}" for line, number in lines.items()),
                "kernels": sum(each["calls"] for each in found),
                "kernel_ms": sum(each["ms"] for each in found),
            }
        )
        kernels += [{**each, **way} for each in found[:LONGEST_KERNELS]]
        torch.compiler.reset()
    return steps, kernels


def synchronising_lines(work: Callable[[], object], device: torch.device) -> Counter[str]:
    """Count where the host waits for the GPU in `work`: "file:line" of ctp -> times.

    torch reports copies to the host and the like, but not waiting for a stream or an event. What
    the backward pass waits for is at the line that starts it.
    """
    if device.type != "cuda":
        return Counter()
    torch.cuda.synchronize(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode itself warns that it is not complete
        torch.cuda.set_sync_debug_mode("warn")
    try:
        with counted_warnings(SYNC) as lines:
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return lines


@contextmanager
def counted_warnings(text: str, folder: Path = PACKAGE) -> Iterator[Counter[str]]:
    """Count warnings that contain a text, by the innermost line of the files in a folder.

    Yields:
        "file:line" -> times; "elsewhere" for none of these files.
    """
    lines: Counter[str] = Counter()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if text in str(message):
            lines[_innermost_line(folder)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield lines


def _innermost_line(folder: Path) -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        # this module calls all others
        if folder in path.parents and path != Path(__file__):
            return f"{path.relative_to(folder)}:{frame.lineno}"
    return "elsewhere"


def longest_kernels(work: Callable[[], object], device: torch.device) -> list[Figures]:
    """Return the name, calls and time of each kernel of the device in `work`, the longest first.

    On a CPU, they are torch's operators.

    Returns:
        "kernel", "calls", "ms" of all calls, and "share" of the time of all kernels.
    """
    on_gpu = device.type == "cuda"
    kind = "CUDA" if on_gpu else "CPU"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        work()
        wait_for(device)
    # operators on the CPU have the time of their kernels, too: it would count twice
    events = [each for each in profiler.key_averages() if each.device_type.name == kind]
    taken = {
        each.key: (each.count, each.self_device_time_total if on_gpu else each.self_cpu_time_total)
        for each in events
        if not each.is_user_annotation
    }
    total = sum(microseconds for _, microseconds in taken.values())
    return [
        {"kernel": name, "calls": calls, "ms": microseconds / 1e3, "share": microseconds / total}
        for name, (calls, microseconds) in sorted(taken.items(), key=lambda each: -each[1][1])
    ]
