"""Measure what a clip and a step cost on this machine."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import av
import numpy as np
import torch
from annotated_types import Ge, MinLen
from rich.console import Console
from rich.table import Table

from ctp import recipes
from ctp.analysis.timing import Case, Timing, machine, measure
from ctp.cli import CommandLine
from ctp.clip import VideoError
from ctp.config import Config
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp import CtpModel, build_model, tracking_loss
from ctp.rng import generator
from ctp.storage import Storage, StorageError
from ctp.synthesis.config import PRESETS
from ctp.synthesis.game import play
from ctp.training.step import LossTerms, autocast, build_optimizer, prepare, train_step
from ctp.video.augment import sample_color, sample_crop, to_input
from ctp.video.catalog import Catalog, Sources, VideoEntry, open_catalog, prepare_corpus
from ctp.video.decode import VideoReader
from ctp.video.plan import Plan
from ctp.video.quarantine import QuarantineLimitError
from ctp.video.sampling import sample_frames

ABOUT = """Measure what a clip and a step cost on this machine.

  game    playing Catch-the-Patch on decoded frames, in both presets
  decode  reading a video, decoding a clip's frames, scaling and cropping them
  clip    all of it: from a position of the stream to a training clip
  color   changing colours and normalising, on the device
  step    a training step: recipe tiny's, and the paper's R3D-18 (on a CPU with one clip)
  plan    looking up a position of the stream, among few and very many videos

Clips are the paper's: 16 frames of 112 px, 3 patches. Clips are made on one core, as an actor
does; steps use all."""

PAPER_RECIPE = recipes.ucf101_r3d18
MAX_VIDEOS = 32
"""Videos that are read in turn."""
CPU_STEP_CLIPS = 1
"""Clips in the paper's step where there is no GPU."""
COLOR_CLIPS = 8
REPORT_WIDTH = 120
PLAN_SIZES = (10_000, 1_000_000_000)

Bench = Literal["game", "decode", "clip", "color", "step", "plan"]
ALL: tuple[Bench, ...] = ("game", "decode", "clip", "color", "step", "plan")


class BenchDataConfig(Config):
    """The videos to decode."""

    uri: Sources = "corpus:32"
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""


class BenchConfig(Config):
    """What to measure, and how often."""

    what: Annotated[tuple[Bench, ...], MinLen(1)] = ALL
    """What to measure: some of game,decode,clip,color,step,plan."""
    out: str = "bench.json"
    """File for the figures, local or s3://."""
    repeats: Annotated[int, Ge(1)] = 7
    """Measurements of each, taken in turn with the others."""
    clips_per_repeat: Annotated[int, Ge(1)] = 8
    """Clips made in a measurement."""
    data: BenchDataConfig = BenchDataConfig()
    """The videos to decode."""


def standard() -> BenchConfig:
    """Everything: some minutes."""
    return BenchConfig()


def quick() -> BenchConfig:
    """Everything, three times: a first look."""
    return BenchConfig(repeats=3, clips_per_repeat=4)


