"""Tracking scores: cases worked by hand, and GOT-10k's definition in NumPy."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctp.pretext.ctp.metrics import ClipOverlap, TrackingTally, clip_overlaps, overlap_scores


def results(tally: TrackingTally) -> dict[str, float]:
    """Return the means that are of any value."""
    return {n: mean.total / mean.number for n, mean in tally.means().items() if mean.number}


def test_a_case_by_hand() -> None:
    """One box, four frames, moving right by its width: a still box overlaps in frame 0."""
    boxes = torch.tensor([[[[i * 10.0, 0, i * 10 + 10, 10] for i in range(4)]]])
    predicted = boxes.clone()
    predicted[0, 0, 3] += torch.tensor([5.0, 0, 5, 0])  # half off: IoU 1/3
    visible = torch.tensor([[[True, True, False, False]]])
    tally = TrackingTally()
    tally.add(predicted, boxes, visible)
    assert results(tally) == pytest.approx(
        {
            "iou": (3 + 1 / 3) / 4, "still_iou": 1 / 4,
            "iou_visible": 1, "still_iou_visible": 1 / 2,
            "iou_hidden": 2 / 3, "still_iou_hidden": 0,
            "iou_near": 1, "still_iou_near": 0,
            "iou_far": 2 / 3, "still_iou_far": 0,
        },
        abs=1e-6,
    )  # fmt: skip


def test_tallies_of_shares_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(6, 2, 5, 4, generator=generator).cumsum(dim=-1) * 20
    predicted = boxes + torch.rand(boxes.shape, generator=generator)
    visible = torch.rand(6, 2, 5, generator=generator) < 0.8
    whole, parts = TrackingTally(), [TrackingTally(), TrackingTally()]
    whole.add(predicted, boxes, visible)
    parts[0].add(predicted[:1], boxes[:1], visible[:1])
    parts[1].add(predicted[1:], boxes[1:], visible[1:])
    torch.testing.assert_close(parts[0].sums + parts[1].sums, whole.sums)
    torch.testing.assert_close(parts[0].of_clips + parts[1].of_clips, whole.of_clips)


def test_the_error_of_the_iou_is_that_of_the_mean_over_clips() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 1, 2, 4).clone()
    predicted = boxes.clone()
    predicted[1] += torch.tensor([5.0, 0, 5, 0])  # half off: IoU 1/3
    predicted[2, 0, 1, 0] = 5  # of its two frames, one has half of the box
    tally = TrackingTally()
    tally.add(predicted, boxes, torch.ones(3, 1, 2, dtype=torch.bool))
    of_clips = [1, 1 / 3, 3 / 4]
    found = tally.means()["iou"]
    assert found.total / found.number == pytest.approx(statistics.mean(of_clips))
    assert found.error == pytest.approx(statistics.stdev(of_clips) / 3**0.5)


def test_a_group_without_boxes_has_no_entry() -> None:
    tally = TrackingTally()
    boxes = torch.tensor([[[[0.0, 0, 1, 1]] * 4]])
    tally.add(boxes, boxes, torch.ones(1, 1, 4, dtype=torch.bool))
    assert "iou_hidden" not in results(tally)
    assert results(TrackingTally()) == {}


SIZE = 64


def overlap(iou: list[float], still: list[float], counted: list[bool]) -> ClipOverlap:
    return ClipOverlap(np.array(iou), np.array(still), np.array(counted))


def bounded_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """As GOT-10k's toolkit does it: left, top, width, height, cut off at the picture's border."""

    def bounded(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        left, top, right, bottom = np.clip(boxes, 0, SIZE).T
        return np.stack([left, top, right - left, bottom - top])

    (x1, y1, w1, h1), (x2, y2, w2, h2) = bounded(first), bounded(second)
    width = np.maximum(np.minimum(x1 + w1, x2 + w2) - np.maximum(x1, x2), 0)
    height = np.maximum(np.minimum(y1 + h1, y2 + h2) - np.maximum(y1, y2), 0)
    return width * height / (w1 * h1 + w2 * h2 - width * height + np.finfo(float).eps)


def test_by_hand() -> None:
    clips = [
        overlap([1.0, 0.6, 0.8, 0.9], [1.0, 0.5, 0.2, 0.9], [True, True, True, False]),
        overlap([0.7, 0.5, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0], [True, True, False, False]),
        overlap([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [True, False, False, False]),
    ]
    assert overlap_scores(clips) == pytest.approx(
        {
            "iou": (2.4 / 3 + 1.2 / 2) / 2, "still_iou": (1.7 / 3 + 1 / 2) / 2,
            "ao": 1.9 / 3, "still_ao": 0.7 / 3,
            "sr50": 2 / 3, "still_sr50": 0,  # .5 is not above .5
            "sr75": 1 / 3, "still_sr75": 0,
        }
    )  # fmt: skip


def test_nothing_to_score() -> None:
    assert overlap_scores([]) == {}
    assert overlap_scores([overlap([1.0, 1.0], [1.0, 1.0], [True, False])]) == {}


def test_overlaps_are_those_of_the_toolkit() -> None:
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(-20, 60, (2, 3, 5, 2)), rng.uniform(4, 60, (2, 3, 5, 2))
    predicted, boxes = np.concatenate([corner, corner + size], axis=-1)
    boxes[..., :2] = np.minimum(boxes[..., :2], 40)
    counted = rng.random((3, 5)) < 0.8
    given = (torch.from_numpy(each) for each in (predicted, boxes, counted))
    found = clip_overlaps(*given, size_px=SIZE)
    for clip, p, b, c in zip(found, predicted, boxes, counted, strict=True):
        np.testing.assert_allclose(clip.iou, bounded_iou(p, b), atol=1e-9)
        np.testing.assert_allclose(clip.still, bounded_iou(b[:1].repeat(5, axis=0), b), atol=1e-9)
        np.testing.assert_array_equal(clip.counted, c)
        assert clip.still[0] == pytest.approx(1)
