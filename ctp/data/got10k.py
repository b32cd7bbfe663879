"""GOT-10k's annotations. This module alone knows that its boxes are left, top, width, height."""

from __future__ import annotations

import configparser

import numpy as np
from numpy.typing import NDArray

BOXES = "groundtruth.txt"
ABSENCE = "absence.label"
COVER = "cover.label"
META = "meta_info.ini"
FILES = frozenset({BOXES, ABSENCE, COVER, META})


def parse_boxes(data: bytes) -> NDArray[np.float32]:
    """The boxes of `groundtruth.txt`.

    Returns:
        float32 [N, 4], xyxy pixels.

    Raises:
        ValueError: a line is not `left,top,width,height`.
    """
    rows = [line.split(",") for line in _lines(data, BOXES)]
    if not rows or {len(row) for row in rows} != {4}:
        raise ValueError(f"{BOXES}: wanted lines of left,top,width,height")
    boxes = np.array(rows, np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def parse_flags(data: bytes, name: str) -> NDArray[np.int8]:
    """A number for each frame, of `absence.label` or `cover.label`.

    Raises:
        ValueError: a line is not a number of 8 bits.
    """
    try:
        return np.array([int(line) for line in _lines(data, name)], np.int8)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: wanted a small number a line: {error}") from error


def in_sight(
    boxes: NDArray[np.float32],
    absence: NDArray[np.int8] | None,
    cover: NDArray[np.int8] | None,
) -> NDArray[np.bool_]:
    """The frames in which there is an object to be found.

    GOT-10k's toolkit scores the frames whose cover is above 0 (`ExperimentGOT10k.report`); so does
    this, and leaves out what is flagged as absent or has no box, too.

    Args:
        boxes: float32 [N, 4] xyxy.
        absence, cover: int8 [N], see `ShardRow`; None where that is not annotated.

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
    """The class of the object, from `meta_info.ini`, if it tells.

    Raises:
        ValueError: it is no such file.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string("\n".join(_lines(data, META)))
    except configparser.Error as error:
        raise ValueError(f"{META}: {' '.join(str(error).split())}") from error
    return parser.get("METAINFO", "object_class", fallback=None)


def _lines(data: bytes, name: str) -> list[str]:
    try:
        return [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text: {error}") from error