RECIPES = {"standard": standard, "quick": quick}


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print a table and write it."""
    _, config = CommandLine(RECIPES, "standard", ABOUT).parse(argv)
    try:
        out = Storage.of(config.out)
        out.parent.check_writable()
        timings = run(config)
        rows = [timing.as_row() for timing in timings]
        result = {"machine": machine(), "config": config.model_dump(mode="json"), "rows": rows}
        out.write_bytes(json.dumps(result, indent=1, ensure_ascii=False).encode())
    except (ValueError, StorageError, QuarantineLimitError) as error:
        sys.exit(f"error: {error}")
    # what is no terminal has no width; 80 columns would be too few
    Console(width=None if sys.stdout.isatty() else REPORT_WIDTH).print(_table(timings))
    print(f"wrote {out.uri}")


def run(config: BenchConfig) -> list[Timing]:
    """Measure what is asked for.

    Raises:
        ValueError: there are no videos, or none that can be used.
    """
    print(f"measuring {', '.join(config.what)}, {config.repeats} time(s) each", file=sys.stderr)
    timings: list[Timing] = []
    on_one_core = [case for name in config.what if name != "step" for case in CASES[name](config)]
    with _one_thread():
        timings += measure(on_one_core, config.repeats)
    if "step" in config.what:  # its clips are many; not beside the others
        timings += measure(step_cases(config), config.repeats)
    return timings


def game_cases(config: BenchConfig) -> list[Case]:
    """The game of both presets on frames of noise, which cost what others do."""
    paper = PAPER_RECIPE()
    size = paper.augment.frame_size_px
    shape = (paper.sampling.num_frames, size, size, 3)
    frames = generator(0, "bench").integers(0, 256, shape, np.uint8)

    def work(name: str) -> Callable[[int], None]:
        game = PRESETS[name]()

        def play_some(repeat: int) -> None:
            for clip in range(config.clips_per_repeat):
                play(frames, game, generator(0, "bench", repeat, clip))

        return play_some

    note = f"{shape[0]}×{size}×{size}, K={paper.game.num_patches}"
    return [Case(f"game, {name}", work(name), config.clips_per_repeat, note=note)
            for name in PRESETS]  # fmt: skip


def decode_cases(config: BenchConfig) -> list[Case]:
    """Read, decode, scale and crop, video after video."""
    paper = PAPER_RECIPE()
    entries, sizes = _usable_videos(config)

    def decode_some(repeat: int) -> None:
        first = repeat * config.clips_per_repeat
        for number in range(first, first + config.clips_per_repeat):
            _decode(entries[number % len(entries)], paper, number)

    note = f"{len(entries)} video(s) of {sizes}"
    return [Case("read, decode, scale, crop", decode_some, config.clips_per_repeat, note=note)]


def clip_cases(config: BenchConfig) -> list[Case]:
    """The whole way from a position to a clip, with the game of both presets."""
    entries, sizes = _usable_videos(config)

    def work(name: str) -> Callable[[int], None]:
        paper = PAPER_RECIPE().replace(game=PRESETS[name](), seed=1)
        maker = ClipMaker(paper, Catalog.of(entries))

        def make_some(repeat: int) -> None:
            first = repeat * config.clips_per_repeat
            for position in range(first, first + config.clips_per_repeat):
                maker.at(position)

        return make_some

    note = f"{len(entries)} video(s) of {sizes}"
    return [Case(f"whole clip, {name}", work(name), config.clips_per_repeat, note=note)
            for name in PRESETS]  # fmt: skip


def color_cases(config: BenchConfig) -> list[Case]:
    """Colours and normalisation of a batch, as augmentation draws them and with no change."""
    paper, device = PAPER_RECIPE(), _device()
    size, num_frames = paper.augment.frame_size_px, paper.sampling.num_frames
    shape = (COLOR_CLIPS, num_frames, size, size, 3)
    rng = generator(0, "bench")
    frames = torch.as_tensor(rng.integers(0, 256, shape, np.uint8)).to(device)
    drawn = [sample_color(paper.augment, num_frames, rng) for _ in range(COLOR_CLIPS)]
    color = torch.as_tensor(np.stack(drawn))

    def change(repeat: int) -> None:
        to_input(frames, color)
        _wait(device)

    def normalise(repeat: int) -> None:
        to_input(frames)
        _wait(device)

    note = f"batches of {COLOR_CLIPS} on {device.type}"
    return [
        Case("colours, normalise", change, COLOR_CLIPS, note=note),
        Case("normalise alone", normalise, COLOR_CLIPS, note=note),
    ]


def plan_cases(config: BenchConfig) -> list[Case]:
    """Look-ups at scattered positions."""
    lookups = 200 * config.clips_per_repeat

    def work(num_videos: int) -> Callable[[int], None]:
        plan = Plan(0, num_videos)

        def look_up(repeat: int) -> None:
            for number in range(lookups):
                plan.clip((repeat * lookups + number) * 7919)

        return look_up

    return [
        Case(f"plan look-up, {size:,} videos", work(size), lookups, "µs") for size in PLAN_SIZES
    ]


def step_cases(config: BenchConfig) -> list[Case]:
    """A training step on the device there is: recipe tiny's and the paper's."""
    device = _device()
    paper, note = PAPER_RECIPE(), ""
    if device.type == "cpu":
        scaling = paper.scaling.replace(num_workers=1, use_gpu=False)
        compute = paper.compute.replace(total_batch=CPU_STEP_CLIPS)
        paper = paper.replace(scaling=scaling, compute=compute)
        note = "shrunk; "
    return [
        _step_case("step, tiny", recipes.tiny(), device),
        _step_case("step, paper's R3D-18", paper, device, note),
    ]


CASES: dict[str, Callable[[BenchConfig], list[Case]]] = {
    "game": game_cases,
    "decode": decode_cases,
    "clip": clip_cases,
    "color": color_cases,
    "plan": plan_cases,
    "step": step_cases,
}


def _step_case(name: str, config: PretrainConfig, device: torch.device, note: str = "") -> Case:
    """Forward, loss, backward and update of a whole batch of noise."""
    model = build_model(config)
    prepare(model, config.compute, device)
    parameters = list(model.parameters())
    optimizer = build_optimizer(config.optimizer, model)
    frames, boxes = _noise_batch(config, device)

    def step(repeat: int) -> None:
        train_step(
            lambda: _loss(model, config, frames, boxes),
            parameters,
            optimizer,
            config.optimizer.max_gradient_norm,
            1e-6,  # noise teaches nothing; keep the weights where they are
        )
        _wait(device)

    batch = config.compute.total_batch
    where = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else "cuda"
    return Case(name, step, 1, note=f"{note}{batch} clip(s), {config.compute.precision}, {where}")


def _loss(
    model: CtpModel, config: PretrainConfig, frames: torch.Tensor, boxes: torch.Tensor
) -> LossTerms:
    with autocast(config.compute, frames.device):
        offsets = model(to_input(frames), boxes[:, :, 0])
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


def _usable_videos(config: BenchConfig) -> tuple[list[VideoEntry], str]:
    """The first videos that can be decoded, and the sizes they have.

    Raises:
        ValueError: there is none.
    """
    catalog = open_catalog(config.data.uri)[:MAX_VIDEOS]
    prepare_corpus(catalog)
    usable, sizes = [], set()
    for entry in catalog:
        try:
            _decode(entry, PAPER_RECIPE(), 0)
        except VideoError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        usable.append(entry)
        sizes.add(_source_size(entry))
    if not usable:
        raise ValueError(f"data.uri: none of the videos of {config.data.uri!r} can be used")
    shown = ", ".join(f"{width}×{height}" for width, height in sorted(sizes)[:4])
    return usable, shown + (", …" if len(sizes) > 4 else "")


def _source_size(entry: VideoEntry) -> tuple[int, int]:
    """Width and height of a video's pictures as they are stored."""
    data = io.BytesIO(entry.read().data)
    with av.open(data, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        return stream.width, stream.height


def _decode(entry: VideoEntry, config: PretrainConfig, number: int) -> None:
    """Read a clip's frames of a video, as training does."""
    rng = generator(0, "bench", entry.id, number)
    with VideoReader(entry.read()) as reader:
        indices = sample_frames(config.sampling, reader.num_frames, rng).tolist()
        reader.read_square(indices, sample_crop(config.augment, rng), config.augment.frame_size_px)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread, as an actor with one core has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _table(timings: list[Timing]) -> Table:
    about = machine()
    title = "{cpu}, {cores} cores, device {device}, torch {torch}".format_map(about)
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for name in ("median", "least", "most"):
        table.add_column(name, justify="right")
    table.add_column("unit")
    table.add_column("of")
    for timing in timings:
        figures = (timing.median, min(timing.repeats), max(timing.repeats))
        table.add_row(timing.name, *map(_figure, figures), timing.unit, timing.note)
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
