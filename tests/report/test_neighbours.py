"""The picture of neighbours: every video is shown, framed by whether it is right."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from ctp.report.neighbours import RIGHT_COLOR, WRONG_COLOR, Row, Shown, neighbours_png


def draw(*labels: str) -> NDArray[np.uint8]:
    """A query of the first class, and a neighbour for each further one."""
    query, *neighbours = (
        Shown(np.full((96, 96, 3), 10 * at, np.uint8), label, "0.987")
        for at, label in enumerate(labels, start=1)
    )
    return np.array(Image.open(io.BytesIO(neighbours_png([Row(query, neighbours)]))).convert("RGB"))


def count(page: NDArray[np.uint8], color: str) -> int:
    return int((page == (255 * np.array(to_rgb(color))).round()).all(axis=-1).sum())


def test_each_video_is_shown_from_left_to_right() -> None:
    page = draw("run", "walk", "run")
    middles = [float(np.nonzero((page == grey).all(axis=-1))[1].mean()) for grey in (10, 20, 30)]
    assert middles == sorted(middles)
    assert all((page == grey).all(axis=-1).sum() > 80**2 for grey in (10, 20, 30))


def test_frames_distinguish_right_from_wrong() -> None:
    right, wrong = draw("run", "run"), draw("run", "walk")
    assert count(right, RIGHT_COLOR) > 0 == count(right, WRONG_COLOR)
    assert count(wrong, WRONG_COLOR) > 0 == count(wrong, RIGHT_COLOR)


def test_a_wrong_neighbour_has_a_dashed_frame() -> None:
    """So it is distinct for those who cannot see red and green apart, too."""
    share = count(draw("run", "walk"), WRONG_COLOR) / count(draw("run", "run"), RIGHT_COLOR)
    assert share == pytest.approx(2 / 3, abs=0.15)
