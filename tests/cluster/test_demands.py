"""Which processes a run has, and whether they fit a cluster, counted without one."""

from __future__ import annotations

import re

import pytest

from ctp.cluster.connect import Demand, Place, require, run_demands
from ctp.cluster.extract import demands as embed_demands
from ctp.downstream.embed_config import EmbedScalingConfig
from ctp.pretext.config import PretrainConfig
from ctp.recipes import EMBED, FINETUNE, PRETRAIN, TRACK
from ctp.training.config import ScalingConfig

TINY = run_demands(PRETRAIN["tiny"]().scaling)


def test_the_smallest_recipe_fits_two_cpus() -> None:
    require(TINY, 2, 0, "the cluster")
    with pytest.raises(ValueError, match=r"needs 2 CPUs .* but the cluster offers 1"):
        require(TINY, 1, 0, "the cluster")


@pytest.mark.parametrize(
    ("workers", "actors", "each"), [(2, 6, 3), (2, 5, 3), (4, 1, 1), (3, 1, 1), (8, 24, 3)]
)
def test_each_worker_has_equally_many_actors_which_share_the_cores(
    workers: int, actors: int, each: int
) -> None:
    of_workers, of_actors = run_demands(ScalingConfig(num_workers=workers, num_actors=actors))
    assert of_workers.number * of_workers.cpus == workers
    assert of_actors.number == workers * each
    assert actors - 0.01 < of_actors.number * of_actors.cpus <= actors


def test_cpus_and_gpus_that_are_missing_are_reported_at_once_with_options_that_fit() -> None:
    demands = run_demands(ScalingConfig(num_workers=8, use_gpu=True, num_actors=24))
    with pytest.raises(ValueError, match="needs 32 CPUs") as error:
        require(demands, 2, 0, "this machine")
    message = str(error.value)
    assert "8 GPUs (8 worker(s) of 1), but this machine offers 0" in message
    options = dict(re.findall(r"--scaling\.(\w+) (\w+)", message.partition("options fit:")[2]))
    assert options == {"use_gpu": "false", "num_workers": "auto", "num_actors": "auto"}
    fitting = ScalingConfig.model_validate(options).choose(2, 0, total_batch=32)
    require(run_demands(fitting), 2, 0, "this machine")


@pytest.mark.parametrize(("workers", "actors"), [(1, 1), (8, 24), (3, 16)])
def test_actors_that_decode_on_the_gpus_share_those_of_the_workers(
    workers: int, actors: int
) -> None:
    on_cpus = ScalingConfig(num_workers=workers, num_actors=actors, use_gpu=True)
    demands = run_demands(on_cpus.replace(decoder="gpu"))
    worker, actor = demands
    assert worker.gpus > 1 / 2, "else Ray could give two workers the same GPU"
    assert actor.gpus > 0
    assert sum(each.number * each.gpus for each in demands) <= workers
    assert [each.gpus for each in run_demands(on_cpus)] == [1, 0]
    with pytest.raises(
        ValueError, match=re.escape("--scaling.use_gpu false --scaling.decoder cpu")
    ):
        require(demands, 1000, 0, "the cluster")


def test_actors_decode_on_no_gpu_if_the_workers_have_none() -> None:
    with pytest.raises(ValueError, match="set use_gpu true or decoder cpu"):
        ScalingConfig(decoder="gpu")


def test_no_options_are_promised_that_would_not_fit() -> None:
    demands = [Demand("worker", 1, 4.0, 0.0, "scaling.num_workers or cpus_per_worker")]
    with pytest.raises(ValueError, match="offers 2") as error:
        require(demands, 2, 0, "this machine")
    assert "--" not in str(error.value)


# ---- chosen from the machine --------------------------------------------------------------------


def auto(**options: object) -> ScalingConfig:
    options = {"num_workers": "auto", "num_actors": "auto", **options}
    return ScalingConfig.model_validate(options)


def numbers(scaling: ScalingConfig) -> tuple[int | str, int | str]:
    return scaling.num_workers, scaling.num_actors


@pytest.mark.parametrize(("cpus", "gpus", "expected"), [
    (2, 0, (1, 1)),
    (8, 2, (1, 7)),  # the GPUs are not used
])  # fmt: skip
def test_without_gpus_there_is_one_worker(cpus: int, gpus: int, expected: tuple[int, int]) -> None:
    assert numbers(auto().choose(cpus, gpus, total_batch=16)) == expected


