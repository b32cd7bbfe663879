"""Build shards of videos, which load fast."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.commands.next_step import print_next
from ctp.recipes import BUILD

ABOUT = """Build Parquet shards of a data set, for training and for any Parquet reader.

Videos are transcoded for fast loading, or kept as they are. OUT gets shards and a _manifest.json
that lists them, their labels, and every video that cannot be used. The same command resumes an
interrupted build."""
MAIN_OPTIONS = (
    "source",
    "layout",
    "split_number",
    "out",
    "videos_per_shard",
    "limit",
    "teacher",
    "allow_missing",
    "num_tasks",
    "transcode.codec",
    "transcode.short_side_px",
)
COMMAND = CommandLine(BUILD, "training", ABOUT, MAIN_OPTIONS)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parsed = COMMAND.parse(argv)
    from ctp.cluster.build import build_shards  # torch and Ray: --help needs neither
    from ctp.cluster.launch import run_command

    out = run_command(COMMAND, parsed, build_shards)
    print_next(("pretrain", "--recipe", "one-gpu", "--data.uri", out, "--name", "NAME"))
