"""Operations are counted as by hand, and utilisation is their share of the device's peak."""

import json

import pytest
import torch

from ctp.bench.flops import StepTiming, count_flops, peak_tflops
from ctp.bench.timing import Timing


def test_the_operations_of_a_product_are_counted():
    layer, clips = torch.nn.Linear(3, 5, bias=False), torch.ones(7, 3)
    assert count_flops(lambda: layer(clips)) == 2 * 7 * 3 * 5
    # backward: the gradient of the weights; the input has none
    assert count_flops(lambda: layer(clips).sum().backward()) == 2 * (2 * 7 * 3 * 5)


def test_a_convolution_backwards_is_twice_forwards():
    first, second = torch.nn.Conv3d(3, 4, 1, bias=False), torch.nn.Conv3d(4, 2, 1, bias=False)
    clips = torch.ones(2, 3, 2, 8, 8)
    forward = 2 * clips[:, 0].numel() * (3 * 4 + 4 * 2)
    work = lambda: second(first(clips))  # noqa: E731
    assert count_flops(work) == forward
    # the first layer's input has no gradient
    of_input = 2 * clips[:, 0].numel() * 3 * 4
    assert count_flops(lambda: work().sum().backward()) == 3 * forward - of_input


def step_timing(peak):
    """Steps of 500 ms of 8 clips, 10 TFLOP each: 16 clips/s, 20 TFLOP/s."""
    repeats = Timing("step", "ms", (400.0, 500.0, 900.0), "")
    return StepTiming("r3d18", "bf16", False, False, 8, repeats, 10**13, peak)


def test_utilisation_is_the_share_of_the_peak():
    step = step_timing(peak=100)
    assert step.clips_per_second == pytest.approx(16)
    assert step.tflops == pytest.approx(20)
    assert step.mfu == pytest.approx(0.2)
    assert json.loads(json.dumps(step.as_row()))["mfu"] == pytest.approx(0.2)
    assert step_timing(peak=None).mfu is None


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
