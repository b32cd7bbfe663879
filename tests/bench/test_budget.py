"""The cores that a GPU needs and the bottleneck of a run, computed by hand."""

import pytest

from ctp.bench.budget import (
    ASSUMED_EFFICIENCY,
    ASSUMED_GPU_CLIPS_PER_SECOND,
    Place,
    describe_budget,
    make_budget,
    make_budgets,
)
from ctp.bench.config import BenchConfig
from ctp.bench.ingest import LoaderTiming
from ctp.bench.timing import Figures, Timing


def budget(num_cores: int) -> Figures:
    """Return eight GPUs of 1000 clips/s; a core loads 250 clips/s, of which 200 reach the GPU."""
    return make_budget(Place("A run", 8, num_cores), "ours", 4.0, 0.8, 1000.0)


def test_cores_of_a_gpu():
    assert budget(96)["cores_per_worker"] == pytest.approx(5)
    assert "5 core(s)" in describe_budget(budget(96))


@pytest.mark.parametrize(("num_cores", "worker_use"), [(96, 1), (48, 1), (28, 0.5), (4, 0)])
def test_gpus_wait_if_the_cores_besides_the_workers_are_too_few(num_cores, worker_use):
    """40 cores are needed besides the 8 of the workers."""
    assert budget(num_cores)["worker_use"] == pytest.approx(worker_use)


def test_the_sentence_names_the_bottleneck():
    assert "training step is the bottleneck" in describe_budget(budget(96))
    assert "data loading is the bottleneck" in describe_budget(budget(28))
    assert "50%" in describe_budget(budget(28))


def loader_timing(name: str, milliseconds: float) -> LoaderTiming:
    baseline = "" if name == "ours" else name
    stages = (Timing("decode", "ms", (milliseconds,)),)
    return LoaderTiming(name, 24, stages, num_frames=16, baseline=baseline)


GPU_MACHINE, CPU_MACHINE = Place("here", 1, 16), Place("here", 0, 2)


def test_budgets_use_what_was_measured():
    """A clip takes 4 ms and half of them reach the GPU: 1000 clips/s need 8 cores."""
    config = BenchConfig(gpus=2, cores=64, baseline=("torchcodec",))
    loaders = [loader_timing("ours", 4), loader_timing("torchcodec", 14)]
    (here, run), assumptions = make_budgets(config, loaders, 0.5, 1000, GPU_MACHINE)
    assert assumptions == []
    assert here["cores_per_worker"] == run["cores_per_worker"] == pytest.approx(8)
    assert (here["num_gpus"], here["num_cores"]) == (1, 16)
    assert (run["num_gpus"], run["num_cores"]) == (2, 64)


def test_a_machine_without_a_gpu_is_judged_by_its_own_step():
    """One core trains on 50 clips/s; the other one loads 250 clips/s, half reach it."""
    (here, run), assumptions = make_budgets(
        BenchConfig(), [loader_timing("ours", 4)], 0.5, 50, CPU_MACHINE
    )
    assert here["cores_per_worker"] == pytest.approx(50 / 125)
    assert here["worker_use"] == 1
    assert "GPU" not in describe_budget(here)
    # the step of a CPU says nothing about a GPU
    assert run["worker_clips_per_second"] == ASSUMED_GPU_CLIPS_PER_SECOND
    assert len(assumptions) == 1


def test_what_was_not_measured_is_assumed_and_stated():
    loaders = [loader_timing("ours", 4)]
    (only,), assumptions = make_budgets(BenchConfig(), loaders, None, None, CPU_MACHINE)
    assert only["efficiency"] == ASSUMED_EFFICIENCY
    assert only["worker_clips_per_second"] == ASSUMED_GPU_CLIPS_PER_SECOND
    assert len(assumptions) == 2
    given = BenchConfig(gpu_clips_per_second=300)
    (here, run), assumptions = make_budgets(given, loaders, 1.4, 500, GPU_MACHINE)
    assert here["worker_clips_per_second"] == 500
    assert run["worker_clips_per_second"] == 300  # the option overrides the measurement
    assert run["efficiency"] == 1  # more than ideal is noise
    assert make_budgets(BenchConfig(), [], None, None, CPU_MACHINE) == ([], [])
