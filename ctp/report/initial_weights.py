"""The initial weights of runs, under names that distinguish what differs by more than seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ctp.encoders.config import IMAGENET, KINETICS, RANDOM
from ctp.report.papers import encoder_method
from ctp.report.runs import (
    INITIAL,
    OF_INITIAL,
    RUN_CONFIGS,
    differing,
    in_words,
    shaping_options,
    value_in_words,
)
from ctp.storage import Storage, StorageError
from ctp.training.config import RunConfig
from ctp.training.run_folder import ENCODER, read_config

NAMED = {
    # initial -> (name, what the paper calls it)
    RANDOM: ("random", "none"),
    KINETICS: ("Kinetics-400, supervised", "Kinetics-400, supervised"),
    IMAGENET: ("ImageNet, inflated", "ImageNet, supervised"),
}
MADE_BY = {"pretrain": "pretrained", "finetune": "fine-tuned before", "track": "trained to track"}
"""Kind of the run that made weights -> their name."""
TASK = "task.name"
SHOWN_OPTIONS = 2
"""Options in a name; weights that differ in more are numbered."""


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of a run.

    Attributes:
        kind: their name if there are no others of the kind.
        options: what distinguishes them from others of the kind, dotted name -> value.
        seeds: the seed of the run that made them, that of the run that made its initial weights,
            and so on.
        uri: their file; "" for weights with a name of their own.
        method: what the paper calls them; "" if it has none of the kind.
    """

    kind: str
    options: Mapping[str, Any]
    seeds: tuple[int, ...] = ()
    uri: str = ""
    method: str = ""

    @property
    def key(self) -> str:
        """Return a text that is the same for weights that differ by their seeds alone."""
        return json.dumps([self.kind, self.options], sort_keys=True)


def initial_weights(config: RunConfig) -> InitialWeights:
    """Return the initial weights of a run.

    Weights of two runs are the same kind if the configs beside them say so. Of a file without a
    readable config only the name is known, so each such file is a separate kind.
    """
    options = shaping_options(config)
    initial = next((str(options[name]) for name in INITIAL if options.get(name)), RANDOM)
    if initial in NAMED:
        kind, method = NAMED[initial]
        found = InitialWeights(kind, {}, method=method)
    else:
        found = _made_by_run(initial) or _from_file(initial)
    # with the head or without it, the same file is another start
    own = {name: value for name, value in options.items() if name in OF_INITIAL and value}
    return replace(found, options={**found.options, **own})


def names_of(weights: Sequence[InitialWeights]) -> dict[str, tuple[str, str]]:
    """Return `InitialWeights.key` -> a name that no other key has, and the options that it leaves
    out, mostly none."""
    kinds: dict[str, dict[str, InitialWeights]] = {}
    has_several_tasks = len({each.options.get(TASK) for each in weights} - {None}) > 1
    for each in weights:
        # runs of different tasks differ in many options, and the task says enough
        has_name = has_several_tasks and TASK in each.options
        kind = f"{each.kind}, {each.options[TASK]}" if has_name else each.kind
        kinds.setdefault(kind, {})[each.key] = replace(each, kind=kind)
    return {key: name for same in kinds.values() for key, name in _names_of_kind(same).items()}


def _made_by_run(initial: str) -> InitialWeights | None:
    """Return weights in the folder of a run, described by its config."""
    if not initial.endswith(f"/{ENCODER}"):
        return None
    try:
        config = read_config(Storage.from_uri(initial).parent, *RUN_CONFIGS.values(), may_lack=True)
    except (ValueError, StorageError):  # the folder is gone, or others may not read it
        return None
    before = initial_weights(config)
    options = shaping_options(config)
    for name in INITIAL & options.keys():
        # by what they are, not by their file, which has another path for each seed
        options[name] = before.kind
        options |= {f"{name}.{key}": value for key, value in before.options.items()}
    seeds = (config.seed, *before.seeds)
    return InitialWeights(MADE_BY[config.KIND], options, seeds, initial, encoder_method(config))


def _from_file(initial: str) -> InitialWeights:
    *_, folder, name = ["", *initial.split("/")]
    kind = folder if name == ENCODER else name
    return InitialWeights(kind, {"initial": initial}, (), initial)


def _names_of_kind(same: Mapping[str, InitialWeights]) -> dict[str, tuple[str, str]]:
    differ = differing([weights.options for weights in same.values()])
    names = {}
    for number, (key, weights) in enumerate(same.items(), start=1):
        own = {name: weights.options[name] for name in differ if name in weights.options}
        text = ", ".join(f"{in_words(name)} {value_in_words(v)}" for name, v in own.items())
        # a name with many options is no name; the section lists them
        if len(differ) > SHOWN_OPTIONS:
            names[key] = f"{weights.kind} {number}", text
        else:
            names[key] = f"{weights.kind} ({text})" if text else weights.kind, ""
    return names
