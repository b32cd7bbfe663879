"""How much of a GPU's arithmetic a training step uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch.utils.flop_counter import FlopCounterMode

from ctp.bench.timing import Timing

PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "H100 PCIe": {"fp32": 51.2, "tf32": 378, "bf16": 756},
    "H100 NVL": {"fp32": 60, "tf32": 417.5, "bf16": 835},
    "H100": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4},
    "H200": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4},
    "A100": {"fp32": 19.5, "tf32": 156, "bf16": 312},
    "L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362},
    "L4": {"fp32": 30.3, "tf32": 60, "bf16": 121},
    "V100": {"fp32": 15.7},
    "T4": {"fp32": 8.1},
}
"""TFLOP/s of dense products by NVIDIA's data sheets, of the SXM form where none is named; a longer
name comes before the one that it holds."""


def peak_tflops(device_name: str, precision: str) -> float | None:
    """A GPU's peak in a precision of `ComputeConfig`; None where it is not known.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        precision: "fp32", "tf32" or "bf16".
    """
    for name, peaks in PEAK_TFLOPS.items():
        if re.search(rf"\b{name}\b", device_name):
            return peaks.get(precision)
    return None


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in `work`, which must not
    be compiled; a multiplication and its addition are two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class StepTiming:
    """What a training step took.

    Attributes:
        encoder, precision, channels_last, compiled: of what.
        clips: in a step.
        timing: milliseconds of a step.
        flops: floating-point operations of a step.
        peak_tflops: of the device in this precision, if it is known.
    """

    encoder: str
    precision: str
    channels_last: bool
    compiled: bool
    clips: int
    timing: Timing
    flops: int
    peak_tflops: float | None

    @property
    def clips_per_second(self) -> float:
        """Clips/s, by the median of the repeats."""
        return 1e3 * self.clips / self.timing.median

    @property
    def tflops(self) -> float:
        """TFLOP/s."""
        return self.flops / self.timing.median / 1e9

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: the share of the device's peak; None where it is not known."""
        return None if self.peak_tflops is None else self.tflops / self.peak_tflops

    def as_row(self) -> dict[str, object]:
        """All of it, as JSON takes it."""
        return {
            "encoder": self.encoder,
            "precision": self.precision,
            "channels_last": self.channels_last,
            "compiled": self.compiled,
            "clips": self.clips,
            "flops": self.flops,
            "clips_per_second": self.clips_per_second,
            "tflops": self.tflops,
            "mfu": self.mfu,
            "ms": self.timing.as_row(),
        }
