"""Measure what a clip and a step cost on this machine, and what that means for a run."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

import av
import numpy as np
import torch
from annotated_types import Ge, Gt, MinLen
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from ctp import recipes
from ctp.bench.baselines import BASELINES, READ, BaselineName, LoaderTiming, compare
from ctp.bench.budget import Budget
from ctp.bench.flops import StepTiming, count_flops, peak_tflops
from ctp.bench.loading import ON_DEVICE, draw_requests, ours
from ctp.bench.timing import (
    Case,
    Timing,
    machine,
    measure,
    one_thread,
    usable_cores,
    wait_for,
)
from ctp.build.config import TranscodeConfig
from ctp.cli import CommandLine, describe
from ctp.config import Config
from ctp.data.catalog import Sources, open_catalog, prepare_corpus
from ctp.data.plan import Plan
from ctp.data.quarantine import QuarantineLimitError
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.config import PRESETS, GameConfig
from ctp.pretext.ctp.game import play
from ctp.pretext.ctp.loss import tracking_loss
from ctp.pretext.ctp.tracker import Tracker
from ctp.pretext.pretrain import build_model
from ctp.rng import generator
from ctp.storage import Storage, StorageError
from ctp.training.step import (
    Loss,
    arrange,
    autocast,
    build_optimizer,
    prepare,
    train_step,
)
from ctp.video.augment import to_input
from ctp.video.config import AugmentConfig, SamplingConfig
from ctp.video.encoded import EncodedVideo, VideoError

ABOUT = """Measure what a clip and a step cost on this machine, and what that means for a run.

  ingest  making clips on one core, stage by stage, from transcoded and from original videos, the
          game played on the CPU (cpu) or left to the device (device); against --baseline on the
          same clips
  ray     the run's stream through Ray as it reaches a training worker, against one process that
          makes the same clips; memory of all processes
  step    a training step, per encoder, precision, memory format, compiled or not
  game    playing Catch-the-Patch on decoded frames, in both presets
  plan    looking up a position of the stream, among few and very many videos

With ingest it says what limits a run of --gpus GPUs on --cores cores."""

Bench = Literal["ingest", "ray", "step", "game", "plan"]
ALL: tuple[Bench, ...] = ("ingest", "ray", "step", "game", "plan")
Encoder = Literal["tiny", "r3d18", "r2plus1d18"]
Precision = Literal["fp32", "tf32", "bf16"]

MAX_VIDEOS = 32
"""Videos that are read in turn."""
REPORT_WIDTH = 100
PLAN_SIZES = (10_000, 1_000_000_000)
LOOKUPS = 200
"""Look-ups for each clip of a repeat."""
CPU_STEP_CLIPS, GPU_STEP_CLIPS = 1, 32
GPU_STEPS_PER_REPEAT = 10
ASSUMED_GPU_CLIPS_PER_SECOND = 1000.0
ASSUMED_DELIVERED_RATIO = 0.85
OURS: tuple[tuple[TranscodeConfig | None, Literal["cpu", "device"]], ...] = (
    (TranscodeConfig(), "device"),
    (TranscodeConfig(), "cpu"),
    (None, "device"),
    (None, "cpu"),
)
PAPER_ENCODERS: tuple[Encoder, ...] = ("r3d18", "r2plus1d18")
STEP_RECIPES: dict[Encoder, Callable[[], PretrainConfig]] = {
    "tiny": recipes.tiny,
    "r3d18": recipes.ucf101_r3d18,
    "r2plus1d18": recipes.ucf101_r2plus1d18,
}

STAGES = (READ, "draw", "open", "decode", "convert", "augment", "game", "colours")
"""Of all loaders, on the CPU."""
DEVICE_STAGES = tuple(ON_DEVICE + name for name in ("transfer", "convert", "game", "colours"))
DELIVERY_FIGURES = {
    "num_actors": "actors",
    "clips": "clips",
    "clips_per_second": "clips/s",
    "alone_clips_per_second": "clips/s of one process alone",
    "ratio": "clips/s of actors × alone",
    "cpu_ms_per_clip": "core ms a clip, all processes",
    "alone_cpu_ms_per_clip": "core ms a clip, alone",
    "cpu_ratio": "core time that makes clips",
    "wait_share": "waiting for data",
    "peak_memory_mib": "MiB at most, all processes",
    "peak_shared_mib": "of these in the object store",
    "mib_per_1000_clips": "MiB more for 1000 clips more",
}


class BenchDataConfig(Config):
    """The videos to make clips of."""

    uri: Sources = "corpus:32"
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""


class BenchRayConfig(Config):
    """The stream through Ray."""

    uri: Sources = ()
    """Other videos for it than data.uri, e.g. shards; none: the same."""
    num_actors: Annotated[int, Ge(1)] | None = None
    """Actors that make clips; none: one for each core."""
    clips: Annotated[int, Ge(1)] = 4000
    """Clips to time, after a quarter as many to warm up. Whether memory grows shows after 20000."""
    total_batch: Annotated[int, Ge(1)] = 32
    """Clips in a batch of the one worker."""
    play_on: Annotated[tuple[Literal["cpu", "device"], ...], MinLen(1)] = ("device", "cpu")
    """Where the game is played, as of scaling.play_on; one after the other."""


class BenchStepConfig(Config):
    """The training steps: each encoder in each precision, format, compiled or not."""

    encoders: tuple[Encoder, ...] = ()
    """Some of tiny (all of that recipe), r3d18, r2plus1d18; none: all, on a GPU without tiny."""
    precisions: tuple[Precision, ...] = ()
    """Some of fp32, tf32, bf16; none: all on a GPU, on a CPU fp32."""
    channels_last: tuple[bool, ...] = ()
    """Whether weights are laid out as channels_last_3d; none: false, on a GPU both."""
    compile: tuple[bool, ...] = ()
    """Whether torch.compile builds the model; none: false, on a GPU both."""
    clips: Annotated[int, Ge(1)] | None = None
    """Clips in a step of the paper's encoders; none: 32 on a GPU, 1 on a CPU."""


