"""The config of a sweep: pretraining runs that differ in some options, and their scores."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from annotated_types import Ge, Gt
from pydantic import model_validator

from ctp.config import Config

Scale = Literal["tiny", "small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


class AshaConfig(Config):
    """Early stopping of trials by asynchronous successive halving (ASHA)."""

    metric: Literal["task", "knn_top1"] = "task"
    """Score to compare trials by: the task's own, every `evaluation.every_steps`; or the k-NN
    accuracy of the videos of `knn.uri`, every `knn.every_epochs`."""
    time: Literal["epoch", "step"] = "epoch"
    """Unit of `grace`."""
    grace: Annotated[int, Ge(1)] = 1
    """When trials are compared first. They are compared again each time that `reduction` times as
    much has passed."""
    reduction: Annotated[float, Gt(1)] = 4.0
    """At each comparison, one in this many trials continues."""


class SweepConfig(Config):
    """A sweep: every row with every combination of the varied options and every seed is a trial."""

    name: str = ""
    """Name of the sweep and of its folder below `storage`; none: made of the varied options and the
    scale. The same name resumes a sweep."""
    storage: str = "sweeps"
    """Where sweep folders are: a local folder or s3://bucket/prefix."""
    scale: Scale = "tiny"
    """Size of the base run: the recipe tiny or small of jobs/pretrain.py, or the paper's own."""
    data: str = "data"
    """Folder or URI that replaces data/ in the recipes of scale paper, which expect
    data/ucf101/train, data/kinetics400/train and so on."""
    table: str = ""
    """Name of the table whose rows are tried. The recipes set it."""
    grid: tuple[str, ...] = ()
    """OPTION=VALUE,VALUE,…: an option of jobs/pretrain.py to vary. Given several times, all
    combinations are tried."""
    row: tuple[str, ...] = ()
    """OPTION=VALUE OPTION=VALUE …, between quotes: a run that differs from the base run in these
    options alone. Given several times, each is a row of the result, after the base run or after
    the rows of the table."""
    set: tuple[str, ...] = ()
    """OPTION=VALUE: an option to change in the base run. Options of the scores begin with
    finetune. finetune10. finetune25. linear. attentive. embed. track. or frozen."""
    seeds: Annotated[int, Ge(1)] = 1
    """Number of seeds for each combination: 0, 1, …"""
    scores: tuple[str, ...] = ()
    """How encoders are scored: task (the task's own score of held-out videos, free), retrieval,
    linear, attentive, finetune, finetune10 and finetune25 (by 10% and 25% of the labels), tracking,
    frozen (tracking with a frozen encoder); at scale paper also finetune-ucf101 and others; none:
    by scale. More of them than before are added to a sweep."""
    asha: AshaConfig | None = None
    """Stop trials early that fall behind; none: train every trial to its end."""
    max_trials: Annotated[int, Ge(1)] = 64
    """Refuse a sweep of more trials."""
    trials_at_once: Annotated[int, Ge(1)] | None = None
    """Most trials to run at the same time; none: as many as fit the cluster."""
    max_failures: Annotated[int, Ge(0)] = 2
    """How often a trial that fails is restarted from its last checkpoint."""

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if "/" in self.name or self.name in {".", ".."}:
            raise ValueError(f"name {self.name!r} must be a folder name, without '/'")
        return self
