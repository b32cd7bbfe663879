"""Whether the processes of a run fit a cluster, counted without one."""

from __future__ import annotations

import re

import pytest

from ctp.cluster.connect import Demand, require, reserved_share, run_demands
from ctp.recipes import PRETRAIN
from ctp.training.config import ScalingConfig

TINY = run_demands(PRETRAIN["tiny"]().scaling)


@pytest.mark.parametrize(("cpus", "share"), [(2, 0.5), (3, 1), (64, 1)])
def test_the_smallest_recipe_fits_two_cpus_beside_ray_datas_tasks(cpus: int, share: float) -> None:
    assert reserved_share(TINY, cpus, 0, "the cluster") == share
    scaling = PRETRAIN["tiny"]().scaling.reserving(share)
    reserved = sum(each.number * each.cpus for each in run_demands(scaling))
    assert reserved + 1 <= cpus


def test_a_larger_run_fits_if_the_cluster_has_a_cpu_for_each_process() -> None:
    demands = run_demands(ScalingConfig(num_workers=2, num_actors=6))
    assert reserved_share(demands, 8, 0, "the cluster") == 7 / 8
    with pytest.raises(ValueError, match=r"needs 8 CPUs .* but the cluster offers 6"):
        reserved_share(demands, 7, 0, "the cluster")


def test_one_cpu_is_too_few() -> None:
    with pytest.raises(ValueError, match="the cluster offers 0"):
        reserved_share(TINY, 1, 0, "the cluster")


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
