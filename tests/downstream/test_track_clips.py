"""Clips of annotated videos: a rectangle painted into a video is where its boxes are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctp.data.annotated import Track, Tracks, open_annotated
from ctp.data.object_crop import centred_crop, hold_object, sample_tracked, seen_in
from ctp.data.shards import ShardRow, write_shard
from ctp.data.stream import Batch, Loaded, SampleStream
from ctp.downstream.track_clips import (
    TestClips,
    TrackedClips,
    TrackSample,
    VideoClips,
    cut_into_clips,
)
from ctp.downstream.track_config import TrackConfig
from ctp.rng import generator
from ctp.storage import Storage
from ctp.video.config import SamplingConfig
from ctp.video.planes import Crop, to_rgb
from ctp.video.sampling import sample_frames

Rectangle = Callable[..., ShardRow]
ReadSamples = Callable[..., Batch[TrackSample]]
ReadTests = Callable[..., Loaded[VideoClips]]
SIZE = 32
BRIGHT = 125
PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
SEEDS = st.integers(0, 2**32)
CONFIG = TrackConfig.model_validate(
    {
        "sampling": {"num_frames": 6, "interval_frames": (1, 3)},
        "augment": {"frame_size_px": SIZE, "short_sides_px": (32, 40, 48)},
    }
)


@pytest.fixture
def broken(moving_rectangle: Rectangle) -> ShardRow:
    return replace(moving_rectangle("broken", 12), data=b"this is text")


@pytest.fixture
def draw_samples(tmp_path: Path) -> ReadSamples:
    """`draw_samples(rows, positions)`: samples to train on, of videos in a shard."""

    def draw(rows: list[ShardRow], positions: list[int]) -> Batch[TrackSample]:
        write_shard(Storage.from_uri(tmp_path / "a.parquet"), rows)
        found = open_annotated(str(tmp_path))
        drawer = TrackedClips(CONFIG, found.tracks)
        stream = SampleStream(drawer, found.catalog, seed=0, total_batch=4, total_steps=20)
        return Batch.from_drawn(stream.draw_many(positions))

    return draw


@pytest.fixture
def read_tests(tmp_path: Path) -> ReadTests:
    """`read_tests(*rows)`: the clips that the videos of a shard are tested on."""

    def read(*rows: ShardRow) -> Loaded[VideoClips]:
        write_shard(Storage.from_uri(tmp_path / "a.parquet"), rows)
        found = open_annotated(str(tmp_path))
        return TestClips(found.catalog, 0, CONFIG, found.tracks).load_many(range(len(rows)))

    return read


def bright_box(picture: NDArray[np.uint8]) -> list[float]:
    """Return the box around what is bright in a picture uint8 [S, S, 3], to half a pixel."""
    grey = picture.astype(np.float64).mean(axis=-1)
    rows, columns = (np.flatnonzero((grey > BRIGHT).any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def assert_boxes_are_around_the_rectangle(
    planes: NDArray[np.uint8], boxes: NDArray[np.float32], counted: NDArray[np.bool_]
) -> None:
    pictures = to_rgb(torch.from_numpy(planes), SIZE).numpy()
    for picture, box, counts in zip(pictures, boxes, counted, strict=True):
        if counts:
            np.testing.assert_allclose(bright_box(picture), box, atol=1)
        else:
            assert (picture > BRIGHT).sum() <= 3 * SIZE  # a sliver at most


class TestSamplesToTrainOn:
    def test_boxes_are_around_the_rectangle(
        self, draw_samples: ReadSamples, moving_rectangle: Rectangle
    ) -> None:
        steps = ((1, 0), (2, 1), (0, -1), (-1, 1))
        batch = draw_samples(
            [moving_rectangle(f"{n}", 20, step=step) for n, step in enumerate(steps)],
            list(range(24)),
        )
        samples = batch.samples
        assert samples.boxes.shape == (24, 1, 6, 4)
        assert samples.counted.shape == (24, 1, 6)
        assert batch.errors == []
        for planes, _, boxes, counted in zip(*samples, strict=True):
            assert counted[0, 0]
            assert_boxes_are_around_the_rectangle(planes, boxes[0], counted[0])
        assert samples.counted.mean() > 0.8
        assert len({planes[0].tobytes() for planes in samples.planes}) > 20

    def test_a_sample_is_a_function_of_its_position(
        self, draw_samples: ReadSamples, moving_rectangle: Rectangle
    ) -> None:
        rows = [moving_rectangle(f"{n}", 20) for n in range(3)]
        first, again = draw_samples(rows, [5, 6, 7]), draw_samples(rows, [7, 5])
        for there, here in zip(first.samples, again.samples, strict=True):
            np.testing.assert_array_equal(here, there[[2, 0]])

    def test_samples_have_the_declared_dtypes_and_shapes(
        self, draw_samples: ReadSamples, moving_rectangle: Rectangle
    ) -> None:
        samples = draw_samples([moving_rectangle("a", 20)], [0]).samples
        track = Track(np.zeros((1, 4), np.float32), np.ones(1, bool), 1, 1)
        declared = TrackedClips(CONFIG, Tracks.from_list([track])).fields()
        assert [(array.dtype, array.shape[1:]) for array in samples] == [
            (array.dtype, array.shape) for array in declared
        ]

    def test_a_video_that_cannot_be_used_is_replaced(
        self, draw_samples: ReadSamples, moving_rectangle: Rectangle, broken: ShardRow
    ) -> None:
        short = replace(moving_rectangle("short", 12), data=moving_rectangle("other", 9).data)
        batch = draw_samples([moving_rectangle("good", 12), short, broken], list(range(6)))
        reasons = {entry.video_id: entry.reason for entry in batch.quarantined}
        assert set(reasons) == {"short", "broken"}
        assert "9 frames and 12 boxes" in reasons["short"]
        assert batch.errors == []
        assert batch.samples.counted[:, 0, 0].all()

    def test_a_batch_names_its_errors_where_no_video_can_be_used(
        self, draw_samples: ReadSamples, broken: ShardRow
    ) -> None:
        batch = draw_samples([broken], [0, 1])
        assert len(batch.errors) == 2
        assert all("broken" in error for error in batch.errors)
        assert not batch.samples.counted.any()


class TestClipsToTestOn:
    def test_boxes_are_around_the_rectangle_and_each_frame_comes_once(
        self, read_tests: ReadTests, moving_rectangle: Rectangle
    ) -> None:
        absent = np.zeros(20, np.int8)
        absent[[0, 1, 9]] = 1
        (first, second), quarantined = read_tests(
            replace(moving_rectangle("a", 20, step=(2, 0)), absence=absent),
            moving_rectangle("b", 13, step=(0, 1)),
        )
        assert quarantined == []
        assert (first.video_id, second.video_id) == ("a", "b")
        for clips in (first, second):
            for planes, boxes, counted, frames in zip(
                clips.planes, clips.boxes, clips.counted, clips.frames, strict=True
            ):
                repeated = np.diff(frames, prepend=-1) == 0
                assert not counted[repeated].any()
                assert_boxes_are_around_the_rectangle(
                    planes[counted], boxes[counted], counted[counted]
                )
        assert first.frames[:, 0].tolist() == [2, 8, 14]
        assert (first.num_hidden, second.num_hidden) == (3, 0)
        assert second.counted.sum() + second.num_out_of_sight == 13
        assert first.counted.sum() + first.num_out_of_sight == 17

    def test_an_object_that_leaves_the_clip_is_counted_as_out_of_sight(
        self, read_tests: ReadTests, moving_rectangle: Rectangle
    ) -> None:
        row = moving_rectangle("a", 6, start=(2, 10, 14, 30), step=(9, 0))
        (clips,), _ = read_tests(row)
        left, _, side = clips.windows[0]
        assert left == 0
        begins = 2 + 9 * np.arange(6)
        assert clips.counted[0].tolist() == (begins < side - side / SIZE).tolist()
        assert clips.num_out_of_sight == 6 - clips.counted.sum() > 0

    def test_nothing_replaces_a_video_that_cannot_be_read(
        self, read_tests: ReadTests, moving_rectangle: Rectangle, broken: ShardRow
    ) -> None:
        clips, quarantined = read_tests(broken, moving_rectangle("good", 12))
        assert [each.video_id for each in clips] == ["good"]
        assert [entry.video_id for entry in quarantined] == ["broken"]


# ---- cutting a video into clips -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("counted", "clips"),
    [
        ("1111111111", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]),
        ("0011110000", [[2, 3, 4, 5]]),
        ("1000011000", [[0, 1, 2, 3], [5, 6, 7, 8]]),
        ("01", [[1, 1, 1, 1]]),
    ],
)
def test_cutting_by_hand(counted: str, clips: list[list[int]]) -> None:
    frames, is_new = cut_into_clips(np.array([c == "1" for c in counted]), 4)
    assert frames.tolist() == clips
    assert is_new.tolist() == [[i == 0 or a != row[i - 1] for i, a in enumerate(row)]
                               for row in clips]  # fmt: skip


@PROPERTY
@given(
    counted=st.lists(st.booleans(), min_size=1, max_size=60).filter(any),
    num_frames=st.integers(2, 16),
)
def test_clips_contain_each_frame_that_counts_once(counted: list[bool], num_frames: int) -> None:
    mask = np.array(counted)
    frames, is_new = cut_into_clips(mask, num_frames)
    assert frames.shape[1] == num_frames
    assert mask[frames[:, 0]].all()
    assert sorted(frames[is_new & mask[frames]].tolist()) == np.flatnonzero(mask).tolist()
    assert len(set(frames[is_new].tolist())) == is_new.sum()
    steps = np.diff(frames, axis=1)
    assert (steps == is_new[:, 1:]).all()


# ---- crops --------------------------------------------------------------------------------------


def track_of(boxes: Any, width: int, height: int, counted: Any = True) -> Track:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Track(boxes, np.full(len(boxes), counted), width, height)


def random_track(rng: np.random.Generator) -> Track:
    width, height = rng.integers(20, 200, size=2).tolist()
    corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1) * [width, height]
    counted = rng.random(6) < 0.7
    counted[0] = True
    return track_of(corners, width, height, counted)


@settings(PROPERTY, max_examples=100)
@given(seed=SEEDS, share=st.floats(0.5, 1), x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_crop_contains_the_object_where_it_fits(
    seed: int, share: float, x: float, y: float
) -> None:
    track = random_track(np.random.default_rng(seed))
    crop = hold_object(Crop(share, x, y, flip=False), track, np.arange(6))
    left, top, side, _ = crop.window(track.width, track.height)
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


def test_all_crops_that_contain_the_object_are_possible() -> None:
    track = track_of([[60, 30, 70, 40]], 200, 100)
    found = {
        hold_object(Crop(0.5, x, 0.0, flip=False), track, np.array([0])).window(200, 100)[:2]
        for x in np.linspace(0, 1, 101)
    }
    assert found == {(left, 0) for left in range(20, 61, 2)}


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_a_box_that_is_too_large_is_cut_on_both_sides_alike(x: float) -> None:
    track = track_of([[40, 0, 160, 100]], 200, 100)
    crop = hold_object(Crop(0.8, x, x, flip=False), track, np.array([0]))
    assert crop.window(200, 100) == (60, 10, 80, 80)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((90, 40, 110, 60), (50, 0, 100, 100)),
        ((0, 0, 10, 10), (0, 0, 100, 100)),
        ((190, 90, 200, 100), (100, 0, 100, 100)),
        ((0, 0, 200, 100), (50, 0, 100, 100)),
    ],
)
def test_a_test_crop_is_centred_on_the_box_or_at_the_border(
    box: Any, window: tuple[int, int, int, int]
) -> None:
    assert centred_crop(track_of([box], 200, 100), 0).window(200, 100) == window


def test_boxes_move_with_crop_scale_and_flip() -> None:
    boxes = [[60, 20, 80, 40], [0, 0, 70, 30], [0, 0, 51, 99], [149, 0, 150, 50]]
    track = track_of(boxes, 200, 100, counted=[True, True, True, False])
    crop = Crop(1.0, 0.5, 0.0, flip=False)
    assert crop.window(200, 100) == (50, 0, 100, 100)
    found, counted = seen_in(crop, track, np.arange(4), 50)
    assert found.tolist() == [[5, 10, 15, 20], [0, 0, 10, 15], [0, 0, 0.5, 49.5], [49.5, 0, 50, 25]]
    assert counted.tolist() == [True, True, False, False]  # half a pixel is none
    mirrored, again = seen_in(replace(crop, flip=True), track, np.arange(4), 50)
    assert mirrored[:2].tolist() == [[35, 10, 45, 20], [40, 0, 50, 15]]
    assert again.tolist() == counted.tolist()


# ---- frames of a clip ---------------------------------------------------------------------------

SAMPLING = SamplingConfig(num_frames=5, interval_frames=(1, 3))


@PROPERTY
@given(seed=SEEDS, visible=st.sets(st.integers(0, 29), min_size=1))
def test_a_sampled_clip_begins_with_an_object_at_one_interval(seed: int, visible: set[int]) -> None:
    counted = np.isin(np.arange(30), list(visible))
    track = track_of(np.zeros((30, 4)), 64, 48, counted)
    numbers = sample_tracked(SAMPLING, track, generator(seed, "clip"))
    assert counted[numbers[0]]
    assert len(set(np.diff(numbers[numbers < 29]).tolist())) <= 1
    assert numbers.max() < 30


@PROPERTY
@given(seed=SEEDS)
def test_a_clip_that_has_its_object_stays_where_it_was_drawn(seed: int) -> None:
    track = track_of(np.zeros((30, 4)), 64, 48)
    drawn = sample_frames(SAMPLING, 30, generator(seed, "clip"))
    np.testing.assert_array_equal(sample_tracked(SAMPLING, track, generator(seed, "clip")), drawn)
