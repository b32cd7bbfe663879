"""Random generators derived from names, so that a random choice does not depend on the process."""

from __future__ import annotations

import hashlib
import operator

import numpy as np


def generator(seed: int, *names: int | str) -> np.random.Generator:
    """Return a generator that is a pure function of `seed` and `names`.

    The same arguments give the same random numbers on every machine and in every process. Other
    names give independent numbers.

    Args:
        seed: the run's seed.
        names: the purpose of the numbers, e.g. `("clip", epoch, video_id, clip_number)`.
    """
    return np.random.default_rng(int.from_bytes(_digest(seed, names), "little"))


def uniform_hash(seed: int, *names: int | str) -> float:
    """Return a number in [0, 1) that is a pure function of `seed` and `names`."""
    return int.from_bytes(_digest(seed, names)[:8], "little") / 2**64


def _digest(seed: int, names: tuple[int | str, ...]) -> bytes:
    # a NumPy integer is equivalent to the Python integer
    plain = tuple(name if isinstance(name, str) else operator.index(name) for name in names)
    # repr distinguishes 1 from "1", and ("a", "bc") from ("ab", "c")
    text = repr((operator.index(seed), plain))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
