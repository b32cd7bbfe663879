"""Noise in place of videos, for machines without PyAV: a training step takes the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctp.data.catalog import VideoEntry
from ctp.data.reading import VideoOpener
from ctp.rng import generator
from ctp.video.planes import Crop, planes_size

if TYPE_CHECKING:
    from ctp.video.decode import VideoReader

NUM_FRAMES = 300


class NoiseReader:
    """Reads noise as `VideoReader` reads the frames of a video.

    Attributes:
        num_frames: number of frames.
    """

    num_frames = NUM_FRAMES

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    def read_square(self, indices: Sequence[int], crop: Crop, size_px: int) -> NDArray[np.uint8]:
        """Return frames of noise: uint8 [len(indices), 3/2 · size_px²]."""
        return self._rng.integers(16, 236, (len(indices), planes_size(size_px)), np.uint8)


class NoiseOpener(VideoOpener):
    """Opens noise in place of each video."""

    @contextmanager
    def open(
        self, entry: VideoEntry, min_frames: int = 1, remedy: str = ""
    ) -> Iterator[VideoReader]:
        """Open noise that depends on the video's name alone, for use in a `with` statement."""
        reader: Any = NoiseReader(generator(0, "noise", entry.id))
        yield reader
