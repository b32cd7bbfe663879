"""The plan: which clip is the n-th of a run. A pure function of (seed, number of videos).

A run is one stream of positions 0, 1, 2, … over all epochs. Every epoch shows each video once, in
an order of its own that is computed, not stored: a look-up takes the same time and memory for ten
videos and for a billion, and a resume needs a number, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class PlannedClip:
    """What the clip at a position is made of: its epoch, its video, and which clip of it."""

    epoch: int
    video: int
    clip_number: int = 0


@dataclass(frozen=True)
class Plan:
    """The order of clips of a run.

    Attributes:
        seed: the run's seed.
        num_videos: size of the catalogue, at least 1.
    """

    seed: int
    num_videos: int

    def __post_init__(self) -> None:
        if self.num_videos < 1:
            raise ValueError("a plan needs at least one video")

    def clip(self, position: int) -> PlannedClip:
        """The clip at `position` of the stream, position ≥ 0."""
        return next(self.candidates(position))

    def candidates(self, position: int) -> Iterator[PlannedClip]:
        """The clip at `position`, then what stands in, in this order, when it cannot be used.

        Stand-ins are the videos that follow in the epoch's order, and on from that order's start:
        each other video once, with a clip number of its own, so that no clip is shown twice.
        """
        epoch, offset = divmod(position, self.num_videos)
        for step in range(self.num_videos):
            video = self._shuffled(epoch, (offset + step) % self.num_videos)
            yield PlannedClip(epoch, video, clip_number=step)

    def _shuffled(self, epoch: int, index: int) -> int:
        """Where a permutation of [0, num_videos), its own for each epoch, takes `index`.

        A Feistel network permutes the next power of four; walking on until the result is small
        enough makes it a permutation of what is asked for, in under four steps on average.
        """
        half_bits = max(((self.num_videos - 1).bit_length() + 1) // 2, 1)
        while True:
            index = self._feistel(epoch, index, half_bits)
            if index < self.num_videos:
                return index

    def _feistel(self, epoch: int, value: int, half_bits: int) -> int:
        mask = (1 << half_bits) - 1
        left, right = value >> half_bits, value & mask
        for turn in range(FEISTEL_ROUNDS):
            key = b"%d,%d,%d,%d" % (self.seed, epoch, turn, right)
            digest = hashlib.blake2b(key, digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        return (left << half_bits) | right
