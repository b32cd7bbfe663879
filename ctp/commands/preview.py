"""Draw samples of a task, or a run's predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge

from ctp import recipes
from ctp.cli import CommandLine, exit_by
from ctp.commands.next_step import print_next
from ctp.config import Config
from ctp.data.quarantine import QuarantineLimitError
from ctp.pretext.config import PretrainConfig
from ctp.storage import StorageError

ABOUT = """Draw samples of a pretext task: OUT/clips.png, and moving in clips.mp4 and clips.gif.

Without --run, training samples of the recipe. With --run, held-out samples of that run and the
answers of its newest checkpoint.

  ctp preview --recipe small --first_position 30000      what a late step trains on
  ctp preview --recipe ucf101-r3d18 --data.uri my/videos  the paper's task on your videos
  ctp preview --run my-run                               what a run has learnt
  ctp preview --run my-run --seed 1                      the same on other clips
  ctp preview --run my-run --data.uri my/videos          the same on your videos"""


class DrawingConfig(Config):
    """What to draw, and where to."""

    out: str = "preview"
    """Folder for the picture and the video, local or s3://bucket/prefix."""
    run: str = ""
    """Draw the answers of this run: its name below `storage`, or its folder."""
    num_clips: Annotated[int, Ge(1)] = 4
    """Samples to draw."""
    first_position: Annotated[int, Ge(0)] | None = None
    """Number of the first sample in the run's stream, or among the held-out ones with `run`; none:
    0, or with `run` samples of different videos, drawn by `seed`."""
    size_px: Annotated[int, Ge(16)] = 224
    """Side of a frame in the picture and the video; larger frames keep their size."""


class PreviewConfig(PretrainConfig, DrawingConfig):
    """A pretraining config, and what to draw of it."""


MAIN_OPTIONS = (*DrawingConfig.model_fields, "storage", "seed", "data.uri", "task", "encoder")


def _with_drawing(make: Callable[[], PretrainConfig]) -> Callable[[], PreviewConfig]:
    def recipe() -> PreviewConfig:
        return PreviewConfig(**make().model_dump())

    recipe.__doc__ = make.__doc__
    return recipe


RECIPES = {name: _with_drawing(make) for name, make in recipes.PRETRAIN.items()}
COMMAND = CommandLine(RECIPES, "tiny", ABOUT, MAIN_OPTIONS)


def main(argv: list[str] | None = None) -> None:
    """Parse, draw, and print where it is."""
    recipe, config = COMMAND.parse(argv)
    from ctp.commands.work.preview import run  # torch: --help needs none

    try:
        run(recipe, config)
    except (ValueError, StorageError, QuarantineLimitError) as error:
        exit_by(error)
    if config.run:
        print_next(("report", "--runs", config.run))
    else:
        uri = ",".join([config.data.uri] if isinstance(config.data.uri, str) else config.data.uri)
        videos = ["--data.uri", uri] if "data.uri" in COMMAND.given else []
        print_next(("pretrain", "--recipe", recipe, *videos))
