"""Detect cuts with PySceneDetect, frame by frame."""

from __future__ import annotations

from array import array
from typing import Any

from numpy.typing import NDArray
from scenedetect import FrameTimecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

from ctp.curation.config import CutsConfig

MIN_CHANGE = 0.04
"""Least mean absolute difference of the luma at a cut, in [0, 1]. Where an encoder begins a new key
frame, colours of dark pictures jump, too."""
MIN_SHOT_FRAMES = 10
"""Least distance between two fades through black."""
BLACK_MEAN = 8
"""Mean intensity, of 255, below which a picture is part of a fade through black."""
RATE = 25.0
"""Frames/s that the detectors are told. They count frames, so it changes nothing."""


DETECTORS: dict[str, tuple[type[SceneDetector], str]] = {
    "adaptive": (AdaptiveDetector, "adaptive_threshold"),
    "content": (ContentDetector, "threshold"),
}
"""Detector -> its class, and the name of its threshold."""


class CutDetector:
    """Detects hard cuts and fades through black; cross-fades are not found."""

    def __init__(self, config: CutsConfig):
        self._hard_cuts: SceneDetector | None = None
        self._fades: SceneDetector | None = None
        if config.detector != "off":
            self._hard_cuts = _new_detector(config)
            self._fades = ThresholdDetector(BLACK_MEAN, min_scene_len=MIN_SHOT_FRAMES)
        self._changes = array("f")

    def add(self, picture: NDArray[Any], change: float) -> list[int]:
        """Add the next frame.

        Args:
            picture: uint8 [h, w, 3], BGR, always of the same size.
            change: mean absolute difference of its luma to that of the frame before, in [0, 1].

        Returns:
            the numbers of frames, this one or earlier ones, at which new shots begin.
        """
        now = FrameTimecode(len(self._changes), RATE)
        self._changes.append(change)
        cuts, fades = (_found(each, now, picture) for each in (self._hard_cuts, self._fades))
        return [cut for cut in cuts if self._changes[cut] >= MIN_CHANGE] + fades


def _found(detector: SceneDetector | None, now: FrameTimecode, picture: NDArray[Any]) -> list[int]:
    if detector is None:
        return []
    return [cut.frame_num for cut in detector.process_frame(now, picture)]


def _new_detector(config: CutsConfig) -> SceneDetector:
    kind, name = DETECTORS[config.detector]
    threshold = {} if config.threshold is None else {name: config.threshold}
    # without a least distance: a jump that is no cut must not hide a cut behind it
    return kind(**threshold, min_scene_len=0)
