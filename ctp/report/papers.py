"""The paper's own run that is most similar to one of ours, and how ours differs from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ctp import recipes
from ctp.encoders.config import DOWNSTREAM_SPATIAL_STRIDE
from ctp.report.published import Published, published
from ctp.report.runs import INITIAL, OF_INITIAL, SEEDS_AND_NAMES, format_value
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
NOT_OF_THE_PROTOCOL = OF_INITIAL | {"compute.precision", "compute.compile"}
"""Options that follow from the initial weights, or change a run's speed alone."""


def dataset_of(uri: object) -> str | None:
    """Return the paper's data set that a location is named after; None unless there is one."""
    text = format_value(uri).lower()
    named = [name for name in DATASETS if name in text]
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
    if dataset_of(config.data.uri) == dataset_of(paper.data.uri):
        ignored |= set(config.LOCATIONS) - INITIAL
    return [
        f"{name}: {format_value(there)} in the paper's recipe, {format_value(here)} here"
        for name, here, there in config.differences(paper)
        if name not in ignored
    ]


def beside(config: Any, measure: str) -> list[Published]:
    """Return the paper's comparisons of initial weights on the data of a fine-tuning run, whatever
    the run's own weights and protocol; none for other runs."""
    dataset = dataset_of(config.data.uri)
    if config.KIND != "finetune" or config.frozen_encoder or dataset is None:
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
    """Return what the paper calls encoders of such a pretraining; "" if it has none of the kind."""
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
        return recipes.FINETUNE[dataset or "ucf101"]().replace(
            encoder={"name": config.encoder.name, "spatial_stride": DOWNSTREAM_SPATIAL_STRIDE}
        )
    return None  # of tracking, the paper gives little more than the data
