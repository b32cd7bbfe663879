"""Measure the speed of this machine, and what limits a run."""

from __future__ import annotations

from ctp import recipes
from ctp.bench.config import BenchConfig, like_run, quick, standard
from ctp.cli import CommandLine
from ctp.commands.next_step import print_next
from ctp.data.quarantine import QuarantineLimitError

ABOUT = """Measure what a clip and a training step cost on this machine, and what limits a run.

  ingest  loading clips on one core, stage by stage, from transcoded and from original videos;
          with --baseline, other loaders on the same clips, in all of their ways
  long    a clip of a file of an hour, read whole and in parts; not measured by default
  ray     the stream of samples through Ray as it reaches a training worker, against one process
          that draws the same samples; memory of all processes
  readers what Ray costs a training worker, by the number of workers; not measured by default
  step    a training step, by precision, compiled or not
  gpu     a GPU: whether a step computes the same as on the CPU, by precision; where the host waits
          for it; its longest kernels; and a step with few to many clips, compiled or not. With
          --recipe quick at most 8 minutes
  game    the game of Catch-the-Patch, drawn and pasted on a CPU, by set of rules
  plan    looking up a position of the stream, among few and very many videos

step and gpu need neither Ray nor PyAV: without PyAV, noise stands in for the videos. With ingest it
also computes the bottleneck of a run on --gpus GPUs and --cores cores."""


def tiny() -> BenchConfig:
    """Measure everything with the task, encoder and batch of the pretraining recipe tiny."""
    return like_run(recipes.tiny())


RECIPES = {"standard": standard, "quick": quick, "tiny": tiny}

MAIN_OPTIONS = (
    "what", "out", "repeats", "data.uri", "task", "encoder", "baseline", "ray.num_actors",
    "ray.clips", "step.precisions", "step.compile", "step.clips", "gpus", "cores",
    "gpu_clips_per_second",
)  # fmt: skip
COMMAND = CommandLine(RECIPES, "standard", ABOUT, MAIN_OPTIONS)


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print tables and write the figures."""
    COMMAND.run(_run, argv, QuarantineLimitError, ConnectionError)


def _run(config: BenchConfig) -> None:
    from ctp.commands.work.bench import run  # torch: --help needs none

    run(config)
    print_next(
        ("build-shards", "--source", "VIDEOS", "--out", "SHARDS"),
        ("pretrain", "--recipe", "one-gpu", "--data.uri", "SHARDS", "--name", "NAME"),
    )
