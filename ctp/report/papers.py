"""The paper's runs and its published numbers, and how ours differ from them.

Numbers that its Tables 4 and 5 quote from other papers are left out: their encoders, resolutions
and fine-tuning differ. Numbers that its authors measured for other methods (†) are included.
Tables 2a and 2b pretrain on a quarter of Kinetics-400, Tables 7 to 10 on UCF-101.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from typing import Any, NamedTuple

import pandas as pd

from ctp import recipes
from ctp.encoders.config import DOWNSTREAM_SPATIAL_STRIDE
from ctp.report.runs import (
    OF_INITIAL,
    SEEDS_AND_NAMES,
    format_value,
    in_words,
    value_in_words,
)
from ctp.training.config import RunConfig

DATASETS = {
    "ucf101": "UCF-101",
    "hmdb51": "HMDB-51",
    "ssv1": "Something-Something-V1",
    "kinetics400": "Kinetics-400",
}
"""Names of the paper's data sets in folders and recipes -> in the paper."""
COMPARED = ("Table 3", "Table 4", "Table 6")
"""Tables of initial weights; the others vary how CtP pretrains."""
NOT_OF_THE_PROTOCOL = OF_INITIAL - {"encoder.middle_channels"} | {
    "compute.precision",
    "compute.compile",
}
"""Options that follow from the initial weights and keep the network, or change a run's speed
alone."""


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


def dataset_of(uri: object) -> str | None:
    """Return the paper's data set that a location is named after; None unless there is one."""
    text = format_value(uri).lower()
    named = [name for name in DATASETS if name in text]
    # a path with two names, such as that of a run from one to the other, says nothing
    return named[0] if len(named) == 1 else None


def differences(
    config: RunConfig, ignored: Collection[str] = (), paper: RunConfig | None = None
) -> list[str] | None:
    """Return the differences from the paper's own run, a line each; None if it has no such run.

    Args:
        config: of the run.
        ignored: dotted names of options to leave out.
        paper: the paper's run; None: the most similar one.
    """
    paper = paper or _paper_run(config)
    if paper is None:
        return None
    ignored = {*ignored, *SEEDS_AND_NAMES, "initial"}  # the paper fine-tunes all of them
    # where the same data lies is no difference
    if dataset_of(config.data.uri) == dataset_of(paper.data.uri):
        ignored |= set(config.LOCATIONS)
    return [
        f"{in_words(name)}: {value_in_words(here)} here, {value_in_words(there)} in the paper"
        for name, here, there in config.differences(paper)
        if name not in ignored
    ]


def beside(config: Any, measure: str) -> list[Published]:
    """Return the paper's comparisons of initial weights on the data of a run that fine-tunes all
    weights (protocol "finetune"), whatever its own ones and its other options; none for other runs,
    such as probes of a frozen encoder, for which the paper has no numbers."""
    dataset = dataset_of(config.data.uri)
    if config.KIND != "finetune" or config.protocol != "finetune" or dataset is None:
        return []
    return published(dataset, measure, config.encoder.name, *COMPARED)


def same_as(config: RunConfig, method: str, measure: str) -> Published | None:
    """Return the paper's number of the same measurement: its data, its protocol and its weights.

    Args:
        config: of a run, which may compute in another precision than the paper's.
        method: what the paper calls the run's initial weights.
        measure: as in `Published`.
    """
    if differences(config, NOT_OF_THE_PROTOCOL) != []:
        return None
    return next((each for each in beside(config, measure) if each.method == method), None)


def encoder_method(config: RunConfig) -> str:
    """Return the paper's name for encoders of such a pretraining; "" if it has no such encoders."""
    if config.KIND != "pretrain" or differences(config, NOT_OF_THE_PROTOCOL) != []:
        return ""
    dataset = dataset_of(config.data.uri)
    assert dataset is not None, "each of the paper's pretrainings has one"
    return f"CtP, {DATASETS[dataset]}"


def _paper_run(config: Any) -> RunConfig | None:
    dataset = dataset_of(config.data.uri)
    if config.KIND == "pretrain" and config.task.name == "ctp":
        data = "kinetics400" if dataset == "kinetics400" else "ucf101"
        recipe = recipes.PRETRAIN.get(f"{data}-{config.encoder.name}18")
        return recipe() if recipe else None
    if config.KIND == "finetune":
        name, stride = config.encoder.name, DOWNSTREAM_SPATIAL_STRIDE
        pretraining = recipes.PRETRAIN.get(f"ucf101-{name}18")
        encoder = pretraining().encoder if pretraining else type(config.encoder)()
        return recipes.FINETUNE[dataset or "ucf101"]().replace(
            encoder=encoder.replace(spatial_stride=stride)
        )
    return None  # of tracking, the paper gives little more than the data
