"""Operations are counted as by hand; a step of any task and encoder can be timed."""

import json
from collections import OrderedDict
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from ctp.bench.config import BenchConfig
from ctp.bench.steps import (
    count_flops,
    measure_steps,
    peak_tflops,
    step_figures,
    time_authors_step,
    time_step,
)
from ctp.bench.tables import to_json
from ctp.bench.timing import Timing, one_thread
from ctp.data.quarantine import QuarantineLimitError
from ctp.data.stream import array_field
from ctp.pretext import registry
from ctp.pretext.config import PretrainConfig
from ctp.pretext.task import PretextTask
from ctp.pretext.task_config import TaskConfig
from ctp.score import Score
from ctp.training.config import ComputeConfig
from ctp.training.step import LossTerms


def test_the_operations_of_a_product_are_counted():
    layer, clips = nn.Linear(3, 5, bias=False), torch.ones(7, 3)
    assert count_flops(lambda: layer(clips)) == 2 * 7 * 3 * 5
    # backward: the gradient of the weights; the input has none
    assert count_flops(lambda: layer(clips).sum().backward()) == 2 * (2 * 7 * 3 * 5)


def test_a_convolution_backwards_is_twice_forwards():
    first, second = nn.Conv3d(3, 4, 1, bias=False), nn.Conv3d(4, 2, 1, bias=False)
    clips = torch.ones(2, 3, 2, 8, 8)
    forward = 2 * clips[:, 0].numel() * (3 * 4 + 4 * 2)
    work = lambda: second(first(clips))  # noqa: E731
    assert count_flops(work) == forward
    # the first layer's input has no gradient
    of_input = 2 * clips[:, 0].numel() * 3 * 4
    assert count_flops(lambda: work().sum().backward()) == 3 * forward - of_input


def step_timing(peak):
    """Return steps of 500 ms, 8 clips and 10 TFLOP each: 16 clips/s, 20 TFLOP/s."""
    run = PretrainConfig(compute=ComputeConfig(total_batch=8))
    return step_figures(run, Timing("step", "ms", (400.0, 500.0, 900.0)), 10**13, peak)


def test_utilisation_is_the_share_of_the_peak():
    step = step_timing(peak=100)
    assert step["clips_per_second"] == pytest.approx(16)
    assert step["tflops"] == pytest.approx(20)
    assert step["mfu"] == pytest.approx(0.2)
    written = json.loads(to_json(step))
    assert written["mfu"] == pytest.approx(0.2)
    assert written["ms"]["median"] == 500
    assert step_timing(peak=None)["mfu"] is None


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA L4", "fp32", 30.3),
        ("NVIDIA L40S", "fp32", 91.6),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA GeForce GTX 1080", "fp32", None),
    ],
)
def test_peaks_are_of_the_device_and_precision(device, precision, peak):
    assert peak_tflops(device, precision) == peak


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():  # many threads wait long for each other on a busy machine
        yield


@pytest.fixture
def run(small_run):
    """Return a small run on two videos."""
    return small_run.replace(data={"uri": "corpus:2"})


def test_a_step_of_a_run_is_timed(run):
    figures = time_step(run, 2)
    assert (figures["task"], figures["clips"], figures["precision"]) == ("ctp", 4, "fp32")
    assert len(figures["ms"].repeats) == 2
    assert min(figures["ms"].repeats) > 0
    twice = run.replace(compute=run.compute.replace(total_batch=8))
    # the head's products grow with the batch, too
    assert time_step(twice, 1)["gflops"] == pytest.approx(2 * figures["gflops"], rel=0.05)


def test_the_authors_way_computes_the_same_operations(run):
    ours, authors = time_step(run, 1), time_authors_step(run, 1)
    assert authors["gflops"] == ours["gflops"]


class ToySample(NamedTuple):
    clip: Any


class ToyConfig(TaskConfig):
    name: Literal["toy"] = "toy"


class ToyTask(PretextTask[ToySample, ToyConfig]):
    """Draws noise and minimises the features."""

    Config = ToyConfig
    score = Score("toy", "toy", "chance", "chance", ())

    def fields(self):
        return ToySample(array_field(np.float32, 3, 4, 32, 32))

    def draw(self, videos, rng):
        return ToySample(rng.random((3, 4, 32, 32), np.float32))

    def build(self, encoder):
        return nn.Sequential(OrderedDict(encoder=encoder))

    def loss(self, model, samples):
        return LossTerms(model(samples.clip).square().mean(), {})

    def evaluate(self, model, batches):
        return {}

    def pictures(self, samples, model, *, min_side_px):
        return []


def test_a_step_of_another_task_is_timed(small_run, monkeypatch):
    monkeypatch.setitem(registry.TASKS, "toy", ToyTask)
    bench = BenchConfig.model_validate({"what": ["step"], "task": "toy"})
    bench = bench.replace(encoder=small_run.encoder)
    timed = time_step(bench.pretraining("corpus:2", small_run.compute), 1)
    assert timed["task"] == "toy"
    assert timed["gflops"] > 0


def test_a_part_that_only_measures_ctp_refuses_another_task(monkeypatch):
    monkeypatch.setitem(registry.TASKS, "toy", ToyTask)
    with pytest.raises(ValueError, match=r"game and ingest.*toy"):
        BenchConfig.model_validate({"task": "toy"})


def test_no_step_begins_after_the_time_limit(capsys):
    late = BenchConfig.model_validate({"step": {"max_seconds": 1e-9}})
    assert measure_steps(late) == []
    assert "--step.max_seconds" in capsys.readouterr().err


def test_videos_that_cannot_be_used_are_an_error(small_run, video_folder):
    data = {"uri": str(video_folder(bad=2))}
    with pytest.raises(QuarantineLimitError, match=r"bad0\.mp4"):
        time_step(small_run.replace(data=data), 1)


@pytest.mark.slow
def test_workers_take_a_step_together(small_run):
    """The batch and its operations are those of one worker twice."""
    one = small_run.replace(compute={"total_batch": 4}, scaling={"num_workers": 1})
    two = small_run.replace(compute={"total_batch": 8}, scaling={"num_workers": 2})
    alone, together = time_step(one, repeats=1), time_step(two, repeats=1)
    assert (alone["workers"], together["workers"]) == (1, 2)
    assert (alone["clips"], together["clips"]) == (4, 8)
    assert together["gflops"] == pytest.approx(2 * alone["gflops"])
    assert together["ms"].median > 0
