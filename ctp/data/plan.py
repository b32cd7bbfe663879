"""The order of the clips of a run: a pure function of (seed, catalogue).

A run is one stream of positions 0, 1, 2, … over all epochs.

**A pass** over the videos shows each of them once, or as many times as `ClipCounts` says, in an
order of its own. A pass draws each of these clips `repeats_per_pass` times, with other frames each
time. **An epoch** is as many clips as a pass without these repeats: with two repeats, a pass takes
two epochs. If the stream is mixed from several sources, each source has passes of its own, and an
epoch is as many clips as one pass over each of them.

The order is computed, not stored. Without `ClipCounts`, a look-up takes the same time and memory
for ten videos and for a billion. `ClipCounts` keep eight bytes a video. To resume a run, its
position is enough.

The repeats of a clip within a pass are at least `repeat_stride` positions apart. With a stride of
a few batches, the bytes read for the first one are still in memory for the next one, and no batch
holds two of them.

The clips that `ClipCounts` adds are spread over the pass instead. The pass is cut into parts of
about `repeat_stride` clips. A video of n clips is shown in each part as often as in any other, up
to two clips: a video with at most one clip a part never comes more than twice in a part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from ctp.rng import generator

FEISTEL_ROUNDS = 6
MAX_CYCLE = 10_000
"""Positions after which the sources of a mix repeat."""


@dataclass(frozen=True)
class PlannedClip:
    """A clip to make.

    Attributes:
        epoch: number of the pass over the videos, or over those of its source.
        video: row of the video in the catalogue.
        clip_number: which clip of this video in this pass.
    """

    epoch: int
    video: int
    clip_number: int = 0


@dataclass(frozen=True, eq=False)
class ClipCounts:
    """How many clips of each video a pass shows.

    Attributes:
        ends: int64 [videos], rising: the clips of all videos up to this one, with its own. It
            takes 80 MB for ten million videos, and unpickles without a copy.
    """

    ends: NDArray[np.int64]

    @classmethod
    def by_duration(cls, num_frames: NDArray[np.integer], span_frames: int) -> ClipCounts:
        """Count the clips of `span_frames` that fit into each video, one after the other.

        Args:
            num_frames: integers [videos], frames of each video.
            span_frames: frames of the video from the first to the last of a clip.

        Returns:
            the counts; a video that is shorter than a clip has one.
        """
        return cls(np.cumsum(np.maximum(num_frames // span_frames, 1), dtype=np.int64))

    @property
    def num_clips(self) -> int:
        """Return the number of clips of a pass."""
        return int(self.ends[-1])

    @property
    def fewest_and_most(self) -> tuple[int, int]:
        """Return the fewest and the most clips of a video."""
        counts = np.diff(self.ends, prepend=0)
        return int(counts.min()), int(counts.max())

    def locate(self, clip: int) -> tuple[int, int, int]:
        """Return the video of a clip, its number among the video's clips, and their number.

        Args:
            clip: in [0, num_clips), counted through the videos.
        """
        video = int(self.ends.searchsorted(clip, side="right"))
        first = int(self.ends[video - 1]) if video else 0
        return video, clip - first, int(self.ends[video]) - first


@dataclass(frozen=True)
class Plan:
    """The order of the clips of a run.

    Attributes:
        seed: the run's seed.
        num_videos: size of the catalogue, at least 1.
        repeats_per_pass: how often a pass draws each clip, at least 1.
        repeat_stride: least number of positions between two repeats in a pass, at least 1. At the
            end of a pass the distance is up to twice as large; it is smaller only if a pass has
            fewer clips.
        counts: clips of each video in a pass, before they are repeated; None: one.
    """

    seed: int
    num_videos: int
    repeats_per_pass: int = 1
    repeat_stride: int = 1
    counts: ClipCounts | None = None

    def __post_init__(self) -> None:
        if min(self.num_videos, self.repeats_per_pass, self.repeat_stride) < 1:
            raise ValueError(
                "num_videos, repeats_per_pass and repeat_stride must be at least 1, got "
                f"{self.num_videos}, {self.repeats_per_pass} and {self.repeat_stride}"
            )

    @property
    def num_clips(self) -> int:
        """Return the number of clips of a pass, before they are repeated."""
        return self.counts.num_clips if self.counts else self.num_videos

    def clip(self, position: int) -> PlannedClip:
        """Return the clip at `position` ≥ 0 of the stream."""
        return next(self.candidates(position))

    def candidates(self, position: int) -> Iterator[PlannedClip]:
        """Yield the clip at `position`, then its replacements in case it cannot be used.

        The replacements are the videos that follow in the order of the pass, which wraps around.
        Each other video comes once, with a clip number that no other position uses, so that no
        clip is shown twice.
        """
        epoch, offset = divmod(position, self.num_clips * self.repeats_per_pass)
        place, repeat = self._place(offset)
        seen = set[int]()
        for step in range(self.num_clips):
            video, number, count = self._clip_at(epoch, (place + step) % self.num_clips)
            if video not in seen:
                clip_number = (step * count + number) * self.repeats_per_pass + repeat
                yield PlannedClip(epoch, video, clip_number)
                seen.add(video)
                if len(seen) == self.num_videos:
                    return

    def _place(self, offset: int) -> tuple[int, int]:
        """Return (place in the order of the pass, number of the repeat) for an offset in a pass.

        The order is cut into groups of `repeat_stride` clips, the last one with the remainder.
        Each group is shown `repeats_per_pass` times before the next one.
        """
        num_groups = max(self.num_clips // self.repeat_stride, 1)
        group = min(offset // (self.repeat_stride * self.repeats_per_pass), num_groups - 1)
        start = group * self.repeat_stride
        # the last group also takes the remainder
        size = self.num_clips - start if group == num_groups - 1 else self.repeat_stride
        repeat, place = divmod(offset - start * self.repeats_per_pass, size)
        return start + place, repeat

    def _clip_at(self, epoch: int, place: int) -> tuple[int, int, int]:
        """Return the video at a place in the order of a pass, the clip's number among the clips of
        this video, and their number."""
        if self.counts is None:
            return self._video_at(epoch, place), 0, 1
        return self.counts.locate(self._dealt(epoch, place))

    def _video_at(self, epoch: int, place: int) -> int:
        """Return the video at a place in the order of a pass that shows each video once.

        The first two swap if the first one were the last of the pass before.
        """
        size = self.num_videos
        if place < 2 and epoch > 0 and size > 2:
            # the end of a pass never swaps, so this is the last one shown
            last = permuted(self._key(epoch - 1), size - 1, size)
            if last == permuted(self._key(epoch), 0, size):
                place = 1 - place
        return permuted(self._key(epoch), place, size)

    def _dealt(self, epoch: int, place: int) -> int:
        """Return the clip at a place in the order of a pass, counted through the videos.

        As cards are dealt: the clips, in the order of the videos, are cut into rows as long as
        there are parts. Each row is shuffled, and each part gets one clip of it. Then each part
        is shuffled. So the clips of a video, which are neighbours, go to different parts.
        """
        total = self.num_clips
        num_parts = max(total // self.repeat_stride, 1)
        num_rows, rest = divmod(total, num_parts)
        # part p starts at ⌊p · total / num_parts⌋, so that no two sizes differ by more than one
        part = ((place + 1) * num_parts - 1) // total
        # parts before this one, and up to this one, that get a clip of the last, shorter row
        before, after = part * rest // num_parts, (part + 1) * rest // num_parts
        start, size = part * num_rows + before, num_rows + after - before
        row = permuted(self._key(epoch, f"part {part}"), place - start, size)
        index, length = (part, num_parts) if row < num_rows else (before, rest)
        return row * num_parts + permuted(self._key(epoch, f"row {row}"), index, length)

    def _key(self, epoch: int, shuffled: str = "") -> str:
        return f"{self.seed},{epoch},{shuffled}," if shuffled else f"{self.seed},{epoch},"


@dataclass(frozen=True)
class Source:
    """A source of the videos of a run: consecutive rows of the catalogue.

    Attributes:
        name: for messages.
        first_video: its first row.
        num_videos: number of its rows, at least 1.
        counts: clips of each of its videos in a pass; None: one.
        weight: how many clips of each `sum(weights)` it gives, at least 1.
    """

    name: str
    first_video: int
    num_videos: int
    counts: ClipCounts | None = None
    weight: int = 1

    @property
    def num_clips(self) -> int:
        """Return the number of clips of a pass, before they are repeated."""
        return self.counts.num_clips if self.counts else self.num_videos

    def describe(self) -> str:
        """Return e.g. "12,345 clips of 4,000 videos, 1 to 360 a video"."""
        fewest, most = self.counts.fewest_and_most if self.counts else (1, 1)
        each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        return f"{self.num_clips:,} clips of {self.num_videos:,} videos, {each} a video"


@dataclass(frozen=True)
class MixedPlan:
    """The order of the clips of a run that mixes several sources.

    The stream repeats a cycle of as many positions as the sum of the weights; see `interleave`.

    Attributes:
        sources: at least 2.
        plans: the order of each source, in positions of its own.
    """

    sources: tuple[Source, ...]
    plans: tuple[Plan, ...]

    def clip(self, position: int) -> PlannedClip:
        """Return the clip at `position` ≥ 0 of the stream."""
        return next(self.candidates(position))

    def candidates(self, position: int) -> Iterator[PlannedClip]:
        """Yield the clip at `position`, then its replacements, which are of the same source."""
        number, own_position = self.locate(position)
        first = self.sources[number].first_video
        for clip in self.plans[number].candidates(own_position):
            yield replace(clip, video=first + clip.video)

    def locate(self, position: int) -> tuple[int, int]:
        """Return the number of the source at `position`, and the position among its clips."""
        done, place = divmod(position, len(self._cycle))
        number, rank = self._cycle[place]
        return number, done * self.sources[number].weight + rank

    @cached_property
    def _cycle(self) -> list[tuple[int, int]]:
        return interleave([source.weight for source in self.sources])


def make_plan(
    seed: int, sources: Sequence[Source], repeats_per_pass: int, repeat_stride: int
) -> Plan | MixedPlan:
    """Return the order of the clips of a run; see `Plan` for the arguments."""
    total = sum(source.weight for source in sources)

    def plan(own_seed: int, source: Source) -> Plan:
        # the source's share of the stride, which is in positions of the run
        stride = max(repeat_stride * source.weight // total, 1)
        return Plan(own_seed, source.num_videos, repeats_per_pass, stride, source.counts)

    if len(sources) == 1:
        return plan(seed, sources[0])
    # other seeds, or sources of the same size would be in the same order
    numbers = range(len(sources))
    seeds = [int(generator(seed, "source", number).integers(2**62)) for number in numbers]
    return MixedPlan(tuple(sources), tuple(map(plan, seeds, sources)))


def interleave(weights: Sequence[int]) -> list[tuple[int, int]]:
    """Return a cycle in which each of several sources comes as often as its weight says.

    After any number of positions, a source has its share of them up to 1 - 1 / (2k - 2) clips for
    k sources; in general no order is closer (R. Tijdeman, The chairman assignment problem, 1980).
    So in any window of the stream, its clips are less than two from its share. With two sources
    they are less than one from it.

    Args:
        weights: of the sources, at least 1.

    Returns:
        the number of a source for each of `sum(weights)` positions, and how many earlier positions
        of the cycle have the same one.
    """
    total, slack, counts = sum(weights), max(2 * len(weights) - 2, 1), [0] * len(weights)
    cycle = []
    for place in range(1, total + 1):
        # how far each source is behind its share without this position, times `total`
        behind = [weight * place - total * n for weight, n in zip(weights, counts, strict=True)]
        # of those that may come, the one that would be too late first
        chosen = min(
            (number for number, each in enumerate(behind) if slack * each >= total),
            key=lambda number: (total - total / slack - behind[number]) / weights[number],
        )
        cycle.append((chosen, counts[chosen]))
        counts[chosen] += 1
    return cycle


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Return the smallest whole numbers in the proportion of weights above 0.

    Raises:
        ValueError: they add up to more than `MAX_CYCLE`.
    """
    exact = [Fraction(str(weight)) for weight in weights]  # .1 is a tenth, not the nearest double
    scale = Fraction(lcm(*(each.denominator for each in exact)))
    whole = [int(each * scale) for each in exact]
    whole = [each // gcd(*whole) for each in whole]
    if sum(whole) > MAX_CYCLE:
        raise ValueError(
            f"expected weights in the proportion of whole numbers with a sum of at most "
            f"{MAX_CYCLE}, e.g. 3,1; these are {', '.join(map(str, whole))}"
        )
    return whole


def permuted(key: str, index: int, size: int) -> int:
    """Apply the permutation of [0, size) that `key` names to `index`.

    A Feistel network permutes the next power of four. It is applied until the result is below
    `size` (cycle walking), less than four times on average.
    """
    # two halves of equal length, so the network permutes a power of four
    half_bits = max(((size - 1).bit_length() + 1) // 2, 1)
    while True:
        index = _feistel(key, index, half_bits)
        if index < size:
            return index


def _feistel(key: str, value: int, half_bits: int) -> int:
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for round_number in range(FEISTEL_ROUNDS):
        # each round changes the left half by a function of the right one, so that it can be
        # inverted
        digest = hashlib.blake2b(f"{key}{round_number},{right}".encode(), digest_size=8).digest()
        left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
    return (left << half_bits) | right
