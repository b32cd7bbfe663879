"""Detect cuts with PySceneDetect, frame by frame."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import FrameTimecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

from ctp.curation.config import CutsConfig
from ctp.curation.pictures import Gray

MIN_CHANGE = 0.04
"""Least mean absolute difference of the luma at a cut, in [0, 1]. Where an encoder begins a new key
frame, colours of dark pictures jump, too."""
FLASH_FRAMES, FLASH_SHARE = 5, 0.5
"""A cut is a flash if, within this number of frames, the picture changes back: it then differs from
that before the cut by less than this share of the change at the cut."""
BLACK_MEAN = 8
"""Mean intensity, of 255, below which a picture is part of a fade through black."""
RATE = 25.0
"""Frame rate given to the detectors. They count frames, so that its value has no effect."""


DETECTORS: dict[str, tuple[type[SceneDetector], str]] = {
    "adaptive": (AdaptiveDetector, "adaptive_threshold"),
    "content": (ContentDetector, "threshold"),
}
"""Detector -> its class, and the name of its threshold."""


class CutDetector:
    """Detects hard cuts and fades through black; cross-fades are not found.

    Attributes:
        changes: float32 [N], mean absolute difference of each frame's luma to that of the frame
            before, in [0, 1].
    """

    def __init__(self, config: CutsConfig):
        self.changes = array("f")
        self._cuts, self._fades = list[SceneDetector](), list[SceneDetector]()
        if config.detector != "off":
            self._cuts = [_new_detector(config)]
            # what is black between two shots is a segment of its own
            self._fades = [
                ThresholdDetector(BLACK_MEAN, min_scene_len=0, fade_bias=end) for end in (-1, 1)
            ]
        self._recent: deque[Gray] = deque(maxlen=2 * FLASH_FRAMES + 4)
        self._undecided: list[int] = []

    def add(self, picture: NDArray[np.uint8], luma: Gray) -> list[int]:
        """Add the next frame.

        Args:
            picture: uint8 [h, w, 3], BGR, always of the same size.
            luma: of the same picture.

        Returns:
            the numbers of frames, this one or earlier ones, at which new shots begin.
        """
        number = len(self.changes)
        self.changes.append(_difference(self._recent[-1] if self._recent else luma, luma))
        self._recent.append(luma)
        now = FrameTimecode(number, RATE)
        cuts, fades = (_found(each, now, picture) for each in (self._cuts, self._fades))
        self._undecided += [cut for cut in cuts if self.changes[cut] >= MIN_CHANGE]
        return self._decide(number - FLASH_FRAMES) + fades

    def finish(self) -> list[int]:
        """Return the last cuts, after all frames were added."""
        return self._decide(len(self.changes))

    def _decide(self, last: int) -> list[int]:
        """Return the cuts up to a frame that are no flashes, and forget them."""
        due = [cut for cut in self._undecided if cut <= last]
        self._undecided = [cut for cut in self._undecided if cut > last]
        return [cut for cut in due if not self._is_flash(cut)]

    def _is_flash(self, cut: int) -> bool:
        """Return whether a few frames after a cut the picture is as before, or a few frames before
        as after it."""
        recent = list(self._recent)
        at = cut - (len(self.changes) - len(recent))
        later, earlier = recent[at + 1 : at + 1 + FLASH_FRAMES], recent[: at - 1][-FLASH_FRAMES:]
        differences = [_difference(recent[at - 1], each) for each in later]
        differences += [_difference(recent[at], each) for each in earlier]
        return min(differences, default=1.0) < FLASH_SHARE * self.changes[cut]


def _difference(first: Gray, second: Gray) -> float:
    return float(cv2.absdiff(first, second).mean()) / 255


def _found(
    detectors: Sequence[SceneDetector], now: FrameTimecode, picture: NDArray[np.uint8]
) -> list[int]:
    return [cut.frame_num for each in detectors for cut in each.process_frame(now, picture)]


def _new_detector(config: CutsConfig) -> SceneDetector:
    kind, name = DETECTORS[config.detector]
    threshold = {} if config.threshold is None else {name: config.threshold}
    # without a least distance: a jump that is no cut must not hide a cut behind it
    return kind(**threshold, min_scene_len=0)
