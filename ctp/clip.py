"""The data that flows through ctp.

Shape legend, used in every docstring:

    B  clips in a batch         T  frames in a clip        H, W  pixels
    K  trajectories in a clip   4  x1, y1, x2, y2 in pixels of the clip, unless said otherwise
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EncodedVideo:
    """A video as it lies in storage.

    Attributes:
        id: stable name inside its catalogue.
        uri: where it was read from, for messages.
        data: the encoded file.
        label: class name, if the catalogue has one.
    """

    id: str
    uri: str
    data: bytes
    label: str | None = None


class VideoError(ValueError):
    """A video that cannot be used. It costs itself, never the run.

    Attributes:
        video_id, uri: which one.
        reason: what is wrong with it, in one line.
    """

    def __init__(self, video_id: str, uri: str, reason: str):
        super().__init__(f"video {video_id!r} ({uri}): {reason}")
        self.video_id, self.uri, self.reason = video_id, uri, reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str]]:
        return type(self), (self.video_id, self.uri, self.reason)  # crosses processes whole


@dataclass(frozen=True)
class Trajectories:
    """Where the patches of one clip are.

    Attributes:
        boxes: float32 [K, T, 4], xyxy pixels.
        visible: bool [K, T]; False where the patch is hidden though its box is a target (MRM).
        source_frame: int64 [K], the frame whose box the patch is cut from.
    """

    boxes: NDArray[np.float32]
    visible: NDArray[np.bool_]
    source_frame: NDArray[np.int64]


@dataclass(frozen=True)
class Clip:
    """One training example: the game as it was played on the frames of one video.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB, patches pasted.
        boxes: float32 [K, T, 4], xyxy pixels.
        visible: bool [K, T].
        color: float32 [T, 4]: hue shift in degrees, saturation factor, brightness added (of
            255), contrast factor; applied on the device.
        video_id: the video that the frames come from.
    """

    frames: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visible: NDArray[np.bool_]
    color: NDArray[np.float32]
    video_id: str
