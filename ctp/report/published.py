"""The paper's published numbers, each with its table.

Numbers that its Tables 4 and 5 quote of others are left out: other encoders, other resolutions and
other ways to fine-tune. Those that its authors measured for others' methods (†) are included.
Tables 2a and 2b pretrain on a quarter of Kinetics-400, Tables 7 to 10 on UCF-101.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import pandas as pd


class Published(NamedTuple):
    """A number of the paper.

    Attributes:
        source: the table.
        encoder: "r3d" or "r2plus1d".
        method: the initial weights of the encoder, or what is varied.
        dataset: ucf101, hmdb51, ssv1 or kinetics400.
        measure: "top1" or "top5" of classification, "retrieval_top1" or "retrieval_top5".
        percent: the number.
    """

    source: str
    encoder: str
    method: str
    dataset: str
    measure: str
    percent: float


with resources.files("ctp.report").joinpath("published.csv").open(encoding="utf-8") as _file:
    PUBLISHED = tuple(Published(*row) for row in pd.read_csv(_file).itertuples(index=False))


def published(dataset: str, measure: str, encoder: str, *sources: str) -> list[Published]:
    """Return the paper's numbers of a measure on a data set.

    Args:
        dataset, measure, encoder: as in `Published`.
        sources: beginnings of the tables' names; none: all tables.
    """
    return [
        each
        for each in PUBLISHED
        if (each.dataset, each.measure, each.encoder) == (dataset, measure, encoder)
        and (not sources or each.source.startswith(sources))
    ]
