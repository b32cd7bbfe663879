"""Whether the processes of a run fit a cluster, counted without one."""

from __future__ import annotations

import re

import pytest

from ctp.cluster.connect import Demand, require, run_demands
from ctp.recipes import PRETRAIN
from ctp.training.config import ScalingConfig

TINY = run_demands(PRETRAIN["tiny"]().scaling)


def test_the_smallest_recipe_fits_two_cpus() -> None:
    require(TINY, 2, 0, "the cluster")
    with pytest.raises(ValueError, match=r"needs 2 CPUs .* but the cluster offers 1"):
        require(TINY, 1, 0, "the cluster")


@pytest.mark.parametrize(("workers", "actors", "cpus"), [(2, 6, 8), (2, 5, 8), (4, 1, 8)])
def test_each_worker_has_equally_many_actors_and_at_least_one(
    workers: int, actors: int, cpus: int
) -> None:
    demands = run_demands(ScalingConfig(num_workers=workers, num_actors=actors))
    assert sum(each.number * each.cpus for each in demands) == cpus


def test_cpus_and_gpus_that_are_missing_are_reported_at_once_with_options_that_fit() -> None:
    demands = run_demands(ScalingConfig(num_workers=8, use_gpu=True, num_actors=24))
    with pytest.raises(ValueError, match="needs 32 CPUs") as error:
        require(demands, 2, 0, "this machine")
    message = str(error.value)
    assert "8 GPUs (8 worker(s) of 1), but this machine offers 0" in message
    options = dict(re.findall(r"--scaling\.(\w+) (\w+)", message.partition("The smallest:")[2]))
    assert options == {"use_gpu": "false", "num_workers": "1", "num_actors": "1"}
    smallest = run_demands(ScalingConfig.model_validate(options))
    require(smallest, 2, 0, "this machine")


def test_no_options_are_promised_that_would_not_fit() -> None:
    demands = [Demand("worker", 1, 4.0, 0.0, "scaling.num_workers or cpus_per_worker")]
    with pytest.raises(ValueError, match="offers 2") as error:
        require(demands, 2, 0, "this machine")
    assert "The smallest" not in str(error.value)
