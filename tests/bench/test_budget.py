"""The cores that a GPU needs and the bottleneck of a run, computed by hand."""

import pytest

from ctp.bench.budget import (
    ASSUMED_EFFICIENCY,
    ASSUMED_GPU_CLIPS_PER_SECOND,
    describe_budget,
    make_budget,
    make_budgets,
)
from ctp.bench.config import BenchConfig
from ctp.bench.ingest import LoaderTiming
from ctp.bench.timing import Figures, Timing


def budget(num_cores: int) -> Figures:
    """Return eight GPUs of 1000 clips/s; a core loads 250 clips/s, of which 200 reach the GPU."""
    return make_budget("ours", 4.0, 0.8, 1000.0, num_gpus=8, num_cores=num_cores)


def test_cores_of_a_gpu():
    assert budget(96)["cores_per_gpu"] == pytest.approx(5)
    assert "5.0 cores" in describe_budget(budget(96))


@pytest.mark.parametrize(("num_cores", "gpu_use"), [(96, 1), (48, 1), (28, 0.5), (4, 0)])
def test_gpus_wait_if_the_cores_besides_the_workers_are_too_few(num_cores, gpu_use):
    """40 cores are needed besides the 8 of the workers."""
    assert budget(num_cores)["gpu_use"] == pytest.approx(gpu_use)


def test_the_sentence_names_the_bottleneck():
    assert "training step is the bottleneck" in describe_budget(budget(96))
    assert "data loading is the bottleneck" in describe_budget(budget(28))
    assert "50%" in describe_budget(budget(28))


def loader_timing(name: str, milliseconds: float) -> LoaderTiming:
    baseline = "" if name == "ours" else name
    stages = (Timing("decode", "ms", (milliseconds,)),)
    return LoaderTiming(name, 24, stages, num_frames=16, baseline=baseline)


def test_budgets_use_what_was_measured():
    """A clip takes 4 ms and half of them reach the GPU: 1000 clips/s need 8 cores."""
    config = BenchConfig(gpus=2, cores=64, baseline=("torchcodec",))
    loaders = [loader_timing("ours", 4), loader_timing("torchcodec", 14)]
    (only,), assumptions = make_budgets(config, loaders, 0.5, 1000)
    assert assumptions == []
    assert only["cores_per_gpu"] == pytest.approx(8)
    assert (only["num_gpus"], only["num_cores"]) == (2, 64)


def test_what_was_not_measured_is_assumed_and_stated():
    loaders = [loader_timing("ours", 4)]
    (only,), assumptions = make_budgets(BenchConfig(), loaders, None, None)
    assert only["efficiency"] == ASSUMED_EFFICIENCY
    assert only["gpu_clips_per_second"] == ASSUMED_GPU_CLIPS_PER_SECOND
    assert len(assumptions) == 2
    given = BenchConfig(gpu_clips_per_second=300)
    (only,), assumptions = make_budgets(given, loaders, 1.4, 500)
    assert only["gpu_clips_per_second"] == 300  # the option overrides the measurement
    assert only["efficiency"] == 1  # more than ideal is noise
    assert make_budgets(BenchConfig(), [], None, None) == ([], [])
