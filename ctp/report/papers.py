"""The paper's own run that comes nearest to one of ours, and in what ours is not like it."""

from __future__ import annotations

from ctp import recipes
from ctp.downstream.config import FinetuneConfig
from ctp.pretext.config import PretrainConfig
from ctp.report.published import Published, published
from ctp.report.runs import INITIAL, OF_ONE_RUN, OF_THE_START, said
from ctp.training.config import RunConfig, Unlike

DATASETS = {
    "ucf101": "UCF-101",
    "hmdb51": "HMDB-51",
    "ssv1": "Something-Something-V1",
    "kinetics400": "Kinetics-400",
}
"""The paper's data sets, as folders and recipes are named after them, and what it calls them."""
COMPARED = ("Table 3", "Table 4", "Table 6")
"""Tables of initial weights; the others vary how CtP pretrains."""
NOT_OF_THE_PROTOCOL = OF_THE_START | {
    "compute.precision",
    "compute.channels_last",
    "compute.compile",
}
"""Fields that follow from the initial weights, or make a run faster."""


def dataset_of(uri: object) -> str | None:
    """The paper's data set that a place is named after, if it is one only."""
    text = said(uri).lower()
    named = [name for name in DATASETS if name in text]
    return named[0] if len(named) == 1 else None


def differences(
    config: RunConfig, passed_over: frozenset[str] = frozenset(), paper: RunConfig | None = None
) -> list[str] | None:
    """What is not as in the paper's own run, a line each; None where the paper has no such run.

    Args:
        config: of the run.
        passed_over: dotted names of fields that are not looked at.
        paper: the paper's run; None is the one that comes nearest.
    """
    unlike = _unlike(config, paper or _papers_run(config))
    if unlike is None:
        return None
    return [
        f"{each.name}: {said(each.there)} in the paper's recipe, {said(each.here)} here"
        for each in unlike
        if each.name not in passed_over
    ]


def beside(config: FinetuneConfig, measure: str) -> list[Published]:
    """The paper's comparisons of initial weights on the data of a run, whatever the run's own
    weights and protocol are; none if it has none of such data."""
    dataset = dataset_of(config.data.uri)
    assert config.encoder is not None, "settled before the run began"
    return published(dataset, measure, config.encoder.arch, *COMPARED) if dataset else []


def same_as(config: FinetuneConfig, method: str, measure: str) -> Published | None:
    """The paper's number of the same measurement: its data, its protocol, and its weights.

    Args:
        config: of a run, that may compute in another precision than the paper's.
        method: what the paper calls what it started from.
        measure: as in `published`.
    """
    if not follows_the_paper(config):
        return None
    return next((each for each in beside(config, measure) if each.method == method), None)


def follows_the_paper(config: RunConfig) -> bool:
    """Whether a run is one of the paper's, initial weights and speed aside."""
    return differences(config, NOT_OF_THE_PROTOCOL) == []


def papers_name(config: RunConfig) -> str:
    """What the paper calls encoders of such a pretraining; empty if it has none of the kind."""
    if not isinstance(config, PretrainConfig) or not follows_the_paper(config):
        return ""
    dataset = dataset_of(config.data.uri)
    assert dataset is not None, "the paper's runs are on one"
    return f"CtP, {DATASETS[dataset]}"


def _unlike(config: RunConfig, paper: RunConfig | None) -> list[Unlike] | None:
    if paper is None:
        return None
    passed_over = OF_ONE_RUN | {"initial"}  # the paper, too, fine-tunes all there are
    if dataset_of(config.data.uri) == dataset_of(paper.data.uri):
        passed_over |= set(config.LOCATIONS) - INITIAL
    return [each for each in config.unlike(paper) if each.name not in passed_over]


def _papers_run(config: RunConfig) -> RunConfig | None:
    if isinstance(config, PretrainConfig):
        data = "kinetics400" if dataset_of(config.data.uri) == "kinetics400" else "ucf101"
        arch = {"r3d": "r3d18", "r2plus1d": "r2plus1d18"}[config.encoder.arch]
        return recipes.PRETRAIN[f"{data}-{arch}"]()
    if isinstance(config, FinetuneConfig):
        assert config.encoder is not None, "settled before the run began"
        recipe = recipes.FINETUNE[dataset_of(config.data.uri) or "ucf101"]()
        return recipe.replace(encoder={"arch": config.encoder.arch})
    return None  # of its tracking the paper tells little more than the data
