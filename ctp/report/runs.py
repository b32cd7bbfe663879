"""Runs as their folders describe them: config, log and scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from ctp.config import is_within
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.lease import held_seconds, read_claims
from ctp.pretext.config import PretrainConfig
from ctp.score import Score
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.config import RunConfig
from ctp.versions import short_commit

RUN_CONFIGS: Mapping[str, type[RunConfig]] = {
    config.KIND: config for config in (PretrainConfig, FinetuneConfig, TrackConfig)
}
"""Kind of a run -> class of its config."""
SEEDS_AND_NAMES = frozenset({"name", "seed"})
"""Options in which runs of the same experiment differ."""
INITIAL = frozenset({"initial", "initial_encoder"})
"""Options that name the initial weights."""
WORDS = {
    "^num_": "number of ",
    "_(px|seconds|minutes)$": r" in \1",
    "_px_": " in px ",
    "_probs?$": " probability",
    "^uri$": "videos",
    "^test_uri$": "test videos",
    "^heldout_uri$": "held-out videos",
}
"""Patterns in the names of options, and what they are in words."""
OF_INITIAL = frozenset({"with_head", "encoder.norm_eps", "encoder.middle_channels"})
"""Options that follow from the initial weights, or say how much of them is taken."""


class Origin(NamedTuple):
    """How a run was made.

    Attributes:
        date: of its first start, as YYYY-MM-DD.
        seconds: how long its processes ran, all of them together.
        host: the machine of the last one.
        version: see `version_of`, of the last one.
    """

    date: str
    seconds: float
    host: str
    version: str


def version_of(written_by: object) -> str:
    """Return e.g. "0.1.0 (1a2b3c4)" of what `ctp.versions.written_by` returned; "" if unknown."""
    if not isinstance(written_by, Mapping) or "ctp" not in written_by:
        return ""
    version = str(written_by["ctp"])
    return f"{version} ({short_commit(written_by)})" if written_by.get("commit") else version


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

    @property
    def origin(self) -> Origin:
        """Return when, how long, where and by which version it was made."""
        claims = read_claims(self.folder)
        if not claims:
            return Origin("", 0, "", "")
        return Origin(
            claims[0].since.partition(" ")[0],
            held_seconds(self.folder),
            claims[-1].process.host,
            version_of(claims[-1].written_by),
        )

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


def in_words(option: str) -> str:
    """Return the name of an option in words: "sampling, number of frames" of
    "task.sampling.num_frames"."""
    *sections, name = option.removeprefix("task.").split(".")
    for pattern, text in WORDS.items():
        name = re.sub(pattern, text, name)
    return ", ".join(each.replace("_", " ") for each in (*sections, name))


def value_in_words(value: object) -> str:
    """Return the value of an option in words, e.g. "yes" and "1, 5"."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return format_value(value)


def format_value(value: object) -> str:
    """Return the value of an option as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
