"""Held-out samples of a pretext task. Actors load them, and must not import models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from ctp.data.stream import S, SampleDrawer, VideoSet, VideoSource


@dataclass(frozen=True)
class HeldoutSamples(VideoSet[S], Generic[S]):
    """Held-out samples of a task, as at the end of a run.

    Attributes:
        drawer: draws a sample.
    """

    drawer: SampleDrawer[S]

    def load(self, videos: VideoSource) -> S:
        """Draw a sample."""
        return self.drawer.draw(videos, videos.sample_generator())
