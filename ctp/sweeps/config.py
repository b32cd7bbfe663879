"""The config of a sweep: runs of pretraining that differ in some fields, and their scores."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt
from pydantic import model_validator

from ctp.config import Config

Scale = Literal["tiny", "small", "paper"]


class AshaConfig(Config):
    """Trials that fall behind are stopped early: asynchronous successive halving (ASHA)."""

    metric: Literal["iou", "knn_top1"] = "iou"
    """What they are compared by: tracking of held-out videos, looked at every
    `health.every_steps`; or nearest neighbours, of `knn.uri`, every `knn.every_epochs`."""
    time: Literal["epoch", "step"] = "epoch"
    """What `grace` counts."""
    grace: Annotated[int, Ge(1)] = 1
    """No trial is stopped before. They are compared here, and whenever `reduction` times as much
    has passed."""
    reduction: Annotated[float, Gt(1)] = 4.0
    """Of those that are compared, one in so many goes on."""


class SweepConfig(Config):
    """A sweep: each combination of what is varied, with each seed, is a trial."""

    name: str = ""
    """Name of the sweep, and of its folder below `storage`; none: what is varied, and the scale.
    The same one goes on where it was broken off."""
    storage: str = "sweeps"
    """Where sweep folders lie: a local folder or s3://bucket/prefix."""
    scale: Scale = "tiny"
    """Size of the base run: the recipe tiny or small of jobs/pretrain.py, or the paper's own."""
    table: str = ""
    """An ablation that has a name: its rows are varied. The recipes set it."""
    grid: tuple[str, ...] = ()
    """FIELD=VALUE,VALUE,…: a field of jobs/pretrain.py that is varied. Given several times, all
    combinations are tried."""
    set: tuple[str, ...] = ()
    """FIELD=VALUE: a field that is another than the base run's. Fields of the scoring runs begin
    with finetune. linear. embed. or track."""
    seeds: Annotated[int, Ge(1)] = 1
    """Each combination is tried with so many seeds: 0, 1, …"""
    scores: tuple[str, ...] = ()
    """What encoders are scored by, of: iou (of held-out videos, free), retrieval, linear, finetune,
    tracking; at scale paper also finetune-ucf101 and the like; none: what suits the scale."""
    asha: AshaConfig | None = None
    """Stop early what falls behind; none: every trial is trained to its end."""
    max_trials: Annotated[int, Ge(1)] = 64
    """A sweep of more trials is refused."""
    trials_at_once: Annotated[int, Ge(1)] | None = None
    """Most trials that run at the same time; none: as many as fit the cluster."""
    max_failures: Annotated[int, Ge(0)] = 2
    """How often a trial that fails is started again, from its checkpoint."""

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if "/" in self.name or self.name in {".", ".."}:
            raise ValueError(f"name {self.name!r} must be a folder name, without '/'")
        return self