@pytest.mark.parametrize(("cpus", "gpus", "expected"), [
    (32, 8, (8, 24)),  # the paper's
    (64, 1, (1, 63)),
    (35, 8, (8, 24)),  # 27 cores are left, and all workers have 3 actors
    (32, 6, (4, 28)),  # 6 cannot share a batch of 32
    (11, 8, (4, 4)),  # 5 workers and their actors have cores, and 4 share a batch
])  # fmt: skip
def test_each_gpu_has_a_worker_that_has_its_share_of_the_batch_and_an_actor(
    cpus: int, gpus: int, expected: tuple[int, int]
) -> None:
    assert numbers(auto(use_gpu=True).choose(cpus, gpus, total_batch=32)) == expected


@pytest.mark.parametrize(("given", "expected"), [
    ({"num_workers": 2}, (2, 30)),
    ({"num_actors": 40}, (1, 40)),  # too many beside any worker, as the error will say
    ({"num_actors": 24}, (8, 24)),
    ({"num_actors": 25}, (4, 25)),  # 7 for each of 4 workers; 4 for each of 8 are too many
    ({"cpus_per_worker": 3}, (8, 8)),
    ({"num_workers": 3, "num_actors": 5}, (3, 5)),
])  # fmt: skip
def test_numbers_that_are_given_are_kept(given: dict[str, int], expected: tuple[int, int]) -> None:
    chosen = auto(use_gpu=True, **given).choose(cpus=32, gpus=8, total_batch=32)
    assert numbers(chosen) == expected


def test_what_is_chosen_fits() -> None:
    for cpus in range(2, 70):
        for gpus in range(1, 10):
            for total_batch in (1, 12, 32):
                scaling = auto(use_gpu=True).choose(cpus, gpus, total_batch)
                require(run_demands(scaling), cpus, gpus, "the cluster")
                PretrainConfig(compute={"total_batch": total_batch}, scaling=scaling)


def test_a_machine_that_is_too_small_is_named_after_the_choice() -> None:
    chosen = auto(use_gpu=True, min_workers=2).choose(cpus=8, gpus=1, total_batch=32)
    assert chosen.num_workers == 2
    with pytest.raises(ValueError, match=r"2 GPUs .*offers 1.*scaling\.min_workers"):
        require(run_demands(chosen), 8, 1, "this machine")


def test_other_processes_of_the_job_keep_their_share() -> None:
    scorer = Demand("kNN scorer", 1, 0.5, 1.0, "")
    place = Place(8, 2, "this machine").without([scorer])
    chosen = auto(use_gpu=True).choose(place.cpus, place.gpus, total_batch=32)
    require([*run_demands(chosen), scorer], 8, 2, "this machine")
    assert numbers(chosen) == (1, 6)


@pytest.mark.parametrize("cpus", [8, 64])
def test_the_recipes_for_one_gpu_use_all_cores(cpus: int) -> None:
    for recipes in (PRETRAIN, FINETUNE, TRACK):
        config = recipes["one-gpu"]()
        chosen = config.scaling.choose(cpus, 1, config.compute.total_batch)
        assert numbers(chosen) == (1, cpus - 1)
    readers = EMBED["one-gpu"]().scaling.choose(cpus)
    assert readers.num_readers == cpus - 1
    require(embed_demands(readers), cpus, 1, "this machine")


def test_readers_take_the_cores_that_encoders_leave() -> None:
    scaling = EmbedScalingConfig(num_readers="auto", num_encoders=2, cpus_per_reader=1.5)
    assert scaling.choose(cpus=12).num_readers == 6  # 10 cores are left
    assert scaling.choose(cpus=2).num_readers == 1
    assert scaling.replace(num_readers=3).choose(cpus=12).num_readers == 3


def test_before_the_choice_a_run_needs_one_worker_with_one_actor() -> None:
    assert run_demands(auto()) == run_demands(ScalingConfig(num_workers=1, num_actors=1))


@pytest.mark.parametrize("value", [0, "many", 1.5, None])
def test_other_values_are_refused_in_one_line(value: object) -> None:
    with pytest.raises(ValueError, match=r"num_workers: expected .*auto, got") as error:
        PretrainConfig.from_values({"scaling": {"num_workers": value}})
    assert "\n" not in str(error.value)
