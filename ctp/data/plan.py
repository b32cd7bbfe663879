"""The plan: which clip is the n-th of a run. A pure function of (seed, number of videos).

A run is one stream of positions 0, 1, 2, … over all epochs. Every pass over the catalogue shows
each video once, or `clips_per_visit` times, in an order of its own that is computed, not stored: a
look-up takes the same time and memory for ten videos and for a billion, and a resume needs a
number, nothing else.

With several clips a visit, a video comes back `spread` positions later, never sooner: with whole
batches in between, what was read for the first clip is still at hand for the next, and yet no two
clips of a video meet in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class PlannedClip:
    """What the clip at a position is made of: its pass over the catalogue (its epoch, where a
    visit is of one clip), its video, and which clip of it."""

    epoch: int
    video: int
    clip_number: int = 0


@dataclass(frozen=True)
class Plan:
    """The order of clips of a run.

    Attributes:
        seed: the run's seed.
        num_videos: size of the catalogue, at least 1.
        clips_per_visit: clips of a video in each pass over the catalogue, at least 1.
        spread: positions between two clips of one visit, at least 1; up to twice as many at the
            end of a pass, and fewer only where there are fewer videos.
    """

    seed: int
    num_videos: int
    clips_per_visit: int = 1
    spread: int = 1

    def __post_init__(self) -> None:
        if min(self.num_videos, self.clips_per_visit, self.spread) < 1:
            raise ValueError(
                "a plan needs at least one video, one clip a visit and a spread of one, got "
                f"{self.num_videos}, {self.clips_per_visit} and {self.spread}"
            )

    def clip(self, position: int) -> PlannedClip:
        """The clip at `position` of the stream, position ≥ 0."""
        return next(self.candidates(position))

    def candidates(self, position: int) -> Iterator[PlannedClip]:
        """The clip at `position`, then what stands in, in this order, when it cannot be used.

        Stand-ins are the videos that follow in the pass's order, and on from that order's start:
        each other video once, with a clip number of its own, so that no clip is shown twice.
        """
        epoch, offset = divmod(position, self.num_videos * self.clips_per_visit)
        place, visited = self._place(offset)
        for step in range(self.num_videos):
            video = self._in_order(epoch, (place + step) % self.num_videos)
            yield PlannedClip(epoch, video, self.clips_per_visit * step + visited)

    def _place(self, offset: int) -> tuple[int, int]:
        """(place in the pass's order, how often visited before) for an offset into the pass.

        The order is cut into groups of `spread` videos, and each group is gone through
        `clips_per_visit` times; the last takes in what is left over.
        """
        groups = max(self.num_videos // self.spread, 1)
        group = min(offset // (self.spread * self.clips_per_visit), groups - 1)
        start = group * self.spread
        size = self.num_videos - start if group == groups - 1 else self.spread
        visited, within = divmod(offset - start * self.clips_per_visit, size)
        return start + within, visited

    def _in_order(self, epoch: int, place: int) -> int:
        """The video at a place of a pass's order: the first is not the last of the pass before."""
        if place < 2 and epoch > 0 and self.num_videos > 2:
            last = self._shuffled(epoch - 1, self.num_videos - 1)
            if last == self._shuffled(epoch, 0):
                place = 1 - place
        return self._shuffled(epoch, place)

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
