"""The CPU cores that a GPU needs, and the bottleneck of a run."""

from __future__ import annotations

from collections.abc import Sequence

from ctp.bench.config import BenchConfig
from ctp.bench.ingest import LoaderTiming
from ctp.bench.timing import Figures

CORES_PER_WORKER = 1
"""CPU cores that each training worker needs besides the actors'."""
ASSUMED_GPU_CLIPS_PER_SECOND = 1000.0
ASSUMED_EFFICIENCY = 0.85


def make_budget(
    loader: str,
    cpu_ms_per_clip: float,
    efficiency: float,
    gpu_clips_per_second: float,
    num_gpus: int,
    num_cores: int,
) -> Figures:
    """Return the figures of a run on some GPUs and CPU cores.

    Args:
        loader: how clips are loaded.
        cpu_ms_per_clip: CPU time of a clip, in milliseconds of a core.
        efficiency: clips/s that reach the workers, as a fraction of ideal linear scaling.
        gpu_clips_per_second: clips/s that one GPU trains on.
        num_gpus, num_cores: of all machines together.

    Returns:
        the arguments, "cores_per_gpu", the cores that load the clips of one GPU, and "gpu_use",
        the share of the time in [0, 1] that the GPUs need not wait for clips.
    """
    cores_per_gpu = gpu_clips_per_second * cpu_ms_per_clip / 1e3 / efficiency
    # more workers than cores leave none
    cores = max(num_cores - CORES_PER_WORKER * num_gpus, 0)
    return {
        "loader": loader,
        "cpu_ms_per_clip": cpu_ms_per_clip,
        "efficiency": efficiency,
        "gpu_clips_per_second": gpu_clips_per_second,
        "num_gpus": num_gpus,
        "num_cores": num_cores,
        "cores_per_gpu": cores_per_gpu,
        "gpu_use": min(cores / (num_gpus * cores_per_gpu), 1.0),
    }


def describe_budget(budget: Figures) -> str:
    """Return a sentence with the bottleneck of a run."""
    facts = (
        "{loader}: a GPU needs {cores_per_gpu:.1f} cores that load clips; with {num_gpus} GPU(s) "
        "of {gpu_clips_per_second:,.0f} clips/s and {num_cores} cores, of which each GPU's worker "
        f"needs {CORES_PER_WORKER}, "
    ).format_map(budget)
    if budget["gpu_use"] == 1:
        return f"{facts}the training step is the bottleneck."
    waiting = 1 - budget["gpu_use"]
    return f"{facts}data loading is the bottleneck: the GPUs wait {waiting:.0%} of the time."


def make_budgets(
    config: BenchConfig,
    loaders: Sequence[LoaderTiming],
    efficiency: float | None,
    gpu_clips_per_second: float | None,
) -> tuple[list[Figures], list[str]]:
    """Return the budget of each of our loaders, and a sentence for each figure that is assumed.

    Args:
        config: the run.
        loaders: what a clip costs; baselines are left out.
        efficiency: measured fraction of ideal linear scaling, or None.
        gpu_clips_per_second: measured clips/s of a GPU, or None.
    """
    if not loaders:
        return [], []
    assumptions = []
    rate = config.gpu_clips_per_second or gpu_clips_per_second
    if rate is None:
        rate = ASSUMED_GPU_CLIPS_PER_SECOND
        assumptions.append(
            f"Assumed: a GPU trains on {rate:,.0f} clips/s, since none was measured. Set "
            "--gpu_clips_per_second."
        )
    if efficiency is None:
        efficiency = ASSUMED_EFFICIENCY
        assumptions.append(
            f"Assumed: {efficiency:.0%} of the clips/s of ideal linear scaling reach the workers. "
            "Measure it with --what ingest,ray."
        )
    budgets = [
        make_budget(
            loader=loader.name,
            cpu_ms_per_clip=loader.cpu.median,
            efficiency=min(efficiency, 1.0),  # more is the noise of a shared machine
            gpu_clips_per_second=rate,
            num_gpus=config.gpus,
            num_cores=config.cores,
        )
        for loader in loaders
        if not loader.baseline
    ]
    return budgets, assumptions
