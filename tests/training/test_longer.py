"""A larger `schedule.length` continues a run, also a finished one; a branch starts from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp.config import unflatten
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.branch import branch
from ctp.training.config import RunConfig
from ctp.training.run_folder import (
    checkpoint_store,
    create_or_resume,
    folder_of,
    is_finished,
    read_metrics,
    with_absolute_paths,
)

ACCEPTED = "no checkpoint to start from"
"""The next error after the check of the options, if there is no checkpoint."""
REFUSED = "continues the same training.*{} was .*may change schedule, optimizer.learning_rate"


def of_length(config: PretrainConfig, steps: int, **changes: Any) -> PretrainConfig:
    """Return a run whose rules do not depend on its length: no cosine, no curriculum."""
    return config.replace(
        schedule={"unit": "steps", "length": steps, "decay_at": (1,)},
        task=config.task.replace(curriculum=None),
        **changes,
    )


@pytest.fixture
def train(train_alone: Callable[..., None]) -> Callable[[PretrainConfig], None]:
    def run(config: PretrainConfig) -> None:
        create_or_resume(config)
        train_alone(open_pretraining(config))

    return run


def losses(config: PretrainConfig) -> list[float]:
    return [row["loss"] for row in read_metrics(folder_of(config))]


def test_a_finished_run_that_is_lengthened_equals_one_of_that_length(
    small_run: PretrainConfig, train: Callable[[PretrainConfig], None]
) -> None:
    short, whole = of_length(small_run, 3), of_length(small_run, 6, name="whole")
    train(short)
    folder = folder_of(short)
    first = folder.join(short.RESULT).read_bytes()
    longer = of_length(small_run, 6)
    assert is_finished(short)
    assert not is_finished(longer)
    train(longer)
    train(whole)
    assert len(losses(longer)) == 6
    assert losses(longer) == losses(whole)
    assert is_finished(longer)
    assert folder.join("encoder-3-steps.safetensors").read_bytes() == first
    newest = [checkpoint_store(each).load("step-000000006").model for each in (longer, whole)]
    assert all((newest[0][name] == newest[1][name]).all() for name in newest[1])


def test_only_a_larger_length_continues_a_finished_run(
    small_run: PretrainConfig, train: Callable[[PretrainConfig], None]
) -> None:
    train(of_length(small_run, 3))
    for other in (of_length(small_run, 2), of_length(small_run, 6, seed=5)):
        with pytest.raises(ValueError, match=r"length was 3, is|seed was 0, is 5"):
            is_finished(other)
        with pytest.raises(ValueError, match="is finished"):
            create_or_resume(other)


def test_a_branch_continues_from_the_checkpoint_and_leaves_its_source(
    small_run: PretrainConfig, train: Callable[[PretrainConfig], None]
) -> None:
    source, whole = of_length(small_run, 3), of_length(small_run, 6, name="whole")
    train(source)
    train(whole)
    before = folder_of(source).list_files()
    other = of_length(PretrainConfig(), 6, name="other", storage=source.storage)
    branched = branch(other, "run", ["schedule.length"])
    assert branched == of_length(source, 6, name="other")
    assert branch(other, "run", ["schedule.length"]) == branched
    train(branched)
    assert losses(branched) == losses(whole)
    assert folder_of(source).list_files() == before


def test_a_branch_that_does_not_fit_its_checkpoint_is_refused(
    small_run: PretrainConfig, train: Callable[[PretrainConfig], None]
) -> None:
    source = of_length(small_run, 3)
    train(source)
    for changes, given, message in (
        ({}, [], "finished after 3 steps: give a larger --schedule.length"),
        ({"data": {"uri": "corpus:5"}}, ["data.uri"], "data.uri was .*, is 'corpus:5'"),
    ):
        other = of_length(source, 3, name="other").override(changes)
        with pytest.raises(ValueError, match=message):
            branch(other, "run", given)
    assert not folder_of(other).list_files()


@pytest.mark.parametrize(
    ("kind", "option", "value", "expected"),
    [
        (PretrainConfig, "optimizer.learning_rate", 0.5, ACCEPTED),
        (PretrainConfig, "optimizer.weight_decay", 0.5, ACCEPTED),
        (PretrainConfig, "evaluation.num_clips", 5, ACCEPTED),
        (FinetuneConfig, "sampling.num_frames", 8, ACCEPTED),
        # the same weights by another name
        (FinetuneConfig, "initial", "ctp-small", ACCEPTED),
        *((kind, "optimizer.name", "adamw", REFUSED) for kind in (PretrainConfig, TrackConfig)),
        (PretrainConfig, "seed", 1, REFUSED),
        (PretrainConfig, "data.heldout_share", 0.5, REFUSED),
        (PretrainConfig, "data.heldout_uri", "corpus:5", REFUSED),
        (PretrainConfig, "data.share", 0.5, REFUSED),
        (PretrainConfig, "data.repeats_per_pass", 2, REFUSED),
        (PretrainConfig, "initial_encoder", "ctp-small", REFUSED),
        (FinetuneConfig, "protocol", "linear", REFUSED),
        (FinetuneConfig, "data.label_fraction", 0.5, REFUSED),
        (FinetuneConfig, "data.test_share", 0.5, REFUSED),
        (TrackConfig, "frozen_stages", 2, REFUSED),
    ],
)
def test_a_branch_changes_only_what_does_not_decide_its_checkpoint(
    tmp_path: Path, kind: type[RunConfig], option: str, value: Any, expected: str
) -> None:
    weights = {"initial": "ctp-small"} if option == "initial" else {}
    base = kind.from_values({"name": "run", "storage": str(tmp_path), **weights})
    create_or_resume(with_absolute_paths(base))
    other = base.override(unflatten({"name": "other", option: value}))
    with pytest.raises(ValueError, match=expected.format(option)):
        branch(other, "run", [option])
    assert not folder_of(other).list_files()
