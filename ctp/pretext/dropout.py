"""Dropout without a global random state: a run resumes exactly, on any number of workers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_INCREMENT, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""Constants of SplitMix64 (Steele et al., OOPSLA 2014), as signed integers."""


def draw_dropout_seed(rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the seed of a sample, an array of shape ()."""
    return np.asarray(rng.integers(2**62))


def seeded_dropout(values: Tensor, seeds: Tensor, prob: float) -> Tensor:
    """Set values to 0 with probability `prob`, and divide the others by 1 - `prob`.

    Which values are dropped is a function of the sample's seed alone, equal on every device.

    Args:
        values: float [B, ...].
        seeds: int64 [B], one for each sample, on the same device.
        prob: probability in [0, 1).

    Returns:
        float [B, ...].
    """
    numbers = torch.arange(1, values[0].numel() + 1, device=values.device)
    uniform = _mix(_mix(seeds)[:, None] + numbers * _INCREMENT).bitwise_and(0xFFFFFFFF)
    is_kept = uniform >= int(prob * 2**32)
    return values * is_kept.view_as(values) / (1 - prob)


def _mix(bits: Tensor) -> Tensor:
    """Return the finaliser of SplitMix64 of int64 values."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, number: int) -> Tensor:
    # a shift of signed integers would copy the sign
    return (bits >> number) & ((1 << (64 - number)) - 1)
