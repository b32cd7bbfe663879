"""The teacher KCF, on a textured square that moves over a textured ground."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctp.build.build import ShardTask, build_shard
from ctp.build.config import TranscodeConfig
from ctp.build.kcf import LEAST_RESPONSE, KcfTracker, fhog, label_with_kcf
from ctp.build.layouts import Source
from ctp.build.transcode import encode_frames
from ctp.data.annotated import read_objects
from ctp.data.catalog import VideoEntry
from ctp.data.sources import open_catalog
from ctp.geometry import box_iou

SIDE = 28


def texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return smooth random colours."""
    coarse = rng.integers(0, 255, (-(-height // 4), -(-width // 4), 3))
    return coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].astype(np.uint8)


def video(boxes: NDArray[np.int64], seen: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Return frames in which a square is at each box, in the first `seen` ones."""
    rng = np.random.default_rng(seed)
    ground, square = texture(rng, 120, 160), texture(rng, SIDE, SIDE)
    frames = []
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        frame = ground.copy()
        if number < seen:
            frame[y1:y2, x1:x2] = square
        frames.append(frame)
    return frames


def path(step: tuple[int, int], number: int = 24) -> NDArray[np.int64]:
    return np.array([20, 30, 20 + SIDE, 30 + SIDE]) + np.arange(number)[:, None] * [*step, *step]


@pytest.mark.parametrize("step", [(0, 0), (3, 0), (0, 2), (2, 1), (4, -1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_moving_square_is_followed(step: tuple[int, int], seed: int) -> None:
    boxes = path(step)
    first, *others = video(boxes, len(boxes), seed)
    tracker = KcfTracker(first, boxes[0].astype(float))
    found, peaks = zip(*map(tracker.step, others), strict=True)
    iou = box_iou(torch.tensor(np.stack(found)), torch.tensor(boxes[1:]).double())
    assert iou.min() > 0.6
    assert iou.mean() > 0.75
    assert min(peaks) > LEAST_RESPONSE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_square_that_vanishes_is_lost(seed: int) -> None:
    boxes = path((2, 1))
    first, *others = video(boxes, 12, seed)
    tracker = KcfTracker(first, boxes[0].astype(float))
    peaks = [tracker.step(frame)[1] for frame in others]
    assert min(peaks[:11]) >= LEAST_RESPONSE > peaks[11]


def test_a_video_without_texture_has_no_labels_and_a_still_one_has_still_boxes() -> None:
    rng = np.random.default_rng(0)
    flat = [np.full((96, 128, 3), 90, np.uint8)] * 3
    assert (label_with_kcf(flat, rng)[1] == 0).all()
    boxes, weights = label_with_kcf([texture(rng, 96, 128)] * 6, rng)
    assert (weights == 1).all()
    assert np.abs(boxes - boxes[:, :1]).max() < 1


def test_features_have_31_channels_and_know_the_direction_of_an_edge() -> None:
    right = np.zeros((24, 24, 3))
    right[:, 12:] = 1  # brighter to the right: orientation 0 of 18
    found = fhog(right)
    assert found.shape == (31, 4, 4)
    assert found[:18].sum(axis=(1, 2)).argmax() == 0
    assert fhog(right.transpose(1, 0, 2))[18:27].sum(axis=(1, 2)).argmax() in (4, 5)


def test_a_build_with_the_teacher_writes_boxes_and_weights(tmp_path: Path) -> None:
    frames = video(path((2, 1), 9), 9)
    coding = TranscodeConfig(short_side_px=120, quantizer=2)
    (tmp_path / "v.mp4").write_bytes(encode_frames(frames, 9, Fraction(10), coding))
    source = Source("v", VideoEntry("v", str(tmp_path / "v.mp4")))
    task = ShardTask(str(tmp_path / "shards"), "shard", (source,))
    assert list(build_shard(task, None, teacher="kcf")) == [source]
    objects = read_objects(open_catalog(str(tmp_path / "shards"))[0])
    assert objects.weights.shape == (3, 9)
    assert objects.weights[:, 0].all()
    assert np.isfinite(np.stack([track.boxes for track in objects.tracks])).all()
