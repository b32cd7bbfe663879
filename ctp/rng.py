"""Generators made from names, so that a random choice never depends on who makes it, or when."""

from __future__ import annotations

import hashlib
import operator

import numpy as np


def generator(seed: int, *names: int | str) -> np.random.Generator:
    """Return a generator that is a pure function of `seed` and `names`.

    The same arguments give the same stream on every machine and in every process; any other
    name gives an independent one.

    Args:
        seed: the run's seed.
        names: what the numbers are for, e.g. `("clip", epoch, video_id, clip_number)`.
    """
    return np.random.default_rng(int.from_bytes(_digest(seed, names), "little"))


def uniform_hash(seed: int, *names: int | str) -> float:
    """Return a number in [0, 1) that is a pure function of `seed` and `names`."""
    return int.from_bytes(_digest(seed, names)[:8], "little") / 2**64


def _digest(seed: int, names: tuple[int | str, ...]) -> bytes:
    # a NumPy integer is the number that it stands for
    plain = tuple(name if isinstance(name, str) else operator.index(name) for name in names)
    # repr keeps 1 and "1", and ("a", "bc") and ("ab", "c"), apart
    text = repr((operator.index(seed), plain))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
