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
