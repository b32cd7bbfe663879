"""Score features by retrieval, and draw nearest neighbours."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from ctp.cli import CommandLine
from ctp.commands.next_step import print_next
from ctp.config import Config

ABOUT = """Score features by VCOP's retrieval (supplement A, Table 5).

A query is right at k when one of the k gallery videos nearest to it has its class. OUT gets
retrieval.json and neighbours.png, a picture of queries and the videos nearest to them. Features of
two poolings (--features.pooling both) have an accuracy for each; the rest is of the first.

  ctp retrieve --gallery features/train --queries features/test"""
Positive = Annotated[int, Ge(1)]


class RetrieveConfig(Config):
    """VCOP's protocol: k = 1, 5, 10, 20, 50 (default)."""

    gallery: str = ""
    """Folder or URI of the features to search, those of the training videos."""
    queries: str = ""
    """Folder or URI of the features to search for, those of the test videos."""
    out: str = "retrieval"
    """Folder or URI for the scores and the picture."""
    ks: tuple[Positive, ...] = ()
    """Numbers of neighbours, one of which must have the query's class; none: those of 1, 5, 10, 20
    and 50 that the gallery has."""
    knn: Positive | None = None
    """Also score the vote of this many neighbours."""
    use_gpu: bool = False
    """Compute similarities on the GPU."""
    num_pictured: Annotated[int, Ge(0)] = 8
    """Queries in the picture, evenly chosen; 0 for no picture."""


COMMAND = CommandLine({"vcop": RetrieveConfig}, "vcop", ABOUT)


def main(argv: list[str] | None = None) -> None:
    """Parse, score, draw, and print the scores."""
    COMMAND.run(_run, argv)


def _run(config: RetrieveConfig) -> None:
    from ctp.commands.work.retrieve import run  # torch: --help needs none

    run(config)
    print_next(("report", "--runs", config.out))
