"""Build shards of a data set: Parquet files that load fast, from videos as they were published."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.cluster.build import build_shards
from ctp.cluster.launch import run_command
from ctp.recipes import BUILD

ABOUT = """Build Parquet shards of a data set, for training and for any Parquet reader.

Videos are transcoded for fast loading, or kept as they are. OUT gets shards and a _manifest.json
that lists them, their labels, and every video that cannot be used. The same command resumes an
interrupted build."""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    run_command(CommandLine(BUILD, "training", ABOUT), build_shards, argv)


if __name__ == "__main__":
    main()
