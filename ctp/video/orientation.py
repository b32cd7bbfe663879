"""Which way up a frame is shown: FFmpeg's display matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a training step runs on machines without PyAV
    import av


@dataclass(frozen=True)
class Orientation:
    """The orientation of all frames of a video, whatever each frame says.

    A reader attaches it to frames as `frame.opaque`.

    Attributes:
        matrix: int32 [9], FFmpeg's display matrix, or None if they are upright.
    """

    matrix: NDArray[np.int32] | None


def display_matrix(frame: av.VideoFrame) -> NDArray[np.int32] | None:
    """Return FFmpeg's display matrix of a frame, int32 [9], or None if it is upright."""
    if isinstance(frame.opaque, Orientation):
        return frame.opaque.matrix
    from av.sidedata.sidedata import SideDataContainer

    try:
        # not frame.side_data, which frame and container would refer to each other by: the pixels
        # would stay in memory until the garbage collector runs
        container: Any = SideDataContainer(frame)  # type: ignore[call-arg]
        # most frames have no side data, and a failing look-up is slow
        matrix: Any = container.get("DISPLAYMATRIX") if len(container) else None
    except ValueError:
        if frame.rotation:
            raise
        return None  # PyAV does not know all kinds of side data that FFmpeg has
    return None if matrix is None else np.frombuffer(matrix, np.int32).copy()


def upright(picture: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Rotate by quarter turns and mirror a picture [h, w, ...] by FFmpeg's display matrix."""
    # the directions on screen, (x, y), of one step right and one step down in the stored picture
    right, down = matrix.reshape(3, 3)[:2, :2]
    if abs(right[1]) > abs(right[0]):
        picture, right, down = picture.swapaxes(0, 1), down, right
    return picture[:: -1 if down[1] < 0 else 1, :: -1 if right[0] < 0 else 1]
