"""The functions of `import ctp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ctp
from ctp import recipes
from ctp.cluster.api import configure
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.config import CtpConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.branch import branch
from ctp.training.checkpoint import TrainState
from ctp.training.run_folder import LAST_FILE, checkpoint_store, create_or_resume, folder_of
from ctp.training.trainer import TrainingSpec


def test_a_section_keeps_the_values_of_the_recipe_that_are_not_given() -> None:
    recipe = recipes.small()
    config = configure(recipes.PRETRAIN, "small", {"schedule": {"length": 7}, "data": "/videos"})
    assert config.schedule == recipe.schedule.replace(length=7)
    assert config.data == recipe.data.replace(uri="/videos")
    assert config.encoder == recipe.encoder


def test_options_are_also_dotted_names_and_configs() -> None:
    config = configure(recipes.PRETRAIN, "tiny", {"task.num_patches": 2, "seed": 3})
    assert (config.task.num_patches, config.seed) == (2, 3)
    options = {"data": "/a", "data.heldout_share": 0.5}
    data = configure(recipes.PRETRAIN, "tiny", options).data
    assert (data.uri, data.heldout_share) == ("/a", 0.5)
    task = CtpConfig(num_patches=1)
    assert configure(recipes.PRETRAIN, "tiny", {"task": task}).task == task


def test_an_unknown_recipe_or_option_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"tinny.*did you mean tiny"):
        configure(recipes.PRETRAIN, "tinny", {})
    with pytest.raises(ValueError, match=r"schedule\.lenght.*did you mean schedule\.length"):
        configure(recipes.PRETRAIN, "tiny", {"schedule": {"lenght": 3}})


def test_a_run_to_start_from_must_exist_and_have_the_same_task(
    small_run: PretrainConfig, train_alone: Callable[[TrainingSpec[Any]], None]
) -> None:
    create_or_resume(small_run)
    train_alone(open_pretraining(small_run))
    options = {"storage": small_run.storage, "name": "longer", "seed": 0}
    for start in (ctp.pretrain, ctp.finetune, ctp.track):
        with pytest.raises(ValueError, match=r"no run .runn.*did you mean run"):
            start(from_run="runn", **options)
    with pytest.raises(ValueError, match=r"continues the same training.*task\.num_patches"):
        ctp.pretrain(from_run=small_run.name, task={"num_patches": 1}, **options)


def test_the_same_call_means_the_same_branch_after_its_source_was_lengthened(
    small_run: PretrainConfig,
) -> None:
    length = small_run.schedule.length
    create_or_resume(small_run)
    store = checkpoint_store(small_run)
    store.save(TrainState(2, {}, {}, "{}", ""))
    store.close()
    row = b'{"step": 2, "iou": 0.5, "heldout_clips": 4, "heldout_quarantined": 0}\n'
    folder_of(small_run).join("metrics.jsonl").write_bytes(row)
    # more cores than there are: a run that is not finished is refused before it starts
    options = {"name": "other", "storage": small_run.storage, "scaling.cpus_per_worker": 1e6}
    branched = branch(configure(recipes.PRETRAIN, "tiny", options), "run", options)
    folder_of(branched).join(branched.RESULT).write_bytes(b"the encoder")
    folder_of(branched).join(LAST_FILE).write_bytes(b"the curves")
    create_or_resume(small_run.replace(schedule=small_run.schedule.replace(length=length + 9)))
    run = ctp.pretrain(from_run="run", **options)
    assert run.config.schedule.length == length
