"""The order of the clips of a run: a pure function of (seed, number of videos).

A run is one stream of positions 0, 1, 2, … over all epochs. Each pass over the catalogue shows
every video `repeats_per_pass` times, in an order of its own. The order is computed, not stored: a
look-up takes the same time and memory for ten videos and for a billion, and to resume a run its
position is enough.

The repeats of a video within a pass are at least `repeat_stride` positions apart. With a stride of
a few batches, the bytes read for the first clip are still in memory for the next one, and no batch
holds two clips of a video.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class PlannedClip:
    """A clip to make.

    Attributes:
        epoch: number of the pass over the catalogue.
        video: row of the video in the catalogue.
        clip_number: which clip of this video in this epoch.
    """

    epoch: int
    video: int
    clip_number: int = 0


@dataclass(frozen=True)
class Plan:
    """The order of the clips of a run.

    Attributes:
        seed: the run's seed.
        num_videos: size of the catalogue, at least 1.
        repeats_per_pass: clips of each video in one pass over the catalogue, at least 1.
        repeat_stride: least number of positions between two clips of a video in a pass, at least
            1. At the end of a pass the distance is up to twice as large; it is smaller only if the
            catalogue has fewer videos.
    """

    seed: int
    num_videos: int
    repeats_per_pass: int = 1
    repeat_stride: int = 1

    def __post_init__(self) -> None:
        if min(self.num_videos, self.repeats_per_pass, self.repeat_stride) < 1:
            raise ValueError(
                "num_videos, repeats_per_pass and repeat_stride must be at least 1, got "
                f"{self.num_videos}, {self.repeats_per_pass} and {self.repeat_stride}"
            )

    def clip(self, position: int) -> PlannedClip:
        """Return the clip at `position` ≥ 0 of the stream."""
        return next(self.candidates(position))

    def candidates(self, position: int) -> Iterator[PlannedClip]:
        """Yield the clip at `position`, then its replacements in case it cannot be used.

        The replacements are the videos that follow in the order of the pass, which wraps around.
        Each other video comes once, with a clip number that no other position uses, so that no
        clip is shown twice.
        """
        epoch, offset = divmod(position, self.num_videos * self.repeats_per_pass)
        place, repeat = self._place(offset)
        for step in range(self.num_videos):
            video = self._video_at(epoch, (place + step) % self.num_videos)
            yield PlannedClip(epoch, video, self.repeats_per_pass * step + repeat)

    def _place(self, offset: int) -> tuple[int, int]:
        """Return (place in the order of the pass, number of the repeat) for an offset in a pass.

        The order is cut into groups of `repeat_stride` videos, the last one with the remainder.
        Each group is shown `repeats_per_pass` times before the next one.
        """
        num_groups = max(self.num_videos // self.repeat_stride, 1)
        group = min(offset // (self.repeat_stride * self.repeats_per_pass), num_groups - 1)
        start = group * self.repeat_stride
        # the last group also takes the remainder
        size = self.num_videos - start if group == num_groups - 1 else self.repeat_stride
        repeat, place = divmod(offset - start * self.repeats_per_pass, size)
        return start + place, repeat

    def _video_at(self, epoch: int, place: int) -> int:
        """Return the video at a place in the order of a pass.

        The first two swap if the first one were the last of the pass before.
        """
        if place < 2 and epoch > 0 and self.num_videos > 2:
            # the end of a pass never swaps, so this is the last one shown
            last = self._permuted(epoch - 1, self.num_videos - 1)
            if last == self._permuted(epoch, 0):
                place = 1 - place
        return self._permuted(epoch, place)

    def _permuted(self, epoch: int, index: int) -> int:
        """Apply the epoch's permutation of [0, num_videos) to `index`.

        A Feistel network permutes the next power of four. It is applied until the result is below
        `num_videos` (cycle walking), less than four times on average.
        """
        # two halves of equal length, so the network permutes a power of four
        half_bits = max(((self.num_videos - 1).bit_length() + 1) // 2, 1)
        while True:
            index = self._feistel(epoch, index, half_bits)
            if index < self.num_videos:
                return index

    def _feistel(self, epoch: int, value: int, half_bits: int) -> int:
        mask = (1 << half_bits) - 1
        left, right = value >> half_bits, value & mask
        for round_number in range(FEISTEL_ROUNDS):
            # each round changes the left half by a function of the right one, so that it can be
            # inverted
            key = b"%d,%d,%d,%d" % (self.seed, epoch, round_number, right)
            digest = hashlib.blake2b(key, digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        return (left << half_bits) | right
