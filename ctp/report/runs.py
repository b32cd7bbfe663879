"""Runs as their folders describe them: config, log and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ctp.config import is_within
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.pretext.config import PretrainConfig
from ctp.score import Score
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.config import RunConfig

RUN_CONFIGS: Mapping[str, type[RunConfig]] = {
    config.KIND: config for config in (PretrainConfig, FinetuneConfig, TrackConfig)
}
"""Kind of a run -> class of its config."""
SEEDS_AND_NAMES = frozenset({"name", "seed"})
"""Options in which runs of the same experiment differ."""
INITIAL = frozenset({"initial", "initial_encoder"})
"""Options that name the initial weights."""
OF_INITIAL = frozenset({"with_head", "encoder.norm_eps", "encoder.middle_channels"})
"""Options that follow from the initial weights, or say how much of them is taken."""


@dataclass(frozen=True)
class Run:
    """A run of training.

    Attributes:
        folder: its folder.
        config: its config.
        rows: its log, in order.
        scores: contents of its scores.json; of a run without a test, its last log line with a
            score; empty if there is none.
        is_finished: whether it has its result.
    """

    folder: Storage
    config: RunConfig
    rows: Sequence[Mapping[str, float]]
    scores: Mapping[str, Any]
    is_finished: bool

    @classmethod
    def read(cls, folder: Storage) -> Self:
        """Read a run folder.

        Raises:
            ValueError: it is no run folder.
            StorageError: it cannot be read.
        """
        config = run_folder.read_config(folder, *RUN_CONFIGS.values(), may_lack=True)
        rows = run_folder.read_metrics(folder)
        scores = run_folder.read_scores(config, folder, rows)
        return cls(folder, config, rows, scores, folder.join(config.RESULT).exists())

    @property
    def state(self) -> str:
        """Return whether it is finished, and after which step."""
        step = int(self.rows[-1]["step"]) if self.rows else 0
        return (
            f"finished after {step} steps" if self.is_finished else f"not finished, at step {step}"
        )

    @property
    def all_scores(self) -> list[Score]:
        """Return the scores that it has, the one it is judged by first."""
        every = self.config.score, *self.config.further_scores
        return [score for score in every if score.key in self.scores]

    @property
    def scores_uri(self) -> str:
        """Return the file that `scores` are from."""
        if self.config.RESULT == run_folder.SCORES:
            return self.folder.join(run_folder.SCORES).uri
        return f"{self.metrics_uri}, step {int(self.scores['step'])}"

    @property
    def metrics_uri(self) -> str:
        """Return the file that `rows` are from."""
        return self.folder.join(run_folder.METRICS).uri


def shaping_options(config: RunConfig) -> dict[str, Any]:
    """Return the options that shape the result, dotted name -> JSON value, without the seed."""
    left_out = config.MAY_CHANGE | SEEDS_AND_NAMES
    return {
        name: value for name, value in config.flatten().items() if not is_within(name, left_out)
    }


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of options whose value is not the same in all configs."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if any(c.get(name) != configs[0].get(name) for c in configs)]


def format_value(value: object) -> str:
    """Return the value of an option as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
