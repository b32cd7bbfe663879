"""The CPU cores that a training worker needs, and the bottleneck of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ctp.bench.config import BenchConfig
from ctp.bench.tables import format_number
from ctp.bench.timing import Figures

if TYPE_CHECKING:  # it brings PyAV
    from ctp.bench.ingest import LoaderTiming

CORES_PER_WORKER = 1
"""CPU cores that each training worker needs besides the actors'."""
ASSUMED_GPU_CLIPS_PER_SECOND = 1000.0
ASSUMED_EFFICIENCY = 0.85


class Place(NamedTuple):
    """Where a run is: its name, the GPUs and the CPU cores, of all machines together."""

    name: str
    num_gpus: int
    num_cores: int


def make_budget(
    place: Place,
    loader: str,
    cpu_ms_per_clip: float,
    efficiency: float,
    worker_clips_per_second: float,
) -> Figures:
    """Return the figures of a run.

    Args:
        place: one worker trains on each GPU; without a GPU, one on a core.
        loader: how clips are loaded.
        cpu_ms_per_clip: CPU time of a clip, in milliseconds of a core.
        efficiency: clips/s that reach the workers, as a fraction of ideal linear scaling.
        worker_clips_per_second: clips/s that one worker trains on.

    Returns:
        the arguments, "num_workers", "cores_per_worker", the cores that load the clips of one
        worker, and "worker_use", the share of the time in [0, 1] that workers need not wait.
    """
    num_workers = max(place.num_gpus, 1)
    cores_per_worker = worker_clips_per_second * cpu_ms_per_clip / 1e3 / efficiency
    # more workers than cores leave none
    cores = max(place.num_cores - CORES_PER_WORKER * num_workers, 0)
    return {
        "place": place.name,
        "num_gpus": place.num_gpus,
        "num_cores": place.num_cores,
        "loader": loader,
        "cpu_ms_per_clip": cpu_ms_per_clip,
        "efficiency": efficiency,
        "worker_clips_per_second": worker_clips_per_second,
        "num_workers": num_workers,
        "cores_per_worker": cores_per_worker,
        "worker_use": min(cores / (num_workers * cores_per_worker), 1.0),
    }


def describe_budget(budget: Figures) -> str:
    """Return a sentence with the bottleneck of a run."""
    device = "GPU" if budget["num_gpus"] else "worker on one core"
    own = CORES_PER_WORKER * budget["num_workers"]
    facts = (
        f"{budget['place']}, {budget['loader']}: a {device} trains on "
        f"{format_number(budget['worker_clips_per_second'])} clips/s and needs "
        f"{format_number(budget['cores_per_worker'])} core(s) that load clips. Of "
        f"{budget['num_cores']} core(s), {own} belong(s) to the worker(s), so "
    )
    if budget["worker_use"] == 1:
        return f"{facts}the training step is the bottleneck."
    waiting = 1 - budget["worker_use"]
    return f"{facts}data loading is the bottleneck: workers wait {waiting:.0%} of the time."


def make_budgets(
    config: BenchConfig,
    loaders: Sequence[LoaderTiming],
    efficiency: float | None,
    step_rate: float | None,
    here: Place,
) -> tuple[list[Figures], list[str]]:
    """Return the budgets of each of our loaders, and a sentence for each figure that is assumed.

    This machine comes first, if a training step was measured, and then the run of `config`.

    Args:
        config: its `gpus` and `cores` are those of the run.
        loaders: what a clip costs; baselines are left out.
        efficiency: measured fraction of ideal linear scaling, or None.
        step_rate: clips/s that a worker trains on here, or None if none was measured.
        here: this machine.
    """
    if not loaders:
        return [], []
    assumptions = []
    if efficiency is None:
        efficiency = ASSUMED_EFFICIENCY
        assumptions.append(
            f"Assumed: {efficiency:.0%} of the clips/s of ideal linear scaling reach the workers. "
            "Measure it with --what ingest,ray."
        )
    rate = config.gpu_clips_per_second or (step_rate if here.num_gpus else None)
    if rate is None:
        rate = ASSUMED_GPU_CLIPS_PER_SECOND
        assumptions.append(
            f"Assumed: a GPU trains on {rate:,.0f} clips/s, since none was measured. Set "
            "--gpu_clips_per_second."
        )
    run = Place(f"A run on {config.gpus} GPU(s)", config.gpus, config.cores)
    places = [(here, step_rate), (run, rate)]
    budgets = [
        # an efficiency of more than 1 is the noise of a shared machine
        make_budget(place, loader.name, loader.cpu.median, min(efficiency, 1.0), clips_per_second)
        for place, clips_per_second in places
        if clips_per_second is not None
        for loader in loaders
        if not loader.baseline
    ]
    return budgets, assumptions