class BenchConfig(Config):
    """What to measure, and how often. The clips are the paper's unless said otherwise."""

    what: Annotated[tuple[Bench, ...], MinLen(1)] = ALL
    """What to measure: some of ingest,ray,step,game,plan."""
    out: str = "bench.json"
    """File for the figures, local or s3://."""
    repeats: Annotated[int, Ge(1)] = 7
    """Measurements of each, taken in turn with the others."""
    clips_per_repeat: Annotated[int, Ge(1)] = 32
    """Clips made in a measurement."""
    data: BenchDataConfig = BenchDataConfig()
    """The videos to make clips of."""
    baseline: tuple[BaselineName, ...] = ()
    """Other loaders to compare with: some of opencv-zip-jpeg,torchcodec,torchcodec-approximate."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames make a clip."""
    augment: AugmentConfig = AugmentConfig()
    """How a clip is varied."""
    game: GameConfig = GameConfig()
    """The rules of Catch-the-Patch."""
    ray: BenchRayConfig = BenchRayConfig()
    """The stream through Ray."""
    step: BenchStepConfig = BenchStepConfig()
    """The training steps."""
    gpus: Annotated[int, Ge(1)] = 8
    """GPUs of the run of which is said what limits it."""
    cores: Annotated[int, Ge(1)] = 96
    """CPU cores of that run, on all machines together."""
    gpu_clips_per_second: Annotated[float, Gt(0)] | None = None
    """What a GPU of that run takes; none: the fastest step measured on a GPU, else about 1000."""


def standard() -> BenchConfig:
    """Everything: some minutes."""
    return BenchConfig()


def quick() -> BenchConfig:
    """Everything, three times and on fewer clips: a first look."""
    return BenchConfig(repeats=3, clips_per_repeat=8, ray=BenchRayConfig(clips=1000))


RECIPES = {"standard": standard, "quick": quick}


