"""What runs started from: which initial weights are the same but for the seed they were made
with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.config import IMAGENET, KINETICS, RANDOM
from ctp.pretext.config import PretrainConfig
from ctp.report.papers import papers_name
from ctp.report.runs import (
    INITIAL,
    OF_THE_START,
    Run,
    differing,
    read_config,
    said,
    shaping_fields,
)
from ctp.storage import Storage, StorageError
from ctp.training.config import RunConfig
from ctp.training.run_folder import ENCODER

PUBLISHED = {
    # initial -> (what to call it, what the paper does)
    RANDOM: ("random", "none"),
    KINETICS: ("Kinetics-400, supervised", "Kinetics-400, supervised"),
    IMAGENET: ("ImageNet, inflated", "ImageNet, supervised"),
}
KINDS: Mapping[type[RunConfig], str] = {
    PretrainConfig: "pretrained",
    FinetuneConfig: "fine-tuned before",
    TrackConfig: "trained to track",
}
SHOWN_FIELDS = 2
"""Of those that tell weights of the same kind apart; if there are more, they are numbered."""


@dataclass(frozen=True)
class Start:
    """Initial weights.

    Attributes:
        kind: what to call them, if there are no others of the kind.
        fields: what tells them from others of it, dotted name -> value.
        seeds: that they were made with: the run's that made them, then that of what it started
            from, and so on.
        uri: where they lie; empty for those that have a name of their own.
        method: what the paper calls them; empty if it has no such.
    """

    kind: str
    fields: Mapping[str, Any]
    seeds: tuple[int, ...] = ()
    uri: str = ""
    method: str = ""

    @property
    def key(self) -> str:
        """The same for weights that differ by their seeds alone."""
        return json.dumps([self.kind, self.fields], sort_keys=True)


@dataclass(frozen=True)
class Started:
    """A run, and what it started from.

    Attributes:
        run: the run.
        start: its initial weights.
        name: of these, that no others on the page have.
        about: what the name leaves out of what tells them from others; mostly nothing.
    """

    run: Run
    start: Start
    name: str
    about: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """All that chance decided by: runs of the same are the same run."""
        return self.run.config.seed, *self.start.seeds


def with_starts(runs: Iterable[Run]) -> list[Started]:
    """Runs with what they started from, by names that tell apart what differs by more than seeds.

    Weights of two runs are the same kind if the configs beside them say so. Where there is none,
    or it cannot be read, nothing is known of a file but its name, and so it stands for itself.
    """
    found = [(run, start_of(run.config)) for run in runs]
    names = _names([start for _, start in found])
    return [Started(run, start, *names[start.key]) for run, start in found]


def start_of(config: RunConfig) -> Start:
    """What a run of a config started from."""
    fields = shaping_fields(config)
    initial = next((str(fields[name]) for name in INITIAL if fields.get(name)), RANDOM)
    made = _named(initial) or _made_by_run(initial) or _made_elsewhere(initial)
    own = {name: value for name, value in fields.items() if name in OF_THE_START and value}
    return Start(made.kind, {**made.fields, **own}, made.seeds, made.uri, made.method)


def _named(initial: str) -> Start | None:
    kind, method = PUBLISHED.get(initial, ("", ""))
    return Start(kind, {}, method=method) if kind else None


def _made_by_run(initial: str) -> Start | None:
    """Weights that lie in the folder of a run, told by its config."""
    if not initial.endswith(f"/{ENCODER}"):
        return None
    try:
        config = read_config(Storage.of(initial).parent)
    except (ValueError, StorageError):  # no longer there, or for others to read
        return None
    before = start_of(config)
    fields = shaping_fields(config)
    for name in INITIAL & fields.keys():
        fields[name] = before.kind
        fields |= {f"{name}.{key}": value for key, value in before.fields.items()}
    seeds = (config.seed, *before.seeds)
    return Start(KINDS[type(config)], fields, seeds, initial, papers_name(config))


def _made_elsewhere(initial: str) -> Start:
    """A file of which nothing is known but its name."""
    *_, folder, name = ["", *initial.split("/")]
    return Start(folder if name == ENCODER else name, {"initial": initial}, (), initial)


def _names(starts: Sequence[Start]) -> dict[str, tuple[str, str]]:
    """Start.key -> name and what is left out of it, of `Started`."""
    kinds: dict[str, dict[str, Start]] = {}
    for start in starts:
        kinds.setdefault(start.kind, {})[start.key] = start
    return {key: name for same in kinds.values() for key, name in _names_of_kind(same).items()}


def _names_of_kind(same: Mapping[str, Start]) -> dict[str, tuple[str, str]]:
    fields = differing([start.fields for start in same.values()])
    named = {}
    for number, (key, start) in enumerate(same.items(), start=1):
        told = ", ".join(f"{n} {said(start.fields[n])}" for n in fields if n in start.fields)
        if len(fields) > SHOWN_FIELDS:
            named[key] = f"{start.kind} {number}", told
        else:
            named[key] = f"{start.kind} ({told})" if told else start.kind, ""
    return named
