"""Read the videos of evaluations in actors, because a bad video may end the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from ctp.cluster.losses import RESTART_ALWAYS, keep_losses, on_this_node, open_journal
from ctp.data.stream import ITEMS_PER_LOAD, Loaded, T, VideoSet
from ctp.training.config import VideosConfig
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits


class LoadActor:
    """Reads items of a `VideoSet`, a few at a time."""

    def __init__(
        self,
        videos: VideoSet[Any],
        losses: Any,
        max_seconds_per_video: float,
        limits: DecodingLimits,
    ):
        torch.set_num_threads(1)
        self._videos, self._limits = videos, limits
        self._journal = open_journal(losses, max_seconds_per_video)

    def load(self, indices: Sequence[int]) -> Loaded[Any]:
        """Return `VideoSet.load_many`."""
        with self._journal.task(lambda: self._videos.needed(indices)):
            return self._videos.load_many(indices, self._journal, self._limits)


@dataclass(frozen=True)
class ActorLoader:
    """A `LoadVideos` that reads in actors; they exist while it is iterated over.

    Attributes:
        num_actors: how many read at the same time, each a few items ahead.
        max_seconds_per_video: a video that takes longer ends its actor.
        limits: of decoding.
        losses: from `keep_losses`; None: nothing is known of the videos.
    """

    num_actors: int
    max_seconds_per_video: float
    limits: DecodingLimits = DEFAULT_LIMITS
    losses: Any = None

    @classmethod
    def from_config(cls, num_actors: int, data: VideosConfig, losses: Any = None) -> ActorLoader:
        """Create for the videos of a run."""
        limits = DecodingLimits(data.max_megapixels)
        return cls(num_actors, data.max_seconds_per_video, limits, losses)

    def __call__(self, videos: VideoSet[T], indices: Sequence[int]) -> Iterator[Loaded[T]]:
        """Yield the items, a few at a time, in order."""
        calls = [indices[i : i + ITEMS_PER_LOAD] for i in range(0, len(indices), ITEMS_PER_LOAD)]
        losses, shared = self.losses or keep_losses(), ray.put(videos)
        actors: list[Any] = [
            ray.remote(LoadActor)
            .options(
                num_cpus=0,  # the stream's actors wait while the workers evaluate
                **RESTART_ALWAYS,
                # not in the resources that are reserved for the worker, and not on the head, on
                # which Ray may place an actor that needs no CPU
                scheduling_strategy=on_this_node(),
            )
            .remote(shared, losses, self.max_seconds_per_video, self.limits)
            for _ in range(min(self.num_actors, len(calls)))
        ]
        pending: deque[Any] = deque()
        try:
            for number, call in enumerate(calls):
                pending.append(actors[number % len(actors)].load.remote(call))
                if len(pending) > len(actors):
                    yield ray.get(pending.popleft())
            while pending:
                yield ray.get(pending.popleft())
        finally:
            for actor in actors:
                ray.kill(actor)
