"""What checks a step on a GPU gives known answers on a CPU."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from ctp.bench.config import BenchConfig
from ctp.bench.gpu import (
    compare_with_cpu,
    counted_warnings,
    gpu_config,
    longest_kernels,
    profile_steps,
    synchronising_lines,
)
from ctp.training.distributed import CPU


@pytest.fixture
def config(small_run):
    bench = BenchConfig.model_validate({"step": {"compile": [False], "clips": [2]}})
    return gpu_config(bench.replace(task=small_run.task, encoder=small_run.encoder))


def test_a_step_on_the_cpu_equals_itself(config):
    exact, also_exact, rounded = compare_with_cpu(config, CPU)
    assert [exact["precision"], rounded["precision"]] == ["fp32", "bf16"]
    for each in (exact, also_exact):
        assert (each["loss"], each["gradient"], each["pixels"]) == (0, 0, 0)
    # bfloat16 has 8 bits
    assert rounded["gradient"] > 2**-10
    assert rounded["loss"] < 2**-5
    assert exact["equal"]


def test_what_rounding_does_not_explain_is_not_equal(config, monkeypatch):
    monkeypatch.setattr("ctp.bench.gpu.TOLERANCES", {"bf16": 1e-6})
    (rounded,) = compare_with_cpu(config, CPU)
    assert not rounded["equal"]


def test_the_longest_operator_comes_first():
    large, small = torch.ones(256, 256), torch.ones(4)
    product, *others = longest_kernels(lambda: (large @ large, small + small, small + small), CPU)
    assert (product["kernel"], product["calls"]) == ("aten::mm", 1)
    assert {each["kernel"]: each["calls"] for each in others}["aten::add"] == 2
    assert sum(each["share"] for each in [product, *others]) == pytest.approx(1)


def test_warnings_are_counted_by_line():
    wrong_size = torch.empty(3)

    def warn() -> None:
        torch.add(torch.ones(2), 1, out=wrong_size.resize_(3))

    with counted_warnings("resized", Path(__file__).parent) as lines:
        warn()
        warn()
        torch.add(torch.ones(2), 1, out=torch.empty(2))
    line = inspect.getsourcelines(warn)[1] + 1
    assert lines == {f"test_gpu.py:{line}": 2}
    with counted_warnings("something else", Path(__file__).parent) as lines:
        warn()
    assert not lines


def test_nobody_waits_for_a_cpu():
    assert not synchronising_lines(lambda: torch.ones(1).item(), CPU)


def test_a_step_is_profiled(config):
    (step,), kernels = profile_steps(config, CPU)
    assert (step["compiled"], step["syncs"]) == (False, 0)
    assert len(kernels) == 10
    assert sum(each["calls"] for each in kernels) <= step["kernels"]
    assert sum(each["ms"] for each in kernels) <= step["kernel_ms"]
    assert any("conv" in each["kernel"] for each in kernels)
