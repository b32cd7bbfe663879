"""Runs of training as their folders tell of them: config, metrics, scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import yaml
from pydantic import ValidationError

from ctp.cli import describe
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.pretext.config import PretrainConfig
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.config import RunConfig

CONFIGS: Mapping[str, type[RunConfig]] = {
    "game": PretrainConfig,
    "frozen_stages": TrackConfig,
    "views": FinetuneConfig,
}
"""A field that configs of one kind alone have -> their class."""
OF_ONE_RUN = frozenset({"name", "seed"})
"""Fields in which runs of the same experiment differ."""
INITIAL = frozenset({"initial", "initial_encoder"})
"""Fields that name the initial weights."""
OF_THE_START = frozenset({"with_head", "encoder.norm_eps", "encoder.middle_channels"})
"""Fields that follow from the initial weights, or say how much of them is taken."""


@dataclass(frozen=True)
class Run:
    """A run of training.

    Attributes:
        folder: where it lies.
        config: what it was asked for.
        rows: of its metrics, in order.
        scores: what a test at its end found; empty where there is none.
        is_finished: whether it came to its end.
    """

    folder: Storage
    config: RunConfig
    rows: Sequence[Mapping[str, float]]
    scores: Mapping[str, Any]
    is_finished: bool

    @classmethod
    def read(cls, folder: Storage) -> Self:
        """What a folder tells.

        Raises:
            ValueError: it is no run folder.
            StorageError: it cannot be read.
        """
        config = read_config(folder)
        result = folder.join(config.RESULT)
        is_finished = result.exists()
        has_scores = is_finished and config.RESULT == run_folder.SCORES
        return cls(
            folder=folder,
            config=config,
            rows=run_folder.read_metrics(folder),
            scores=json.loads(result.read_bytes()) if has_scores else {},
            is_finished=is_finished,
        )

    @property
    def state(self) -> str:
        """How far it is."""
        step = int(self.rows[-1]["step"]) if self.rows else 0
        if self.is_finished:
            return f"finished after {step} steps"
        return f"not finished: at step {step}, or broken off there"

    @property
    def scores_uri(self) -> str:
        """Where `scores` are from."""
        return self.folder.join(self.config.RESULT).uri

    @property
    def metrics_uri(self) -> str:
        """Where `rows` are from."""
        return self.folder.join(run_folder.METRICS).uri


def read_config(folder: Storage) -> RunConfig:
    """The config of the run in a folder.

    Raises:
        ValueError: it holds none, or one of no kind of run that there is.
        StorageError: it cannot be read.
    """
    place = folder.join(run_folder.CONFIG)
    if not place.exists():
        raise ValueError(f"{folder.uri} is no run folder: it has no {run_folder.CONFIG}")
    try:
        values = yaml.safe_load(place.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{place.uri} is not YAML: {error}") from error
    keys = values if isinstance(values, Mapping) else {}
    kind = next((kind for key, kind in CONFIGS.items() if key in keys), None)
    if kind is None:
        raise ValueError(f"{place.uri} is the config of no kind of run that is known here")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{place.uri} does not fit: {describe(error, kind)}") from error


def shaping_fields(config: RunConfig) -> dict[str, Any]:
    """The fields that shape what comes out, dotted name -> value as JSON has it; without those
    `OF_ONE_RUN`."""
    passed_over = config.MAY_CHANGE | OF_ONE_RUN
    return dict(_leaves("", config.model_dump(mode="json"), passed_over))


def _leaves(
    prefix: str, values: Mapping[str, Any], passed_over: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in passed_over:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(f"{name}.", value, passed_over)
        else:
            yield name, value


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the fields that not all have the same value of, in their order."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if any(c.get(name) != configs[0].get(name) for c in configs)]


def said(value: object) -> str:
    """A value of a config, to be read."""
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
