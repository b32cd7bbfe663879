"""Draw where classifiers look, by guided Grad-CAM."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, MaxLen

from ctp.cli import CommandLine
from ctp.commands.next_step import print_next
from ctp.config import Config
from ctp.data.sources import Sources

ABOUT = """Draw where classifiers look (Fig. 5, 8): OUT/gradcam.png and OUT/gradcam.mp4.

RUNS are folders of jobs/finetune.py with the same classes, e.g. one run from pretrained and one
from random weights. The middle clip of each video is explained.

  ctp gradcam --runs runs/ctp,runs/scratch
  ctp gradcam --runs runs/ctp --uri my/videos --num_videos 8 --target "Horse Riding\""""


class GradcamConfig(Config):
    """Guided Grad-CAM of the middle clips of some videos (default)."""

    runs: tuple[str, ...] = ()
    """Finished fine-tuning runs: names in the folder runs, or folders or URIs."""
    uri: Sources = ()
    """Videos to explain; none: those that the first run was tested on."""
    num_videos: Annotated[int, Ge(1)] = 4
    """Number of videos, evenly chosen."""
    target: str = ""
    """The class whose evidence is shown; none: the class that each classifier predicts."""
    maps: Annotated[tuple[Literal["guided", "cam"], ...], MaxLen(2)] = ("guided", "cam")
    """guided: guided Grad-CAM; cam: Grad-CAM."""
    out: str = "gradcam"
    """Folder or URI for the picture and the video."""


COMMAND = CommandLine({"gradcam": GradcamConfig}, "gradcam", ABOUT)


def main(argv: list[str] | None = None) -> None:
    """Parse, explain, draw, and print where it is."""
    COMMAND.run(_run, argv)


def _run(config: GradcamConfig) -> None:
    from ctp.commands.work.gradcam import run  # torch: --help needs none

    run(config)
    print_next(("report", "--runs", ",".join(config.runs)))
