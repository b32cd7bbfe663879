"""Figures as tables for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table

from ctp.bench.timing import DEVICE_STAGES, Figures, Timing

NO_FIGURE = "–"


class Meaning(NamedTuple):
    """How a figure is shown: its label with the unit, and what it is, in one line."""

    label: str
    explanation: str = ""


INGEST: dict[str, Meaning] = {
    "read": Meaning("read", "get the encoded video from the disk or object store"),
    "draw": Meaning("draw", "choose frames, crop, colours and the trajectories of the patches"),
    "open": Meaning("open", "find the pictures of the video and start a decoder"),
    "decode": Meaning("decode", "decode the frames; for our loader also crop and scale"),
    "convert": Meaning("convert", "YUV to RGB"),
    "augment": Meaning("augment", "crop, scale and mirror"),
    "paste": Meaning("paste", "paste the patches"),
    "colours": Meaning("colours", "change colours, and normalise"),
    "all on the CPU": Meaning("all on a CPU core", "the sum of the rows above"),
    "frames/s": Meaning("frames/s", "frames that a core reads, decodes and crops in a second"),
    **{
        stage: Meaning(stage.replace("device: ", "then in the step: "), explanation)
        for stage, explanation in zip(
            DEVICE_STAGES,
            (
                "copy clips to the worker's device",
                "convert to RGB, paste patches",
                "change colours",
            ),
            strict=True,
        )
    },
    "KiB a video": Meaning("KiB a video", "mean size of a stored video"),
}
LONG: dict[str, Meaning] = {
    "ms": Meaning("ms a clip", "open the video and decode 16 frames from anywhere in it"),
    "MiB read": Meaning("MiB read", "for a clip"),
    "memory, MiB": Meaning("memory, MiB", "most of Python and NumPy for a clip"),
    "first, ms": Meaning("ms of the first clip", "which also finds the frames"),
    "file, MiB": Meaning("MiB of the file"),
}
CURATE: dict[str, Meaning] = {
    "measure": Meaning("measure, hours/h", "hours of video that a core measures in an hour"),
    "encode": Meaning("encode, hours/h", "hours of video that a core encodes, if all is kept"),
    "PySceneDetect": Meaning(
        "PySceneDetect, hours/h", "its function detect, which finds cuts alone"
    ),
    "ratio": Meaning("× PySceneDetect", "how many times as fast we measure"),
}
RAY: dict[str, Meaning] = {
    "num_actors": Meaning("actors", "processes that draw samples, one for each CPU core"),
    "clips": Meaning("clips", "that were timed"),
    "clips_per_second": Meaning("clips/s", "that reach a worker that does nothing else"),
    "alone_clips_per_second": Meaning("clips/s, alone", "that one process draws without Ray"),
    "efficiency": Meaning("efficiency", "clips/s over actors times clips/s alone; 1 is ideal"),
    "cpu_ms_per_clip": Meaning("CPU ms a clip", "of all processes together"),
    "alone_cpu_ms_per_clip": Meaning("CPU ms a clip, alone", "of one process without Ray"),
    "cpu_efficiency": Meaning("CPU efficiency", "CPU ms alone over CPU ms; 1 is ideal"),
    "wait_share": Meaning("waiting", "share of the time that the worker waited for clips"),
    "peak_memory_mib": Meaning("memory, MiB", "most that all processes used together"),
    "peak_shared_mib": Meaning("shared memory, MiB", "most that was shared: the object store"),
    "mib_per_1000_clips": Meaning("MiB for 1,000 clips", "growth of the memory"),
}
READERS: dict[str, Meaning] = {
    "clips_per_block": Meaning("clips a block", "that Ray passes on together"),
    "mib_per_block": Meaning("MiB a block", "at most"),
    "blocks_per_second_of_a_reader": Meaning("blocks/s", "that each reader takes"),
    "reader_cpu_ms_per_block": Meaning("CPU ms a block", "of a reader, for all that Ray does"),
    "record_cpu_ms_per_block": Meaning(
        "CPU ms a block, record", "of the record of lost processes, which all readers share"
    ),
}
STEP: dict[str, Meaning] = {
    "precision": Meaning("precision", "of the arithmetic"),
    "compiled": Meaning("compiled", "whether torch.compile made the code"),
    "workers": Meaning("workers", "that take the step together"),
    "clips": Meaning("clips", "in a step, of all workers"),
    "ms": Meaning("ms a step", "transfer, patches, colours, model and update"),
    "gflops": Meaning("GFLOP a step", "of convolutions and matrix products"),
    "clips_per_second": Meaning("clips/s", "that all workers train on"),
    "tflops": Meaning("TFLOP/s", "that the device computed"),
    "mfu": Meaning("share of the peak", "of the GPU's data sheet (MFU)"),
    "GiB": Meaning("GPU memory, GiB", "most that was in use"),
    "speed-up": Meaning("× the authors' way", "how many times as fast as the authors' code"),
}
EQUALITY: dict[str, Meaning] = {
    "loss": Meaning("loss", "relative distance from that on the CPU in fp32"),
    "gradient": Meaning("gradient", "relative distance, by the norm"),
    "pixels": Meaning("pixels", "largest distance of the normalised pixels"),
    "equal": Meaning("equal", "whether rounding explains all distances"),
}
PROFILE: dict[str, Meaning] = {
    **{name: STEP[name] for name in ("compiled", "clips")},
    "syncs": Meaning("host syncs", "times that the host waits for the GPU in a step"),
    "lines": Meaning("at", "lines of ctp where it waits"),
    "kernels": Meaning("kernels", "that a step starts"),
    "kernel_ms": Meaning("ms of kernels", "that the GPU computes in a step"),
}
KERNELS = {name: name for name in ("kernel", "compiled", "precision", "calls", "ms", "share")}
SPREAD = {"name": "", "unit": "unit", "median": "median", "min": "fastest", "max": "slowest"}


def print_tables(console: Console, figures: Mapping[str, Sequence[Figures]]) -> None:
    """Print a table of each part that was measured, with what its rows mean."""
    for part, (title, show) in TABLES.items():
        if figures[part]:
            console.print(f"\n[bold]{part}: {title}[/bold]", show(figures[part]), sep="\n")


def figure_table(columns: Sequence[Figures], meanings: Mapping[str, Meaning]) -> Group:
    """Return a table with a column for each of `columns`, and lines that explain its rows.

    A row is a figure that at least one column has. A `Timing` is shown as its median. Series are
    left out. All columns have the same figures.
    """
    first, *names = columns[0]
    table = Table()
    table.add_column(first, no_wrap=True)
    for figures in columns:
        table.add_column(str(figures[first]), justify="right", overflow="fold")
    legend = Table.grid(padding=(0, 2))
    for name in names:
        values = [figures[name] for figures in columns]
        # series over time are in the JSON file alone
        if all(v is None for v in values) or any(isinstance(v, list | tuple) for v in values):
            continue
        label, explanation = meanings.get(name, Meaning(name.replace("_", " ")))
        table.add_row(label, *map(_text, values))
        if explanation:
            legend.add_row(label, explanation)
    return Group(table, legend)


def row_table(rows: Sequence[Figures], labels: Mapping[str, str]) -> Table:
    """Return a table with a row for each of `rows`, and a column for each of `labels`."""
    table = Table()
    first, *others = labels.values()
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for label in others:
        table.add_column(label, justify="right")
    for row in rows:
        table.add_row(*(_text(row[name]) for name in labels))
    return table


def to_json(results: Mapping[str, Any]) -> str:
    """Return results as JSON; a `Timing` becomes its figures."""
    return json.dumps(results, indent=1, ensure_ascii=False, default=Timing.figures)


def format_number(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _text(value: object) -> str:
    if isinstance(value, Timing):
        value = value.median
    if value is None:
        return NO_FIGURE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    return format_number(value)


TABLES: dict[str, tuple[str, Callable[[Sequence[Figures]], RenderableType]]] = {
    "ingest": (
        "ms that a clip takes, by loader; of each baseline the fastest way",
        partial(figure_table, meanings=INGEST),
    ),
    "long": ("a clip of one long MP4 file", partial(figure_table, meanings=LONG)),
    "curate": ("curating raw H.264 video, by its size", partial(figure_table, meanings=CURATE)),
    "ray": ("clips as they reach a training worker", partial(figure_table, meanings=RAY)),
    "readers": (
        "what Ray costs a training worker, by the number of workers",
        partial(figure_table, meanings=READERS),
    ),
    "step": ("a training step", partial(figure_table, meanings=STEP)),
    "equality": (
        "a step on the GPU against the CPU in fp32",
        partial(figure_table, meanings=EQUALITY),
    ),
    "profile": ("a step on the GPU", partial(figure_table, meanings=PROFILE)),
    "kernels": ("the longest kernels of a step", partial(row_table, labels=KERNELS)),
    "timings": ("the other parts, on one core", partial(row_table, labels=SPREAD)),
}
"""For each part, what its table shows, and the function that makes it."""
