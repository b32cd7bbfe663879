"""GOT-10k's annotations. Only this module knows that its boxes are left, top, width, height."""

from __future__ import annotations

import configparser

import numpy as np
from numpy.typing import NDArray

from ctp.text import one_line, text_lines

BOXES = "groundtruth.txt"
ABSENCE = "absence.label"
COVER = "cover.label"
META = "meta_info.ini"
FILES = frozenset({BOXES, ABSENCE, COVER, META})


def parse_boxes(data: bytes) -> NDArray[np.float32]:
    """Parse the boxes of `groundtruth.txt`.

    Returns:
        float32 [N, 4], xyxy pixels.

    Raises:
        ValueError: a line is not `left,top,width,height`.
    """
    rows = [line.split(",") for line in text_lines(data, BOXES)]
    if not rows or {len(row) for row in rows} != {4}:
        raise ValueError(f"{BOXES}: expected lines of left,top,width,height")
    boxes = np.array(rows, np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def parse_flags(data: bytes, name: str) -> NDArray[np.int8]:
    """Parse the numbers of `absence.label` or `cover.label`, one for each frame.

    Raises:
        ValueError: a line is not an 8-bit number.
    """
    try:
        return np.array([int(line) for line in text_lines(data, name)], np.int8)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected an 8-bit number per line: {error}") from error


def is_visible(
    boxes: NDArray[np.float32],
    absence: NDArray[np.int8] | None,
    cover: NDArray[np.int8] | None,
) -> NDArray[np.bool_]:
    """Return the frames in which the object is visible.

    GOT-10k's toolkit scores the frames whose cover is above 0 (`ExperimentGOT10k.report`). This
    also excludes frames that are flagged as absent or have no box.

    Args:
        boxes: float32 [N, 4] xyxy.
        absence, cover: int8 [N], see `ShardRow`; None if not annotated.

    Returns:
        bool [N].
    """
    found: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 0
    if absence is not None:
        found[absence != 0] = False
    if cover is not None:
        found[cover <= 0] = False
    return found


def parse_class(data: bytes) -> str | None:
    """Parse the object's class from `meta_info.ini`; None if there is none.

    Raises:
        ValueError: the file is not in INI format.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string("\n".join(text_lines(data, META)))
    except configparser.Error as error:
        raise ValueError(f"{META}: {one_line(error)}") from error
    return parser.get("METAINFO", "object_class", fallback=None)
