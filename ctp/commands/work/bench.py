"""Measure what a clip and a training step cost on this machine, and what limits a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from ctp.bench.budget import ASSUMED_GPU_CLIPS_PER_SECOND, Place, describe_budget, make_budgets
from ctp.bench.cases import measure_cases
from ctp.bench.config import BenchConfig
from ctp.bench.gpu import compare_with_cpu, gpu_config, profile_steps
from ctp.bench.steps import fastest_rate, measure_steps
from ctp.bench.tables import print_tables, to_json
from ctp.bench.timing import Figures, default_device, machine
from ctp.storage import Storage

TABLE_WIDTH = 100
ONCE = {"ray", "readers", "gpu"}
"""Parts that are measured once, since they take long."""


def run(config: BenchConfig) -> None:
    """Measure, print tables and write the figures; raises as `measure`."""
    out = Storage.from_uri(config.out)
    out.parent.check_output()
    figures, sentences = measure(config)
    found = machine()
    about = {"machine": found._asdict(), "config": config.model_dump(mode="json")}
    out.write_bytes(to_json({**about, **figures}).encode())
    # a file has no width
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    console.print(f"{found.cpu}, {found.cores} CPU core(s), {found.gpus}, torch {found.torch}")
    print_tables(console, figures)
    for sentence in sentences:
        console.print(f"\n{sentence}")
    print(f"wrote {out.uri}")


def measure(config: BenchConfig) -> tuple[dict[str, Sequence[Figures]], list[str]]:
    """Measure the parts of `config.what`.

    Returns:
        the figures of each part, empty for those that are not measured; and sentences on the
        bottleneck of a run.

    Raises:
        ValueError: a video, a baseline or the cluster does not fit, or there is no GPU.
    """
    found = machine()
    if "gpu" in config.what and not found.num_gpus:
        raise ValueError(
            "--what gpu needs a GPU, and torch finds none. Use --what step, which times a step on "
            "a CPU, too"
        )
    times = f"{config.repeats} times"
    parts = [f"{part} {'once' if part in ONCE else times}" for part in config.what]
    print(f"measuring {', '.join(parts)}", file=sys.stderr)
    loaders, speeds, shown = [], [], []
    if "ingest" in config.what:
        from ctp.bench import ingest  # GPU machines may have no PyAV

        loaders = ingest.compare_loaders(config)
        shown = ingest.fastest_of_each(loaders)
        speeds = [ingest.describe_loader(each, loaders[0]) for each in loaders[1:]]
    long_files = list[Figures]()
    if "long" in config.what:
        from ctp.bench.long_files import describe_long, measure_long

        long_files = measure_long(config)
        speeds.append(describe_long(long_files))
    curation = list[Figures]()
    if "curate" in config.what:
        from ctp.bench.curation import describe_curation, measure_curation

        curation = measure_curation(config)
        speeds += map(describe_curation, curation)
    deliveries = []
    if "ray" in config.what:
        from ctp.cluster.delivery import measure_delivery  # nor Ray

        deliveries = [measure_delivery(config)]
    readers, scaling = _measure_readers(config) if "readers" in config.what else ([], [])
    steps = measure_steps(config) if "step" in config.what else []
    equality, profiles, kernels = list[Figures](), list[Figures](), list[Figures]()
    if "gpu" in config.what:
        checked = gpu_config(config)
        equality = compare_with_cpu(checked, default_device())
        profiles, kernels = profile_steps(checked, default_device())
        steps += measure_steps(checked)
    timings = measure_cases(config)
    efficiency = deliveries[0].efficiency if deliveries else None
    here = Place(f"This machine ({found.gpus})", found.num_gpus, found.cores)
    budgets, assumptions = make_budgets(config, loaders, efficiency, fastest_rate(steps), here)
    figures: dict[str, Sequence[Figures]] = {
        "ingest": [loader.figures(loaders[0]) for loader in shown],
        "loaders": [loader.figures(loaders[0]) for loader in loaders],
        "long": long_files,
        "curate": curation,
        "ray": [delivery.figures() for delivery in deliveries],
        "readers": readers,
        "step": steps,
        "equality": equality,
        "profile": profiles,
        "kernels": kernels,
        "timings": [timing.figures() for timing in timings],
        "budget": budgets,
    }
    return figures, [*speeds, *scaling, *assumptions, *map(describe_budget, budgets)]


def _measure_readers(config: BenchConfig) -> tuple[list[Figures], list[str]]:
    from ctp.cluster.readers import describe_scaling, measure_readers

    figures = measure_readers(config)
    rate = config.gpu_clips_per_second or ASSUMED_GPU_CLIPS_PER_SECOND
    return figures, describe_scaling(figures[-1], rate)
