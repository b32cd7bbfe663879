"""Measure single pictures: black bars, text, motion between two, and a perceptual hash."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import pdqhash
from numpy.typing import NDArray

BLACK_LUMA = 30
"""Brightest mean of a row or column of a black bar; full black is 0 here."""
BLACK_SPREAD = 6
"""Greatest standard deviation of the luma inside a row or column of a black bar."""
MIN_EDGE_LUMA = 8
"""Least step of the mean luma at the edge of a bar. A dark sky rises slowly."""
EDGE_PX = 2
"""Width of the edge on each side: encoding blurs it."""
HASH_SIDE_PX = 64
"""Side of the square that is hashed, which is the size that the hash itself works on."""
TEXT_SIDE_PX = 180
"""Shorter side of the picture in which text is looked for; a line of text has 4 to 36 pixels."""
MIN_STROKE_LUMA = 60
"""Least contrast of a stroke of text."""
MIN_STROKE_SHARE, MAX_STROKE_SHARE = 0.45, 0.95
"""Share of a line of text that is strokes: less is a texture, more is a filled shape."""
MIN_LINE_ASPECT = 2.0
"""Least width of a line of text over its height."""

Gray = NDArray[np.uint8]
"""Luma, [h, w]; 0 is black and 255 is white."""


class Bars(NamedTuple):
    """Widths of the black bars at the sides of a picture, in pixels; None where what is black has
    no clear edge, so that it may be a bar or a dark part of the picture."""

    top: int | None
    bottom: int | None
    left: int | None
    right: int | None

    def inside(self, luma: Gray) -> Gray:
        """Return a picture without its bars."""
        top, bottom, left, right = (width or 0 for width in self)
        height, width = luma.shape
        return luma[top : height - bottom, left : width - right]


class Movement(NamedTuple):
    """How much moves between two pictures.

    Attributes:
        motion: mean length of the optical flow, in picture widths.
        camera: (right, down), median of the optical flow, in picture widths.
    """

    motion: float
    camera: tuple[float, float]


def find_bars(luma: Gray) -> Bars:
    """Return the black bars of a picture."""
    top, bottom = _ends(luma, 1)
    # columns are judged between the bars above and below
    return Bars(top, bottom, *_ends(Bars(top, bottom, 0, 0).inside(luma), 0))


def text_share(luma: Gray) -> float:
    """Return the share of a picture that lines of text cover, in [0, 1].

    Lines are found as wide shapes that consist of strokes of high contrast, by morphology. It needs
    no model, so it is rough: fences and shelves count a little.
    """
    scale = TEXT_SIDE_PX / min(luma.shape)
    size = max(round(luma.shape[1] * scale), 1), max(round(luma.shape[0] * scale), 1)
    small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    edges = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    otsu, _ = cv2.threshold(edges, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    strokes = (edges > max(otsu, MIN_STROKE_LUMA)).astype(np.uint8)
    lines = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, 9), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(lines)
    covered = np.zeros(small.shape, bool)
    for x, y, width, height, _ in boxes[1:].tolist():
        if 4 <= height <= TEXT_SIDE_PX // 5 and width >= MIN_LINE_ASPECT * height:
            line = np.s_[y : y + height, x : x + width]
            if MIN_STROKE_SHARE <= strokes[line].mean() <= MAX_STROKE_SHARE:
                covered[line] = True
    return float(covered.mean())


class FlowMeter:
    """Measures movement by dense optical flow (DIS, Kroeger et al. 2016)."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def measure(self, before: Gray, after: Gray) -> Movement:
        """Return the movement between two small pictures of one size."""
        no_start: Any = None
        pictures = np.ascontiguousarray(before), np.ascontiguousarray(after)
        flow: Any = self._flow.calc(*pictures, no_start) / before.shape[1]
        right, down = np.median(flow.reshape(-1, 2), 0).tolist()
        return Movement(float(np.hypot(flow[..., 0], flow[..., 1]).mean()), (right, down))


def hash_picture(luma: Gray) -> tuple[bytes, int]:
    """Return a perceptual hash, 256 bits, and its quality, 0 to 100 (PDQ, Facebook 2019).

    Pictures that look alike differ in few bits. Below a quality of 50 a picture has so little
    structure that its hash means nothing.
    """
    small = cv2.resize(luma, (HASH_SIDE_PX, HASH_SIDE_PX), interpolation=cv2.INTER_AREA)
    bits, quality = pdqhash.compute(cv2.cvtColor(small, cv2.COLOR_GRAY2RGB))
    return np.packbits(bits.astype(np.uint8)).tobytes(), int(quality)


def _ends(luma: Gray, axis: int) -> tuple[int | None, int | None]:
    """Return the bars at the start and the end of the rows (axis 1) or columns (axis 0)."""
    means: NDArray[np.floating[Any]] = luma.mean(axis)
    black = (means <= BLACK_LUMA) & (luma.std(axis) <= BLACK_SPREAD)
    if black.all():
        return None, None
    return _bar(black, means), _bar(black[::-1], means[::-1])


def _bar(black: NDArray[np.bool_], means: NDArray[np.floating[Any]]) -> int | None:
    width = int(np.argmin(black))  # the first line that is not black
    if not width:
        return 0
    step = means[min(width + EDGE_PX, len(means) - 1)] - means[max(width - EDGE_PX, 0)]
    return width if step >= MIN_EDGE_LUMA else None
