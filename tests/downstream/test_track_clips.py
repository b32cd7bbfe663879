"""Clips of annotated videos: a rectangle that is painted into a video lies where its boxes say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctp.data.annotated import Track, open_annotated
from ctp.data.shards import ShardRow, write_shard
from ctp.downstream.track_clips import (
    TrackMaker,
    VideoClips,
    centred_crop,
    cut_into_clips,
    hold_object,
    sample_tracked,
    seen_in,
)
from ctp.downstream.track_config import TrackConfig
from ctp.rng import generator
from ctp.storage import Storage
from ctp.video.config import SamplingConfig
from ctp.video.planes import Crop, to_rgb
from ctp.video.sampling import sample_frames

Rectangle = Callable[..., ShardRow]
SIZE = 32
BRIGHT = 125


@pytest.fixture
def config() -> TrackConfig:
    return TrackConfig.model_validate(
        {
            "sampling": {"num_frames": 6, "max_interval_frames": 3},
            "augment": {"frame_size_px": SIZE, "short_sides_px": (32, 40, 48)},
            "test": {"short_side_px": 40},
            "schedule": {"unit": "steps", "length": 20, "decay_at": ()},
            "compute": {"total_batch": 4},
        }
    )


def maker_of(config: TrackConfig, folder: Path, *rows: ShardRow) -> TrackMaker:
    write_shard(Storage.of(folder / "a.parquet"), rows)
    found = open_annotated(str(folder))
    return TrackMaker(config, found.catalog, found.tracks)


def bright_box(picture: NDArray[np.uint8]) -> list[float]:
    """Around what is bright in a picture uint8 [S, S, 3], to half a pixel."""
    grey = picture.astype(np.float64).mean(axis=-1)
    rows, columns = (np.flatnonzero((grey > BRIGHT).any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def check_boxes(
    planes: NDArray[np.uint8], boxes: NDArray[np.float32], counted: NDArray[np.bool_]
) -> None:
    pictures = to_rgb(torch.from_numpy(planes), SIZE).numpy()
    for picture, box, counts in zip(pictures, boxes, counted, strict=True):
        if counts:
            np.testing.assert_allclose(bright_box(picture), box, atol=1)
        else:
            assert (picture > BRIGHT).sum() <= 3 * SIZE  # a sliver at most


class TestTraining:
    def test_boxes_are_around_the_rectangle(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        ways = ((1, 0), (2, 1), (0, -1), (-1, 1))
        rows = [moving_rectangle(f"{n}", 20, step=step) for n, step in enumerate(ways)]
        maker = maker_of(config, tmp_path, *rows)
        batch = maker.batch(range(24))
        assert batch["boxes"].shape == (24, 1, 6, 4)
        assert batch["counted"].shape == (24, 1, 6)
        assert not any(batch["failed"])
        for planes, boxes, counted in zip(
            batch["planes"], batch["boxes"], batch["counted"], strict=True
        ):
            assert counted[0, 0]
            check_boxes(planes, boxes[0], counted[0])
        assert batch["counted"].mean() > 0.8
        whole = to_rgb(torch.from_numpy(batch["planes"]), SIZE).numpy()
        assert len({picture.tobytes() for picture in whole[:, 0]}) > 20

    def test_a_clip_is_a_function_of_its_position(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        maker = maker_of(config, tmp_path, *(moving_rectangle(f"{n}", 20) for n in range(3)))
        first, again = maker.batch([5, 6, 7]), maker.batch([7, 5])
        for name in ("planes", "boxes", "counted", "color"):
            np.testing.assert_array_equal(again[name], first[name][[2, 0]])

    def test_a_video_that_does_not_fit_its_boxes_is_replaced(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        good, bad = moving_rectangle("good", 12), moving_rectangle("bad", 12)
        other = replace(bad, data=moving_rectangle("other", 9).data)
        broken = replace(moving_rectangle("broken", 12), data=b"this is text")
        batch = maker_of(config, tmp_path, good, other, broken).batch(range(6))
        assert batch["video"] == ["good"] * 6
        reasons = {r.video_id: r.reason for found in batch["quarantined"] for r in found}
        assert reasons["bad"] == "has 9 frames and 12 boxes"
        assert set(reasons) == {"bad", "broken"}
        assert not any(batch["failed"])

    def test_where_nothing_can_be_used_the_batch_says_so(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        row = replace(moving_rectangle("a", 12), data=b"this is text")
        batch = maker_of(config, tmp_path, row).batch([0, 1])
        assert all("cannot be used" in reason for reason in batch["failed"])
        assert not batch["counted"].any()


class TestTesting:
    def test_boxes_are_around_the_rectangle_and_each_frame_comes_once(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        absent = np.zeros(20, np.int8)
        absent[[0, 1, 9]] = 1
        rows = [
            replace(moving_rectangle("a", 20, step=(2, 0)), absence=absent),
            moving_rectangle("b", 13, step=(0, 1)),
        ]
        (first, second), quarantined = maker_of(config, tmp_path, *rows).test_clips([0, 1])
        assert quarantined == []
        assert (first.video_id, second.video_id) == ("a", "b")
        for clips in (first, second):
            for planes, boxes, counted, frames in zip(
                clips.planes, clips.boxes, clips.counted, clips.frames, strict=True
            ):
                repeated = np.diff(frames, prepend=-1) == 0
                assert not counted[repeated].any()
                check_boxes(planes[counted], boxes[counted], counted[counted])
        assert first.frames[:, 0].tolist() == [2, 8, 14]
        assert (first.num_hidden, second.num_hidden) == (3, 0)
        assert second.counted.sum() + second.num_out_of_sight == 13
        assert first.counted.sum() + first.num_out_of_sight == 17

    def test_what_leaves_the_clip_is_counted_as_out_of_sight(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        row = moving_rectangle("a", 6, start=(2, 10, 14, 30), step=(9, 0))
        (clips,), _ = maker_of(config, tmp_path, row).test_clips([0])
        left, _, side = clips.windows[0]
        assert left == 0
        begins = 2 + 9 * np.arange(6)
        assert clips.counted[0].tolist() == (begins < side - side / SIZE).tolist()
        assert clips.num_out_of_sight == 6 - clips.counted.sum() > 0

    def test_nothing_stands_in_for_what_cannot_be_read(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        broken = replace(moving_rectangle("a", 12), data=b"this is text")
        maker = maker_of(config, tmp_path, broken, moving_rectangle("b", 12))
        made, quarantined = maker.test_clips([0, 1])
        assert [clips.video_id for clips in made] == ["b"]
        assert [entry.video_id for entry in quarantined] == ["a"]

    def test_with_pictures(
        self, config: TrackConfig, tmp_path: Path, moving_rectangle: Rectangle
    ) -> None:
        row = moving_rectangle("a", 9)
        maker = maker_of(config, tmp_path, row)
        ((clips, pictures),), _ = maker.with_pictures([0])
        (alone,), _ = maker.test_clips([0])
        assert isinstance(clips, VideoClips)
        np.testing.assert_array_equal(clips.planes, alone.planes)
        assert row.boxes is not None
        assert pictures.shape == (9, 48, 64, 3)
        np.testing.assert_allclose([bright_box(each) for each in pictures], row.boxes, atol=1)


@pytest.mark.parametrize(
    ("counted", "interval", "clips"),
    [
        ("1111111111", 1, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]),
        ("0011110000", 1, [[2, 3, 4, 5]]),
        ("1000011000", 1, [[0, 1, 2, 3], [5, 6, 7, 8]]),
        ("0100000001", 2, [[1, 3, 5, 7], [9, 9, 9, 9]]),
        ("1111111111", 2, [[0, 2, 4, 6], [8, 8, 8, 8], [1, 3, 5, 7], [9, 9, 9, 9]]),
        ("11", 5, [[0, 0, 0, 0], [1, 1, 1, 1]]),
    ],
)
def test_cutting_by_hand(counted: str, interval: int, clips: list[list[int]]) -> None:
    frames, is_new = cut_into_clips(np.array([c == "1" for c in counted]), 4, interval)
    assert frames.tolist() == clips
    assert is_new.tolist() == [[i == 0 or a != row[i - 1] for i, a in enumerate(row)]
                               for row in clips]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_each_frame_that_counts_is_cut_out_once(seed: int) -> None:
    rng = generator(seed, "cut")
    counted = rng.random(int(rng.integers(1, 60))) < rng.random()
    counted[rng.integers(len(counted))] = True
    frames, is_new = cut_into_clips(counted, int(rng.integers(2, 17)), int(rng.integers(1, 6)))
    assert counted[frames[:, 0]].all()
    found = frames[is_new & counted[frames]]
    assert sorted(found.tolist()) == np.flatnonzero(counted).tolist()
    assert len(set(frames[is_new].tolist())) == is_new.sum()


def track_of(boxes: Any, width: int, height: int, counted: Any = True) -> Track:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Track(boxes, np.full(len(boxes), counted), width, height)


def random_track(rng: np.random.Generator) -> Track:
    width, height = rng.integers(20, 200, size=2).tolist()
    corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1) * [width, height]
    counted = rng.random(6) < 0.7
    counted[0] = True
    return Track(corners.reshape(6, 4).astype(np.float32), counted, width, height)


@pytest.mark.parametrize("seed", range(50))
def test_a_crop_holds_the_object_where_it_fits(seed: int) -> None:
    rng = generator(seed, "hold")
    track = random_track(rng)
    wanted = Crop(float(rng.uniform(0.5, 1)), *rng.random(2).tolist(), flip=False)
    crop = hold_object(wanted, track, np.arange(6))
    left, top, side = crop.window(track.width, track.height)
    assert left % 2 == top % 2 == 0
    for axis, start, length in ((0, left, track.width), (1, top, track.height)):
        assert 0 <= start <= length - side
        low, high = track.boxes[track.counted][:, axis], track.boxes[track.counted][:, axis + 2]
        # windows begin at even pixels, so that what just fits may not
        if high.max() - low.min() <= side - 2 and length % 2 == 0:
            assert start <= low.min()
            assert high.max() <= start + side
        elif high[0] - low[0] <= side - 2 and length % 2 == 0:
            assert start <= low[0]
            assert high[0] <= start + side


def test_a_crop_may_lie_wherever_it_holds_the_object() -> None:
    track = track_of([[60, 30, 70, 40]], 200, 100)
    found = {
        hold_object(Crop(0.5, x, 0.0, flip=False), track, np.array([0])).window(200, 100)[:2]
        for x in np.linspace(0, 1, 101)
    }
    assert found == {(left, 0) for left in range(20, 61, 2)}


def test_a_box_that_is_too_large_is_cut_on_both_sides_alike() -> None:
    track = track_of([[40, 0, 160, 100]], 200, 100)
    for x in (0.0, 0.3, 1.0):
        crop = hold_object(Crop(0.8, x, x, flip=False), track, np.array([0]))
        assert crop.window(200, 100) == (60, 10, 80)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((90, 40, 110, 60), (50, 0, 100)),
        ((0, 0, 10, 10), (0, 0, 100)),
        ((190, 90, 200, 100), (100, 0, 100)),
        ((0, 0, 200, 100), (50, 0, 100)),
    ],
)
def test_a_crop_is_centred_as_nearly_as_may_be(box: Any, window: tuple[int, int, int]) -> None:
    assert centred_crop(1.0, track_of([box], 200, 100), 0).window(200, 100) == window


def test_boxes_move_with_crop_scale_and_flip() -> None:
    boxes = [[60, 20, 80, 40], [0, 0, 70, 30], [0, 0, 51, 99], [149, 0, 150, 50]]
    track = track_of(boxes, 200, 100, counted=[True, True, True, False])
    crop = Crop(1.0, 0.5, 0.0, flip=False)
    assert crop.window(200, 100) == (50, 0, 100)
    found, counted = seen_in(crop, track, np.arange(4), 50)
    assert found.tolist() == [[5, 10, 15, 20], [0, 0, 10, 15], [0, 0, 0.5, 49.5], [49.5, 0, 50, 25]]
    assert counted.tolist() == [True, True, False, False]  # half a pixel is none
    mirrored, again = seen_in(replace(crop, flip=True), track, np.arange(4), 50)
    assert mirrored[:2].tolist() == [[35, 10, 45, 20], [40, 0, 50, 15]]
    assert again.tolist() == counted.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_a_sampled_clip_begins_where_there_is_an_object(seed: int) -> None:
    counted = np.zeros(30, np.bool_)
    counted[[4, 11, 12]] = True
    track = track_of(np.zeros((30, 4)), 64, 48, counted)
    sampling = SamplingConfig(num_frames=5, max_interval_frames=3)
    numbers = sample_tracked(sampling, track, generator(seed, "clip"))
    assert counted[numbers[0]]
    steps = set(np.diff(numbers[numbers < 29]).tolist())
    assert len(steps) <= 1
    assert numbers.max() < 30


def test_a_clip_that_has_its_object_stays_where_it_was_drawn() -> None:
    track = track_of(np.zeros((30, 4)), 64, 48)
    sampling = SamplingConfig(num_frames=5, max_interval_frames=3)
    for seed in range(10):
        drawn = sample_frames(sampling, 30, generator(seed, "clip"))
        moved = sample_tracked(sampling, track, generator(seed, "clip"))
        np.testing.assert_array_equal(moved, drawn)