@dataclass(frozen=True)
class Figures:
    """What was measured, and what follows from it. What was not asked for is empty."""

    loaders: list[LoaderTiming]
    deliveries: list[Mapping[str, Any]]
    steps: list[StepTiming]
    timings: list[Timing]
    budgets: list[Budget]
    assumed: list[str]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "ingest": [_loader_row(loader, self.loaders) for loader in self.loaders],
            "ray": self.deliveries,
            "step": [step.as_row() for step in self.steps],
            "timings": [timing.as_row() for timing in self.timings],
            "budget": [budget.as_row() for budget in self.budgets],
            "assumed": self.assumed,
        }


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print tables and write the figures."""
    _, config = CommandLine(RECIPES, "standard", ABOUT).parse(argv)
    try:
        out = Storage.of(config.out)
        out.parent.check_writable()
        figures = run(config)
        about = {"machine": machine(), "config": config.model_dump(mode="json")}
        text = json.dumps(about | figures.as_json(), indent=1, ensure_ascii=False)
        out.write_bytes(text.encode())
    except ValidationError as error:
        sys.exit(f"error: {describe(error, PretrainConfig)}")
    except (ValueError, StorageError, QuarantineLimitError, ConnectionError) as error:
        sys.exit(f"error: {error}")
    # what is no terminal has no width; 80 columns would be too few
    _show(figures, Console(width=None if sys.stdout.isatty() else REPORT_WIDTH))
    print(f"wrote {out.uri}")


def run(config: BenchConfig) -> Figures:
    """Measure what is asked for.

    Raises:
        ValueError: there are no videos, or none that can be used; or a baseline is missing.
    """
    print(f"measuring {', '.join(config.what)}, {config.repeats} time(s) each", file=sys.stderr)
    paper = _clip_config(config)
    loaders = compare_loaders(config) if "ingest" in config.what else []
    deliveries = deliver_clips(config) if "ray" in config.what else []
    steps = measure_steps(config) if "step" in config.what else []
    cases = [case for name in config.what for case in CASES.get(name, _no_cases)(config, paper)]
    with one_thread():
        timings = measure(cases, config.repeats)
    budgets = make_budgets(config, loaders[: len(OURS)], deliveries, steps)
    assumed = _assumptions(config, deliveries, steps) if budgets else []
    return Figures(loaders, deliveries, steps, timings, budgets, assumed)


# ---- ingest -------------------------------------------------------------------------------------


def compare_loaders(config: BenchConfig) -> list[LoaderTiming]:
    """Ours in its four forms, then the baselines, on the same clips, on one core."""
    device = _device()
    loaders = [ours(device, transcoding, play_on=play_on) for transcoding, play_on in OURS]
    loaders += [BASELINES[name](device) for name in config.baseline]
    videos = _usable_videos(config)
    clips = config.clips_per_repeat
    requests = draw_requests(videos, clips, config.sampling, config.augment, config.game, seed=0)
    with one_thread():
        return compare(loaders, videos, requests, repeats=config.repeats)


def _usable_videos(config: BenchConfig) -> list[EncodedVideo]:
    """The first videos, those that can be decoded.

    Raises:
        ValueError: there is none.
    """
    catalog = open_catalog(config.data.uri)[:MAX_VIDEOS]
    prepare_corpus(catalog)
    usable, sizes = [], set()
    for entry in catalog:
        try:
            video = entry.read()
            draw_requests([video], 1, config.sampling, config.augment, config.game, seed=0)
        except VideoError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        usable.append(video)
        sizes.add(_picture_size(video))
    if not usable:
        raise ValueError(f"data.uri: none of the videos of {config.data.uri!r} can be used")
    shown = ", ".join(f"{width}×{height}" for width, height in sorted(sizes)[:4])
    more = ", …" if len(sizes) > 4 else ""
    print(f"{len(usable)} video(s) of {shown}{more}", file=sys.stderr)
    return usable


def _picture_size(video: EncodedVideo) -> tuple[int, int]:
    """Width and height of a video's pictures as they are stored."""
    with av.open(io.BytesIO(video.data), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        return stream.width, stream.height


def _loader_row(loader: LoaderTiming, loaders: Sequence[LoaderTiming]) -> dict[str, Any]:
    return {
        "name": loader.name,
        "kib_per_video": loader.kib_per_video,
        "cpu": loader.cpu.as_row(),
        "stages": [stage.as_row() for stage in loader.stages],
        "ratios": {other.name: other.times(loader).median for other in loaders[len(OURS) :]},
    }


# ---- ray ----------------------------------------------------------------------------------------


def deliver_clips(config: BenchConfig) -> list[Mapping[str, Any]]:
    """The stream through Ray, for each place where the game can be played."""
    # not at the top: the rest runs on GPU machines that have no Ray
    from ctp.cluster.connect import cluster, run_demands
    from ctp.cluster.delivery import deliver

    catalog = open_catalog(config.ray.uri or config.data.uri)
    prepare_corpus(catalog)
    runs = [_stream_config(config, play_on) for play_on in config.ray.play_on]
    with cluster(run_demands(runs[0].scaling)):
        return [deliver(ClipMaker(run, catalog), config.ray.clips).as_row() for run in runs]


def _stream_config(config: BenchConfig, play_on: str) -> PretrainConfig:
    return _clip_config(config).replace(
        compute={"total_batch": config.ray.total_batch},
        scaling={"num_actors": config.ray.num_actors or usable_cores(), "play_on": play_on},
    )


# ---- step ---------------------------------------------------------------------------------------


def measure_steps(config: BenchConfig) -> list[StepTiming]:
    """A training step of each kind on the device there is, one kind after the other: together
    they would not fit a GPU."""
    timings = []
    for name, run in _step_configs(config):
        try:
            timings.append(_time_step(name, run, config.repeats))
        except torch.OutOfMemoryError:
            print(f"left out: {name} ran out of memory; lower --step.clips", file=sys.stderr)
        # compiled code of many models in a row is given up, silently, if it is kept
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return timings


def _step_configs(config: BenchConfig) -> Iterator[tuple[str, PretrainConfig]]:
    """The name of the encoder and the config of each kind of step."""
    step, on_gpu = config.step, torch.cuda.is_available()
    clips = step.clips or (GPU_STEP_CLIPS if on_gpu else CPU_STEP_CLIPS)
    both = (False, True) if on_gpu else (False,)
    for name, precision, channels_last, compiled in product(
        step.encoders or (PAPER_ENCODERS if on_gpu else ("tiny", *PAPER_ENCODERS)),
        step.precisions or (("fp32", "tf32", "bf16") if on_gpu else ("fp32",)),
        step.channels_last or both,
        step.compile or both,
    ):
        run = STEP_RECIPES[name]()
        if name in PAPER_ENCODERS:
            run = _with_clips_of(config, run)
        compute = {
            "total_batch": clips if name in PAPER_ENCODERS else run.compute.total_batch,
            "precision": precision,
            "channels_last": channels_last,
            "compile": compiled,
        }
        yield name, run.replace(compute=compute, scaling={})


def _time_step(name: str, config: PretrainConfig, repeats: int) -> StepTiming:
    """Forward, loss, backward and update of a whole batch of noise."""
    device, compute = _device(), config.compute
    model = build_model(config)
    prepare(model, compute, device)
    parameters, optimizer = list(model.parameters()), build_optimizer(config.optimizer, model)
    frames, boxes = _noise_batch(config, device)

    def go_through() -> None:
        _loss(model, model, config, frames, boxes).total.backward()  # type: ignore[no-untyped-call]

    network: torch.nn.Module = model
    if compute.compile:
        network = torch.compile(model)  # type: ignore[assignment]
    steps = GPU_STEPS_PER_REPEAT if device.type == "cuda" else 1

    def work(repeat: int) -> None:
        for _ in range(steps):
            train_step(
                lambda: _loss(network, model, config, frames, boxes),
                parameters,
                optimizer,
                config.optimizer.max_gradient_norm,
                1e-6,  # noise teaches nothing; keep the weights where they are
            )
        wait_for(device)

    (timing,) = measure([Case(f"step, {name}", work, steps)], repeats)
    return StepTiming(
        encoder=name,
        precision=compute.precision,
        channels_last=compute.channels_last,
        compiled=compute.compile,
        clips=compute.total_batch,
        timing=timing,
        flops=count_flops(go_through),
        peak_tflops=_peak(device, compute.precision),
    )


def _loss(
    network: torch.nn.Module,
    model: Tracker,
    config: PretrainConfig,
    frames: torch.Tensor,
    boxes: torch.Tensor,
) -> Loss:
    clips = arrange(to_input(frames), config.compute)
    with autocast(config.compute, frames.device):
        offsets = network(clips, boxes[:, :, 0])
    return tracking_loss(offsets, boxes, model.sigma)


def _noise_batch(config: PretrainConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames uint8 [B, T, H, W, 3] of noise, and boxes float32 [B, K, T, 4] in their middle."""
    size, batch = config.augment.frame_size_px, config.compute.total_batch
    num_frames, num_patches = config.sampling.num_frames, config.game.num_patches
    rng = generator(0, "bench")
    frames = rng.integers(0, 256, (batch, num_frames, size, size, 3), np.uint8)
    box = torch.tensor([0.25, 0.25, 0.75, 0.75]) * size
    boxes = box.expand(batch, num_patches, num_frames, 4).contiguous()
    return torch.as_tensor(frames).to(device), boxes.to(device)


def _peak(device: torch.device, precision: str) -> float | None:
    if device.type == "cpu":
        return None
    return peak_tflops(torch.cuda.get_device_name(device), precision)


# ---- game, plan ---------------------------------------------------------------------------------


def game_cases(config: BenchConfig, paper: PretrainConfig) -> list[Case]:
    """The game of both presets, drawn and played, on frames of noise, which cost what others do."""
    size = paper.augment.frame_size_px
    shape = (paper.sampling.num_frames, size, size, 3)
    frames = generator(0, "bench").integers(0, 256, shape, np.uint8)

    def work(name: str) -> Callable[[int], None]:
        game = PRESETS[name]()

        def play_some(repeat: int) -> None:
            for clip in range(config.clips_per_repeat):
                play(frames, game, generator(0, "bench", repeat, clip))

        return play_some

    return [Case(f"game, {name}", work(name), config.clips_per_repeat, note="drawn and played")
            for name in PRESETS]  # fmt: skip


def plan_cases(config: BenchConfig, paper: PretrainConfig) -> list[Case]:
    """Look-ups at scattered positions."""
    lookups = LOOKUPS * config.clips_per_repeat

    def work(num_videos: int) -> Callable[[int], None]:
        plan = Plan(0, num_videos)

        def look_up(repeat: int) -> None:
            for number in range(lookups):
                plan.clip((repeat * lookups + number) * 7919)

        return look_up

    return [
        Case(f"plan look-up, {size:,} videos", work(size), lookups, "µs") for size in PLAN_SIZES
    ]


def _no_cases(config: BenchConfig, paper: PretrainConfig) -> list[Case]:
    return []


CASES = {"game": game_cases, "plan": plan_cases}


# ---- what follows -------------------------------------------------------------------------------


def make_budgets(
    config: BenchConfig,
    loaders: Sequence[LoaderTiming],
    deliveries: Sequence[Mapping[str, Any]],
    steps: Sequence[StepTiming],
) -> list[Budget]:
    """For each of our loaders, the run of `config.gpus` GPUs on `config.cores` cores."""
    # more than all that the cores can make is the noise of a shared machine
    ratios = {row["play_on"]: min(row["ratio"], 1.0) for row in deliveries}
    rate = config.gpu_clips_per_second or _measured_gpu_rate(steps) or ASSUMED_GPU_CLIPS_PER_SECOND
    return [
        Budget(
            loader=loader.name,
            cpu_ms_per_clip=loader.cpu.median,
            delivered_ratio=ratios.get(play_on, ASSUMED_DELIVERED_RATIO),
            gpu_clips_per_second=rate,
            num_gpus=config.gpus,
            num_cores=config.cores,
        )
        for loader, (_, play_on) in zip(loaders, OURS, strict=False)
    ]


def _measured_gpu_rate(steps: Sequence[StepTiming]) -> float | None:
    """Of the fastest step; None where none was measured on a GPU."""
    on_gpu = [step.clips_per_second for step in steps if torch.cuda.is_available()]
    return max(on_gpu, default=None)


def _assumptions(
    config: BenchConfig, deliveries: Sequence[Mapping[str, Any]], steps: Sequence[StepTiming]
) -> list[str]:
    """What the budgets rest on that was not measured, a line each."""
    said = []
    if config.gpu_clips_per_second is None and _measured_gpu_rate(steps) is None:
        said.append(
            f"Assumed: a GPU takes {ASSUMED_GPU_CLIPS_PER_SECOND:,.0f} clips/s; none was measured. "
            "Give it by --gpu_clips_per_second."
        )
    missing = [play_on for play_on in ("device", "cpu")
               if play_on not in {row["play_on"] for row in deliveries}]  # fmt: skip
    if missing:
        said.append(
            f"Assumed: {ASSUMED_DELIVERED_RATIO} of what the cores make reaches the workers where "
            f"the game is played on {' or '.join(missing)}; --what ingest,ray measures it."
        )
    return said


def _clip_config(config: BenchConfig) -> PretrainConfig:
    """The paper's run, its clips as they are asked for."""
    return _with_clips_of(config, recipes.ucf101_r3d18())


def _with_clips_of(config: BenchConfig, run: PretrainConfig) -> PretrainConfig:
    return run.replace(sampling=config.sampling, augment=config.augment, game=config.game)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---- tables -------------------------------------------------------------------------------------


def _show(figures: Figures, console: Console) -> None:
    """Print a table of each part that was measured, and what follows."""
    about = machine()
    console.print("{cpu}, {cores} cores, device {device}, torch {torch}".format_map(about))
    if figures.loaders:
        console.print(_loader_table(figures.loaders))
    if figures.deliveries:
        console.print(_delivery_table(figures.deliveries))
    if figures.steps:
        console.print(_step_table(figures.steps))
    if figures.timings:
        console.print(_timing_table(figures.timings))
    for line in [*figures.assumed, *(budget.sentence() for budget in figures.budgets)]:
        console.print(line)


def _loader_table(loaders: Sequence[LoaderTiming]) -> Table:
    """A column for each loader, a row for each stage, medians."""
    table = _new_table(
        "ingest: core ms a clip, of the device ms of its time; ×: times what this loader takes",
        "stage",
    )
    for loader in loaders:
        table.add_column(loader.name, justify="right", overflow="fold")
    for name in STAGES:
        table.add_row(name, *(_stage_figure(loader, name) for loader in loaders))
    table.add_section()
    table.add_row("all on the CPU", *(_figure(loader.cpu.median) for loader in loaders))
    table.add_row("least of repeats", *(_figure(min(loader.cpu.repeats)) for loader in loaders))
    for other in loaders[len(OURS) :]:
        ratios = [_figure(other.times(loader).median) for loader in loaders]
        table.add_row(f"{other.name}, ×", *ratios)
    table.add_section()
    for name in DEVICE_STAGES:
        table.add_row(name, *(_stage_figure(loader, name) for loader in loaders))
    table.add_section()
    table.add_row("KiB a video", *(_figure(loader.kib_per_video) for loader in loaders))
    return table


def _stage_figure(loader: LoaderTiming, name: str) -> str:
    return next((_figure(stage.median) for stage in loader.stages if stage.name == name), "")


def _delivery_table(deliveries: Sequence[Mapping[str, Any]]) -> Table:
    """A column for each place where the game was played."""
    table = _new_table("ray: clips as they reach a training worker", "game played on")
    for row in deliveries:
        table.add_column(row["play_on"], justify="right")
    for name, shown in DELIVERY_FIGURES.items():
        table.add_row(shown, *(_figure(row[name]) for row in deliveries))
    return table


def _step_table(steps: Sequence[StepTiming]) -> Table:
    table = _new_table("step: forward, backward and update", "encoder")
    for name in ("precision", "channels last", "compiled"):
        table.add_column(name)
    for name in ("clips", "ms", "clips/s", "TFLOP/s", "MFU"):
        table.add_column(name, justify="right")
    for step in steps:
        yes = ["yes" if value else "" for value in (step.channels_last, step.compiled)]
        figures = (step.clips, step.timing.median, step.clips_per_second, step.tflops, step.mfu)
        table.add_row(step.encoder, step.precision, *yes, *map(_figure, figures))
    return table


def _timing_table(timings: Sequence[Timing]) -> Table:
    table = _new_table("on one core", "what")
    for name in ("median", "least", "most"):
        table.add_column(name, justify="right")
    table.add_column("unit")
    table.add_column("of")
    for timing in timings:
        figures = (timing.median, min(timing.repeats), max(timing.repeats))
        table.add_row(timing.name, *map(_figure, figures), timing.unit, timing.note)
    return table


def _new_table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
