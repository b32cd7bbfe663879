"""What the config of a run says about it, without importing its task, which needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from ctp.config import flatten, is_within
from ctp.report.runs import RUN_CONFIGS, SEEDS_AND_NAMES
from ctp.score import Score
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.config import HEADER
from ctp.training.run_folder import CONFIG


class About(NamedTuple):
    """A run by its config.

    Attributes:
        kind: as `RunConfig.KIND`.
        description: its kind and its task or protocol, e.g. "pretrain ctp".
        result: the file that the folder of a finished run contains.
        score: the score that it is judged by.
        total_batch: samples in a step.
        num_steps: its length in steps, None if it is in epochs.
        options: dotted name -> value of the options that shape the result, and the seed.
    """

    kind: str
    description: str
    result: str
    score: Score
    total_batch: int
    num_steps: int | None
    options: Mapping[str, Any]


def read_about(folder: Storage) -> About:
    """Read the config of a run, also one that another version of ctp has written.

    Raises:
        ValueError: it is not the config of a run.
        StorageError: it cannot be read.
    """
    place = folder.join(CONFIG)
    try:
        values = yaml.safe_load(place.read_bytes())
        return _about(folder, values)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{place.uri} is not the config of a run ({type(error).__name__}: {error}). Expected "
            f"one that ctp wrote, of a kind among {', '.join(RUN_CONFIGS)}"
        ) from error


def _about(folder: Storage, values: Mapping[str, Any]) -> About:
    config, schedule = RUN_CONFIGS[values["kind"]], values["schedule"]
    flat = dict(flatten(values))
    left_out = config.MAY_CHANGE | SEEDS_AND_NAMES | set(HEADER)
    # the protocol may be named like the kind
    words = dict.fromkeys([config.KIND, flat.get("task.name"), flat.get("protocol")])
    return About(
        kind=config.KIND,
        description=" ".join(filter(None, words)),
        result=config.RESULT,
        score=_score(folder, values),
        total_batch=int(values["compute"]["total_batch"]),
        num_steps=int(schedule["length"]) if schedule["unit"] == "steps" else None,
        options={"seed": values["seed"]}
        | {name: value for name, value in flat.items() if not is_within(name, left_out)},
    )


def _score(folder: Storage, values: Mapping[str, Any]) -> Score:
    if "score" not in values:  # an older version; this imports the task
        return run_folder.read_config(folder, *RUN_CONFIGS.values(), may_lack=True).score
    return Score(**{**values["score"], "loss_parts": tuple(values["score"]["loss_parts"])})
